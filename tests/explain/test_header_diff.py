"""Changes of headers between the services: the comparison as a table, and a real small proxy between both."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import pytest

from caller.explain.header_diff import header_diff
from common.messages import Headers
from tests.support.servers import Handler, caller_app, in_process, listening, producer_app, producing, serving

RequestHeaders = list[tuple[str, str]]
SECRET = "0f8a-do-not-show"


@pytest.mark.parametrize(
    ("name", "group"),
    [
        *((name, "tracing") for name in ("traceparent", "tracestate", "baggage", "b3", "x-b3-traceid", "x-b3-new")),
        *((name, "tracing") for name in ("x-request-id", "x-cloud-trace-context", "x-ot-span-context")),
        ("grpc-trace-bin", "tracing"),
        *((name, "forwarding") for name in ("via", "forwarded", "x-forwarded-for", "x-forwarded-proto", "x-real-ip")),
        ("x-original-forwarded-for", "forwarding"),
        *((name, "mesh") for name in ("x-forwarded-client-cert", "x-envoy-attempt-count", "x-envoy-peer-metadata")),
        *((name, "mesh") for name in ("l5d-client-id", "x-istio-attributes")),
        *((name, "load balancer") for name in ("x-goog-iap-jwt-assertion", "x-client-region", "x-gfe-request-id")),
        *((name, "other") for name in ("content-type", "host", "user-agent", "x-mine", "server", "viable")),
    ],
)
def test_a_header_is_in_the_group_of_those_that_use_it(name: str, group: str) -> None:
    (change,) = header_diff({name: ["1"]}, {name: ["1"]}, {}).request
    assert (change.name, change.group) == (name, group)


@pytest.mark.parametrize(
    ("sent", "received", "change"),
    [
        (["1"], ["1"], "same"),
        (None, ["1"], "added"),
        (["1"], None, "removed"),
        (["1"], ["2"], "changed"),
        (["1"], ["1", "2"], "changed"),
        (["1", "2"], ["1", "2"], "same"),
        (["1", "2"], ["2", "1"], "changed"),
        (["1"], ["1 "], "changed"),
        ([""], [""], "same"),
        ([""], None, "removed"),
    ],
)
def test_a_header_is_the_same_added_changed_or_removed(
    sent: list[str] | None, received: list[str] | None, change: str
) -> None:
    other = {"other": ["same"]}
    one, two = ({"x": values} | other if values is not None else other for values in (sent, received))
    (_, found) = header_diff(one, two, {}).request
    assert (found.name, found.change, found.sent, found.received) == ("x", change, sent, received)


def test_headers_come_in_the_order_of_their_names() -> None:
    diff = header_diff({"c": ["1"], "a": ["1"]}, {"b": ["1"], "a": ["1"]}, {"z": ["1"], "y": ["1"]})
    assert [change.name for change in diff.request] == ["a", "b", "c"]
    assert [change.name for change in diff.reply] == ["y", "z"]


def test_without_the_headers_that_the_producer_received_the_request_part_is_empty() -> None:
    """Otherwise every header that was sent would be shown as removed."""
    assert header_diff({"a": ["1"]}, {}, {}).request == []


# A real proxy


def served_producer() -> AbstractAsyncContextManager[str]:
    """Without uvicorn's `server` header, as `common.server` serves the app."""
    return serving(producer_app(), server_header=False)


@asynccontextmanager
async def between(
    url: str, request: Callable[[RequestHeaders], RequestHeaders], reply: RequestHeaders
) -> AsyncIterator[str]:
    """A proxy that changes the request's headers and adds some to the reply; its host:port."""
    host, _, port = url.removeprefix("http://").partition(":")

    async with listening(proxying(host, int(port), request, reply)) as address:
        yield address


def proxying(
    host: str, port: int, request: Callable[[RequestHeaders], RequestHeaders], reply: RequestHeaders
) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_upstream = await asyncio.open_connection(host, port)
        try:
            first, headers = await read_head(reader)
            to_upstream.write(head(first, request(headers)))
            passing = asyncio.create_task(pass_on(reader, to_upstream))
            first, headers = await read_head(upstream)
            writer.write(head(first, headers + reply))
            await pass_on(upstream, writer)
            passing.cancel()
            with suppress(asyncio.CancelledError):
                await passing
        finally:
            to_upstream.close()

    return handler


async def read_head(reader: asyncio.StreamReader) -> tuple[str, RequestHeaders]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
    return first, [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]


def head(first: str, headers: RequestHeaders) -> bytes:
    return "\r\n".join([first, *(f"{name}: {value}" for name, value in headers), "", ""]).encode("latin-1")


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()


def by_a_mesh(headers: RequestHeaders) -> RequestHeaders:
    """Changes as by an Envoy that also removes b3, and by proxies that add secrets."""
    kept = [(name, value) for name, value in headers if name not in ("b3", "x-request-id")]
    return [
        *kept,
        ("x-request-id", "made-by-the-mesh"),
        ("x-envoy-attempt-count", "1"),
        ("x-envoy-expected-rq-timeout-ms", "15000"),
        ("x-forwarded-for", "10.4.1.7"),
        ("x-forwarded-for", "10.4.1.8"),
        ("x-forwarded-client-cert", "By=spiffe://cluster.local/ns/istio-apps/sa/sample-producer"),
        ("x-goog-iap-jwt-assertion", SECRET),
        ("authorization", f"Bearer {SECRET}"),
        ("cookie", f"session={SECRET}"),
    ]


