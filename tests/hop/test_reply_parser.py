"""The parser of replies: framing in pieces of any size, and bounds; and what hostile replies cost a running caller."""

import asyncio
import http.client
import itertools
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import httpx
import pytest

from caller.hop.outcome import BrokenReply, ConnectionClosed, ReplyTooLarge
from caller.hop.reply_parser import (
    MAX_FRAMING_BYTES,
    MAX_HEAD_BYTES,
    MAX_HEADER_LINES,
    MAX_INTERIM_REPLIES,
    ReplyParser,
)
from lab.processes import CALLER, Service, running
from tests.support.servers import Handler, listening, read_request

MAX_BODY = 100_000
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


def fed(*pieces: bytes) -> ReplyParser:
    parser = ReplyParser(MAX_BODY)
    for piece in pieces:
        parser.feed(piece)
    return parser


def bytes_of(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


# Framing

HELLO = {
    "a length": HEAD + b"content-length: 5\r\n\r\nhello",
    "one chunk": CHUNKED + b"5\r\nhello\r\n0\r\n\r\n",
    "chunks": CHUNKED + b"1\r\nh\r\n4\r\nello\r\n0\r\n\r\n",
    "chunks with extensions": CHUNKED + b'1;a=b\r\nh\r\n4;c="d"\r\nello\r\n0;e\r\n\r\n',
    "chunks with trailers": CHUNKED + b"5\r\nhello\r\n0\r\nx-checksum: 1\r\nx-more: 2\r\n\r\n",
    "an interim reply": b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"content-length: 5\r\n\r\nhello",
    "interim replies with headers": b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 3
    + HEAD
    + b"content-length: 5\r\n\r\nhello",
}


@pytest.mark.parametrize("reply", HELLO.values(), ids=HELLO)
@pytest.mark.parametrize("split", [bytes_of, lambda reply: [reply]], ids=["in bytes", "in one piece"])
def test_a_reply_of_any_framing(reply: bytes, split: Callable[[bytes], list[bytes]]) -> None:
    *pieces, last = split(reply)
    parser = fed(*pieces)
    assert not parser.is_complete
    parser.feed(last)
    assert (parser.status, bytes(parser.body)) == (200, b"hello")
    assert parser.is_complete
    assert parser.keeps_alive
    names = {name for name, _ in parser.headers}
    assert names <= {b"content-length", b"transfer-encoding"}, "neither those of an interim reply nor trailers"


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    parser = fed(HEAD + b"\r\n", b"he", b"llo")
    assert not parser.is_complete
    parser.end()
    assert parser.is_complete
    assert not parser.keeps_alive
    assert bytes(parser.body) == b"hello"


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 2",
        HEAD,
        HEAD + b"content-length: 6\r\n\r\nhello",
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"0\r\n",
    ],
)
def test_an_end_of_the_connection_before_the_end_of_the_reply_is_an_error(reply: bytes) -> None:
    parser = fed(reply) if reply else ReplyParser(MAX_BODY)
    with pytest.raises(ConnectionClosed):
        parser.end()


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        (HEAD + b"content-length: 0\r\n\r\n", True),
        (HEAD + b"content-length: 0\r\nconnection: close\r\n\r\n", False),
        (HEAD + b"content-length: 0\r\nConnection: Keep-Alive, CLOSE\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\nconnection: keep-alive\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", True),
    ],
)
def test_whether_the_connection_is_kept(reply: bytes, kept: bool) -> None:
    parser = fed(reply)
    assert parser.is_complete
    assert parser.keeps_alive is kept


