"""What the kernel shows of a connection whose packets are lost or late: between clusters, with real packets."""

from collections.abc import Iterator
from typing import Any

import pytest

from lab.lab import CALLER_POD, PRODUCER_PODS, Lab
from lab.processes import Service

REUSE = {"payload": "ping", "connection": "reuse"}
FRESH = {"payload": "ping", "connection": "fresh"}
LARGE = {"payload": "x" * 60_000, "connection": "fresh"}
LARGE_PACKETS = ("-p", "tcp", "--dport", "8080", "-m", "length", "--length", "1400:", "-j", "DROP")
"""As in a network whose MTU is smaller than that of the nodes, and that sends no ICMP (RFC 2923, 2.1)."""
RTT_MILLIS = 20


@pytest.fixture(autouse=True)
def _restored(lab: Lab) -> Iterator[None]:
    """After each test everything works again."""
    yield
    answered = {lab.call(FRESH)["producerMetadata"]["ipAddress"] for _ in PRODUCER_PODS}
    assert answered == set(PRODUCER_PODS)


def assert_lost(hop: dict[str, Any]) -> None:
    """The request, or a part of it, did not arrive: the kernel sent it again, and it was not acknowledged."""
    connection = hop["connection"]
    assert hop["outcome"] == "read_timeout"
    assert hop["phases"]["waitMillis"] is not None, "the kernel has taken the request"
    assert 0 < connection["bytesUnacknowledged"] <= connection["bytesSent"]
    assert connection["retransmits"] > 0
    assert connection["bytesReceived"] == 0
    assert connection["closedBeforeReply"] is False
    counts = f"{connection['bytesUnacknowledged']:,} of {connection['bytesSent']:,} bytes sent were not acknowledged"
    assert counts in hop["error"]


def test_a_request_into_an_mtu_hole_is_not_acknowledged(lab: Lab, caller_with_short_timeout: Service) -> None:
    assert lab.call(LARGE, caller_with_short_timeout)["outcome"] == "ok"
    with lab.producer_cluster.rule("INPUT", *LARGE_PACKETS):
        small = lab.call(FRESH, caller_with_short_timeout)
        large = lab.call(LARGE, caller_with_short_timeout)
    assert small["outcome"] == "ok", "the handshake and a small request pass"
    assert_lost(large)
    assert large["connection"]["bytesSent"] > 60_000
    assert large["connection"]["bytesUnacknowledged"] > 50_000


def test_a_request_over_an_open_connection_that_goes_nowhere_is_not_acknowledged(
    lab: Lab, caller_with_short_timeout: Service
) -> None:
    before = lab.call(REUSE, caller_with_short_timeout)
    with lab.firewall("DROP"):
        hop = lab.call(REUSE, caller_with_short_timeout)
    assert before["outcome"] == "ok"
    assert before["connection"]["bytesUnacknowledged"] == 0
    assert hop["connection"]["reused"] is True
    assert hop["connection"]["localAddress"] == before["connection"]["localAddress"]
    assert hop["connection"]["idleMillis"] >= 0
    assert_lost(hop)
    assert hop["connection"]["bytesUnacknowledged"] == hop["connection"]["bytesSent"], "no part of it arrived"


def test_a_reply_that_is_lost_is_no_loss_of_the_request(lab: Lab, caller_with_short_timeout: Service) -> None:
    """An MTU hole on the way back: the request arrived."""
    lost = ("-p", "tcp", "--sport", "8080", "-m", "length", "--length", "1400:", "-j", "DROP")
    with lab.caller_cluster.rule("INPUT", *lost):
        hop = lab.call(LARGE, caller_with_short_timeout)
    assert hop["outcome"] == "read_timeout"
    assert hop["connection"]["bytesUnacknowledged"] == 0
    assert "acknowledged" not in hop["error"]


def test_a_slow_producer_has_acknowledged_the_request(lab: Lab, caller_with_short_timeout: Service) -> None:
    hop = lab.call({**FRESH, "delay": 9000}, caller_with_short_timeout)
    assert hop["outcome"] == "read_timeout"
    assert hop["connection"]["bytesUnacknowledged"] == 0
    assert hop["connection"]["retransmits"] == 0
    assert "acknowledged" not in hop["error"]


def test_the_round_trip_time_is_the_kernels(lab: Lab) -> None:
    """The link is a process, which may be late on a busy machine: the best of some calls counts."""
    with lab.latency(RTT_MILLIS):
        fresh = [lab.call(FRESH) for _ in range(8)]
    times = [hop["connection"]["kernelRttMillis"] for hop in fresh]
    assert RTT_MILLIS <= min(times) < RTT_MILLIS * 1.5
    assert min(hop["phases"]["connectMillis"] for hop in fresh) == pytest.approx(min(times), rel=0.25)
    near = [lab.call(FRESH)["connection"]["kernelRttMillis"] for _ in range(8)]
    assert min(near) < 5


def test_the_addresses_are_those_before_the_translation_of_the_cluster(lab: Lab) -> None:
    connection = lab.call(FRESH)["connection"]
    assert connection["localAddress"].startswith(f"{CALLER_POD}:")
    assert connection["attempts"][0]["address"] == connection["peerAddress"]
    assert connection["attempts"][0]["error"] is None


def test_dropped_packets_to_the_only_address_are_one_attempt_without_an_answer(lab: Lab) -> None:
    with lab.firewall("DROP"):
        hop = lab.call(FRESH)
    assert hop["outcome"] == "connect_timeout"
    assert [attempt["error"] for attempt in hop["connection"]["attempts"]] == ["no answer"]
    assert hop["connection"]["bytesSent"] is None
