"""From an exception to the outcome of a call."""

import errno
import socket
import ssl
from enum import StrEnum

import httpx

from caller.hop.phases import CallClock, Phase
from caller.hop.resolver import gai_name


class Outcome(StrEnum):
    """The result of a call, in one word: what was seen, in the phase in which it was seen.

    dns      EAI_NONAME                                   dns_nxdomain
             EAI_NODATA, EAI_ADDRFAMILY                   dns_no_data
             any other EAI_*, any errno, timeout          dns_unavailable
    connect  ECONNREFUSED                                 refused
             any other errno (EHOSTUNREACH, ENETUNREACH,
             EADDRNOTAVAIL, EACCES, EPERM, EMFILE)        unreachable
             ETIMEDOUT, timeout                           connect_timeout
    tls      any error, end of stream, timeout            tls_error
    send,    any error or end of stream before the first
    wait     byte of a reply on a fresh TLS connection    tls_error
    send,    ECONNRESET, EPIPE, any other errno           reset
    wait,    end of stream before the reply is complete   closed
    body     ETIMEDOUT, timeout                           read_timeout
             not HTTP, too large, cannot be decompressed  bad_reply
    reply    below 400, and the producer's                ok
             400 and above, from the producer             http_error
             400 and above, not from the producer         proxy_error
             below 400, not the producer's JSON           bad_reply
    any      the client disconnected                      cancelled
    """

    OK = "ok"
    HTTP_ERROR = "http_error"
    PROXY_ERROR = "proxy_error"
    DNS_NXDOMAIN = "dns_nxdomain"
    DNS_NO_DATA = "dns_no_data"
    DNS_UNAVAILABLE = "dns_unavailable"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    CONNECT_TIMEOUT = "connect_timeout"
    TLS_ERROR = "tls_error"
    RESET = "reset"
    CLOSED = "closed"
    READ_TIMEOUT = "read_timeout"
    BAD_REPLY = "bad_reply"
    CANCELLED = "cancelled"


TIMEOUTS = frozenset((Outcome.CONNECT_TIMEOUT, Outcome.READ_TIMEOUT))


class ConnectionClosed(Exception):
    """The other side closed the connection before the handshake or the reply was complete."""


class BrokenReply(Exception):
    """A reply that is not HTTP, or has too much of something."""


class ReplyTooLarge(Exception):
    """A reply that is larger than the caller accepts."""


def failure_of(error: Exception, clock: CallClock) -> tuple[Outcome, str]:
    """Outcome and error text of a call without a reply, by the error and by the phase that was open.

    :raises Exception: the error itself, if it is none of the network or of the other side.
    """
    phase = clock.open
    if isinstance(error, socket.gaierror):
        return dns_failure(error), f"getaddrinfo: {error.strerror} ({gai_name(error)})"
    if isinstance(error, ssl.SSLError):
        return Outcome.TLS_ERROR, f"TLS: {tls_text(error)}"
    if isinstance(error, OSError) and error.errno is not None:
        outcome = Outcome.TLS_ERROR if refused_client(clock) else os_failure(error.errno, phase)
        return outcome, f"{os_text(error)}{attempts_text(clock) or f' while in phase {phase}'}"
    if isinstance(error, TimeoutError):
        seconds = clock.millis[f"{phase}_millis"] / 1000
        unacknowledged = clock.connection.get("bytes_unacknowledged") if phase in ("send", "wait") else None
        lost = f"; {unacknowledged_text(unacknowledged, clock.connection['bytes_sent'])}" if unacknowledged else ""
        details = f"{attempts_text(clock)}{lost}"
        return timeout_failure(phase), f"{UNFINISHED[phase]} within {seconds:.3g} s{details}"
    if isinstance(error, ConnectionClosed):
        if phase == "tls":
            return Outcome.TLS_ERROR, "the connection was closed during the TLS handshake"
        if refused_client(clock):
            return Outcome.TLS_ERROR, "the connection was closed after the TLS handshake, without a reply"
        if phase == "body":
            return Outcome.CLOSED, "the connection was closed before the reply was complete"
        return Outcome.CLOSED, "the connection was closed without a reply"
    if isinstance(error, BrokenReply | ReplyTooLarge | httpx.DecodingError):
        return Outcome.BAD_REPLY, one_line(str(error))
    raise error


def refused_client(clock: CallClock) -> bool:
    """Whether a failure before the first byte of a reply is one of TLS: the connection is fresh and has TLS.

    With TLS 1.3 a server verifies the client's certificate after the client's side of the handshake is finished
    (RFC 8446, 4.4.2.4). It refuses it by an alert, which a reset may overtake, or by a close without an alert.
    """
    connection = clock.connection
    return clock.open in ("send", "wait") and connection.get("tls_version") is not None and not connection["reused"]


UNFINISHED: dict[Phase, str] = {
    "dns": "no DNS answer",
    "connect": "no connection",
    "tls": "TLS handshake not finished",
    "send": "request not sent",
    "wait": "no reply",
    "body": "reply not complete",
}
"""What a timeout in a phase means."""


def attempts_text(clock: CallClock) -> str:
    """The address of a failure to connect, or how many were tried; otherwise empty."""
    attempts = clock.connection.get("attempts", []) if clock.open == "connect" else []
    if len(attempts) == 1:
        return f" ({attempts[0].address})"
    return f" ({len(attempts)} addresses tried)" if attempts else ""


def unacknowledged_text(unacknowledged: int, sent: int) -> str:
    return f"{unacknowledged:,} of {sent:,} bytes sent were not acknowledged"


def dns_failure(error: socket.gaierror) -> Outcome:
    """From glibc's error code. EAI_AGAIN stands for SERVFAIL, REFUSED and no answer alike."""
    if error.errno == socket.EAI_NONAME:
        return Outcome.DNS_NXDOMAIN
    if error.errno in (socket.EAI_NODATA, socket.EAI_ADDRFAMILY):
        return Outcome.DNS_NO_DATA
    return Outcome.DNS_UNAVAILABLE


UNREACHABLE = frozenset((errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM))


def os_failure(number: int, phase: Phase) -> Outcome:
    if phase == "dns":
        return Outcome.DNS_UNAVAILABLE
    if phase == "tls":
        return Outcome.TLS_ERROR
    if number == errno.ECONNREFUSED:
        return Outcome.REFUSED
    if number == errno.ETIMEDOUT:
        return timeout_failure(phase)
    if phase == "connect" or number in UNREACHABLE:
        return Outcome.UNREACHABLE
    return Outcome.RESET


def timeout_failure(phase: Phase) -> Outcome:
    """A handshake that times out is a TLS error: TCP did connect, so a firewall is not the reason."""
    if phase == "dns":
        return Outcome.DNS_UNAVAILABLE
    if phase == "connect":
        return Outcome.CONNECT_TIMEOUT
    if phase == "tls":
        return Outcome.TLS_ERROR
    return Outcome.READ_TIMEOUT


def os_text(error: OSError) -> str:
    return f"{errno.errorcode.get(error.errno or 0, error.errno)}: {one_line(error.strerror or str(error))}"


def tls_text(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return one_line(error.verify_message or str(error))
    return one_line(error.reason or str(error))


def one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:200] + "…"


def gateway_status(outcome: Outcome) -> int:
    """Status that a gateway would send for a failed exchange (RFC 9110, 15.6.3 and 15.6.5)."""
    return 504 if outcome in TIMEOUTS else 502
