"""Malformed and hostile replies: every call has an outcome, and the caller neither fails nor needs much memory."""

import gzip
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache

import httpx
import pytest

from lab.processes import CALLER, ROOT, Service, running

MEGABYTE = 1_000_000
Lie = Callable[[str], Iterable[bytes]]
"""Message id -> parts of the reply; there may be infinitely many."""


class Liar:
    """A TCP server that reads a request and answers with the current `lie`."""

    def __init__(self) -> None:
        self.lie: Lie = lambda message_id: ()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                threading.Thread(target=self.answer, args=self.listener.accept()[:1], daemon=True).start()

    def answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(20)
            message = connection.recv(65_536).partition(b"\r\n\r\n")[2]
            for part in self.lie(json.loads(message)["id"]):
                connection.sendall(part)


@pytest.fixture(scope="module")
def liar() -> Iterator[Liar]:
    liar = Liar()
    with liar.listener:
        yield liar


@pytest.fixture(scope="module")
def caller(liar: Liar) -> Iterator[Service]:
    with running(CALLER, PRODUCER_URL=liar.address, CALL_TIMEOUT_SECONDS="2") as service:
        yield service
        assert "Traceback" not in service.output


def slowly(reply: bytes) -> Iterator[bytes]:
    for byte in reply:
        yield bytes([byte])
        time.sleep(0.02)


def ack(message_id: str, **changes: object) -> bytes:
    """The body of a correct reply."""
    correct: dict[str, object] = {"id": message_id, "received": "a", "headers": {}, "metadata": {}}
    return json.dumps(correct | changes).encode()


HEAD = b"HTTP/1.1 200 OK\r\nx-answered-by: sample-producer\r\ncontent-type: application/json\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


def reply(body: bytes, headers: bytes = b"", length: int | None = None) -> bytes:
    framing = b"content-length: %d\r\n\r\n" % (len(body) if length is None else length)
    return HEAD + headers + framing + body


def honest(headers: bytes = b"", **changes: object) -> Lie:
    return lambda message_id: [reply(ack(message_id, **changes), headers)]


def always(*parts: bytes) -> Lie:
    return lambda message_id: parts


def endless(start: bytes, part: bytes) -> Lie:
    return lambda message_id: itertools.chain([start], itertools.repeat(part))


def encoded(times: int, encode: Callable[[bytes], bytes], name: str) -> Lie:
    """128 MB of zeros, compressed this many times."""

    @cache
    def lie() -> Iterable[bytes]:
        body = bytes(128 * MEGABYTE)
        for _ in range(times):
            body = encode(body)
        return [reply(body, b"content-encoding: " + ", ".join([name] * times).encode() + b"\r\n")]

    return lambda message_id: lie()


def later(start: bytes, rest: bytes) -> Lie:
    """In two parts, the second some time after the first."""

    def lie(_: str) -> Iterator[bytes]:
        yield start
        time.sleep(0.1)
        yield rest

    return lie


