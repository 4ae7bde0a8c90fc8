"""Every outcome of a call, over real sockets. The DNS outcomes are in tests/lab, with a real DNS server."""

import asyncio
import errno
import os
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator

import pytest

from caller.hop.client import ProducerClient
from caller.hop.model import Hop
from caller.hop.outcome import Outcome, failure_of, gateway_status
from caller.hop.phases import PHASES, CallClock, Phase
from caller.hop.resolver import MAX_CONCURRENT_LOOKUPS, Resolver
from common.messages import Message
from lab.processes import free_port
from tests.support.servers import calling, http_reply, listening, producing, read_request, replying, swallowing

MESSAGE = Message(payload="test")
TIMEOUT_SECONDS = 0.3
EARLIEST_MILLIS, LATEST_MILLIS = 290, 5_000
"""Of a call that ends by `TIMEOUT_SECONDS`, on a machine that may be busy; the default timeouts are 2 s and 65 s."""


async def hop_to(url: str, message: Message = MESSAGE, **settings: float) -> Hop:
    async with calling(url, **settings) as client:
        hop = await client.call(message, client.settings.producer_url)
    assert_adds_up(hop)
    return hop


def assert_adds_up(hop: Hop) -> None:
    assert sum(millis_by_phase(hop).values()) == pytest.approx(hop.round_trip_time_millis, abs=0.01)


def millis_by_phase(hop: Hop) -> dict[Phase, float]:
    """The duration of each phase that the call had."""
    millis = {phase: getattr(hop.phases, f"{phase}_millis") for phase in PHASES}
    return {phase: duration for phase, duration in millis.items() if duration is not None}


def assert_timed_out(hop: Hop) -> None:
    """The call lasted for `TIMEOUT_SECONDS`, and not for a longer, default timeout."""
    assert EARLIEST_MILLIS <= hop.round_trip_time_millis < LATEST_MILLIS


async def test_the_producer_answers() -> None:
    async with producing() as url:
        hop = await hop_to(url)
    assert (hop.outcome, hop.status_code, hop.error) == (Outcome.OK, 200, None)
    assert hop.received == "test"
    assert hop.answered_by.who == "producer"
    assert hop.answered_by.evidence == "x-answered-by: sample-producer"
    assert hop.producer_metadata is not None
    assert hop.producer_metadata.cluster_name == "producer-cluster"
    assert (hop.crossing.cluster, hop.crossing.zone, hop.crossing.region) == (True, True, True)
    assert hop.connection.peer_address == url.removeprefix("http://")


@pytest.mark.parametrize("status", [400, 404, 418, 499, 500, 502, 503, 504, 599])
async def test_an_error_of_the_producer_keeps_its_identity(status: int) -> None:
    async with producing() as url:
        hop = await hop_to(url, Message(payload="test", response_code=status))
    assert (hop.outcome, hop.status_code) == (Outcome.HTTP_ERROR, status)
    assert hop.producer_metadata is not None
    assert hop.producer_metadata.cluster_name == "producer-cluster"
    assert hop.received == "test"
    assert hop.producer_headers["user-agent"][0].startswith("sample-caller/")


@pytest.mark.parametrize("status", [204, 205, 304])
async def test_a_reply_without_a_body_is_ok(status: int) -> None:
    async with producing() as url:
        hop = await hop_to(url, Message(payload="test", response_code=status))
    assert (hop.outcome, hop.status_code, hop.received) == (Outcome.OK, status, None)
    assert hop.producer_metadata is not None
    assert hop.producer_metadata.pod_name == "sample-producer-v1-0"


@pytest.mark.parametrize("status", [201, 299, 300, 302, 307])
async def test_a_redirect_or_another_success_is_ok_and_not_followed(status: int) -> None:
    async with producing() as url:
        hop = await hop_to(url, Message(payload="test", response_code=status))
    assert (hop.outcome, hop.status_code, hop.received) == (Outcome.OK, status, "test")


async def test_a_refusal_by_the_producer_names_the_limit() -> None:
    async with producing(max_delay_millis=10) as url:
        hop = await hop_to(url, Message(payload="test", delay=11))
    assert (hop.outcome, hop.status_code) == (Outcome.HTTP_ERROR, 422)
    assert hop.error is not None
    assert "MAX_DELAY_MILLIS" in hop.error
    assert hop.producer_metadata is not None
    assert hop.producer_metadata.cluster_name == "producer-cluster"


