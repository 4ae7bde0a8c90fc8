"""The preflight: the verdict of each step for each failure, its duration, and the sharing of one report."""

import asyncio
import json
import socket
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import pytest
import trustme

from caller.check.preflight import CALL_SECONDS, REUSE_SECONDS
from caller.check.steps import tcp_finding
from caller.explain.dns import SYSTEM_SECONDS, DnsReport
from caller.explain.explain import Explainer
from caller.hop.outcome import Outcome
from common import __version__
from common.messages import Message
from lab.lab import (
    CLUSTER_DNS,
    CLUSTER_NAME,
    CLUSTER_SET_IP,
    CLUSTER_SET_NAME,
    CLUSTER_SET_URL,
    CLUSTER_URL,
    LOCAL_PRODUCER_POD,
    NDOTS_2,
    NDOTS_5,
    SANITY_CHECK_NAME,
    Lab,
)
from lab.processes import Service
from tests.support.servers import (
    Handler,
    caller_app,
    calling_one_of,
    http_reply,
    in_process,
    listening,
    producing,
    read_request,
    replying,
    serving,
)

FAILURE_SECONDS = CALL_SECONDS + SYSTEM_SECONDS
"""The longest report: a call that times out, then a DNS report that times out."""
REPORT_SECONDS = 2 * FAILURE_SECONDS
"""The same on a busy machine; without the timeouts of a check, it is 20 s and longer."""
STEPS = ["dns", "tcp", "tls", "http", "identity", "crossing", "version", "clock"]
EVERYTHING_SILENT = dict.fromkeys(("*", CLUSTER_SET_NAME, CLUSTER_NAME, SANITY_CHECK_NAME), "silent")


@pytest.fixture(scope="module", autouse=True)
def _the_callers_own_ndots(lab: Lab) -> Iterator[None]:
    with lab.resolver(NDOTS_2):
        yield


@pytest.fixture
def caller(lab: Lab) -> Iterator[Service]:
    """A caller without a report, which it would reuse for a while."""
    with lab.caller() as caller:
        yield caller


def checked(lab: Lab, caller: Service) -> dict[str, Any]:
    response = lab.caller_cluster.threads.submit(lab.http.get, f"{caller.url}/caller/checks").result()
    assert response.status_code == 200, response.text
    report: dict[str, Any] = response.json()
    assert_complete(report)
    return report


async def checked_here(*urls: str, **settings: Any) -> dict[str, Any]:
    """The report of a caller on loopback."""
    async with in_process(caller_app(*urls, **settings)) as client:
        response = await client.get("/caller/checks")
    assert response.status_code == 200, response.text
    report: dict[str, Any] = response.json()
    assert_complete(report)
    return report


def assert_complete(report: dict[str, Any]) -> None:
    """Every target has every step, the verdict is the worst, and each warning or failure has a next step."""
    verdicts = {check["verdict"] for check in report["checks"]}
    assert report["verdict"] == next(verdict for verdict in ("fail", "warn", "pass") if verdict in verdicts)
    for target in {check["target"] for check in report["checks"]} - {None}:
        assert [check["check"] for check in report["checks"] if check["target"] == target] == STEPS
    assert all(check["evidence"] for check in report["checks"])
    assert all(check["nextStep"] for check in report["checks"] if check["verdict"] in ("warn", "fail"))
    assert not any(check["nextStep"] for check in report["checks"] if check["verdict"] in ("pass", "skip"))
    first = report["targets"][0]["target"]
    of_first = [check for check in report["checks"] if check["target"] == first]
    assert all((check["command"] is not None) is (check["verdict"] == "fail") for check in of_first)
    assert all(check["verdict"] != "fail" for check in report["checks"] if check["target"] not in (None, first))


def verdicts(report: dict[str, Any], target: str | None = None) -> dict[str, str]:
    return {check["check"]: check["verdict"] for check in report["checks"] if check["target"] == target}


