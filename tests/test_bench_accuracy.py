"""Calls are compared with their own packets. The figures are not asserted, because other tests run concurrently."""

import pytest

from bench.accuracy import IDLE, Call, Load, Packet, Place, Span, accuracy, lacking, loopback, measure, table

SERVER = 8080
PLAIN = Place("here", f"http://10.8.2.11:{SERVER}", "")
TLS = Place("here", f"https://10.8.2.11:{SERVER}", "")


def sent(seconds: float, size: int = 0, *, is_syn: bool = False) -> Packet:
    return Packet(seconds, 5000, SERVER, is_syn, size, "")


def received(seconds: float, size: int = 0, *, is_syn: bool = False) -> Packet:
    return Packet(seconds, SERVER, 5000, is_syn, size, "")


HANDSHAKE = [sent(1.0, is_syn=True), received(1.02, is_syn=True), sent(1.02)]
FIRST = [sent(1.1, 500), sent(1.2, 500), received(1.22), received(1.5, 300), received(1.6, 300), sent(1.6)]
SECOND = [sent(3.0, 500), received(3.25, 300)]


def call(started: float, **spans: Span) -> Call:
    return Call(started, 5000, spans)


@pytest.mark.parametrize(
    ("phase", "measured", "wire", "error", "before", "after"),
    [
        ("connect", Span(0.99, 1.05), 20, 40, 10, 30),
        ("send", Span(1.05, 1.19), 100, 40, 50, -10),
        ("wait", Span(1.19, 1.51), 300, 20, 10, 10),
        ("body", Span(1.51, 1.61), 100, 0, -10, 10),
    ],
)
def test_a_phase_is_compared_with_that_on_the_wire(
    phase: str, measured: Span, wire: float, error: float, before: float, after: float
) -> None:
    found = accuracy(PLAIN, Load("fresh"), [Call(0.99, 5000, {phase: measured})], [*HANDSHAKE, *FIRST])[phase]
    assert [found.wire[0], found.errors[0], found.before[0], found.after[0]] == pytest.approx(
        [wire, error, before, after], abs=0.001
    )


@pytest.mark.parametrize(("connection", "wait"), [("fresh", 300), ("reuse", 250)])
def test_only_the_calls_over_the_requested_connection_count(connection: str, wait: float) -> None:
    calls = [call(0.99, wait=Span(1.2, 1.5)), call(2.9, wait=Span(3.0, 3.25))]
    load = next(load for load in IDLE if load.connection == connection)
    assert accuracy(PLAIN, load, calls, [*HANDSHAKE, *FIRST, *SECOND])["wait"].wire == pytest.approx([wait])


def test_calls_of_others_over_the_same_connection_are_passed_over() -> None:
    packets = [*HANDSHAKE, *FIRST, *SECOND, sent(4.0, 1), received(4.1, 1)]
    found = accuracy(PLAIN, Load("reuse"), [call(3.9, wait=Span(4.0, 4.1))], packets)
    assert found["wait"].wire == pytest.approx([100])


def test_an_unfinished_exchange_is_no_part_of_the_next_connection() -> None:
    again = [sent(5.0, is_syn=True), received(5.1, is_syn=True), sent(5.2, 1), received(5.3, 1)]
    packets = [*HANDSHAKE, sent(1.1, 500), *again]
    found = accuracy(PLAIN, Load("fresh"), [call(4.9, send=Span(5.2, 5.2), connect=Span(5.0, 5.1))], packets)
    assert found["connect"].wire == pytest.approx([100])
    assert found["send"].wire == [0]


def test_a_packet_that_an_earlier_connection_left_behind_is_not_the_reply() -> None:
    packets = [*HANDSHAKE, received(1.05, 300), *FIRST]
    assert accuracy(PLAIN, Load("fresh"), [call(0.99, wait=Span(1.2, 1.5))], packets)["wait"].wire == pytest.approx(
        [300]
    )


@pytest.mark.parametrize(
    ("finished", "tls", "send"), [([sent(1.08, 74)], 50, 100), ([], 70, 0)], ids=["own segment", "with the request"]
)
def test_the_handshake_of_tls_ends_with_finished(finished: list[Packet], tls: float, send: float) -> None:
    hello = [sent(1.03, 300), received(1.04, 1400), received(1.06, 1400)]
    of_hop = call(0.99, tls=Span(1.02, 1.08), send=Span(1.08, 1.2))
    found = accuracy(TLS, Load("fresh"), [of_hop], [*HANDSHAKE, *hello, *finished, *FIRST])
    assert found["tls"].wire == pytest.approx([tls])
    assert found["send"].wire == pytest.approx([send])


def test_a_call_without_packets_is_an_error() -> None:
    with pytest.raises(AssertionError, match="no packets of the call from port 5000"):
        accuracy(PLAIN, Load("reuse"), [call(9.0)], [*HANDSHAKE, *FIRST])


@pytest.mark.timeout(60)
def test_each_phase_of_calls_on_loopback_has_its_row() -> None:
    if reason := lacking():
        pytest.skip(reason)
    with loopback() as place:
        measured = measure(place, Load("fresh"), calls=3)
    rows = [line.strip("| ").split(" | ") for line in table([measured]).splitlines()[2:]]
    assert [(row[2], row[9]) for row in rows] == [
        (phase, "3") for phase in ("connect", "send", "wait", "wait − loop delay", "body")
    ]
    assert set(measured.curl) == {"connect", "wait", "body"}