LIES = {
    "another kind of JSON": (always(reply(b"[1, 2]")), "bad_reply"),
    "null": (always(reply(b"null")), "bad_reply"),
    "truncated JSON": (lambda name: [reply(ack(name)[:-2])], "bad_reply"),
    "JSON of great depth": (always(reply(b"[" * 500_000)), "bad_reply"),
    "objects of great depth": (always(reply(b'{"id":' * 100_000)), "bad_reply"),
    "a number of many digits": (lambda name: [reply(ack(name)[:-1] + b', "n": ' + b"9" * 4000 + b"}")], "ok"),
    "half a surrogate pair": (honest(received="\ud800"), "bad_reply"),
    "half a surrogate pair in a name": (honest(metadata={"clusterName": "\ud800"}), "bad_reply"),
    "half a surrogate pair in a header": (
        always(reply(b"{}", b'x-producer-metadata: {"clusterName": "\\ud800"}\r\n')),
        "bad_reply",
    ),
    "bytes that are not UTF-8": (lambda name: [reply(ack(name).replace(b'"a"', b'"\xff"'))], "bad_reply"),
    "UTF-16": (lambda name: [reply(ack(name).decode().encode("utf-16"))], "bad_reply"),
    "an answer to another message": (lambda name: [reply(ack(name + "x"))], "bad_reply"),
    "a name of a megabyte": (honest(metadata={"clusterName": "x" * 900_000}), "ok"),
    "an absurd clock": (honest(b"x-producer-time: 1e306\r\n"), "ok"),
    "a timing of many digits": (honest(b"server-timing: work;dur=" + b"9" * 500 + b"\r\n"), "ok"),
    "status 000": (lambda name: [reply(ack(name)).replace(b" 200 ", b" 000 ")], "bad_reply"),
    "status 099": (lambda name: [reply(ack(name)).replace(b" 200 ", b" 099 ")], "bad_reply"),
    "10 MB": (honest(received="a" * 10_000_000), "bad_reply"),
    "an error page of 10 MB": (
        always(b"HTTP/1.1 500 X\r\ncontent-length: 10000000\r\n\r\n", bytes(10_000_000)),
        "bad_reply",
    ),
    "a body without an end": (endless(HEAD + b"\r\n", b"a" * 65_536), "bad_reply"),
    "chunks without an end": (endless(CHUNKED, b"10000\r\n" + b"a" * 65_536 + b"\r\n"), "bad_reply"),
    "a header without an end": (endless(HEAD + b"x-a: ", b"a" * 65_536), "bad_reply"),
    "headers without an end": (endless(HEAD, b"x-a: b\r\n" * 8000), "bad_reply"),
    "a reason without an end": (endless(b"HTTP/1.1 200 ", b"a" * 65_536), "bad_reply"),
    "a trailer without an end": (endless(CHUNKED + b"0\r\nx-a: ", b"a" * 65_536), "bad_reply closed"),
    "trailers without an end": (endless(CHUNKED + b"0\r\n", b"x-a: b\r\n" * 8000), "bad_reply closed"),
    "a chunk extension without an end": (endless(CHUNKED + b"1;", b"a" * 65_536), "bad_reply read_timeout"),
    "100 Continue without an end": (endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2000), "bad_reply read_timeout"),
    "gzip of zeros": (encoded(1, gzip.compress, "gzip"), "bad_reply"),
    "deflate of zeros": (encoded(1, zlib.compress, "deflate"), "bad_reply"),
    "gzip in gzip of zeros": (encoded(2, gzip.compress, "gzip"), "bad_reply"),
    "a thousand encodings": (
        always(reply(b"{}", b"content-encoding: " + b", ".join([b"gzip"] * 1000) + b"\r\n")),
        "bad_reply",
    ),
    "not gzip": (honest(b"content-encoding: gzip\r\n"), "bad_reply"),
    "an invalid chunk size": (always(CHUNKED + b"zz\r\nhello\r\n"), "bad_reply"),
    "a negative chunk size": (always(CHUNKED + b"-5\r\nhello\r\n"), "bad_reply"),
    "a chunk size that overflows": (always(CHUNKED + b"f" * 20 + b"\r\nhello\r\n"), "bad_reply"),
    "an invalid chunk size, later": (later(CHUNKED, b"zz\r\n"), "bad_reply"),
    "a byte every 20 ms": (lambda _: slowly(reply(b" " * 500)), "read_timeout"),
    "a chunk without its end": (always(CHUNKED + b"5\r\nhel"), "closed"),
    "a length that is too long": (lambda name: [reply(ack(name), length=500)], "closed"),
    "a length that is too short": (lambda name: [reply(ack(name), length=20)], "bad_reply"),
    "two lengths": (lambda name: [reply(ack(name), b"content-length: 5\r\n")], "bad_reply"),
    "a negative length": (lambda name: [reply(ack(name), length=-5)], "bad_reply"),
    "a length that overflows": (lambda name: [reply(ack(name), length=10**30)], "bad_reply"),
    "a length and chunks": (always(reply(b"0\r\n\r\n", b"transfer-encoding: chunked\r\n")), "bad_reply"),
    "an invalid header name": (honest(b"x a: b\r\n"), "bad_reply"),
    "NUL in a header": (honest(b"x-a: b\0c\r\n"), "bad_reply"),
    "escape sequences in a header": (honest(b"x-a: \x1b[31m\xff\r\n"), "ok bad_reply"),
    "an invalid cookie": (honest(b"set-cookie: \x7f=;;;\xff\r\n"), "ok bad_reply"),
    "an unknown HTTP version": (always(b"HTTP/9.9 200 OK\r\ncontent-length: 0\r\n\r\n"), "bad_reply"),
    "not HTTP": (always(b"220 mail.example ESMTP\r\n"), "bad_reply"),
    "HTTP/2": (always(b"\0\0\x12\4\0\0\0\0\0" + bytes(18)), "bad_reply"),
    "TLS": (always(b"\x15\x03\x01\x00\x02\x02\x0a"), "bad_reply"),
    "a switch to another protocol": (
        always(b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"),
        "bad_reply",
    ),
    "a bodiless status with a body": (
        always(b"HTTP/1.1 204 X\r\nx-answered-by: sample-producer\r\ncontent-length: 5\r\n\r\nhello"),
        "ok bad_reply",
    ),
    "a status of four digits": (always(b"HTTP/1.1 1000 X\r\ncontent-length: 0\r\n\r\n"), "bad_reply"),
    "a status of 99": (always(b"HTTP/1.1 099 X\r\ncontent-length: 0\r\n\r\n"), "bad_reply"),
    "a second reply to one request": (lambda name: [reply(ack(name)), reply(ack("another"))], "ok"),
}


