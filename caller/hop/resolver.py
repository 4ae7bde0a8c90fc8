"""Name resolution of calls: getaddrinfo, as any program in the pod resolves."""

import asyncio
import errno
import socket
import threading
import time
from contextlib import suppress
from typing import Any

SocketAddress = tuple[Any, ...]
"""As the socket module has it: `(host, port)`, for IPv6 with flow info and scope."""
Addresses = list[tuple[int, SocketAddress]]
"""`(family, address)` in the order in which to try them."""

MAX_CONCURRENT_LOOKUPS = 32
"""Of one name; further lookups wait."""


class Resolver:
    """getaddrinfo in threads, without blocking the event loop, the exit of the process, or lookups of other names.

    A DNS server that does not answer holds a lookup for 20 s and longer, and getaddrinfo cannot be cancelled. So each
    lookup has a daemon thread, for which the exit does not wait, and each name has `MAX_CONCURRENT_LOOKUPS` of them.
    """

    def __init__(self) -> None:
        self.slots: dict[str, asyncio.Semaphore] = {}

    async def look_up(self, host: str, port: int) -> tuple[Addresses, float]:
        """The addresses, and when getaddrinfo returned them (`time.perf_counter`).

        :raises socket.gaierror: the name has no address, or no DNS server answered.
        :raises OSError: EAGAIN, no thread could be started (a limit on processes).
        """
        slot = self.slots.setdefault(host, asyncio.Semaphore(MAX_CONCURRENT_LOOKUPS))
        await slot.acquire()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[tuple[Addresses, float]] = loop.create_future()

        def settle(addresses: Addresses, ended: float, error: OSError | None) -> None:
            slot.release()  # when the thread ends, not when the call is cancelled
            if found.cancelled():
                return
            if error is None:
                found.set_result((addresses, ended))
            else:
                found.set_exception(error)

        def resolve() -> None:
            addresses: Addresses = []
            error = None
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
                addresses = [(family, address) for family, _, _, _, address in found]
            except OSError as failure:
                error = failure
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, addresses, time.perf_counter(), error)

        try:
            threading.Thread(target=resolve, name="getaddrinfo", daemon=True).start()
        except RuntimeError as error:
            slot.release()
            raise BlockingIOError(errno.EAGAIN, f"no thread for getaddrinfo: {error}") from error
        return await found


def host_text(address: SocketAddress) -> str:
    """The address without its port; a link-local IPv6 address with its interface (`%2`)."""
    scope = address[3] if len(address) > 3 else 0
    return f"{address[0]}%{scope}" if scope else str(address[0])


def gai_name(error: socket.gaierror) -> str:
    return next((name for name in dir(socket) if name.startswith("EAI_") and getattr(socket, name) == error.errno), "")