def test_http_1_0_without_a_length_ends_with_the_connection() -> None:
    parser = fed(b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n\r\nhello")
    parser.end()
    assert (bytes(parser.body), parser.keeps_alive) == (b"hello", False)


@pytest.mark.parametrize(
    "more",
    [
        b"x",
        b"\0" * 100,
        HEAD + b"content-length: 3\r\n\r\nbye",
        HEAD + b"x: y\r\n" * 10,
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
@pytest.mark.parametrize("connection", [b"", b"connection: close\r\n"])
@pytest.mark.parametrize("together", [True, False])
def test_bytes_after_the_reply_are_not_a_part_of_it_and_end_the_connection(
    more: bytes, connection: bytes, together: bool
) -> None:
    reply = HEAD + connection + b"content-length: 5\r\n\r\nhello"
    parser = fed(reply + more) if together else fed(reply, more)
    assert (parser.status, bytes(parser.body), parser.is_complete) == (200, b"hello", True)
    assert not parser.keeps_alive
    assert len(parser.headers) == (2 if connection else 1)


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
        b"220 mail.example ESMTP\r\n",
        b"\x15\x03\x01\x00\x02\x02\x0a",
        HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\nhello",
        HEAD + b"x a: b\r\n\r\n",
        HEAD + b" folded\r\n\r\n",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"f" * 20 + b"\r\n",
    ],
)
@pytest.mark.parametrize("split", [bytes_of, lambda reply: [reply]], ids=["in bytes", "in one piece"])
def test_a_broken_reply(reply: bytes, split: Callable[[bytes], list[bytes]]) -> None:
    with pytest.raises(BrokenReply):
        fed(*split(reply))


# Bounds

PIECE = 1000


def consumed(pieces: Iterable[bytes], error: type[Exception]) -> int:
    """How many bytes of these pieces, which have no end, were parsed before the error."""
    parser = ReplyParser(MAX_BODY)
    count = 0
    with pytest.raises(error):  # noqa: PT012
        for piece in pieces:
            count += len(piece)
            parser.feed(piece)
    return count


def endless(start: bytes, part: bytes) -> Iterable[bytes]:
    return itertools.chain([start], itertools.repeat(part))


@pytest.mark.parametrize(
    ("start", "part"),
    [
        (b"HTTP/1.1 200 ", b"r" * PIECE),
        (HEAD + b"x: ", b"v" * PIECE),
        (HEAD, b"n" * PIECE),
        (HEAD, b"x: %b\r\n" % (b"v" * PIECE)),
    ],
    ids=["a reason", "a value", "a name", "headers"],
)
def test_the_head_is_bounded(start: bytes, part: bytes) -> None:
    assert MAX_HEAD_BYTES < consumed(endless(start, part), BrokenReply) <= MAX_HEAD_BYTES + 2 * PIECE


def test_a_head_of_almost_the_maximum() -> None:
    value = b"v" * (MAX_HEAD_BYTES - 200)
    parser = fed(*bytes_of(HEAD)[:5], HEAD[5:] + b"x: " + value, b"\r\ncontent-length: 0\r\n\r\n")
    assert parser.is_complete


def test_the_number_of_headers_is_bounded() -> None:
    lines = b"x: y\r\n" * MAX_HEADER_LINES
    assert len(fed(HEAD + lines + b"\r\n").headers) == MAX_HEADER_LINES
    with pytest.raises(BrokenReply, match="more than 256 header lines"):
        fed(HEAD + lines + b"x: y\r\n\r\n")


def test_the_number_of_trailers_is_bounded_together_with_the_headers() -> None:
    lines = b"x: y\r\n" * (MAX_HEADER_LINES - 1)
    assert fed(CHUNKED + b"0\r\n" + lines + b"\r\n").is_complete
    with pytest.raises(BrokenReply, match="more than 256 header lines"):
        fed(CHUNKED + b"0\r\n" + lines + b"x: y\r\n\r\n")


@pytest.mark.parametrize("status", [100, 102, 103, 199])
def test_the_number_of_interim_replies_is_bounded(status: int) -> None:
    interim = b"HTTP/1.1 %d X\r\n\r\n" % status
    parser = fed(interim * MAX_INTERIM_REPLIES, HEAD + b"content-length: 0\r\n\r\n")
    assert (parser.status, parser.is_complete) == (200, True)
    with pytest.raises(BrokenReply, match=f"more than 100 interim replies, the last with status {status}"):
        fed(interim * (MAX_INTERIM_REPLIES + 1))


@pytest.mark.parametrize(
    ("start", "part"),
    [
        (CHUNKED + b"1;", b"e" * PIECE),
        (CHUNKED, b"1;%b\r\na\r\n" % (b"e" * PIECE)),
        (CHUNKED + b"1\r\na\r\n0\r\nx: ", b"v" * PIECE),
        (CHUNKED + b"1\r\na\r\n0\r\n", b"n" * PIECE),
    ],
    ids=["one extension", "extensions", "a trailer", "a trailer's name"],
)
def test_framing_is_bounded(start: bytes, part: bytes) -> None:
    assert MAX_FRAMING_BYTES < consumed(endless(start, part), BrokenReply) <= MAX_FRAMING_BYTES + 3 * PIECE


def test_chunks_of_one_byte_are_bounded_too() -> None:
    """A chunk of one byte takes six."""
    assert consumed(endless(CHUNKED, b"1\r\na\r\n"), BrokenReply) < 2 * MAX_FRAMING_BYTES


def test_chunks_of_a_usual_size_need_no_more_than_the_bound() -> None:
    assert fed(CHUNKED, *[b"400\r\n%b\r\n" % (b"a" * 1024)] * (MAX_BODY // 1024), b"0\r\n\r\n").is_complete


@pytest.mark.parametrize(
    ("start", "part"),
    [
        (HEAD + b"\r\n", b"a" * PIECE),
        (HEAD + b"content-length: 1000000000\r\n\r\n", b"a" * PIECE),
        (CHUNKED, b"3e8\r\n%b\r\n" % (b"a" * PIECE)),
    ],
    ids=["until close", "a length", "chunks"],
)
def test_the_body_is_bounded(start: bytes, part: bytes) -> None:
    assert MAX_BODY < consumed(endless(start, part), ReplyTooLarge) <= MAX_BODY * 1.02 + 2 * PIECE


def test_a_body_of_the_maximum() -> None:
    assert fed(HEAD + b"content-length: %d\r\n\r\n" % MAX_BODY, b"a" * MAX_BODY).is_complete


# The event loop of a caller that reads hostile replies

HOSTILE = 30
ROUNDS = 3
READY_SECONDS = 2.0
"""The target is 0.25 s. The margin is for a busy machine, where the server of the replies uses the same cores."""
NAMES = 82_000
"""Of headers; with them a reply has 1 MiB."""


async def many_headers(writer: asyncio.StreamWriter, message: str) -> None:
    writer.write(HEAD + MANY_HEADERS)


async def many_names(writer: asyncio.StreamWriter, message: str) -> None:
    body = MANY_NAMES.replace(b"MESSAGE", message.encode())
    writer.write(
        HEAD + b"x-answered-by: sample-producer\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    )


async def extensions(writer: asyncio.StreamWriter, message: str) -> None:
    writer.write(CHUNKED)
    while True:
        writer.write(b"1;" + b"e" * 60_000 + b"\r\na\r\n")
        await writer.drain()


async def one_extension(writer: asyncio.StreamWriter, message: str) -> None:
    writer.write(CHUNKED + b"1;")
    while True:
        writer.write(b"e" * 60_000)
        await writer.drain()


async def interim_replies(writer: asyncio.StreamWriter, message: str) -> None:
    while True:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
        await writer.drain()


MANY_HEADERS = b"".join(b"x-%x: 1\r\n" % number for number in range(NAMES)) + b"content-length: 0\r\n\r\n"
MANY_NAMES = json.dumps(
    {"id": "MESSAGE", "received": "test", "headers": {f"{number:x}": [] for number in range(NAMES)}, "metadata": {}},
    separators=(",", ":"),
).encode()

REPLIES = {
    "headers": (many_headers, "bad_reply"),
    "names in the body": (many_names, "bad_reply"),
    "chunk extensions": (extensions, "bad_reply"),
    "one chunk extension": (one_extension, "bad_reply"),
    "interim replies": (interim_replies, "bad_reply"),
}


def hostile(reply: Callable[[asyncio.StreamWriter, str], object]) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        message: str = json.loads(request.partition(b"\r\n\r\n")[2])["id"]
        await reply(writer, message)  # type: ignore[misc]
        await writer.drain()

    return handler


class Readiness(threading.Thread):
    """Asks for readiness again and again; `worst` is the longest that it took, in seconds."""

    def __init__(self, caller: Service) -> None:
        super().__init__(daemon=True)
        self.port = int(caller.url.rpartition(":")[2])
        self.worst = 0.0
        self.is_ended = threading.Event()

    def run(self) -> None:
        while not self.is_ended.wait(0.005):
            started = time.perf_counter()
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            connection.request("GET", "/actuator/health/readiness")
            assert connection.getresponse().status == 200
            connection.close()
            self.worst = max(self.worst, time.perf_counter() - started)

    def stop(self) -> float:
        self.is_ended.set()
        self.join()
        return self.worst


@asynccontextmanager
async def caller_of(address: str) -> AsyncIterator[Service]:
    with running(CALLER, PRODUCER_URL=address, CALL_TIMEOUT_SECONDS="60") as service:
        yield service
        assert "Traceback" not in service.output


@pytest.mark.parametrize(("reply", "outcome"), REPLIES.values(), ids=REPLIES)
async def test_the_caller_stays_ready_while_it_reads_hostile_replies(
    reply: Callable[[asyncio.StreamWriter, str], object], outcome: str
) -> None:
    worst = []
    async with (
        listening(hostile(reply)) as address,
        caller_of(address) as caller,
        httpx.AsyncClient(timeout=60, trust_env=False) as client,
    ):
        for _ in range(ROUNDS):
            readiness = Readiness(caller)
            readiness.start()
            calls = [client.post(f"{caller.url}/caller/messages", json={"payload": "test"}) for _ in range(HOSTILE)]
            replies = await asyncio.gather(*calls)
            worst.append(await asyncio.to_thread(readiness.stop))
            assert {hop.json()["outcome"] for hop in replies} == {outcome}
    print(f"readiness took at most {', '.join(f'{seconds * 1000:.0f}' for seconds in worst)} ms")  # noqa: T201
    assert min(worst) < READY_SECONDS
