"""The HTTP contract: tables of accepted and refused requests, over ASGI and, for disconnects, over sockets."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from starlette.middleware import Middleware

from common.middleware.draining import Lifecycle
from common.middleware.security_headers import SecurityHeaders
from common.service import Service
from producer.marker import ProducerMarker
from producer.settings import Settings as ProducerSettings
from tests.support.servers import caller_app, in_process, producer_app, producing, serving

JSON = {"content-type": "application/json"}
KOTLIN_METADATA = {"clusterName", "clusterLocation", "hostName", "ipAddress", "zone", "region"}

ACCEPTED: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"payload": "test"}, {"received": "test"}),
    ({"id": "1", "payload": "test", "delay": "10", "responseCode": 200}, {"id": "1"}),
    ({"id": 1, "payload": "test", "responseCode": "200"}, {"id": "1"}),
    ({"payload": ""}, {"received": ""}),
    ({"payload": "\u00e4\U0001f600\x00\n"}, {"received": "\u00e4\U0001f600\x00\n"}),
    ({"payload": "x" * 65_536}, {"received": "x" * 65_536}),
    ({"payload": "test", "faultRate": 0.5, "only": {}}, {"received": "test"}),
    ({"payload": "test", "only": None}, {"faultApplied": True}),
    ({"payload": "test", "only": {"clusterName": "producer-cluster"}}, {"faultApplied": True}),
    ({"payload": "test", "only": {"clusterName": "elsewhere"}}, {"faultApplied": False}),
)


@pytest.mark.parametrize(("body", "expected"), ACCEPTED)
async def test_the_producer_accepts(body: dict[str, Any], expected: dict[str, Any]) -> None:
    async with in_process(producer_app()) as client:
        response = await client.post("/producer/messages", json=body)
    ack = response.json()
    assert response.status_code == 200
    assert expected.items() <= ack.items()
    assert {"id", "received", "headers", "metadata"} <= ack.keys()
    assert ack["metadata"].keys() >= KOTLIN_METADATA
    assert ack["headers"]["host"] == ["test"]


REFUSED: tuple[tuple[int, str, bytes | str, str], ...] = (
    # status, field named in the problem, body, a part of the detail
    (422, "payload", "{}", "Field required"),
    (422, "payload", '{"payload": 1}', "valid string, got 1"),
    (422, "payload", '{"payload": null}', "got null"),
    (422, "payload", '{"payload": "\\ud800"}', "character 0 is an unpaired surrogate"),
    (
        413,
        "payload",
        json.dumps({"payload": "x" * 65_537}),
        "65537 bytes of UTF-8 exceed the maximum of 65536 bytes (MAX_PAYLOAD_BYTES)",
    ),
    (413, "payload", json.dumps({"payload": "\u00e4" * 32_769}), "65538 bytes"),
    (422, "id", '{"payload": "a", "id": "' + "x" * 129 + '"}', "at most 128"),
    (422, "id", '{"payload": "a", "id": {}}', "got {}"),
    (422, "delay", '{"payload": "a", "delay": -1}', "greater than or equal to 0, got -1"),
    (422, "delay", '{"payload": "a", "delay": 60001}', "at most 60000 (MAX_DELAY_MILLIS), got 60001"),
    (422, "delay", '{"payload": "a", "delay": "1s"}', 'got "1s"'),
    (422, "delay", '{"payload": "a", "delay": 1.5}', "whole number, got 1.5"),
    (422, "delay", '{"payload": "a", "delay": true}', "whole number, got true"),
    (422, "delay", '{"payload": "a", "delay": ' + "9" * 400 + "}", "delay: "),
    (422, "responseCode", '{"payload": "a", "responseCode": 199}', "got 199"),
    (422, "responseCode", '{"payload": "a", "responseCode": 600}', "less than or equal to 599, got 600"),
    (422, "responseCode", '{"payload": "a", "responseCode": null}', "got null"),
    (422, "faultRate", '{"payload": "a", "faultRate": 1.01}', "less than or equal to 1"),
    (422, "faultRate", '{"payload": "a", "faultRate": NaN}', "finite number"),
    (422, "only", '{"payload": "a", "only": "x"}', 'got "x"'),
    (422, "only.cluster", '{"payload": "a", "only": {"cluster": "x"}}', "unknown field"),
    (422, "responsecode", '{"payload": "a", "responsecode": 500}', "unknown field"),
    (422, "body", "{", "invalid JSON at character 1"),
    (422, "body", "[]", "got []"),
    (422, "body", "null", "body"),
    (422, "body", "", "Field required"),
)


@pytest.mark.parametrize(("status", "field", "body", "text"), REFUSED)
@pytest.mark.parametrize("service", ["producer", "caller"])
async def test_bad_input_is_a_problem_that_names_the_field(
    service: str, status: int, field: str, body: str, text: str
) -> None:
    app = producer_app() if service == "producer" else caller_app("127.0.0.1:1")
    async with in_process(app) as client:
        response = await client.post(f"/{service}/messages", content=body, headers=JSON)
    problem = response.json()
    assert response.status_code == problem["status"] == status
    assert response.headers["content-type"] == "application/problem+json"
    assert field in [error["field"] for error in problem["errors"]]
    assert text in problem["detail"]
    assert len(response.content) < 1500
    assert (response.headers.get("x-answered-by") == "sample-producer") == (service == "producer")


UNREADABLE: tuple[tuple[int, dict[str, str], bytes, str], ...] = (
    (
        415,
        {"content-type": "text/plain"},
        b'{"payload": "a"}',
        "expected content-type application/json, got text/plain",
    ),
    (415, {}, b'{"payload": "a"}', "expected content-type application/json, got none"),
    (422, JSON, b'{"payload": "\xff"}', "not JSON in UTF-8"),
    (422, JSON, b"[" * 100_000, "not JSON in UTF-8"),
    (413, JSON, b" " * 409_601, "the body has 409601 bytes; the limit is 409600"),
)


@pytest.mark.parametrize(("status", "headers", "body", "text"), UNREADABLE)
@pytest.mark.parametrize("service", ["producer", "caller"])
async def test_an_unreadable_body_is_a_problem(
    service: str, status: int, headers: dict[str, str], body: bytes, text: str
) -> None:
    app = producer_app() if service == "producer" else caller_app("127.0.0.1:1")
    async with in_process(app) as client:
        response = await client.post(f"/{service}/messages", content=body, headers=headers)
    assert response.status_code == response.json()["status"] == status
    assert text in response.json()["detail"]


async def test_a_body_of_unknown_length_is_limited_too() -> None:
    async def chunks() -> Any:
        for _ in range(10):
            yield b" " * 65_536

    async with producing() as url, httpx.AsyncClient(trust_env=False, timeout=60) as client:
        response = await client.post(f"{url}/producer/messages", content=chunks(), headers=JSON)
    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-answered-by"] == "sample-producer"


@pytest.mark.parametrize("service", ["producer", "caller"])
async def test_an_unknown_path_is_404_and_a_wrong_method_405(service: str) -> None:
    app = producer_app() if service == "producer" else caller_app("127.0.0.1:1")
    async with in_process(app) as client:
        for method in ("GET", "POST", "DELETE"):
            unknown = await client.request(method, "/unknown")
            assert (unknown.status_code, unknown.json()["detail"]) == (404, "no resource at /unknown")
            assert unknown.headers["content-type"] == "application/problem+json"
        wrong = await client.get(f"/{service}/messages")
        assert (wrong.status_code, wrong.json()["status"], wrong.headers["allow"]) == (405, 405, "POST")


async def test_the_caller_answers_200_with_the_keys_of_the_kotlin_contract() -> None:
    async with producing() as url, in_process(caller_app(url)) as client:
        response = await client.post("/caller/messages", json={"id": "1", "payload": "test", "responseCode": 503})
    hop = response.json()
    assert response.status_code == 200
    assert (hop["id"], hop["received"], hop["statusCode"]) == ("1", "test", 503)
    assert hop["callerMetadata"].keys() == hop["producerMetadata"].keys() > KOTLIN_METADATA
    assert hop["producerMetadata"]["clusterName"] == "producer-cluster"
    assert hop["callerHeaders"]["host"] == ["test"]
    assert hop["producerHeaders"]["host"] == [url.removeprefix("http://")]
    assert isinstance(hop["roundTripTimeMillis"], float)


@pytest.mark.parametrize("status", [200, 204, 304, 404, 503])
async def test_pass_through_answers_with_the_status_of_the_hop(status: int) -> None:
    async with producing() as url, in_process(caller_app(url)) as client:
        body = {"payload": "test", "responseCode": status}
        response = await client.post("/caller/messages?passThrough=true", json=body)
    assert response.status_code == status
    assert (response.content == b"") == (status in (204, 304))


async def test_pass_through_of_a_failed_exchange_is_a_gateways_status() -> None:
    async with in_process(caller_app("127.0.0.1:1")) as client:
        response = await client.post("/caller/messages?passThrough=true", json={"payload": "test"})
    assert (response.status_code, response.json()["outcome"]) == (502, "refused")


async def test_a_pass_through_that_is_not_a_boolean_is_refused() -> None:
    async with in_process(caller_app("127.0.0.1:1")) as client:
        response = await client.post("/caller/messages?passThrough=perhaps", json={"payload": "test"})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "passThrough"


async def test_an_allowed_target_is_called_and_any_other_refused() -> None:
    async with producing() as url, in_process(caller_app("127.0.0.1:1", url)) as client:
        chosen = await client.post("/caller/messages", json={"payload": "test", "target": url})
        foreign = await client.post("/caller/messages", json={"payload": "test", "target": "http://169.254.169.254"})
    assert chosen.json()["outcome"] == "ok"
    assert foreign.status_code == 422
    assert foreign.json()["errors"][0]["field"] == "target"
    assert f"expected one of http://127.0.0.1:1, {url}" in foreign.json()["detail"]


async def test_a_timeout_in_the_request_ends_the_call() -> None:
    async with producing() as url, in_process(caller_app(url)) as client:
        body = {"payload": "test", "delay": 20_000, "timeoutSeconds": 0.3}
        hop = (await client.post("/caller/messages", json=body)).json()
    assert hop["outcome"] == "read_timeout"
    assert 300 <= hop["roundTripTimeMillis"] < 15_000, "the reply would come after 20 s"
    assert hop["diagnosis"] is not None


@pytest.mark.parametrize("seconds", [0, -1, 600.1, "soon", "NaN"])
async def test_an_invalid_timeout_is_refused(seconds: Any) -> None:
    async with in_process(caller_app("127.0.0.1:1")) as client:
        response = await client.post("/caller/messages", json={"payload": "test", "timeoutSeconds": seconds})
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == ["timeoutSeconds"]


async def test_targets_come_with_the_callers_identity_and_the_limits_and_with_dns_unless_it_is_disabled() -> None:
    limits = {"max_payload_bytes": 10, "max_delay_millis": 20, "call_timeout_seconds": 30, "run_max_rate": 40}
    async with in_process(caller_app("127.0.0.1:1", "localhost:2", **limits, run_max_seconds=50)) as client:
        full = (await client.get("/caller/targets")).json()
        quick = (await client.get("/caller/targets?dns=false")).json()
        refused = await client.get("/caller/targets?dns=perhaps")
    assert [target["name"] for target in full["targets"]] == ["http://127.0.0.1:1", "http://localhost:2"]
    assert full["targets"][0]["dns"]["system"]["addresses"] == ["127.0.0.1"]
    assert quick == full | {"targets": [target | {"dns": None} for target in full["targets"]]}
    assert full["callerMetadata"].keys() >= KOTLIN_METADATA
    assert (full["callerMetadata"]["clusterName"], full["callerMetadata"]["zone"]) == ("caller-cluster", "us-west1-a")
    names = ("maxPayloadBytes", "maxDelayMillis", "callTimeoutSeconds", "runMaxRate", "runMaxSeconds")
    assert [full[name] for name in names] == [10, 20, 30, 40, 50]
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "dns")


async def test_replies_are_the_same_under_the_prefix_and_without_it() -> None:
    """An ingress may leave the prefix in the path; probes and a Service do not have it."""
    async with in_process(caller_app("127.0.0.1:1", root_path="/team/caller/")) as client:
        for path in ("/", "/app.js", "/caller/targets?dns=false", "/docs", "/openapi.json", "/metrics"):
            without, within = await client.get(path), await client.get(f"/team/caller{path}")
            assert (without.status_code, within.status_code) == (200, 200), path
            if path != "/metrics":
                assert without.content == within.content
        assert (await client.get("/team/caller/actuator/health/liveness")).status_code == 200
        bare = await client.get("/team/caller")
        assert (bare.status_code, bare.headers["location"]) == (307, "/team/caller/")
        for path in ("/team", "/team/callers/", "/team/caller/team/caller/", "/other/"):
            assert (await client.get(path)).status_code == 404, path


async def test_files_of_the_page_are_compressed_if_the_client_accepts_it_and_replies_of_the_api_are_not() -> None:
    async with in_process(caller_app("127.0.0.1:1")) as client:
        for path in ("/", "/app.js", "/index.css"):
            zipped = await client.get(path, headers={"accept-encoding": "gzip"})
            plain = await client.get(path, headers={"accept-encoding": "identity"})
            assert zipped.content == plain.content
            assert (zipped.headers.get("content-encoding"), plain.headers.get("content-encoding")) == (
                ("gzip", None) if len(plain.content) >= 500 else (None, None)
            )
            assert "accept-encoding" in zipped.headers["vary"].lower()
            assert zipped.headers["content-security-policy"] == plain.headers["content-security-policy"]
        api = await client.get("/openapi.json", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in api.headers


async def test_target_and_connection_do_not_reach_the_producer() -> None:
    """It refuses unknown fields."""
    async with producing() as url, in_process(caller_app(url)) as client:
        body = {"payload": "test", "target": url, "connection": "fresh", "faultRate": 0.5, "only": {"zone": "x"}}
        response = await client.post("/caller/messages", json=body)
    assert response.json()["outcome"] == "ok"
    assert response.json()["connection"]["mode"] == "fresh"
    assert response.json()["faultApplied"] is False


async def test_secrets_are_redacted_wherever_headers_are_shown() -> None:
    secrets = {"authorization": "Bearer hidden", "cookie": "session=hidden", "x-goog-iap-jwt-assertion": "hidden"}
    async with producing() as url, in_process(caller_app(url)) as client:
        hop = await client.post("/caller/messages", json={"payload": "test"}, headers=secrets)
        async with httpx.AsyncClient(trust_env=False, timeout=60) as direct:
            ack = await direct.post(f"{url}/producer/messages", json={"payload": "test"}, headers=secrets)
    assert "hidden" not in hop.text + ack.text
    assert hop.json()["callerHeaders"]["authorization"] == ["***"]
    assert ack.json()["headers"]["cookie"] == ["***"]


async def test_the_request_id_is_propagated_and_returned() -> None:
    async with producing() as url, in_process(caller_app(url)) as client:
        response = await client.post("/caller/messages", json={"payload": "test"}, headers={"x-request-id": "abc"})
    assert response.headers["x-request-id"] == "abc"
    assert response.json()["producerHeaders"]["x-request-id"] == ["abc"]
    assert response.json()["returnedHeaders"]["x-request-id"] == ["abc"]


async def test_every_reply_of_the_producer_has_the_marker_header_identity_and_timing() -> None:
    async with producing() as url, httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:
        started = time.perf_counter()
        slow = await client.post("/producer/messages", json={"payload": "a", "delay": 50, "responseCode": 500})
        millis = (time.perf_counter() - started) * 1000
        replies = [
            slow,
            await client.post("/producer/messages", json={"payload": "a", "responseCode": 204}),
            await client.post("/producer/messages", json={}),
            await client.get("/unknown"),
            await client.get("/actuator/health/readiness"),
        ]
    for reply in replies:
        assert reply.headers["x-answered-by"] == "sample-producer"
        assert json.loads(reply.headers["x-producer-metadata"])["clusterName"] == "producer-cluster"
        assert reply.headers["server-timing"].startswith("delay;dur=")
    delay = float(slow.headers["server-timing"].split(",")[0].removeprefix("delay;dur="))
    assert 50 <= delay <= millis


async def test_a_disconnect_ends_the_delay_of_the_producer() -> None:
    app = producer_app()
    async with serving(app) as url, httpx.AsyncClient(trust_env=False, timeout=0.2) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(f"{url}/producer/messages", json={"payload": "a", "delay": 30_000})
        await metrics_with(url, 'http_response_status_code="499"')


async def metrics_with(url: str, text: str) -> None:
    """Scrape until the metrics contain this text."""
    async with asyncio.timeout(20), httpx.AsyncClient(trust_env=False, timeout=60) as client:
        while text not in (await client.get(f"{url}/metrics")).text:
            await asyncio.sleep(0.05)


async def test_a_disconnect_ends_the_call_of_the_caller() -> None:
    async with (
        producing() as producer,
        serving(caller_app(producer)) as url,
        httpx.AsyncClient(trust_env=False, timeout=5) as client,
    ):
        call = asyncio.create_task(
            client.post(f"{url}/caller/messages", json={"payload": "a", "delay": 60_000}, timeout=100)
        )
        await metrics_with(producer, "\nhttp_server_active_requests 1.0\n")
        call.cancel()
        await metrics_with(url, 'outcome="cancelled"')
        await metrics_with(producer, 'http_response_status_code="499"')


async def test_over_the_load_limit_is_503_with_retry_after_and_health_is_still_answered() -> None:
    async with (
        producing(max_in_flight=2) as url,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client,
    ):
        slow = [
            asyncio.create_task(client.post("/producer/messages", json={"payload": "a", "delay": 3000}))
            for _ in range(2)
        ]
        await metrics_with(url, "\nhttp_server_active_requests 2.0\n")
        refused = await client.post("/producer/messages", json={"payload": "a"})
        ready = await client.get("/actuator/health/readiness")
        metrics = await client.get("/metrics")
        assert [reply.status_code for reply in await asyncio.gather(*slow)] == [200, 200]
        after = await client.post("/producer/messages", json={"payload": "a"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "the limit is 2 (MAX_IN_FLIGHT)" in refused.json()["detail"]
    assert refused.headers["x-answered-by"] == "sample-producer"
    assert (ready.status_code, metrics.status_code, after.status_code) == (200, 200, 200)


async def test_an_overloaded_producer_is_an_http_error_of_the_producer() -> None:
    async with (
        producing(max_in_flight=1) as producer,
        in_process(caller_app(producer)) as client,
        httpx.AsyncClient(trust_env=False, timeout=60) as direct,
    ):
        slow = asyncio.create_task(direct.post(f"{producer}/producer/messages", json={"payload": "a", "delay": 3000}))
        await metrics_with(producer, "\nhttp_server_active_requests 1.0\n")
        hop = (await client.post("/caller/messages", json={"payload": "a"})).json()
        await slow
    assert (hop["outcome"], hop["statusCode"]) == ("http_error", 503)
    assert hop["producerMetadata"]["clusterName"] == "producer-cluster"


async def test_refusals_and_internal_errors_have_the_headers_of_every_reply_and_are_counted() -> None:
    """`Observe` and the reply headers are around the refusals of the other middleware, and around FastAPI's own 500."""
    settings = ProducerSettings(gce_metadata_host="none", max_in_flight=1, max_payload_bytes=1)
    lifecycle = Lifecycle()
    service = Service("sample-producer", settings, lifecycle)
    router, waiting, go_on = APIRouter(), asyncio.Event(), asyncio.Event()

    @router.get("/bug")
    async def bug() -> None:
        raise KeyError("hidden")

    @router.get("/slow")
    async def slow() -> None:
        waiting.set()
        await go_on.wait()

    @asynccontextmanager
    async def opened() -> AsyncIterator[dict[str, Any]]:
        yield {}

    app = service.with_middleware(
        service.app("", opened, router),
        reply_headers=[
            Middleware(ProducerMarker, service.identity),
            Middleware(SecurityHeaders, {"x-content-type-options": "nosniff"}),
        ],
    )
    async with in_process(app) as client:
        in_flight = asyncio.create_task(client.get("/slow"))
        await waiting.wait()
        lifecycle.draining = True
        headers = {"x-request-id": "abc"}
        replies = {503: await client.get("/bug", headers=headers)}
        go_on.set()
        await in_flight
        replies[404] = await client.get("/unknown", headers=headers)
        replies[413] = await client.post("/unknown", content=b" " * 100_000, headers=headers)
        replies[500] = await client.get("/bug", headers=headers)
        metrics = (await client.get("/metrics")).text
    for status, reply in replies.items():
        assert (reply.status_code, reply.json()["status"]) == (status, status)
        assert reply.headers["x-request-id"] == "abc"
        assert reply.headers["x-answered-by"] == "sample-producer"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["connection"] == "close"
        assert f'http_response_status_code="{status}"' in metrics
    assert replies[503].headers["retry-after"] == "1"
    assert replies[500].json()["detail"] == "internal error: KeyError"


async def test_a_delay_takes_as_long_as_requested() -> None:
    async with in_process(producer_app()) as client:
        started = time.perf_counter()
        await client.post("/producer/messages", json={"payload": "a", "delay": "200"})
    assert 0.2 <= time.perf_counter() - started < 20
