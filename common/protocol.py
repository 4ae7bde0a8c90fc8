"""uvicorn's HTTP protocol, with bounds in bytes and in seconds on a request that is being received.

With httptools, uvicorn limits neither the size of a head, nor the time until a request is complete, nor the number of
pipelined requests (https://github.com/Kludex/uvicorn/issues/157). A bound that it gains can be removed here. Private
names of uvicorn are used, so pyproject.toml pins its minor version.
"""

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from common.problems import PROBLEM_JSON, problem

HEAD_BYTES = 65_536
"""Of a head, and of trailers. RFC 9112, 3 recommends at least 8000 octets for the request line."""
FRAMING = (b"content-length", b"transfer-encoding")
MAX_PIPELINED = 64
"""Maximum requests waiting on one connection; each may take a hundred times its bytes of memory."""


class BoundedProtocol(HttpToolsProtocol):
    """A head or trailers above `HEAD_BYTES` are 431; a request that is not complete after `receive_seconds` is 408.

    An `Upgrade` is ignored, as RFC 9110, 7.8, allows: the parser would otherwise skip the body, and the JDK's
    HttpClient sends `Upgrade: h2c` with every request (https://github.com/Kludex/uvicorn/issues/2722).
    """

    def __init__(self, *args: Any, receive_seconds: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self.receive_seconds = receive_seconds
        """From the first byte of a request to its last."""
        self.head_bytes = 0
        """Bytes received since the last byte of a body or the end of a request."""
        self.parsed_bytes = 0
        self.in_head = True
        """The head of the current request is not complete yet."""
        self.receiving: asyncio.TimerHandle | None = None
        self.replaying = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self.received()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self.receiving is None:
            self.receiving = self.loop.call_later(self.receive_seconds, self.receive_timeout)
        self.head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.ignore_upgrade()
            if rest := data[upgrade.args[0] :]:
                self.data_received(rest)
            return
        except httptools.HttpParserError:
            self.refuse(400, "malformed HTTP/1.1 request")
            return
        if self.head_bytes > HEAD_BYTES:
            self.refuse(431, f"request headers or trailers exceed {HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        if not self.replaying:
            super().on_message_begin()
            self.in_head = True
            self.parsed_bytes = 0

    def on_url(self, url: bytes) -> None:
        if not self.replaying:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.replaying:
            return
        self.parsed_bytes += len(name) + len(value)
        if self.parsed_bytes > HEAD_BYTES:
            self.refuse(431, f"request headers or trailers exceed {HEAD_BYTES} bytes")
            raise ValueError("too large")  # stops the parser
        if self.in_head:  # trailers are not merged into the headers: RFC 9110, 6.5.1
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.replaying:
            return
        self.check_host_and_coding()
        super().on_headers_complete()
        self.in_head = False
        self.head_bytes = 0
        if len(self.pipeline) > MAX_PIPELINED:
            self.transport.abort()
            raise ValueError("too many")  # stops the parser

    def check_host_and_coding(self) -> None:
        """Checks that the parser omits: one Host header (RFC 9112, 3.2), a known transfer coding (RFC 9112, 6.1)."""
        names = [name for name, _ in self.headers]
        hosts = names.count(b"host")
        if hosts != 1 and self.parser.get_http_version() == "1.1":
            self.refuse(400, f"expected exactly one Host header, got {hosts}")
            raise ValueError("not one Host")  # stops the parser
        if b"transfer-encoding" in names:
            codings = b", ".join(value for name, value in self.headers if name == b"transfer-encoding")
            if codings.strip().lower() != b"chunked":
                self.refuse(
                    501, f'unsupported transfer coding "{codings[:100].decode("latin-1")}"; only "chunked" is supported'
                )
                raise ValueError("unsupported coding")  # stops the parser

    def on_body(self, body: bytes) -> None:
        self.head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            self.received()
            self.in_head = True
            super().on_message_complete()

    def ignore_upgrade(self) -> None:
        """Continue with a new parser that has seen the same head without the upgrade."""
        framing = [name + b": " + value for name, value in self.headers if name in FRAMING]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.replaying = True
        self.parser.feed_data(b"\r\n".join([b"POST / HTTP/1.1", *framing, b"", b""]))
        self.replaying = False

    def received(self) -> None:
        self.head_bytes = 0
        if self.receiving is not None:
            self.receiving.cancel()
            self.receiving = None

    def receive_timeout(self) -> None:
        self.receiving = None
        if self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete:
            # An earlier request of this connection is still being answered.
            self.receiving = self.loop.call_later(self.receive_seconds, self.receive_timeout)
        else:
            self.refuse(408, f"request not fully received within {self.receive_seconds:g} s (RECEIVE_SECONDS)")

    def refuse(self, status: int, detail: str) -> None:
        """Answer the request being received and close; without an answer where it would be taken for another's."""
        if self.transport.is_closing():
            return
        self.logger.warning("Request refused: %d, %s", status, detail)
        answering = self.cycle is not None and not self.cycle.response_complete
        if self.pipeline or (answering and (self.in_head or self.cycle.response_started)):
            self.transport.close()
            return
        body = bytes(problem(status, detail).body)
        head = f"content-type: {PROBLEM_JSON}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()
