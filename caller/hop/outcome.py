"""From an exception to the outcome of a call."""

import errno
import re
import socket
import ssl
from collections.abc import Iterator
from enum import StrEnum

import aiohttp
import httpx

from caller.hop.phases import Phase
from caller.hop.resolver import gai_name


class Outcome(StrEnum):
    """The result of a call, in one word: what was seen, in the phase in which it was seen.

    dns      EAI_NONAME                                   dns_nxdomain
             EAI_NODATA, EAI_ADDRFAMILY                   dns_no_data
             any other EAI_*, any errno, timeout          dns_unavailable
    connect  ECONNREFUSED                                 refused
             EHOSTUNREACH, ENETUNREACH, EADDRNOTAVAIL,
             EACCES, EPERM                                unreachable
             ETIMEDOUT, timeout                           connect_timeout
    tls      any SSLError, timeout                        tls_error
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


class BrokenReply(aiohttp.ClientPayloadError):
    """The bytes after the head of a reply are not HTTP."""


class ReplyTooLarge(Exception):
    """A reply that is larger than the caller accepts."""


def failure_of(error: BaseException, phase: Phase, seconds: float) -> tuple[Outcome, str]:
    """Outcome and error text of a call without a reply, by the cause below what the client library raises.

    :param phase: the phase that was open when the call failed; it distinguishes the timeouts.
    :param seconds: how long that phase had been open.
    """
    causes = list(chain(error))
    for cause in causes:
        if isinstance(cause, socket.gaierror):
            return dns_failure(cause), f"getaddrinfo: {cause.strerror} ({gai_name(cause)})"
    for cause in causes:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, aiohttp.ClientError):
            return Outcome.TLS_ERROR, f"TLS: {tls_text(cause)}"
    for cause in causes:
        if isinstance(cause, OSError) and (number := errno_of(cause)) is not None:
            return os_failure(number, phase), f"{os_text(cause, number)} while in phase {phase}"
    for cause in causes:
        if isinstance(cause, TimeoutError):
            return timeout_failure(phase), f"{UNFINISHED[phase]} within {seconds:.3g} s"
    for cause in causes:
        if isinstance(cause, BrokenReply):
            return Outcome.BAD_REPLY, one_line(str(cause))
        if isinstance(cause, aiohttp.ClientPayloadError):
            # During a body, aiohttp distinguishes a reset from a close only in its text.
            if "ConnectionResetError" in str(cause):
                return Outcome.RESET, "ECONNRESET: the connection was reset before the reply was complete"
            return Outcome.CLOSED, "the connection was closed before the reply was complete"
        if isinstance(cause, aiohttp.ClientResponseError | httpx.DecodingError | ReplyTooLarge):
            return Outcome.BAD_REPLY, one_line(str(getattr(cause, "message", cause)))
    return Outcome.CLOSED, "the connection was closed without a reply"


UNFINISHED: dict[Phase, str] = {
    "dns": "no DNS answer",
    "connect": "no connection",
    "tls": "TLS handshake not finished",
    "send": "request not sent",
    "wait": "no reply",
    "body": "reply not complete",
}
"""What a timeout in a phase means."""


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, outermost first. `__context__` counts too: libraries re-raise `from None`."""
    seen: set[int] = set()
    pending = [error]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if isinstance(current, BaseExceptionGroup):
            pending.extend(current.exceptions)
        pending.extend(cause for cause in (current.__context__, current.__cause__) if cause is not None)


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
    if number == errno.ECONNREFUSED:
        return Outcome.REFUSED
    if number in UNREACHABLE:
        return Outcome.UNREACHABLE
    if number == errno.ETIMEDOUT:
        return timeout_failure(phase)
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


def errno_of(error: OSError) -> int | None:
    """The error number; with several addresses that failed differently, that of the last one tried."""
    if error.errno is not None:
        return error.errno
    numbers = re.findall(r"\[Errno (\d+)\]", str(error))
    return int(numbers[-1]) if numbers else None


def os_text(error: OSError, number: int) -> str:
    return f"{errno.errorcode.get(number, number)}: {one_line(error.strerror or str(error))}"


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