def step(report: dict[str, Any], name: str, target: str | None = None) -> dict[str, Any]:
    """The check of that name, of the only target or of the given one."""
    (check,) = (check for check in report["checks"] if check["check"] == name and target in (None, check["target"]))
    found: dict[str, Any] = check
    return found


def stopped_at(failed: str) -> dict[str, str]:
    """The verdicts of a target whose call failed in this step, over plain HTTP."""
    position = STEPS.index(failed)
    return {
        name: "fail" if name == failed else "skip" if name == "tls" or STEPS.index(name) > position else "pass"
        for name in STEPS
    }


NO_NAME = {"dns": "skip"}
"""The verdict for an address."""
NO_TOKEN = {"kubernetes": "skip"}
"""`tests/check/test_kubernetes.py` has the verdicts with a token."""
ALL_WELL = dict.fromkeys(STEPS, "pass") | {"tls": "skip"}


# Two clusters


def test_every_check_passes_when_everything_works(lab: Lab, caller: Service) -> None:
    report = checked(lab, caller)
    assert report["verdict"] == "pass"
    assert verdicts(report) == dict.fromkeys(("settings", "identity", "resolv.conf", "resolver"), "pass") | NO_TOKEN
    assert verdicts(report, CLUSTER_SET_URL) == ALL_WELL
    assert verdicts(report, CLUSTER_URL) == ALL_WELL
    assert [(target["target"], target["outcome"], target["clusterName"]) for target in report["targets"]] == [
        (CLUSTER_SET_URL, "ok", "producer-cluster"),
        (CLUSTER_URL, "ok", "caller-cluster"),
    ]
    assert f"nameserver {CLUSTER_DNS}" in step(report, "resolv.conf")["evidence"]
    assert "ndots 2" in step(report, "resolv.conf")["evidence"]
    assert CLUSTER_SET_IP in step(report, "dns", CLUSTER_SET_URL)["evidence"]
    assert "cluster: yes, region: yes, zone: yes" in step(report, "crossing", CLUSTER_SET_URL)["evidence"]
    assert "cluster: no" in step(report, "crossing", CLUSTER_URL)["evidence"]
    assert __version__ in step(report, "version", CLUSTER_SET_URL)["evidence"]
    assert report["millis"] < FAILURE_SECONDS * 1000


def test_with_ndots_5_only_resolv_conf_is_a_warning(lab: Lab, caller: Service) -> None:
    with lab.resolver(NDOTS_5):
        report = checked(lab, caller)
    assert [check["check"] for check in report["checks"] if check["verdict"] == "warn"] == ["resolv.conf"]
    assert "ndots to 2" in step(report, "resolv.conf")["nextStep"]
    assert report["verdict"] == "warn"


def test_a_name_that_is_not_exported_fails_at_dns(lab: Lab, caller: Service) -> None:
    with lab.zone({CLUSTER_SET_NAME: "nxdomain", CLUSTER_NAME: "nxdomain"}):
        report = checked(lab, caller)
    assert verdicts(report, CLUSTER_SET_URL) == stopped_at("dns")
    dns = step(report, "dns", CLUSTER_SET_URL)
    assert "dns_nxdomain" in dns["evidence"]
    assert "NXDOMAIN" in dns["evidence"]
    assert "no ServiceExport" in dns["nextStep"]
    assert (
        "kubectl --context producer-cluster -n istio-apps get service,serviceexport sample-producer" in dns["command"]
    )
    assert report["targets"][0]["outcome"] == "dns_nxdomain"


def test_a_failing_target_does_not_affect_the_others(lab: Lab, caller: Service) -> None:
    with lab.zone({CLUSTER_SET_NAME: "nxdomain"}):
        report = checked(lab, caller)
    assert verdicts(report, CLUSTER_SET_URL) == stopped_at("dns")
    assert verdicts(report, CLUSTER_URL) == ALL_WELL
    assert report["verdict"] == "fail"


