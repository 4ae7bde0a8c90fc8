from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from caller.cli.call_report import certificate_text, connection_lines, event_loop_text, spans, why_absent
from caller.hop.connect import Attempt
from caller.hop.model import Certificate, Connection, Hop
from caller.hop.phases import Phases
from common.messages import Message
from tests.support.servers import calling, http_reply, listening, producing, replying


async def test_an_absent_phase_has_its_reason() -> None:
    async with producing() as url, calling(url) as client:
        target = client.settings.producer_url
        first = await client.call(Message(payload="a"), target)
        second = await client.call(Message(payload="a"), target)
    assert [why_absent(first, phase) for phase in ("dns", "tls")] == ["IP address", "plain HTTP"]
    assert second.connection.reused
    assert [why_absent(second, phase) for phase in ("dns", "connect", "tls")] == [
        "reused connection",
        "reused connection",
        "plain HTTP",
    ]


async def test_a_phase_after_the_failure_was_not_reached() -> None:
    async with calling("http://127.0.0.1:1") as client:
        hop = await client.call(Message(payload="a"), client.settings.producer_url)
    assert [why_absent(hop, phase) for phase in ("send", "wait", "body")] == ["not reached"] * 3


async def test_a_delay_that_the_producer_omits_is_not_reported() -> None:
    headers = {"x-answered-by": "sample-producer", "server-timing": "work;dur=0.1"}
    async with listening(replying(http_reply("200 OK", headers, "{}"))) as address, calling(address) as client:
        hop = await client.call(Message(payload="a"), client.settings.producer_url)
    assert hop.phases.producer_work_millis == 0.1
    assert hop.phases.producer_delay_millis is None
    assert why_absent(hop, "delay") == "not reported"


async def lines_of(error: str | None = None, **facts: Any) -> list[str]:
    """The lines about this connection, of a call that had no reply."""
    async with calling("http://127.0.0.1:1") as client:
        hop = await client.call(Message(payload="a"), client.settings.producer_url)
    return list(connection_lines(with_connection(hop, error, **facts)))


def with_connection(hop: Hop, error: str | None = None, **facts: Any) -> Hop:
    return hop.model_copy(update={"connection": Connection(mode="fresh", **facts), "error": error})


def attempts(*errors: str | None) -> list[Attempt]:
    return [Attempt(address=f"10.4.1.{n}:8080", error=error, millis=251.4) for n, error in enumerate(errors)]


async def test_a_reused_connection_has_its_idle_time_and_its_bytes() -> None:
    async with producing() as url, calling(url) as client:
        target = client.settings.producer_url
        hops = [await client.call(Message(payload="a"), target) for _ in range(2)]
    first, second = ([line.split(",") for line in connection_lines(hop)] for hop in hops)
    assert first[0][0].startswith("new connection ")
    assert second[0][0].startswith("reused connection ")
    assert second[0][1].startswith(" idle ")
    sent, received = hops[1].connection.bytes_sent, hops[1].connection.bytes_received
    assert ",".join(second[1]).startswith(f"{sent:,} bytes sent, {received:,} received")
    assert len(first) == len(second) == 2, "the only attempt connected, and there is no TLS"


async def test_attempts_are_shown_if_one_failed() -> None:
    used: dict[str, Any] = {"local_address": "10.4.1.9:1", "peer_address": "10.4.1.1:8080"}
    assert await lines_of(**used, attempts=attempts("no answer", None)) == [
        "new connection 10.4.1.9:1 → 10.4.1.1:8080",
        "attempts: 10.4.1.0:8080 no answer (251 ms) · 10.4.1.1:8080 connected (251 ms)",
    ]
    assert await lines_of(attempts=attempts("ECONNREFUSED")) == ["no connection: 10.4.1.0:8080 ECONNREFUSED (251 ms)"]
    assert await lines_of() == []


async def test_of_ten_failed_attempts_five_are_shown() -> None:
    (line,) = await lines_of(attempts=attempts(*["no answer"] * 10))
    assert line.count("no answer") == 5
    assert line.endswith("10.4.1.4:8080 no answer (251 ms) and 5 more")


async def test_bytes_that_were_not_acknowledged_are_shown_once() -> None:
    facts: dict[str, Any] = {
        "peer_address": "10.4.1.1:8080",
        "bytes_sent": 60_741,
        "bytes_received": 0,
        "retransmits": 3,
    }
    words = "60,482 of 60,741 bytes sent were not acknowledged"
    _, line = await lines_of(**facts, bytes_unacknowledged=60_482, kernel_rtt_millis=12.41)
    assert line == f"{words}, 0 received, kernel RTT 12.4 ms, retransmits: 3"
    _, line = await lines_of(f"no reply within 8 s; {words}", **facts, bytes_unacknowledged=60_482)
    assert line == "60,741 bytes sent, 0 received, retransmits: 3"
    _, line = await lines_of(**facts | {"retransmits": 0}, bytes_unacknowledged=0, closed_before_reply=True)
    assert line == "60,741 bytes sent, 0 received, closed before a reply"


NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
CERTIFICATE = Certificate(
    names=["producer", "producer.istio-apps"],
    issuer="commonName=producer-cluster CA",
    not_before=NOW - timedelta(days=30),
    not_after=NOW + timedelta(days=34),
)


@pytest.mark.parametrize(
    ("days", "validity"),
    [
        (0, "valid until 2027-01-01 12:00 UTC (34 days left)"),
        (33, "valid until 2027-01-01 12:00 UTC (24 h left)"),
        (37, "expired 2027-01-01 12:00 UTC (3 days ago)"),
        (-31, "not valid before 2026-10-29 12:00 UTC"),
    ],
)
def test_a_certificate_has_its_names_its_issuer_and_its_validity(days: int, validity: str) -> None:
    assert certificate_text(CERTIFICATE, NOW + timedelta(days=days)) == (
        f"certificate of producer, producer.istio-apps from commonName=producer-cluster CA, {validity}"
    )


async def test_tls_has_its_version_and_what_either_side_refused() -> None:
    facts: dict[str, Any] = {"peer_address": "10.4.1.1:8443", "peer_certificate": CERTIFICATE}
    _, line = await lines_of(**facts, tls_version="TLSv1.3", tls_alert="certificate_required")
    assert line.startswith("TLSv1.3, certificate of producer, ")
    assert line.endswith(", alert from the other side: certificate_required")
    refusal: dict[str, Any] = {"tls_verify_error": "certificate has expired"}
    _, line = await lines_of(**facts, **refusal)
    assert line.endswith(", refused by the caller: certificate has expired")
    _, line = await lines_of("TLS: certificate has expired", **facts, **refusal)
    assert "refused" not in line, "the error has the same words"


def test_the_delay_of_the_event_loop_is_a_sentence_and_a_part_of_the_wait() -> None:
    phases = Phases(
        send_millis=1,
        wait_millis=50,
        network_millis=20,
        producer_delay_millis=15,
        producer_work_millis=5,
        event_loop_delay_millis=10.5,
        delayed_phases=["send", "wait"],
    )
    assert event_loop_text(phases) == ("The caller's own event loop was late by 10.5 ms (send, wait): not the network.")
    parts = {label.strip(): millis for label, _, millis in spans(phases) if label.startswith(" ")}
    assert parts == {"network": 20, "delay": 15, "work": 5, "event loop": 10}