REPLY_HEADERS = [("via", "1.1 google"), ("server", "istio-envoy"), ("set-cookie", f"id={SECRET}")]


async def hop_through_the_mesh(message: dict[str, Any], inbound: dict[str, str] | None = None) -> dict[str, Any]:
    async with (
        served_producer() as url,
        between(url, by_a_mesh, REPLY_HEADERS) as address,
        in_process(caller_app(f"http://{address}")) as client,
    ):
        response = await client.post("/caller/messages", json=message, headers=inbound)
    assert response.status_code == 200
    hop: dict[str, Any] = response.json()
    return hop


def changes(hop: dict[str, Any], part: str) -> dict[str, tuple[str, str, Any, Any]]:
    """name -> group, change, sent, received; without unchanged headers."""
    return {
        change["name"]: (change["group"], change["change"], change["sent"], change["received"])
        for change in hop["headerDiff"][part]
        if change["change"] != "same"
    }


async def test_changes_by_a_mesh_are_shown_with_their_groups() -> None:
    hop = await hop_through_the_mesh({"payload": "test"}, {"b3": "0", "x-request-id": "made-by-the-client"})
    assert hop["outcome"] == "ok"
    assert changes(hop, "request") == {
        "b3": ("tracing", "removed", ["0"], None),
        "x-request-id": ("tracing", "changed", ["made-by-the-client"], ["made-by-the-mesh"]),
        "x-envoy-attempt-count": ("mesh", "added", None, ["1"]),
        "x-envoy-expected-rq-timeout-ms": ("mesh", "added", None, ["15000"]),
        "x-forwarded-for": ("forwarding", "added", None, ["10.4.1.7", "10.4.1.8"]),
        "x-forwarded-client-cert": (
            *("mesh", "added", None),
            ["By=spiffe://cluster.local/ns/istio-apps/sa/sample-producer"],
        ),
        "x-goog-iap-jwt-assertion": ("load balancer", "added", None, ["***"]),
        "authorization": ("other", "added", None, ["***"]),
        "cookie": ("other", "added", None, ["***"]),
    }
    assert changes(hop, "reply") == {
        "via": ("forwarding", "added", None, ["1.1 google"]),
        "server": ("other", "added", None, ["istio-envoy"]),
        "set-cookie": ("other", "added", None, ["***"]),
    }
    same = {change["name"] for change in hop["headerDiff"]["request"] if change["change"] == "same"}
    assert same >= {"traceparent", "content-type", "content-length", "host", "user-agent", "accept"}
    assert SECRET not in json.dumps(hop)


async def test_an_error_of_the_producer_has_the_same_changes() -> None:
    hop = await hop_through_the_mesh({"payload": "test", "responseCode": 503})
    assert hop["outcome"] == "http_error"
    assert changes(hop, "request").keys() >= {"x-envoy-attempt-count", "x-request-id"}
    assert changes(hop, "reply").keys() == {"via", "server", "set-cookie"}
    assert SECRET not in json.dumps(hop)


async def test_of_a_call_whose_reply_has_no_body_only_the_reply_is_compared() -> None:
    hop = await hop_through_the_mesh({"payload": "test", "responseCode": 204})
    assert hop["outcome"] == "ok"
    assert hop["headerDiff"]["request"] == []
    assert changes(hop, "reply").keys() == {"via", "server", "set-cookie"}


@pytest.mark.parametrize("message", [{}, {"responseCode": 404}, {"responseCode": 204}, {"delay": 61_000}])
async def test_without_a_proxy_no_header_is_changed(message: dict[str, Any]) -> None:
    """Also when the producer refuses the message: each header of its own replies is known."""
    async with (
        serving(producer_app(), server_header=False) as url,
        in_process(caller_app(url, max_delay_millis=90_000)) as client,
    ):
        hop = (await client.post("/caller/messages", json={"payload": "test", **message})).json()
    assert changes(hop, "request") == {}
    assert changes(hop, "reply") == {}


async def test_a_call_without_a_reply_has_an_empty_diff() -> None:
    async with listening(disconnect) as address, in_process(caller_app(f"http://{address}")) as client:
        hop = (await client.post("/caller/messages", json={"payload": "test"})).json()
    assert hop["headerDiff"] == {"request": [], "reply": []}


async def disconnect(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def test_secrets_of_the_browser_reach_neither_the_producer_nor_the_hop() -> None:
    inbound: Headers = {"authorization": [SECRET], "cookie": [f"a={SECRET}"], "x-api-key": [SECRET]}
    async with producing() as url, in_process(caller_app(url)) as client:
        response = await client.post(
            "/caller/messages",
            json={"payload": "test"},
            headers=[(name, value) for name, values in inbound.items() for value in values],
        )
    hop = response.json()
    assert SECRET not in response.text
    assert not inbound.keys() & hop["producerHeaders"].keys()
    assert {name: hop["callerHeaders"][name] for name in inbound} == {name: ["***"] for name in inbound}