def test_a_cluster_whose_dns_does_not_resolve_its_own_services_fails_at_the_resolver(lab: Lab, caller: Service) -> None:
    with lab.zone({CLUSTER_SET_NAME: "servfail", SANITY_CHECK_NAME: "servfail"}):
        report = checked(lab, caller)
    assert verdicts(report)["resolver"] == "fail"
    assert step(report, "dns", CLUSTER_SET_URL)["nextStep"].startswith("The cluster's DNS is broken")


def test_a_lookup_whose_queries_are_lost_is_a_warning(lab: Lab, caller: Service) -> None:
    with lab.zone({CLUSTER_SET_NAME: {"addresses": [CLUSTER_SET_IP], "ttl": 30, "silent": ["AAAA"]}}):
        report = checked(lab, caller)
    assert verdicts(report, CLUSTER_SET_URL) == ALL_WELL | {"dns": "warn"}
    assert CLUSTER_SET_IP in step(report, "dns", CLUSTER_SET_URL)["evidence"]


def test_an_import_without_endpoints_fails_at_tcp(lab: Lab, caller: Service) -> None:
    with lab.endpoints():
        report = checked(lab, caller)
    assert verdicts(report, CLUSTER_SET_URL) == stopped_at("tcp")
    tcp = step(report, "tcp", CLUSTER_SET_URL)
    assert tcp["evidence"].startswith("refused: ECONNREFUSED")
    assert "no ready pod" in tcp["nextStep"]


def test_a_firewall_that_drops_fails_at_tcp_in_time(lab: Lab, caller: Service) -> None:
    started = time.monotonic()
    with lab.firewall("DROP"):
        report = checked(lab, caller)
    assert verdicts(report, CLUSTER_SET_URL) == stopped_at("tcp")
    assert "firewall" in step(report, "tcp", CLUSTER_SET_URL)["nextStep"]
    assert verdicts(report, CLUSTER_URL) == ALL_WELL
    assert time.monotonic() - started < REPORT_SECONDS


def test_an_exported_name_that_the_own_cluster_answers_is_a_warning(lab: Lab, caller: Service) -> None:
    with lab.endpoints(LOCAL_PRODUCER_POD):
        report = checked(lab, caller)
    assert verdicts(report, CLUSTER_SET_URL) == ALL_WELL | {"crossing": "warn"}
    assert "cluster: no" in step(report, "crossing", CLUSTER_SET_URL)["evidence"]
    assert report["verdict"] == "warn"


def test_when_everything_is_silent_the_checks_end_within_their_timeout(lab: Lab) -> None:
    """DNS as well, with glibc's default timeouts, with which getaddrinfo takes 20 s and longer."""
    with (
        lab.caller(CONNECT_TIMEOUT_SECONDS="60", CALL_TIMEOUT_SECONDS="60") as caller,
        lab.zone(EVERYTHING_SILENT),
        lab.resolver("ndots:5"),
        lab.firewall("DROP"),
    ):
        started = time.monotonic()
        report = checked(lab, caller)
        took = time.monotonic() - started
    assert verdicts(report, CLUSTER_SET_URL) == stopped_at("dns")
    assert verdicts(report, CLUSTER_URL) == stopped_at("dns") | {"dns": "warn"}
    assert CALL_SECONDS <= report["millis"] / 1000 <= took < REPORT_SECONDS


# Loopback


@pytest.fixture(scope="module")
def untrusted() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    return context


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def test_an_untrusted_certificate_fails_at_tls(untrusted: ssl.SSLContext) -> None:
    async with listening(silent, untrusted) as address:
        report = await checked_here(f"https://localhost:{address.split(':')[1]}")
    target = report["targets"][0]["target"]
    assert verdicts(report, target) == stopped_at("tls")
    assert "unable to get local issuer certificate" in step(report, "tls", target)["evidence"]
    assert "authority that the caller does not trust" in step(report, "tls", target)["nextStep"]


