"""A link with latency between two clusters, in user space: a packet leaves the other end some time later.

    python -m lab.link MILLIS NAMESPACE NAMESPACE

Each namespace has a device `wan0` while this runs. A packet that is routed to it arrives half of MILLIS later, so that
MILLIS is the round-trip time. For kernels without `netem`.
"""

import asyncio
import ctypes
import fcntl
import os
import struct
import sys
from contextlib import suppress

from lab.leftovers import NETNS

DEVICE = "wan0"
CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000


def enter(namespace: str) -> None:
    """Move this thread, and the sockets that it creates later, into the namespace. Python 3.12 has `os.setns`."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (NETNS / namespace).open() as file:
        if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")


def opened(namespace: str) -> int:
    """A tun device in the namespace: a file descriptor that reads and writes its packets."""
    enter(namespace)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    return device


async def relay(ends: list[int], seconds: float) -> None:
    loop = asyncio.get_running_loop()

    def pass_on(source: int, sink: int) -> None:
        with suppress(BlockingIOError):
            loop.call_later(seconds, arrive, sink, os.read(source, 65535))

    def arrive(sink: int, packet: bytes) -> None:
        with suppress(OSError):  # the device is down, or its queue is full: the packet is lost
            os.write(sink, packet)

    for source, sink in zip(ends, reversed(ends), strict=True):
        loop.add_reader(source, pass_on, source, sink)
    sys.stdout.write("up\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(relay([opened(name) for name in sys.argv[2:4]], float(sys.argv[1]) / 2000))
