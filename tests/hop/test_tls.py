"""TLS of a call, over real sockets: handshakes, alerts, certificates, and servers that require one of the caller."""

import asyncio
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import socket

import pytest
import trustme

from caller.hop.outcome import Outcome
from tests.hop.test_outcomes import MESSAGE, TIMEOUT_SECONDS, assert_timed_out, hop_to, millis_by_phase, silent
from tests.support.servers import (
    accepting,
    calling,
    close_with_reset,
    http_reply,
    listening,
    read_request,
    replying,
)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


def certificate(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return context


def https(address: str) -> str:
    """URL with the name that the certificates of the tests have."""
    return f"https://localhost:{address.rpartition(':')[2]}"


# Certificates of the server


async def test_the_version_and_the_certificate_of_a_connection_are_in_the_hop(
    authority: trustme.CA, trusted: None
) -> None:
    names = ("localhost", "*.svc.clusterset.local", "127.0.0.1")
    async with listening(replying(http_reply("503 X", {}, "")), certificate(authority, *names)) as address:
        hop = await hop_to(https(address))
    assert hop.outcome is Outcome.PROXY_ERROR
    assert (hop.connection.tls_version, hop.connection.tls_peer_name) == ("TLSv1.3", "localhost")
    found = hop.connection.peer_certificate
    assert found is not None
    assert found.names == list(names)
    assert "trustme" in found.issuer
    assert found.not_before < datetime.now(UTC) < found.not_after
    assert (hop.connection.tls_alert, hop.connection.tls_verify_error) == (None, None)
    assert hop.phases.tls_millis is not None
    assert hop.phases.connect_millis is not None


async def test_an_unknown_authority_is_a_tls_error(authority: trustme.CA) -> None:
    async with listening(silent, certificate(authority, "localhost")) as address:
        hop = await hop_to(https(address))
    assert (hop.outcome, hop.status_code) == (Outcome.TLS_ERROR, 502)
    assert hop.error is not None
    assert "unable to get local issuer certificate" in hop.error
    assert hop.connection.tls_verify_error == "unable to get local issuer certificate"
    assert (hop.connection.tls_version, hop.connection.tls_peer_name) == (None, None), "nothing is verified"
    assert hop.connection.tls_alert is None, "it is the caller that refuses"
    assert hop.connection.closed_before_reply is False
    assert list(millis_by_phase(hop))[-1] == "tls"


async def test_a_certificate_for_another_name_is_a_tls_error_that_shows_the_certificate(
    authority: trustme.CA, trusted: None
) -> None:
    async with listening(silent, certificate(authority, "other.example", "another.example")) as address:
        hop = await hop_to(https(address))
    assert hop.outcome is Outcome.TLS_ERROR
    assert hop.error is not None
    assert "ostname mismatch" in hop.error
    assert "ostname mismatch" in (hop.connection.tls_verify_error or "")
    found = hop.connection.peer_certificate
    assert found is not None
    assert found.names == ["other.example", "another.example"]
    assert "trustme" in found.issuer


async def test_an_expired_certificate_is_a_tls_error_that_shows_its_dates(authority: trustme.CA, trusted: None) -> None:
    ended = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    began = ended - timedelta(days=90)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", not_before=began, not_after=ended).configure_cert(context)
    async with listening(silent, context) as address:
        hop = await hop_to(https(address))
    assert hop.outcome is Outcome.TLS_ERROR
    assert hop.connection.tls_verify_error == "certificate has expired"
    found = hop.connection.peer_certificate
    assert found is not None
    assert (found.names, found.not_before, found.not_after) == (["localhost"], began, ended)


# Not TLS, or not to its end


async def test_tls_to_a_plain_port_is_a_tls_error() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with listening(plain) as address:
        hop = await hop_to(f"https://{address}")
    assert hop.outcome is Outcome.TLS_ERROR
    assert hop.connection.tls_alert is None


async def test_a_handshake_without_an_answer_is_a_tls_error_after_the_configured_time() -> None:
    """The timeout is that of TCP and TLS together."""
    async with listening(silent) as address:
        hop = await hop_to(f"https://{address}", connect_timeout_seconds=TIMEOUT_SECONDS)
    assert hop.outcome is Outcome.TLS_ERROR
    assert_timed_out(hop)
    assert list(millis_by_phase(hop)) == ["connect", "tls"]
    assert hop.connection.bytes_received == 0
    assert (hop.connection.bytes_sent or 0) > 100, "the ClientHello"


async def test_plain_http_to_a_tls_port_is_not_ok(authority: trustme.CA) -> None:
    async with listening(silent, certificate(authority, "localhost")) as address:
        hop = await hop_to(f"http://{address}")
    assert hop.outcome in (Outcome.BAD_REPLY, Outcome.RESET, Outcome.CLOSED)


def reset_after_hello(connection: socket) -> None:
    connection.recv(65_536)
    close_with_reset(connection)


def close_after_hello(connection: socket) -> None:
    connection.recv(65_536)


@pytest.mark.parametrize("serve", [reset_after_hello, close_after_hello])
async def test_an_end_of_the_connection_after_the_client_hello_is_a_tls_error(
    serve: Callable[[socket], None],
) -> None:
    with accepting(serve) as address:
        hops = [await hop_to(f"https://{address}") for _ in range(20)]
    assert {hop.outcome for hop in hops} == {Outcome.TLS_ERROR}
    assert {list(millis_by_phase(hop))[-1] for hop in hops} == {"tls"}
    assert {hop.connection.closed_before_reply for hop in hops} == {True}
    assert {(hop.connection.tls_version, hop.connection.tls_alert) for hop in hops} == {(None, None)}
    assert {"TLS handshake" in (hop.error or "") or "ECONNRESET" in (hop.error or "") for hop in hops} == {True}


ALERTS = {
    40: "handshake_failure",
    42: "bad_certificate",
    48: "unknown_ca",
    49: "access_denied",
    70: "protocol_version",
    80: "internal_error",
    110: "unsupported_extension",
    112: "unrecognized_name",
    116: "certificate_required",
    120: "no_application_protocol",
}
"""Of RFC 8446, 6. OpenSSL writes those from 110 differently."""


@pytest.mark.parametrize(("number", "name"), ALERTS.items(), ids=ALERTS.values())
async def test_the_name_of_an_alert_is_in_the_hop(number: int, name: str) -> None:
    def alert(connection: socket) -> None:
        connection.recv(65_536)
        connection.sendall(bytes([0x15, 3, 3, 0, 2, 2, number]))

    with accepting(alert) as address:
        hop = await hop_to(f"https://{address}")
    assert (hop.outcome, hop.connection.tls_alert) == (Outcome.TLS_ERROR, name)
    assert hop.connection.tls_verify_error is None
    assert hop.connection.closed_before_reply is False, "it said why"
    assert name.replace("_", " ") in (hop.error or "").lower().replace("_", " ")


# Servers that require a certificate of the client


def client_certificate_required(authority: trustme.CA) -> ssl.SSLContext:
    context = certificate(authority, "localhost")
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    return context


@contextmanager
def requiring(context: ssl.SSLContext) -> Iterator[str]:
    """A server that sends an alert, as OpenSSL does."""

    def serve(connection: socket) -> None:
        with context.wrap_socket(connection, server_side=True) as wrapped:
            wrapped.recv(65_536)

    with accepting(serve) as address:
        yield address


CALLS = 60


async def test_a_server_that_requires_a_certificate_refuses_by_an_alert_with_tls_1_3(
    authority: trustme.CA, trusted: None
) -> None:
    """The handshake is finished on the caller's side, and the request is sent, when the alert arrives, or a RST."""
    with requiring(client_certificate_required(authority)) as address:
        async with calling(https(address)) as client:
            hops = [await client.call(MESSAGE, client.settings.producer_url) for _ in range(CALLS)]
    assert [hop.outcome for hop in hops] == [Outcome.TLS_ERROR] * CALLS
    assert [hop.connection.tls_alert for hop in hops] == ["certificate_required"] * CALLS
    assert {hop.connection.tls_version for hop in hops} == {"TLSv1.3"}
    assert {hop.error for hop in hops} == {"TLS: TLSV13_ALERT_CERTIFICATE_REQUIRED"}


async def test_a_server_that_requires_a_certificate_refuses_the_handshake_with_tls_1_2(
    authority: trustme.CA, trusted: None
) -> None:
    context = client_certificate_required(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with requiring(context) as address:
        async with calling(https(address)) as client:
            hops = [await client.call(MESSAGE, client.settings.producer_url) for _ in range(CALLS)]
    assert [hop.outcome for hop in hops] == [Outcome.TLS_ERROR] * CALLS
    assert [hop.connection.tls_alert for hop in hops] == ["handshake_failure"] * CALLS
    assert {list(millis_by_phase(hop))[-1] for hop in hops} == {"tls"}


async def test_a_server_that_requires_a_certificate_and_sends_no_alert_is_a_tls_error(
    authority: trustme.CA, trusted: None
) -> None:
    """asyncio closes the connection without sending the alert."""
    async with (
        listening(silent, client_certificate_required(authority)) as address,
        calling(https(address)) as client,
    ):
        hops = [await client.call(MESSAGE, client.settings.producer_url) for _ in range(CALLS)]
    assert [hop.outcome for hop in hops] == [Outcome.TLS_ERROR] * CALLS
    assert {hop.connection.tls_version for hop in hops} == {"TLSv1.3"}
    assert {hop.connection.tls_alert for hop in hops} == {None}
    assert {hop.connection.closed_before_reply for hop in hops} == {True}
    assert {list(millis_by_phase(hop))[-1] for hop in hops} <= {"send", "wait"}


# After the handshake


async def test_a_kept_tls_connection_is_reused(authority: trustme.CA, trusted: None) -> None:
    connections = []

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        while True:
            await read_request(reader)
            writer.write(http_reply("503 X", {}, ""))

    async with listening(keep, certificate(authority, "localhost")) as address, calling(https(address)) as client:
        hops = [await client.call(MESSAGE, client.settings.producer_url) for _ in range(3)]
    first, *later = (hop.connection for hop in hops)
    assert len(connections) == 1
    assert [hop.connection.reused for hop in hops] == [False, True, True]
    assert [hop.phases.tls_millis is None for hop in hops] == [False, True, True]
    assert {connection.tls_version for connection in later} == {"TLSv1.3"}
    assert {connection.tls_peer_name for connection in later} == {"localhost"}
    assert [connection.peer_certificate for connection in later] == [first.peer_certificate] * 2
    assert {connection.local_address for connection in later} == {first.local_address}
    assert first.bytes_sent is not None
    assert later[1].bytes_sent is not None
    assert later[1].bytes_sent < first.bytes_sent - 200, "without the handshake"


async def test_a_server_that_is_silent_after_the_handshake_is_a_read_timeout(
    authority: trustme.CA, trusted: None
) -> None:
    async with listening(silent, certificate(authority, "localhost")) as address:
        hop = await hop_to(https(address), call_timeout_seconds=TIMEOUT_SECONDS)
    assert (hop.outcome, hop.status_code) == (Outcome.READ_TIMEOUT, 504)
    assert_timed_out(hop)
    assert list(millis_by_phase(hop))[-1] == "wait"
    assert hop.connection.tls_version == "TLSv1.3"
    assert hop.connection.tls_alert is None


async def test_an_end_of_a_reused_tls_connection_is_not_a_tls_error(authority: trustme.CA, trusted: None) -> None:
    """The server accepted the caller: it answered on this connection before."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(http_reply("503 X", {}, ""))
        await read_request(reader)

    async with listening(once, certificate(authority, "localhost")) as address, calling(https(address)) as client:
        hops = [await client.call(MESSAGE, client.settings.producer_url) for _ in range(2)]
    assert hops[1].connection.reused is True
    assert hops[1].outcome is Outcome.CLOSED
    assert hops[1].connection.closed_before_reply is True


async def test_an_end_of_a_tls_connection_in_the_body_is_closed(authority: trustme.CA, trusted: None) -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")

    async with listening(half, certificate(authority, "localhost")) as address:
        hop = await hop_to(https(address))
    assert hop.outcome is Outcome.CLOSED
    assert hop.connection.closed_before_reply is False


class TlsReply:
    """A server that replies with this record, or with these, and then with these bytes; in pieces of this size."""

    def __init__(self, context: ssl.SSLContext, reply: bytes, *, then: bytes = b"", size: int = 100_000) -> None:
        self.context, self.reply, self.then, self.size = context, reply, then, size

    def __call__(self, connection: socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = self.context.wrap_bio(incoming, outgoing, server_side=True)
        request = b""
        while not request:
            try:
                request = server.read(65_536)
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(65_536))
        server.write(self.reply)
        data = outgoing.read() + self.then
        for start in range(0, len(data), self.size):
            connection.sendall(data[start : start + self.size])
        connection.recv(65_536)


@pytest.mark.parametrize("size", [1, 100, 100_000])
async def test_a_record_may_arrive_in_pieces(authority: trustme.CA, trusted: None, size: int) -> None:
    reply = http_reply("503 X", {}, "busy " * 100)
    with accepting(TlsReply(certificate(authority, "localhost"), reply, size=size)) as address:
        hop = await hop_to(https(address))
    assert hop.outcome is Outcome.PROXY_ERROR
    assert hop.returned_headers["content-length"] == ["500"]


BROKEN_RECORD = bytes([0x17, 3, 3, 0, 20]) + bytes(20)
"""Its MAC is wrong."""


async def test_a_reply_is_the_reply_whatever_follows_it(authority: trustme.CA, trusted: None) -> None:
    """Both arrive together. The connection is not kept."""
    reply = http_reply("503 X", {}, "")
    serve = TlsReply(certificate(authority, "localhost"), reply, then=BROKEN_RECORD)
    with accepting(serve) as address:
        async with calling(https(address)) as client:
            hops = [await client.call(MESSAGE, client.settings.producer_url) for _ in range(2)]
    assert [(hop.outcome, hop.reply_status) for hop in hops] == [(Outcome.PROXY_ERROR, 503)] * 2
    assert [hop.connection.reused for hop in hops] == [False, False]


async def test_a_broken_record_in_the_body_is_a_tls_error(authority: trustme.CA, trusted: None) -> None:
    reply = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"
    serve = TlsReply(certificate(authority, "localhost"), reply, then=BROKEN_RECORD)
    with accepting(serve) as address:
        hop = await hop_to(https(address))
    assert (hop.outcome, hop.reply_status) == (Outcome.TLS_ERROR, 200)
    assert list(millis_by_phase(hop))[-1] == "body"