@pytest.mark.parametrize(
    ("reply", "evidence", "next_step"),
    [
        (
            http_reply("503 Service Unavailable", {"server": "envoy"}, "no healthy upstream"),
            "proxy_error: proxy Envoy answered 503",
            "Envoy knows no healthy endpoint",
        ),
        (http_reply("200 OK", {"content-type": "text/html"}, "<h1>hello</h1>"), "bad_reply: ", "A web page answered"),
        (
            http_reply("500 X", {"x-answered-by": "sample-producer"}, "oops"),
            "http_error: producer sample-producer answered 500",
            "The producer, or what runs under its name, failed",
        ),
        (b"", "closed: ", "The producer's process ended"),
    ],
    ids=["proxy", "page", "producer", "closed"],
)
async def test_a_reply_that_is_not_the_producers_answer_fails_at_http(
    reply: bytes, evidence: str, next_step: str
) -> None:
    async with listening(replying(reply)) as address:
        report = await checked_here(address)
    target = report["targets"][0]["target"]
    assert verdicts(report, target) == stopped_at("http") | NO_NAME
    assert step(report, "http", target)["evidence"].startswith(evidence)
    assert step(report, "http", target)["nextStep"].startswith(next_step)


async def test_a_producer_without_an_identity_is_a_warning_and_so_is_the_crossing() -> None:
    unknown = {"cluster_name": None, "cluster_location": None, "zone": None}
    async with producing(**unknown) as url:
        report = await checked_here(url)
    found = verdicts(report, report["targets"][0]["target"])
    assert (found["identity"], found["crossing"]) == ("warn", "warn")


async def test_a_caller_without_an_identity_is_a_warning() -> None:
    async with producing() as url:
        report = await checked_here(url, cluster_name=None, cluster_location=None, zone=None)
    assert verdicts(report)["identity"] == "warn"
    assert verdicts(report, report["targets"][0]["target"])["crossing"] == "warn"


async def test_a_target_that_cannot_cross_clusters_is_a_warning_with_the_name_that_can() -> None:
    async with producing() as url:
        report = await checked_here(url)
    settings = step(report, "settings")
    assert settings["verdict"] == "warn"
    assert "http://sample-producer.istio-apps.svc.clusterset.local:8080" in settings["nextStep"]