PROXIES: tuple[tuple[str, dict[str, str], str, str], ...] = (
    ("503 Service Unavailable", {"server": "nginx/1.22.1"}, "<html><center>nginx</center></html>", "nginx"),
    ("503 Service Unavailable", {"server": "envoy"}, "no healthy upstream", "Envoy"),
    (
        "503 Service Unavailable",
        {"server": "istio-envoy"},
        "upstream connect error or disconnect/reset",
        "Istio's Envoy",
    ),
    ("504 Gateway Timeout", {}, "upstream request timeout", "Envoy"),
    ("403 Forbidden", {}, "RBAC: access denied", "Envoy"),
    ("500 Internal Server Error", {}, "fault filter abort", "Envoy"),
    ("502 Bad Gateway", {"via": "1.1 google"}, "<html>Error: Server Error</html>", "Google Cloud load balancer"),
    ("404 Not Found", {}, "response 404 (backend NotFound), service rules for the path", "Google Cloud load balancer"),
    ("404 Not Found", {}, "another server", "unknown"),
)


@pytest.mark.parametrize(("status", "headers", "body", "name"), PROXIES)
async def test_an_error_without_the_marker_header_is_a_proxy_error(
    status: str, headers: dict[str, str], body: str, name: str
) -> None:
    async with listening(replying(http_reply(status, headers, body))) as address:
        hop = await hop_to(address)
    assert (hop.outcome, hop.status_code) == (Outcome.PROXY_ERROR, int(status[:3]))
    assert (hop.answered_by.who, hop.answered_by.name) == ("proxy", name)
    assert hop.producer_metadata is None
    assert hop.error is not None
    assert body[:20] in hop.error


