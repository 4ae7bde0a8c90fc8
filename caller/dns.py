"""Names to addresses: as any program in the pod resolves them."""

import asyncio
import socket
from concurrent.futures import Executor
from functools import partial
from typing import Any


async def look_up(host: str, port: int, executor: Executor | None = None) -> list[tuple[int, tuple[str, int]]]:
    """getaddrinfo: `(family, (address, port))` in the order in which they are to be tried.

    :raises socket.gaierror: the name has no address, or nobody could say.
    """
    ask = partial(
        socket.getaddrinfo, host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_ADDRCONFIG
    )
    found = await asyncio.get_running_loop().run_in_executor(executor, ask)
    return [(family, (scoped(address), port)) for family, _, _, _, address in found]


def scoped(address: tuple[Any, ...]) -> str:
    """The address; a link-local one of IPv6 with the interface that it is good on."""
    scope = address[3] if len(address) > 3 else 0
    return f"{address[0]}%{scope}" if scope else str(address[0])