def echoing(version: str = __version__, clock_ahead: float = 0.0) -> Handler:
    """A producer of this version, whose clock is this many seconds ahead."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message = json.loads((await read_request(reader)).partition(b"\r\n\r\n")[2])
        metadata = {"clusterName": "producer-cluster", "clusterLocation": "us-central1", "version": version}
        ack = {"id": message["id"], "received": message["payload"], "headers": {}, "metadata": metadata}
        headers = {"x-answered-by": "sample-producer", "x-producer-time": f"{time.time() + clock_ahead:.6f}"}
        writer.write(http_reply("200 OK", headers, json.dumps(ack)))
        await writer.drain()

    return handler


@pytest.mark.parametrize(
    ("version", "verdict"), [(__version__, "pass"), ("0.9.0", "warn"), ("local", "skip")], ids=["same", "old", "none"]
)
async def test_another_version_of_the_producer_is_a_warning(version: str, verdict: str) -> None:
    async with listening(echoing(version)) as address:
        report = await checked_here(address)
    check = step(report, "version")
    assert check["verdict"] == verdict
    assert (check["evidence"] == f"caller {__version__}, producer {version}") is (verdict != "skip")


@pytest.mark.parametrize(
    ("ahead", "verdict"), [(10, "warn"), (-10, "warn"), (0.2, "pass"), (-0.2, "pass"), (0, "pass"), (86_400, "warn")]
)
async def test_a_clock_skew_above_a_second_is_a_warning_with_its_sign_and_size(ahead: float, verdict: str) -> None:
    async with listening(echoing(clock_ahead=ahead)) as address:
        report = await checked_here(address)
    clock = step(report, "clock")
    assert clock["verdict"] == verdict
    skew, error = (float(word) for word in clock["evidence"].split() if word.strip("+-").replace(".", "").isdigit())
    assert abs(skew - ahead * 1000) <= error + 0.2, "both are rounded to 0.1 ms"
    assert 0 <= error < 1000


@pytest.mark.parametrize("clock", ["", "soon", "nan", "inf", "1e999"])
async def test_an_invalid_clock_is_skipped(clock: str) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message = json.loads((await read_request(reader)).partition(b"\r\n\r\n")[2])
        ack = {"id": message["id"], "received": "check", "headers": {}, "metadata": {}}
        writer.write(http_reply("200 OK", {"x-producer-time": clock}, json.dumps(ack)))
        await writer.drain()

    async with listening(handler) as address:
        report = await checked_here(address)
    assert step(report, "clock")["verdict"] == "skip"


# Concurrent requests


@asynccontextmanager
async def counting(delay: float = 0.0) -> AsyncIterator[tuple[str, Counter[str]]]:
    """A producer that counts its calls; its host:port."""
    calls: Counter[str] = Counter()
    answer = echoing()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls["made"] += 1
        await asyncio.sleep(delay)
        await answer(reader, writer)

    async with listening(handler) as address:
        yield address, calls


async def test_concurrent_requests_share_one_report_which_is_reused_for_a_while() -> None:
    async with producing() as url, in_process(caller_app(url, "http://localhost:1")) as client:
        replies = await asyncio.gather(*(client.get("/caller/checks") for _ in range(20)))
        again = await client.get("/caller/checks")
        async with httpx.AsyncClient(trust_env=False) as browser:
            metrics = (await browser.get(f"{url}/metrics")).text
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.text for reply in (*replies, again)}) == 1
    assert calls_counted(metrics) == 1


def calls_counted(metrics: str) -> float:
    """Number of messages that the producer has answered, by its own metrics."""
    lines = [line for line in metrics.splitlines() if "/producer/messages" in line and "_count{" in line]
    return sum(float(line.split()[-1]) for line in lines)


async def test_a_later_request_runs_the_checks_again() -> None:
    async with counting() as (address, calls), in_process(caller_app(address)) as client:
        await client.get("/caller/checks")
        await asyncio.sleep(REUSE_SECONDS + 0.2)
        await client.get("/caller/checks")
    assert calls["made"] == 2


async def test_a_client_that_disconnects_does_not_affect_the_next() -> None:
    async with counting(delay=0.5) as (address, calls), serving(caller_app(address)) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        for _ in range(3):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /caller/checks HTTP/1.1\r\nhost: caller\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)
            reset(writer)
        async with httpx.AsyncClient(trust_env=False) as browser:
            response = await browser.get(f"{url}/caller/checks")
    assert response.status_code == 200
    assert verdicts(response.json(), f"http://{address}")["http"] == "pass"
    assert calls["made"] == 1


def reset(writer: asyncio.StreamWriter) -> None:
    """Close immediately, with a RST."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


async def test_an_address_that_fails_before_another_one_connects_is_a_warning() -> None:
    message = Message(payload="test")
    async with producing() as url, calling_one_of("255.255.255.255:8080", url.removeprefix("http://")) as client:
        target = client.settings.producer_url
        hop = await client.call(message, target, connection="fresh")
        explained = await Explainer(client).explain(hop, message, target)
    verdict, evidence, _ = tcp_finding(explained, cast(DnsReport, None))
    assert hop.outcome is Outcome.OK
    assert (verdict, evidence.partition("; ")[2]) == ("warn", "255.255.255.255:8080 ENETUNREACH")
    assert explained.diagnosis is not None
    assert explained.diagnosis.severity == "warning"