BAD_REPLIES = (
    ("a page", http_reply("200 OK", {"content-type": "text/html"}, "<h1>hello</h1>")),
    ("an empty reply", http_reply("200 OK", {}, "")),
    ("other JSON", http_reply("200 OK", {"content-type": "application/json"}, '{"a": 1}')),
    ("a 204 without the marker header", b"HTTP/1.1 204 No Content\r\n\r\n"),
    ("not HTTP", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    ("a status line without a status", b"HTTP/1.1 OK\r\n\r\n"),
    ("too large", http_reply("200 OK", {}, "x" * 5000)),
    ("broken gzip", http_reply("200 OK", {"content-encoding": "gzip"}, "not gzip")),
    (
        "an answer to another message",
        http_reply("200 OK", {}, '{"id": "another", "received": "test", "headers": {}, "metadata": {}}'),
    ),
)


@pytest.mark.parametrize("reply", [reply for _, reply in BAD_REPLIES], ids=[name for name, _ in BAD_REPLIES])
async def test_a_reply_that_is_not_the_producers_json_is_a_bad_reply(reply: bytes) -> None:
    async with listening(replying(reply)) as address:
        hop = await hop_to(address, max_reply_bytes=4096)
    assert (hop.outcome, hop.status_code) == (Outcome.BAD_REPLY, 502)
    assert hop.error


async def test_an_echo_without_the_marker_header_is_the_producers() -> None:
    body = '{"id": "7", "received": "test", "headers": {}, "metadata": {"clusterName": "kotlin"}}'
    async with listening(replying(http_reply("500 Internal Server Error", {}, body))) as address:
        hop = await hop_to(address, Message(id="7", payload="test"))
    assert hop.outcome is Outcome.HTTP_ERROR
    assert hop.answered_by.evidence == "the body echoes the message"
    assert hop.producer_metadata is not None
    assert hop.producer_metadata.cluster_name == "kotlin"


async def test_a_closed_port_refuses() -> None:
    port = free_port()
    hop = await hop_to(f"127.0.0.1:{port}", connect_timeout_seconds=30)
    assert (hop.outcome, hop.status_code) == (Outcome.REFUSED, 502)
    assert (hop.answered_by.who, hop.answered_by.name) == ("none", "none")
    assert hop.error is not None
    assert str(port) in hop.error
    assert hop.round_trip_time_millis < 15_000, "it does not wait for the timeout"


async def test_two_addresses_that_both_refuse_are_one_refusal() -> None:
    hop = await hop_to(f"localhost:{free_port()}")
    assert hop.outcome is Outcome.REFUSED


async def test_a_name_that_does_not_exist() -> None:
    hop = await hop_to("sample-producer.invalid")
    assert hop.outcome in (Outcome.DNS_NXDOMAIN, Outcome.DNS_UNAVAILABLE)  # the latter without any DNS server
    assert hop.status_code == 502
    assert hop.phases.dns_millis is not None
    assert hop.phases.connect_millis is None


async def test_an_address_without_a_route_is_unreachable() -> None:
    """No packet is sent: the kernel itself refuses TCP to the broadcast address."""
    hop = await hop_to("255.255.255.255")
    assert (hop.outcome, hop.status_code) == (Outcome.UNREACHABLE, 502)


async def test_dropped_syns_are_a_connect_timeout_after_the_configured_time() -> None:
    async with swallowing() as address:
        hop = await hop_to(address, connect_timeout_seconds=TIMEOUT_SECONDS)
    assert (hop.outcome, hop.status_code) == (Outcome.CONNECT_TIMEOUT, 504)
    assert_timed_out(hop)
    assert millis_by_phase(hop).keys() == {"connect"}


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def test_a_silent_server_is_a_read_timeout_after_the_configured_time() -> None:
    async with listening(silent) as address:
        hop = await hop_to(address, call_timeout_seconds=TIMEOUT_SECONDS)
    assert (hop.outcome, hop.status_code) == (Outcome.READ_TIMEOUT, 504)
    assert_timed_out(hop)
    assert hop.connection.peer_address == address
    assert hop.sent_headers["content-type"] == ["application/json"]


async def test_a_reply_that_stops_in_its_body_is_a_read_timeout() -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        await reader.read()

    async with listening(half) as address:
        hop = await hop_to(address, call_timeout_seconds=TIMEOUT_SECONDS)
    assert hop.outcome is Outcome.READ_TIMEOUT
    assert_timed_out(hop)
    assert hop.phases.body_millis is not None
    assert hop.returned_headers["content-length"] == ["100"]


async def close_immediately(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def close_after_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.close()


async def close_in_the_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    writer.close()


async def close_in_the_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-le")
    writer.close()


@pytest.mark.parametrize("handler", [close_after_request, close_in_the_body, close_in_the_headers])
async def test_a_connection_that_is_closed_before_the_reply_is_complete_is_closed(handler: object) -> None:
    async with listening(handler) as address:  # type: ignore[arg-type]
        hop = await hop_to(address)
    assert (hop.outcome, hop.status_code) == (Outcome.CLOSED, 502)


async def test_a_server_that_accepts_and_closes_immediately_is_closed_or_reset() -> None:
    """Which of the two depends on whether the request arrives before or after the close."""
    async with listening(close_immediately) as address:
        hop = await hop_to(address)
    assert hop.outcome in (Outcome.CLOSED, Outcome.RESET)


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    linger = struct.pack("ii", 1, 0)  # close with a RST
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


async def reset_in_the_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    await asyncio.sleep(0.1)
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


@pytest.mark.parametrize("handler", [reset, reset_in_the_body])
async def test_a_reset_is_a_reset(handler: object) -> None:
    async with listening(handler) as address:  # type: ignore[arg-type]
        hop = await hop_to(address)
    assert (hop.outcome, hop.status_code) == (Outcome.RESET, 502)
    assert hop.error is not None
    assert "ECONNRESET" in hop.error


async def test_a_cancelled_call_ends_immediately_and_is_counted() -> None:
    async with listening(silent) as address, calling(address) as client:
        call = asyncio.create_task(client.call(MESSAGE, client.settings.producer_url))
        await asyncio.sleep(0.1)
        call.cancel()
        started = time.perf_counter()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert time.perf_counter() - started < 10, "it does not wait for the timeout of 65 s"
        assert observed_outcomes(client) == {"cancelled": 1}


def observed_outcomes(client: ProducerClient) -> dict[str, float]:
    return {
        sample.labels["outcome"]: sample.value
        for metric in client.metrics.hop.collect()
        for sample in metric.samples
        if sample.name.endswith("_count")
    }


@pytest.fixture
async def pair() -> AsyncIterator[ProducerClient]:
    async with producing() as url, calling(url) as client:
        yield client


async def test_a_warm_connection_has_no_dns_and_no_connect(pair: ProducerClient) -> None:
    cold = await pair.call(MESSAGE, pair.settings.producer_url)
    warm = await pair.call(MESSAGE, pair.settings.producer_url)
    assert (cold.connection.reused, warm.connection.reused) == (False, True)
    assert cold.phases.connect_millis is not None
    assert (warm.phases.dns_millis, warm.phases.connect_millis, warm.phases.tls_millis) == (None, None, None)
    assert warm.connection.local_address == cold.connection.local_address
    assert_adds_up(warm)


async def test_fresh_connections_are_never_reused(pair: ProducerClient) -> None:
    hops = [await pair.call(MESSAGE, pair.settings.producer_url, connection="fresh") for _ in range(3)]
    assert [hop.connection.reused for hop in hops] == [False] * 3
    assert len({hop.connection.local_address for hop in hops}) == 3
    assert hops[0].sent_headers["connection"] == ["close"]


async def test_the_injected_delay_is_separate_from_the_network(pair: ProducerClient) -> None:
    hop = await pair.call(Message(payload="test", delay=1000), pair.settings.producer_url)
    phases = hop.phases
    assert phases.wait_millis is not None
    assert phases.producer_delay_millis is not None
    assert phases.producer_work_millis is not None
    assert phases.network_millis is not None
    assert phases.wait_millis >= phases.producer_delay_millis >= 1000
    assert phases.producer_work_millis + phases.network_millis < 1000, "the delay is in neither"
    parts = phases.producer_delay_millis + phases.producer_work_millis + phases.network_millis
    assert phases.event_loop_delay_millis is not None
    assert parts - 0.01 <= phases.wait_millis <= parts + phases.event_loop_delay_millis + 0.01
    assert hop.fault_applied is True


async def test_concurrent_calls_do_not_mix_their_clocks(pair: ProducerClient) -> None:
    messages = [Message(id=str(number), payload=str(number), delay=number % 5 * 20) for number in range(40)]
    hops = await asyncio.gather(*(pair.call(message, pair.settings.producer_url) for message in messages))
    for message, hop in zip(messages, hops, strict=True):
        assert (hop.id, hop.received) == (message.id, message.payload)
        assert_adds_up(hop)
        # The requested delay, or longer on a busy machine. The clock of another call can show a shorter one.
        assert message.delay <= (hop.phases.producer_delay_millis or 0) <= (hop.phases.wait_millis or 0)
    assert len({hop.connection.local_address for hop in hops}) == 40


async def test_the_trace_context_is_propagated(pair: ProducerClient) -> None:
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    inbound = {"traceparent": traceparent, "b3": "0", "x-cloud-trace-context": "1/2;o=1", "cookie": "a=b"}
    hop = await pair.call(MESSAGE, pair.settings.producer_url, inbound=inbound)
    assert hop.producer_headers["traceparent"] == [traceparent]
    assert hop.producer_headers["b3"] == ["0"]
    assert hop.producer_headers["x-cloud-trace-context"] == ["1/2;o=1"]
    assert "cookie" not in hop.producer_headers
    assert hop.producer_headers["x-request-id"]


async def test_a_malformed_traceparent_is_replaced_with_its_tracestate(pair: ProducerClient) -> None:
    hop = await pair.call(MESSAGE, pair.settings.producer_url, inbound={"traceparent": "00-xyz", "tracestate": "a=b"})
    assert len(hop.producer_headers["traceparent"][0]) == 55
    assert "tracestate" not in hop.producer_headers


# The kernel's own timeout


@pytest.mark.parametrize(
    ("phase", "outcome", "status"),
    [
        ("dns", Outcome.DNS_UNAVAILABLE, 502),
        ("connect", Outcome.CONNECT_TIMEOUT, 504),
        ("tls", Outcome.TLS_ERROR, 502),
        ("send", Outcome.READ_TIMEOUT, 504),
        ("wait", Outcome.READ_TIMEOUT, 504),
        ("body", Outcome.READ_TIMEOUT, 504),
    ],
)
def test_etimedout_is_the_timeout_of_the_phase(phase: Phase, outcome: Outcome, status: int) -> None:
    """The kernel ends a connection whose packets are not acknowledged (tcp(7), tcp_syn_retries and tcp_retries2)."""
    clock = CallClock()
    clock.open = phase
    found, text = failure_of(OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)), clock)
    assert (found, gateway_status(found)) == (outcome, status)
    assert text.startswith("ETIMEDOUT: ")
    assert phase in text


