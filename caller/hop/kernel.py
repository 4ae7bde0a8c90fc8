"""What the kernel knows about a TCP connection. Linux only; elsewhere it is unknown."""

import socket
import struct
import sys
import time
from typing import NamedTuple

SO_TIMESTAMPNS = 35
"""The kernel passes the time at which it received the data (socket(7); since Linux 4.14 also for TCP)."""

RECEIVE_SIZE = 65_536
"""Bytes read in one step; parsing them does not keep other work of the event loop waiting."""

_TIMESPEC = struct.Struct("@ll")
_ANCILLARY_SIZE = socket.CMSG_SPACE(_TIMESPEC.size)

_TCP_INFO = struct.Struct("@B67xI28xI16xQ")
"""tcpi_state, tcpi_rtt, tcpi_total_retrans, tcpi_bytes_acked of `struct tcp_info` (linux/tcp.h)."""
_ESTABLISHED = 1


class TcpInfo(NamedTuple):
    is_open: bool
    """Neither side has closed it."""
    rtt_millis: float
    """Smoothed round-trip time; after the handshake: that of SYN and SYN-ACK."""
    retransmits: int
    """Packets that were sent again since the connection was opened."""
    acknowledged: int
    """Bytes of data that the other side acknowledged since the connection was opened."""


def tcp_info(sock: socket.socket) -> TcpInfo | None:
    """The state of the connection, also after it was reset; None: unknown."""
    if sys.platform != "linux":
        return None
    try:
        state, rtt, retransmits, acknowledged = _TCP_INFO.unpack(
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        )
    except (OSError, struct.error):  # closed; or a kernel before 4.1
        return None
    # The SYN counts as a byte.
    return TcpInfo(state == _ESTABLISHED, rtt / 1000, retransmits, max(acknowledged - 1, 0))


def report_receive_time(sock: socket.socket) -> None:
    """Make `receive` report the event loop's delay on this socket."""
    if sys.platform == "linux":
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)


def receive(sock: socket.socket) -> tuple[bytes, float]:
    """Data, and how many seconds ago the kernel received the last of it (0: unknown); no data: end of stream.

    :raises BlockingIOError: there is no data.
    :raises OSError: error of the connection.
    """
    data, ancillary, _, _ = sock.recvmsg(RECEIVE_SIZE, _ANCILLARY_SIZE)
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(value) == _TIMESPEC.size:
            seconds, nanos = _TIMESPEC.unpack(value)
            return data, max(time.time() - seconds - nanos / 1e9, 0.0)
    return data, 0.0
