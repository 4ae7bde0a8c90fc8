"""Malformed and hostile requests: refused, never with a 500 or a traceback, and the service goes on serving."""

import json
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import repeat
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from lab.processes import CALLER, PRODUCER, Service, running

JSON = {"content-type": "application/json"}
BODY = b'{"payload":"a"}'
SERVICES = ["producer", "caller"]
MEGABYTE = 1_000_000
FUZZ = settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def producer() -> Iterator[Service]:
    with running(PRODUCER, MAX_DELAY_MILLIS="2") as service:
        yield service
        assert_no_internal_error(service)


@pytest.fixture(scope="module")
def caller(producer: Service) -> Iterator[Service]:
    limits = {"RUN_MAX_RATE": "50", "RUN_MAX_SECONDS": "0.1", "RUN_MAX_ACTIVE": "50"}
    with running(CALLER, PRODUCER_URL=producer.url, MAX_DELAY_MILLIS="2", **limits) as service:
        yield service
        assert_no_internal_error(service)


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """Either service; after the test it serves, and has logged no internal error."""
    found: Service = request.getfixturevalue(request.param)
    yield found
    assert_serves(found)
    assert_no_internal_error(found)


def assert_serves(service: Service) -> None:
    reply = httpx.post(f"{service.url}{path_of(service)}", json={"payload": "a"}, trust_env=False, timeout=60)
    assert reply.status_code == 200
    assert reply.json()["received"] == "a"


def assert_no_internal_error(service: Service) -> None:
    assert "Traceback" not in service.output
    assert not re.search(r'"severity": "(ERROR|CRITICAL)"', service.output)


def path_of(service: Service) -> str:
    return "/producer/messages" if "producer" in service.process.args else "/caller/messages"  # type: ignore[operator]


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def connection_to(service: Service) -> socket.socket:
    host, port = service.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def reply_on(connection: socket.socket) -> Reply:
    """The next reply, complete."""
    with connection.makefile("rb") as stream:
        line = stream.readline()
        assert line.startswith(b"HTTP/1.1 "), line
        headers = {}
        while name := (header := stream.readline()).partition(b":")[0].strip():
            headers[name.decode()] = header.partition(b":")[2].strip().decode()
        return Reply(int(line.split()[1]), headers, stream.read(int(headers.get("content-length", 0))))


