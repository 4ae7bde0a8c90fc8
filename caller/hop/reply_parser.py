"""The parser of a reply (RFC 9112), with bounds on everything that the other side may repeat without end."""

import httptools

from caller.hop.outcome import BrokenReply, ConnectionClosed, ReplyTooLarge

MAX_HEAD_BYTES = 65_536
"""Status line and headers, those of interim replies included."""
MAX_HEADER_LINES = 256
"""Headers and trailers of one reply."""
MAX_INTERIM_REPLIES = 100
"""Replies of 1xx before the final one."""
MAX_FRAMING_BYTES = 65_536
"""Chunk sizes, chunk extensions and trailers, beyond as many bytes as the body has."""

SWITCHING_PROTOCOLS = 101


class ReplyParser:
    """Parses one reply, whatever the pieces in which it arrives.

    :param max_body: maximum size of the body in bytes, as it is sent.
    """

    def __init__(self, max_body: int) -> None:
        self.max_body = max_body
        self.parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = bytearray()
        self.lines = self.interim = self.head_bytes = self.later_bytes = 0
        self.has_head = self.is_complete = self.keeps_alive = False

    def feed(self, data: bytes) -> None:
        """Parse the next bytes. Bytes after the end of the reply are ignored; the connection is then not kept.

        :raises BrokenReply: not HTTP, or more of something than its bound.
        :raises ReplyTooLarge: the body exceeds its bound.
        """
        had_head = self.has_head
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise BrokenReply("the reply switches to another protocol (101)") from None
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, BrokenReply | ReplyTooLarge):
                raise
            raise error.__context__ from None
        except httptools.HttpParserError as error:
            self.keeps_alive = False
            if not self.is_complete:
                raise BrokenReply(f"malformed HTTP reply: {error}") from None
        if not self.has_head:
            self.head_bytes += len(data)
            if self.head_bytes > MAX_HEAD_BYTES:
                raise BrokenReply(f"the head of the reply exceeds {MAX_HEAD_BYTES} bytes")
        elif had_head:
            self.later_bytes += len(data)
            if self.later_bytes > 2 * len(self.body) + MAX_FRAMING_BYTES:
                raise BrokenReply(f"chunk sizes, extensions and trailers exceed {MAX_FRAMING_BYTES} bytes")

    def end(self) -> None:
        """The other side closed the connection: this completes a body without a length (RFC 9112, 6.3).

        :raises ConnectionClosed: the reply is not complete.
        """
        if self.is_complete:
            return
        if not self.has_head or self.has_length():
            raise ConnectionClosed
        self.is_complete = True
        self.keeps_alive = False

    def has_length(self) -> bool:
        """Whether the reply itself shows its end."""
        for name, value in self.headers:
            if name.lower() == b"content-length":
                return True
            if name.lower() == b"transfer-encoding" and value.lower().rstrip().endswith(b"chunked"):
                return True
        return False

    # Called by httptools

    def on_message_begin(self) -> None:
        if self.is_complete:
            self.keeps_alive = False  # more than one reply to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        self.lines += 1
        if self.lines > MAX_HEADER_LINES:
            raise BrokenReply(f"more than {MAX_HEADER_LINES} header lines")
        if not self.has_head:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.is_complete:
            return
        status = self.parser.get_status_code()
        if 100 <= status < 200 and status != SWITCHING_PROTOCOLS:
            self.interim += 1
            if self.interim > MAX_INTERIM_REPLIES:
                raise BrokenReply(f"more than {MAX_INTERIM_REPLIES} interim replies, the last with status {status}")
            self.headers = []
            return
        self.status = status
        self.has_head = True

    def on_body(self, data: bytes) -> None:
        if self.is_complete:
            return
        self.body += data
        if len(self.body) > self.max_body:
            raise ReplyTooLarge(f"the reply exceeds {self.max_body} bytes (MAX_REPLY_BYTES)")

    def on_message_complete(self) -> None:
        if self.has_head and not self.is_complete:
            self.is_complete = True
            self.keeps_alive = self.parser.should_keep_alive()