def called(caller: Service, query: str = "") -> httpx.Response:
    return httpx.post(f"{caller.url}/caller/messages{query}", json={"payload": "a"}, trust_env=False, timeout=15)


@pytest.mark.parametrize(("lie", "outcomes"), LIES.values(), ids=LIES)
def test_a_lie_has_an_outcome_and_needs_little_memory(caller: Service, liar: Liar, lie: Lie, outcomes: str) -> None:
    lie("prepared")  # compresses 128 MB, which must not take the time of a call
    liar.lie = honest()
    called(caller)
    liar.lie = lie
    caller.forget_peak()
    before = caller.memory()
    hop = called(caller)
    assert hop.status_code == 200
    assert hop.json()["outcome"] in outcomes.split(), hop.json()["error"]
    assert (hop.json()["error"] is None) == (hop.json()["outcome"] == "ok")
    through = called(caller, "?passThrough=true")
    assert through.status_code == hop.json()["statusCode"]
    assert caller.memory("VmHWM") - before < 14 * MEGABYTE
    liar.lie = honest()
    assert called(caller).json()["outcome"] == "ok"


@pytest.mark.parametrize("status", [600, 999])
def test_a_status_above_599_is_passed_through_as_a_502(liar: Liar, status: int) -> None:
    """RFC 9110, 15: a client treats a status outside the five classes as a 5xx."""
    liar.lie = always(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % status)
    with running(CALLER, PRODUCER_URL=liar.address) as caller:
        hop = called(caller).json()
        assert (hop["outcome"], hop["replyStatus"]) == ("proxy_error", status)
        assert called(caller, "?passThrough=true").status_code == 502
        assert "Traceback" not in caller.output


def test_an_infinite_timing_is_not_measured(caller: Service, liar: Liar) -> None:
    huge = b"9" * 400
    liar.lie = honest(b"server-timing: delay;dur=%b, work;dur=%b\r\n" % (huge, huge))
    phases = called(caller).json()["phases"]
    assert [phases[f"{part}Millis"] for part in ("producerDelay", "producerWork", "network")] == [None, None, None]
    environment = {"PATH": os.environ["PATH"], "PRODUCER_URL": liar.address, "GCE_METADATA_HOST": "none"}
    command = [sys.executable, "-m", "caller", "call"]
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_skew_of_an_absurd_clock_is_a_number_or_null(caller: Service, liar: Liar) -> None:
    liar.lie = honest(b"x-producer-time: 1e306\r\n")
    skew = called(caller).json()["clockSkew"]
    assert skew is None or isinstance(skew["millis"], float)


def test_a_run_against_a_liar_ends_with_its_summary(caller: Service, liar: Liar) -> None:
    lies = itertools.cycle(
        [honest(), always(reply(b"null")), always(CHUNKED + b"zz\r\n"), endless(HEAD, b"x-a: b\r\n" * 100)]
    )
    liar.lie = lambda name: next(lies)(name)
    body = {"message": {"payload": "a"}, "rate": 50, "count": 60}
    stream = httpx.post(f"{caller.url}/caller/runs", json=body, trust_env=False, timeout=15).text
    summary = json.loads(stream.rpartition("data: ")[2])["summary"]
    assert summary["outcomes"] == {"ok": 15, "bad_reply": 45}
