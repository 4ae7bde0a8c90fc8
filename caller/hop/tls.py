"""TLS between a socket and HTTP, on buffers, so that each step and each alert can be seen."""

import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from caller.hop.model import Certificate
from caller.settings import Settings

NAME_KINDS = ("DNS", "URI", "IP Address")

ALERT = re.compile(r"\] (?:ssl/tls|sslv3|tlsv13?) (?:alert )?([a-z ]+) \(")
"""OpenSSL's text for an alert of the other side, with the alert's name (RFC 8446, 6).

Not `SSLError.reason`: it has no `ALERT` for some of them (`TLSV1_UNRECOGNIZED_NAME`), and is None for
`no_application_protocol`, whose number the `ssl` module does not know.
"""


def tls_context(settings: Settings) -> ssl.SSLContext:
    """One context for all calls: creating one takes tens of ms, which would look like network time."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["http/1.1"])
    if any(target.url.scheme == "https" for target in settings.targets):
        context.load_default_certs()
    return context


class Tls:
    """The client's side of one TLS connection."""

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.object = context.wrap_bio(self.incoming, self.outgoing, server_hostname=host)
        self.is_closed = False
        """Whether the other side sent `close_notify`, or there is an `error`."""
        self.error: ssl.SSLError | None = None
        """What came after the handshake, and after all that was decrypted: an alert, or not TLS."""

    def handshake(self) -> bool:
        """Go on with the handshake; whether it is finished.

        :raises ssl.SSLError: refused by either side.
        """
        try:
            self.object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def feed(self, data: bytes) -> None:
        self.incoming.write(data)

    def to_send(self) -> bytes:
        return self.outgoing.read()

    def encrypted(self, data: bytes) -> bytes:
        self.object.write(data)
        return self.outgoing.read()

    def decrypted(self, data: bytes) -> bytes:
        """What these bytes contain of the reply; nothing, if they are only a part of a record, or not of the reply.

        `is_closed` and `error` are about what follows it.
        """
        self.incoming.write(data)
        plain = bytearray()
        while not self.is_closed:
            try:
                piece = self.object.read(65_536)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                piece = b""
            except ssl.SSLError as error:
                self.error = error
                piece = b""
            self.is_closed = not piece
            plain += piece
        return bytes(plain)

    def close_notify(self) -> bytes:
        """The end of the caller's data, as TLS requires before a close (RFC 8446, 6.1)."""
        with suppress(ssl.SSLError):  # it has not come from the other side yet, or the connection is broken
            self.object.unwrap()
        return self.outgoing.read()

    def facts(self, error: BaseException | None) -> dict[str, Any]:
        """Fields of `Connection` after the handshake, or after the error that ended it."""
        certificate = self.peer_certificate()
        return {
            "tls_version": self.object.version() if error is None else None,
            "tls_peer_name": certificate.names[0] if certificate and certificate.names and error is None else None,
            "tls_verify_error": error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else None,
            "peer_certificate": certificate,
        }

    def peer_certificate(self) -> Certificate | None:
        """That of the other side, also if it was refused."""
        try:
            found = self.object.getpeercert()
        except ValueError:  # the handshake is not finished
            found = refused_certificate(self.object)
        return parsed_certificate(found) if found else None


def refused_certificate(connection: ssl.SSLObject) -> dict[str, Any] | None:
    """The certificate that the other side sent in a handshake that failed, as `getpeercert` has it.

    The `ssl` module keeps it, but has no public way to read it: `get_unverified_chain` of Python 3.13 returns only DER.
    """
    try:
        chain = connection._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
        found: dict[str, Any] | None = chain[0].get_info() if chain else None
    except (AttributeError, ssl.SSLError):
        return None
    return found


def alert_of(error: BaseException) -> str | None:
    """The name of the alert that the other side sent, such as `certificate_required`; None: the error is none."""
    found = ALERT.search(str(error)) if isinstance(error, ssl.SSLError) else None
    return found[1].replace(" ", "_") if found else None


def parsed_certificate(found: Mapping[str, Any]) -> Certificate:
    """From the dictionary of `SSLSocket.getpeercert`."""
    subject = [str(value) for part in found.get("subject", ()) for key, value in part if key == "commonName"]
    return Certificate(
        names=[str(value) for kind, value in found.get("subjectAltName", ()) if kind in NAME_KINDS] or subject,
        issuer=", ".join(f"{key}={value}" for part in found.get("issuer", ()) for key, value in part),
        not_before=certificate_time(found["notBefore"]),
        not_after=certificate_time(found["notAfter"]),
    )


def certificate_time(text: str) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)