def ends(connection: socket.socket, seconds: float = 20) -> bool:
    """Whether the service closes the connection within this time."""
    connection.settimeout(seconds)
    try:
        while connection.recv(65_536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def post(headers: bytes, body: bytes = BODY) -> bytes:
    """A POST for either service, with the framing in `headers`."""
    return b"POST PATH HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" + headers + b"\r\n" + body


def get(target: bytes, headers: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    return b"GET " + target + b" " + version + b"\r\nhost: x\r\n" + headers + b"\r\n"


LENGTH = b"content-length: 15\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
CHUNK = b"f\r\n" + BODY + b"\r\n0\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"

SHAPES: dict[str, bytes] = {
    "a length and chunks": post(LENGTH + CHUNKED, b"0\r\n\r\n" + SMUGGLED),
    "chunks and a length": post(CHUNKED + b"content-length: 5\r\n", CHUNK),
    "two lengths": post(LENGTH + b"content-length: 0\r\n"),
    "one length twice": post(LENGTH + LENGTH),
    "two lengths in one": post(b"content-length: 15, 15\r\n"),
    "a negative length": post(b"content-length: -1\r\n"),
    "a length with a sign": post(b"content-length: +15\r\n"),
    "a length in hex": post(b"content-length: 0xf\r\n"),
    "a length that overflows": post(b"content-length: 18446744073709551617\r\n"),
    "a length that is empty": post(b"content-length: \r\n"),
    "a length before a space": post(b"content-length : 15\r\n"),
    "an invalid chunk size": post(CHUNKED, b"zz\r\n" + CHUNK),
    "a negative chunk size": post(CHUNKED, b"-f\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk size that overflows": post(CHUNKED, b"1000000000000000f\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk size in 0x": post(CHUNKED, b"0xf\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunks that end in LF": post(CHUNKED, CHUNK.replace(b"\r\n", b"\n")),
    "a chunk longer than its size": post(CHUNKED, b"5\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunked is not the last coding": post(b"transfer-encoding: chunked, identity\r\n", CHUNK),
    "chunks of chunks": post(b"transfer-encoding: chunked, chunked\r\n", CHUNK),
    "chunks twice": post(CHUNKED + CHUNKED, CHUNK),
    "two transfer-encodings": post(CHUNKED + b"transfer-encoding: identity\r\n", CHUNK),
    "a folded header": post(LENGTH + b"x-a: b\r\n c\r\n"),
    "bare LF": post(LENGTH).replace(b"\r\n", b"\n"),
    "a bare CR in a value": post(LENGTH + b"x-a: b\rGET /smuggled HTTP/1.1\r\n"),
    "NUL in a value": post(LENGTH + b"x-a: b\0c\r\n"),
    "NUL in a name": post(LENGTH + b"x\0a: b\r\n"),
    "a control character in a value": post(LENGTH + b"baggage: a\x01b\r\n"),
    "an invalid header name": post(LENGTH + b"x-\xe4: b\r\n"),
    "a header without a name": post(LENGTH + b": b\r\n"),
    "a header without a colon": post(LENGTH + b"x-a\r\n"),
    "a space before the headers": b"GET / HTTP/1.1\r\n x-a: b\r\nhost: x\r\n\r\n",
    "CONNECT": b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nhost: 169.254.169.254:80\r\n\r\n",
    "an absolute form without a host": get(b"http:///caller/targets"),
    "an absolute form with an invalid port": get(b"http://x:99999/"),
    "no host": b"GET /actuator/health/liveness HTTP/1.1\r\n\r\n",
    "two hosts": get(b"/actuator/health/liveness", b"Host: y\r\n"),
    "one host twice": get(b"/actuator/health/liveness", b"host: x\r\n"),
    "an absolute form without the header": b"GET http://x/actuator/health/liveness HTTP/1.1\r\n\r\n",
    "an unknown method": b"FETCH / HTTP/1.1\r\nhost: x\r\n\r\n",
    "a method in lower case": b"get / HTTP/1.1\r\nhost: x\r\n\r\n",
    "a path with a byte that is not ASCII": get(b"/\xc3\xa4"),
    "a path with a space": get(b"/a b"),
    "an unknown version": get(b"/", version=b"HTTP/9.9"),
    "HTTP/2 with prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "an endless method": b"G" * 200_000,
    "noise": bytes(number * 37 % 256 for number in range(2000)),
}
"""Ambiguous (request smuggling, RFC 9112, 11.2), or not HTTP/1.1: 400, and the connection is closed."""


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_an_ambiguous_or_malformed_request_is_400_and_closes_the_connection(service: Service, shape: bytes) -> None:
    with connection_to(service) as connection:
        with suppress(ConnectionError):
            connection.sendall(shape.replace(b"PATH", path_of(service).encode()))
        reply = reply_on(connection)
        assert reply.status == 400
        assert ends(connection), "one refusal, and nothing after it"
    assert "smuggled" not in service.output


@pytest.mark.parametrize(("hosts", "count"), [(b"", 0), (b"host: x\r\nHost: y\r\n", 2)])
def test_the_refusal_has_the_number_of_host_headers(service: Service, hosts: bytes, count: int) -> None:
    with connection_to(service) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" + hosts + b"\r\n")
        reply = reply_on(connection)
    assert (reply.status, reply.headers["content-type"]) == (400, "application/problem+json")
    assert json.loads(reply.body)["detail"] == f"expected exactly one Host header, got {count}"


CODINGS = {
    "compressed chunks": b"transfer-encoding: gzip, chunked\r\n",
    "compressed chunks in two headers": b"transfer-encoding: gzip\r\n" + CHUNKED,
    "an unknown coding": b"transfer-encoding: xchunked\r\n",
}


@pytest.mark.parametrize("headers", CODINGS.values(), ids=CODINGS)
def test_a_transfer_coding_other_than_chunked_is_501_and_closes_the_connection(
    service: Service, headers: bytes
) -> None:
    """Otherwise the compressed bytes would be taken for the body (RFC 9112, 6.1)."""
    with connection_to(service) as connection:
        connection.sendall(post(headers, CHUNK).replace(b"PATH", path_of(service).encode()))
        reply = reply_on(connection)
        assert (reply.status, reply.headers["content-type"]) == (501, "application/problem+json")
        assert "unsupported transfer coding" in json.loads(reply.body)["detail"]
        assert ends(connection)


@pytest.mark.parametrize("bad", [get(b"/").replace(b"host: x\r\n", b""), b"\0\r\n\r\n", post(b"te: \0\r\n")])
def test_a_malformed_request_behind_one_in_flight_gets_no_reply_that_could_be_taken_for_the_others(
    service: Service, bad: bytes
) -> None:
    slow = b'{"payload":"a","delay":500}'
    with connection_to(service) as connection:
        shape = post(b"content-length: %d\r\n" % len(slow), slow).replace(b"PATH", path_of(service).encode())
        connection.sendall(shape + bad)
        assert connection.recv(65_536) == b""


HARMLESS: dict[str, tuple[bytes, set[int]]] = {
    "chunks with extensions": (post(CHUNKED, b"f;a=b\r\n" + BODY + b"\r\n0\r\n\r\n"), {200}),
    "bytes above ASCII in a value": (post(LENGTH + b"x-a: \xe4\xff\r\nbaggage: \xff\r\n"), {200}),
    "an expectation": (post(LENGTH + b"expect: 200-ok\r\n"), {200}),
    "an invalid charset": (post(LENGTH + b"content-type: application/json; charset=\xff\r\n"), {200}),
    "a body larger than any": (post(b"content-length: 18446744073709551615\r\n", b""), {413}),
    "another form": (post(b"content-type: multipart/form-data; boundary=x\r\n" + LENGTH), {200, 415}),
    "no body": (post(b"", b""), {422}),
    "a parameter that is not UTF-8": (post(LENGTH).replace(b"PATH", b"PATH?passThrough=%ff%00"), {200, 422}),
    "empty lines first": (b"\r\n\r\n" + get(b"/actuator/health/liveness"), {200}),
    "an absolute form": (get(b"http://169.254.169.254/actuator/health/liveness"), {200}),
    "no path": (b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", {404}),
    "HTTP/0.9": (b"GET /actuator/health/liveness\r\n\r\n", {200, 400}),
    "HTTP/1.0": (b"GET /actuator/health/liveness HTTP/1.0\r\n\r\n", {200}),
    "HTTP/2.0 in the request line": (get(b"/actuator/health/liveness", version=b"HTTP/2.0"), {200, 400, 505}),
    "an empty host": (b"GET /actuator/health/liveness HTTP/1.1\r\nhost:\r\n\r\n", {200}),
    "a coding in capitals": (post(b"Transfer-Encoding: Chunked\r\n", CHUNK), {200}),
    "TRACE, which would show secrets": (b"TRACE / HTTP/1.1\r\nhost: x\r\ncookie: secret\r\n\r\n", {404, 405}),
    "a path out of the files": (get(b"/../../etc/passwd"), {404}),
    "the same in escapes": (get(b"/%2e%2e/%2e%2e/etc/passwd"), {404}),
    "NUL in a path of files": (get(b"/docs/assets/%00.js"), {404}),
    "a name too long for a file": (get(b"/docs/assets/" + b"a" * 5000), {404}),
    "a new line in a path": (get(b"/%0d%0aset-cookie:%20a=b"), {404}),
    "a path that is not UTF-8": (get(b"/%ff%fe"), {404}),
    "a range out of the file": (get(b"/docs/assets/favicon.png", b"range: bytes=9999999-\r\n"), {416}),
    "invalid ranges": (get(b"/docs/assets/favicon.png", b"range: bytes=5-1,a-b\r\n"), {200, 400}),
    "ranges without end": (get(b"/docs/assets/favicon.png", b"range: bytes=0-" + b",0-" * 900 + b"\r\n"), {200, 400}),
    "invalid dates": (get(b"/docs/assets/favicon.png", b"if-modified-since: \xff\r\nif-range: \xff\r\n"), {200}),
    "WebSocket": (
        get(
            b"/", b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: a\r\n"
        ),
        {200, 404},
    ),
}
"""Unusual, but with one meaning only."""


@pytest.mark.parametrize(("shape", "statuses"), HARMLESS.values(), ids=HARMLESS)
def test_an_unusual_but_unambiguous_request_is_answered(service: Service, shape: bytes, statuses: set[int]) -> None:
    with connection_to(service) as connection:
        connection.sendall(shape.replace(b"PATH", path_of(service).encode()))
        reply = reply_on(connection)
    assert reply.status in statuses
    assert "set-cookie" not in reply.headers
    assert b"secret" not in reply.body
    assert b"root:" not in reply.body


@pytest.mark.parametrize("framing", [LENGTH, CHUNKED], ids=["length", "chunked"])
def test_an_upgrade_to_http_2_is_ignored_as_clients_in_java_expect(service: Service, framing: bytes) -> None:
    headers = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n" + framing
    with connection_to(service) as connection:
        for _ in range(2):
            shape = post(headers, CHUNK if framing is CHUNKED else BODY)
            connection.sendall(shape.replace(b"PATH", path_of(service).encode()))
            assert reply_on(connection).status == 200


def test_trailers_are_not_merged_into_the_headers(producer: Service) -> None:
    with connection_to(producer) as connection:
        shape = post(CHUNKED, b"f\r\n" + BODY + b"\r\n0\r\nx-trailer: a\r\n\r\n")
        connection.sendall(shape.replace(b"PATH", b"/producer/messages"))
        assert "x-trailer" not in json.loads(reply_on(connection).body)["headers"]


# Too large

HEAD = b"GET / HTTP/1.1\r\nhost: x\r\n"
TRAILERS = post(CHUNKED, b"1\r\na\r\n0\r\n")
BOMBS = {
    "one header": (HEAD + b"x-a: ", b"a" * 65_536),
    "headers": (HEAD, b"x-a: b\r\n" * 8000),
    "a path": (b"GET /", b"a" * 65_536),
    "a method": (b"", b"A" * 65_536),
    "empty lines": (b"", b"\r\n" * 32_000),
    "a chunk extension": (post(CHUNKED, b"1;"), b"a" * 65_536),
    "one trailer": (TRAILERS + b"x-a: ", b"a" * 65_536),
    "trailers": (TRAILERS, b"x-a: b\r\n" * 8000),
    "chunks": (post(CHUNKED, b""), b"1\r\na\r\n" * 10_000),
    "a body": (post(b"content-length: 99999999\r\n", b""), b"a" * 65_536),
    "pipelined requests": (b"", get(b"/actuator/health/liveness") * 1000),
    "requests after a slow one": (
        post(b"content-length: 28\r\n", b'{"payload":"a","delay":2000}'),
        get(b"/actuator/health/liveness") * 1000,
    ),
}


@pytest.mark.parametrize(("start", "part"), BOMBS.values(), ids=BOMBS)
def test_memory_does_not_grow_with_the_bytes_that_one_connection_sends(start: bytes, part: bytes) -> None:
    """8 MB, and the replies are not read."""
    with running(PRODUCER) as producer:
        assert_serves(producer)
        producer.forget_peak()
        before = producer.memory()
        with connection_to(producer) as connection:
            connection.settimeout(2)
            connection.sendall(start.replace(b"PATH", b"/producer/messages"))
            with suppress(OSError):  # refused, or no longer read
                for _ in repeat(None, 8 * MEGABYTE // len(part)):
                    connection.sendall(part)
            assert_serves(producer)
            assert producer.memory("VmHWM") - before < 6 * MEGABYTE
        assert_no_internal_error(producer)


@pytest.mark.parametrize("headers", [1, 100, 1000], ids="{} headers".format)
def test_headers_of_32_kib_in_total_are_accepted(service: Service, headers: int) -> None:
    value = "a" * (32_768 // headers - 12)
    reply = httpx.post(
        f"{service.url}{path_of(service)}",
        json={"payload": "a"},
        headers=[(f"x-{number}", value) for number in range(headers)],
        trust_env=False,
        timeout=60,
    )
    assert reply.status_code == 200


def test_a_head_of_more_than_64_kib_is_431(service: Service) -> None:
    with connection_to(service) as connection:
        with suppress(ConnectionError):
            connection.sendall(get(b"/actuator/health/liveness", b"x-a: " + b"a" * 65_536 + b"\r\n"))
        reply = reply_on(connection)
    assert (reply.status, reply.headers["content-type"]) == (431, "application/problem+json")


@pytest.mark.parametrize(
    "name", ["baggage", "tracestate", "x-request-id", "traceparent", "b3", "x-cloud-trace-context"]
)
def test_a_call_with_a_huge_trace_context_is_ok(caller: Service, name: str) -> None:
    reply = httpx.post(
        f"{caller.url}/caller/messages",
        json={"payload": "a"},
        headers={name: "a" * 30_000},
        trust_env=False,
        timeout=60,
    )
    assert (reply.status_code, reply.json()["outcome"]) == (200, "ok")


# Too slow, or incomplete

LIMITS = {"RECEIVE_SECONDS": "0.6", "MAX_IN_FLIGHT": "10"}
HALF_A_HEAD = b"POST PATH HTTP/1.1\r\nhost: x\r\ncontent-le"
HALF_A_BODY = post(LENGTH, BODY[:7])
HALF_A_CHUNK = post(CHUNKED, b"f\r\n" + BODY[:7])


@pytest.fixture(scope="module", params=SERVICES)
def short_timeout(request: pytest.FixtureRequest) -> Iterator[Service]:
    """Either service, with at most ten concurrent requests, each of which must be received within 0.6 s."""
    with running(PRODUCER, **LIMITS) as producer, running(CALLER, PRODUCER_URL=producer.url, **LIMITS) as caller:
        service = producer if request.param == "producer" else caller
        yield service
        assert_serves(service)
        assert_no_internal_error(service)


def test_a_thousand_incomplete_requests_do_not_keep_others_from_being_served(service: Service) -> None:
    """Fewer than `MAX_IN_FLIGHT` of them have sent a part of their body."""
    path = path_of(service).encode()
    with ExitStack() as stack:
        for number in range(1000):
            connection = stack.enter_context(connection_to(service))
            if number % 2:
                connection.sendall((HALF_A_BODY if number % 10 == 1 else HALF_A_HEAD).replace(b"PATH", path))
        started = time.monotonic()
        assert_serves(service)
        assert time.monotonic() - started < 15, "RECEIVE_SECONDS is 30"


@pytest.mark.parametrize("half", [HALF_A_HEAD, HALF_A_BODY, HALF_A_CHUNK], ids=["head", "body", "chunk"])
def test_an_incomplete_request_is_408_after_the_timeout(short_timeout: Service, half: bytes) -> None:
    with connection_to(short_timeout) as connection:
        started = time.monotonic()
        connection.sendall(half.replace(b"PATH", path_of(short_timeout).encode()))
        reply = reply_on(connection)
        assert 0.6 - 0.01 <= time.monotonic() - started < 20
        assert (reply.status, reply.headers["content-type"]) == (408, "application/problem+json")
        assert "RECEIVE_SECONDS" in json.loads(reply.body)["detail"]
        assert ends(connection)


def test_a_byte_now_and_then_does_not_extend_the_timeout(short_timeout: Service) -> None:
    half = HALF_A_HEAD.replace(b"PATH", path_of(short_timeout).encode())
    sent = 0
    with connection_to(short_timeout) as connection:
        with suppress(ConnectionError):
            for byte in half:
                connection.sendall(bytes([byte]))
                sent += 1
                time.sleep(0.1)
        assert ends(connection)
    assert sent < len(half), "closed before all bytes were sent"


def test_incomplete_bodies_block_others_no_longer_than_the_timeout(short_timeout: Service) -> None:
    url = f"{short_timeout.url}{path_of(short_timeout)}"
    with ExitStack() as stack:

        def refused() -> bool:
            """With twenty new incomplete requests; on a busy machine the first have timed out before the last comes."""
            for _ in range(20):
                connection = stack.enter_context(connection_to(short_timeout))
                connection.sendall(HALF_A_BODY.replace(b"PATH", path_of(short_timeout).encode()))
            time.sleep(0.1)
            reply = httpx.post(url, json={"payload": "a"}, trust_env=False, timeout=60)
            return (reply.status_code, "retry-after" in reply.headers) == (503, True)

        until(refused)
        until(lambda: httpx.post(url, json={"payload": "a"}, trust_env=False, timeout=60).status_code == 200)


def test_the_timeout_does_not_end_a_request_in_flight_or_an_idle_connection(short_timeout: Service) -> None:
    """Once a request is complete, its answer may take longer than `RECEIVE_SECONDS`."""
    slow = post(b"content-length: 28\r\n", b'{"payload":"a","delay":1000}')
    with connection_to(short_timeout) as connection:
        time.sleep(0.8)
        for request in (slow, post(LENGTH)):
            connection.sendall(request.replace(b"PATH", path_of(short_timeout).encode()))
            reply = reply_on(connection)
            assert (reply.status, json.loads(reply.body)["received"]) == (200, "a")
            time.sleep(0.8)


# Disconnects


def disconnect(connection: socket.socket, *, reset: bool) -> None:
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_a_disconnect_after_any_byte_of_a_request_leaves_no_open_file(service: Service) -> None:
    request = post(LENGTH).replace(b"PATH", path_of(service).encode())
    assert_serves(service)
    before = service.open_files()
    for length in range(len(request) + 1):
        for reset in (False, True):
            connection = connection_to(service)
            connection.sendall(request[:length])
            disconnect(connection, reset=reset)
    until(lambda: service.open_files() <= before + 1)


def test_a_disconnect_during_a_body_is_a_499_and_not_bad_input(service: Service) -> None:
    line = f"POST {path_of(service)} 499 "
    before = service.output.count(line)
    with connection_to(service) as connection:
        connection.sendall(post(LENGTH, BODY[:5]).replace(b"PATH", path_of(service).encode()))
        time.sleep(0.2)
    until(lambda: service.output.count(line) > before)


def test_a_disconnect_during_a_reply_leaves_no_open_file(service: Service) -> None:
    request = post(LENGTH).replace(b"PATH", path_of(service).encode())
    assert_serves(service)
    before = service.open_files()
    for length in range(1, 400, 9):
        connection = connection_to(service)
        connection.sendall(request)
        connection.recv(length)
        disconnect(connection, reset=bool(length % 2))
    until(lambda: service.open_files() <= before + 1)


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.05)


# Any value in any field

TEXT = st.text(st.characters(), max_size=40)
NUMBERS = (
    st.integers(-2, 700)
    | st.integers()
    | st.sampled_from([2**31, 2**63, 2**64, 10**400, -(10**400)])
    | st.floats()
    | st.sampled_from([1e308, 5e-324])
)
VALUES: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT | st.sampled_from(["\ud800", "1000", "200", "fresh", "٣", "1_0", " 5"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
MESSAGE_FIELDS = ["id", "payload", "delay", "responseCode", "faultRate", "only", "misspelled"]
RUN_FIELDS = ["message", "targets", "rate", "durationSeconds", "count", "connection", "timeoutSeconds", "misspelled"]


def assert_refused(reply: httpx.Response, field: str) -> None:
    assert reply.status_code in (413, 422), reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert problem["status"] == reply.status_code
    assert problem["detail"]
    assert field in {error["field"].partition(".")[0] for error in problem["errors"]}, problem
    assert len(reply.content) < 5000


@pytest.mark.parametrize("field", MESSAGE_FIELDS)
def test_any_value_in_a_field_of_a_message_is_accepted_or_refused_by_name(service: Service, field: str) -> None:
    with httpx.Client(base_url=service.url, trust_env=False, timeout=60) as client:

        @FUZZ
        @given(VALUES)
        @example({"clusterName": "\ud800"})
        @example({"clusterName": "a" * 70_000})
        def send(value: Any) -> None:
            body = json.dumps({"payload": "a", field: value})
            reply = client.post(path_of(service), content=body, headers=JSON)
            requested = int(value) if field == "responseCode" and str(value).isascii() and str(value).isdigit() else 200
            if reply.status_code == 200 or (reply.status_code == requested and "x-answered-by" in reply.headers):
                return
            assert_refused(reply, field)

        send()


@pytest.mark.parametrize("field", ["target", "connection"])
def test_any_value_in_a_field_of_the_caller_is_accepted_or_refused_by_name(caller: Service, field: str) -> None:
    with httpx.Client(base_url=caller.url, trust_env=False, timeout=60) as client:

        @FUZZ
        @given(VALUES)
        def send(value: Any) -> None:
            reply = client.post("/caller/messages", content=json.dumps({"payload": "a", field: value}), headers=JSON)
            if reply.status_code != 200:
                assert_refused(reply, field)

        send()


@pytest.mark.parametrize("field", RUN_FIELDS)
def test_any_value_in_a_field_of_a_run_is_run_or_refused_by_name(caller: Service, field: str) -> None:
    with httpx.Client(base_url=caller.url, trust_env=False, timeout=60) as client:

        @settings(FUZZ, max_examples=30)
        @given(VALUES)
        def send(value: Any) -> None:
            whole = {"message": {"payload": "a"}, "rate": 50, "count": 1, field: value}
            if field == "durationSeconds":
                del whole["count"]
            reply = client.post("/caller/runs", content=json.dumps(whole), headers=JSON)
            if reply.status_code != 200:
                both_ends = {"durationSeconds", "count"} & {field}
                assert_refused(reply, "body" if both_ends and "either durationSeconds" in reply.text else field)
            else:
                assert '"type":"done"' in reply.text

        send()


@pytest.mark.parametrize("path", ["/producer/messages", "/caller/messages", "/caller/runs"])
def test_any_body_is_accepted_or_refused(request: pytest.FixtureRequest, path: str) -> None:
    service: Service = request.getfixturevalue(path.split("/")[1])
    with httpx.Client(base_url=service.url, trust_env=False, timeout=60) as client:

        @FUZZ
        @given(st.binary(max_size=200) | VALUES.map(json.dumps).map(str.encode))
        @example(b"[" * 50_000)
        @example(b'{"a":' * 50_000)
        @example(b"9" * 50_000)
        @example(b'{"payload":"a","payload":"b"}')
        @example(b'\xef\xbb\xbf{"payload":"a"}')
        @example('{"payload":"a"}'.encode("utf-16"))
        def send(body: bytes) -> None:
            reply = client.post(path, content=body, headers=JSON)
            assert reply.status_code in (200, 422), reply.text
            if reply.status_code == 422:
                assert reply.headers["content-type"] == "application/problem+json"

        send()


HEADER_NAMES = [
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "x-request-id",
    "cookie",
    "accept",
    "content-encoding",
    "te",
]


@pytest.mark.parametrize("name", HEADER_NAMES)
def test_any_value_of_a_header_is_accepted(caller: Service, name: str) -> None:
    readable = st.characters(codec="latin-1", exclude_characters="".join(map(chr, (*range(9), *range(10, 32), 127))))
    with httpx.Client(base_url=caller.url, trust_env=False, timeout=60) as client:

        @settings(FUZZ, max_examples=30)
        @given(st.text(readable, max_size=80).map(str.strip))
        def send(value: str) -> None:
            headers = [(b"content-type", b"application/json"), (name.encode(), value.encode("latin-1"))]
            reply = client.post("/caller/messages", content=BODY, headers=headers)
            assert (reply.status_code, reply.json()["outcome"]) == (200, "ok")

        send()