# Threads of lookups


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")  # as CPython does at a limit on processes


FAILED_LOOKUPS = 40
"""More than a name has slots: a slot that is not released would be missing."""


async def test_a_call_without_a_thread_for_its_lookup_is_dns_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    async with producing() as url, calling(url.replace("127.0.0.1", "localhost"), call_timeout_seconds=5) as client:
        target = client.settings.producer_url
        with monkeypatch.context() as limit:
            limit.setattr(threading.Thread, "start", no_thread)
            failed = [await client.call(MESSAGE, target) for _ in range(FAILED_LOOKUPS)]
        after = await client.call(MESSAGE, target)
    assert {(hop.outcome, hop.status_code) for hop in failed} == {(Outcome.DNS_UNAVAILABLE, 502)}
    assert {(hop.error or "").partition(":")[0] for hop in failed} == {"EAGAIN"}
    assert after.outcome is Outcome.OK


async def test_a_lookup_without_a_thread_releases_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FAILED_LOOKUPS > MAX_CONCURRENT_LOOKUPS
    resolver = Resolver()
    with monkeypatch.context() as limit:
        limit.setattr(threading.Thread, "start", no_thread)
        for _ in range(FAILED_LOOKUPS):
            with pytest.raises(BlockingIOError):
                await asyncio.wait_for(resolver.look_up("localhost", 8080), 5)
    found, _ = await asyncio.wait_for(resolver.look_up("localhost", 8080), 30)
    assert ("127.0.0.1", 8080) in [address for _, address in found]
