"""Connecting to one of several addresses, as RFC 8305 ("Happy Eyeballs") describes, with a record of every attempt."""

import asyncio
import errno
import os
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from pydantic import Field

from caller.hop.resolver import Addresses, SocketAddress, host_text
from common.messages import Wire

ATTEMPT_DELAY = 0.25
"""Seconds before the next address is tried in parallel (RFC 8305, 5)."""
MIN_ATTEMPT_DELAY = 0.01
"""The least delay that RFC 8305, 5 allows; for many addresses and a short timeout."""
MAX_ATTEMPTS = 100
"""Addresses that are tried. A headless Service may have a thousand."""

NO_ANSWER = "no answer"
"""Error of an attempt that was not over when the connecting ended."""


class Attempt(Wire):
    """One attempt to connect to one address (RFC 8305)."""

    address: str = Field(examples=["34.118.229.70:8080"])
    error: str | None = Field(
        description="the name of the error; `no answer`: not over when the connecting ended; null: connected",
        examples=["ECONNREFUSED"],
    )
    millis: float


@dataclass(eq=False)
class AttemptSocket:
    """The socket of one attempt. `ended` is None while it is pending, and `error` is None if it succeeded."""

    address: SocketAddress
    sock: socket.socket
    started: float = field(default_factory=time.perf_counter)
    ended: float | None = None
    error: OSError | None = None


class Connecting:
    """Tries the addresses in turn: the next one when an attempt fails, or after a delay. The first success is used.

    The delay is `ATTEMPT_DELAY`, or less, so that within `timeout` seconds each address has been tried. The caller
    enforces the timeout.
    """

    def __init__(self, addresses: Addresses, timeout: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.waiting = deque(interleaved(addresses)[:MAX_ATTEMPTS])
        self.delay = max(min(ATTEMPT_DELAY, timeout / (len(self.waiting) + 1)), MIN_ATTEMPT_DELAY)
        self.sockets: list[AttemptSocket] = []
        self.timer: asyncio.TimerHandle | None = None
        self.socket_error = OSError(errno.EADDRNOTAVAIL, "no address")
        """Why no socket could be made for an address."""
        self.future: asyncio.Future[AttemptSocket] = self.loop.create_future()
        """The successful attempt; or the error of the attempts, `ECONNREFUSED` before any other."""
        self.start_next()

    async def finished(self) -> AttemptSocket:
        """The successful attempt. Every other socket is closed; with an error or a cancellation, all of them.

        :raises OSError: all attempts failed.
        """
        used = None
        try:
            used = await self.future
            return used
        finally:
            self.stop(used)

    def start_next(self) -> None:
        self.stop_timer()
        while self.waiting and not self.future.done():
            family, address = self.waiting.popleft()
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:  # no more file descriptors, or the family is not supported
                self.socket_error = error
                continue
            sock.setblocking(False)
            attempt = AttemptSocket(address, sock)
            self.sockets.append(attempt)
            if (number := sock.connect_ex(address)) in (0, errno.EINPROGRESS):
                self.loop.add_writer(sock, self.on_writable, attempt)
                if self.waiting:
                    self.timer = self.loop.call_later(self.delay, self.start_next)
                return
            self.end(attempt, number)
        if not self.future.done() and all(attempt.error for attempt in self.sockets):
            self.future.set_exception(first_error(self.sockets) or self.socket_error)

    def on_writable(self, attempt: AttemptSocket) -> None:
        self.loop.remove_writer(attempt.sock)
        number = attempt.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self.end(attempt, number)
        if number == 0 and not self.future.done():
            self.future.set_result(attempt)
        elif number:
            self.start_next()

    def end(self, attempt: AttemptSocket, number: int) -> None:
        attempt.ended = time.perf_counter()
        if number:
            attempt.error = OSError(number, os.strerror(number))
            attempt.sock.close()

    def stop(self, used: AttemptSocket | None) -> None:
        """End the attempts that are not over, and close every socket but that of the one that is used."""
        self.stop_timer()
        self.waiting.clear()
        for attempt in self.sockets:
            if attempt.ended is None:
                self.loop.remove_writer(attempt.sock)
                attempt.ended = time.perf_counter()
                attempt.error = TimeoutError(NO_ANSWER)
            if attempt is not used:
                attempt.sock.close()

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def attempts(self) -> list[Attempt]:
        """In the order of their start."""
        return [
            Attempt(
                address=address_text(attempt.address),
                error=error_text(attempt.error) if attempt.error else None,
                millis=round(((attempt.ended or time.perf_counter()) - attempt.started) * 1000, 3),
            )
            for attempt in self.sockets
        ]


def first_error(sockets: list[AttemptSocket]) -> OSError | None:
    """A refusal, if there is one: it is from the other side. Otherwise the last error."""
    errors = [attempt.error for attempt in reversed(sockets) if attempt.error]
    return next((error for error in errors if error.errno == errno.ECONNREFUSED), errors[0] if errors else None)


def interleaved(addresses: Addresses) -> Addresses:
    """Alternate between the families, beginning with that of the first address (RFC 8305, 4)."""
    first = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    return [address for pair in zip_longest(first, others) for address in pair if address]


def address_text(address: SocketAddress) -> str:
    host = host_text(address)
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"


def error_text(error: OSError) -> str:
    return errno.errorcode.get(error.errno, str(error.errno)) if error.errno else str(error)


SHOWN_ATTEMPTS = 3


def failed_attempts(attempts: Sequence[Attempt]) -> str:
    """The first of the attempts that failed, with their errors; all of them are in the hop.

    Without loopback: `localhost` has an IPv6 address on many machines, on which few programs listen.
    """
    texts = [
        f"{attempt.address} {attempt.error}"
        for attempt in attempts
        if attempt.error and not attempt.address.startswith(("[::1]", "127."))
    ]
    more = len(texts) - SHOWN_ATTEMPTS
    return ", ".join([*texts[:SHOWN_ATTEMPTS], *([f"and {more} more"] if more > 0 else [])])
