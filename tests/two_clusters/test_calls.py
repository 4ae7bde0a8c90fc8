"""Calls across clusters: connections and their phases, lookups and what they cost, and pods that go away."""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.dns import Query
from lab.lab import (
    CALLER_POD,
    CLUSTER_IP,
    CLUSTER_SET_IP,
    CLUSTER_SET_NAME,
    CLUSTER_SET_URL,
    CLUSTER_URL,
    LOCAL_PRODUCER_POD,
    NDOTS_2,
    NDOTS_5,
    PRODUCER_PODS,
    SEARCH,
    Lab,
    pod_name,
)
from lab.processes import Service

REUSE = {"payload": "ping", "connection": "reuse"}
FRESH = {"payload": "ping", "connection": "fresh"}
PHASES = ("dnsMillis", "connectMillis", "tlsMillis", "sendMillis", "waitMillis", "bodyMillis")
NEW_POD = "10.8.2.13"
SILENT = dict.fromkeys((CLUSTER_SET_NAME, *(f"{CLUSTER_SET_NAME}.{suffix}" for suffix in SEARCH)), "silent")
"""No answer to what a call by the clusterset name asks."""


@pytest.fixture(autouse=True)
def _whole(lab: Lab) -> Iterator[None]:
    """Whatever a test did to the world, afterwards all is well again."""
    yield
    answered = {lab.call(FRESH)["producerMetadata"]["ipAddress"] for _ in PRODUCER_PODS}
    assert answered == set(PRODUCER_PODS)


def told(hop: dict[str, Any]) -> tuple[str, int, str]:
    return hop["outcome"], hop["statusCode"], hop["answeredBy"]["who"]


def taken(hop: dict[str, Any]) -> list[str]:
    """The phases that the call came to; they add up to the round trip."""
    times = {name: hop["phases"][name] for name in PHASES if hop["phases"][name] is not None}
    assert sum(times.values()) == pytest.approx(hop["roundTripTimeMillis"], abs=0.01)
    return list(times)


def pod_of(hop: dict[str, Any]) -> str:
    assert hop["outcome"] == "ok", hop["error"]
    return str(hop["producerMetadata"]["ipAddress"])


# It works


def test_the_clusterset_name_is_answered_by_the_other_cluster(lab: Lab) -> None:
    hop = lab.call(FRESH)
    assert told(hop) == ("ok", 200, "producer")
    assert hop["target"] == CLUSTER_SET_URL
    assert hop["received"] == "ping"
    assert hop["crossing"] == {"cluster": True, "zone": True, "region": True}
    assert hop["addresses"] == [CLUSTER_SET_IP]
    assert taken(hop) == ["dnsMillis", "connectMillis", "sendMillis", "waitMillis", "bodyMillis"]
    assert hop["connection"]["peerAddress"] == f"{CLUSTER_SET_IP}:8080"
    assert hop["connection"]["localAddress"].startswith(f"{CALLER_POD}:")
    pod = hop["producerMetadata"]["ipAddress"]
    assert pod in PRODUCER_PODS
    assert (
        hop["callerMetadata"].items()
        >= {
            "clusterName": "caller-cluster",
            "region": "us-west1",
            "podName": "sample-caller-v1-0",
            "ipAddress": CALLER_POD,
        }.items()
    )
    assert (
        hop["producerMetadata"].items()
        >= {
            "clusterName": "producer-cluster",
            "region": "us-central1",
            "podName": pod_name(pod),
        }.items()
    )


def test_the_cluster_local_name_stays_in_the_own_cluster(lab: Lab) -> None:
    hop = lab.call({**FRESH, "target": CLUSTER_URL})
    assert told(hop) == ("ok", 200, "producer")
    assert pod_of(hop) == LOCAL_PRODUCER_POD
    assert hop["crossing"] == {"cluster": False, "zone": False, "region": False}
    assert hop["addresses"] == [CLUSTER_IP]
    assert hop["connection"]["peerAddress"] == f"{CLUSTER_IP}:8080"


def test_fresh_connections_spread_over_the_pods(lab: Lab) -> None:
    hops = [lab.call(FRESH) for _ in range(6)]
    assert Counter(pod_of(hop) for hop in hops) == dict.fromkeys(PRODUCER_PODS, 3)
    assert {hop["connection"]["peerAddress"] for hop in hops} == {f"{CLUSTER_SET_IP}:8080"}


def test_a_reused_connection_stays_on_one_pod_and_asks_no_dns(lab: Lab) -> None:
    first = lab.call(REUSE)
    lab.forget_queries()
    hops = [lab.call(REUSE) for _ in range(6)]
    assert {pod_of(hop) for hop in hops} == {pod_of(first)}
    assert {hop["connection"]["reused"] for hop in hops} == {True}
    assert {hop["connection"]["localAddress"] for hop in hops} == {first["connection"]["localAddress"]}
    assert all(taken(hop) == ["sendMillis", "waitMillis", "bodyMillis"] for hop in hops)
    assert [hop["addresses"] for hop in hops] == [[]] * 6
    assert lab.queries() == []


@pytest.mark.parametrize("millis", [40, 120])
def test_latency_of_the_link_is_in_connect_and_network_and_nowhere_else(lab: Lab, millis: int) -> None:
    with lab.latency(millis):
        far = [lab.call(FRESH)["phases"] for _ in range(5)]
        near = [lab.call({**FRESH, "target": CLUSTER_URL})["phases"] for _ in range(5)]
    for phase in ("connectMillis", "networkMillis"):
        assert millis <= min(phases[phase] for phases in far) < millis + 100
        assert min(phases[phase] for phases in near) < millis
    for phase in ("dnsMillis", "producerWorkMillis"):
        assert min(phases[phase] for phases in far) < millis


# Lookups


def test_a_dns_server_that_is_silent_on_every_name_costs_two_time_outs(lab: Lab) -> None:
    """glibc gives up the search list at the first silence, but still asks for the name itself."""
    with lab.zone(SILENT):
        lab.forget_queries()
        hop = lab.call(FRESH)
    assert told(hop) == ("dns_unavailable", 502, "caller")
    assert 1950 < hop["phases"]["dnsMillis"] < 2900
    asked_by_glibc = [*asked(f"{CLUSTER_SET_NAME}.{SEARCH[0]}", "silent"), *asked(CLUSTER_SET_NAME, "silent")]
    assert lab.queries()[:4] == asked_by_glibc  # what follows, if anything, is the diagnosis


def test_a_slow_resolver_ends_with_the_call(lab: Lab, impatient: Service) -> None:
    with lab.zone(SILENT), lab.resolver("ndots:5 timeout:2 attempts:1"):
        hop = lab.call(FRESH, impatient)
    assert told(hop) == ("dns_unavailable", 502, "caller")
    assert "timed out in phase dns" in hop["error"]
    assert 1950 < hop["roundTripTimeMillis"] < 2900


def test_lookups_that_hang_do_not_hold_up_the_lookup_of_another_name(lab: Lab, new_caller: Service) -> None:
    with lab.zone(SILENT):
        hanging = [lab.calling(FRESH, new_caller) for _ in range(40)]
        time.sleep(0.5)
        hop = lab.call({**FRESH, "target": CLUSTER_URL}, new_caller)
        assert Counter(call.result()["outcome"] for call in hanging) == {"dns_unavailable": 40}
    assert told(hop) == ("ok", 200, "producer")
    assert hop["phases"]["dnsMillis"] < 1000


def test_a_lookup_that_hangs_does_not_hold_up_the_end_of_the_caller(lab: Lab) -> None:
    slow = lab.resolver("ndots:5 timeout:10 attempts:1")
    with lab.zone(SILENT), slow, lab.caller(CALL_TIMEOUT_SECONDS="0.5") as caller:
        assert lab.call(FRESH, caller)["outcome"] == "dns_unavailable"
        told_to_stop = time.monotonic()
        assert caller.stop() == 0
        assert time.monotonic() - told_to_stop < 8


def test_an_export_that_appears_later_is_found_at_the_next_call(lab: Lab, new_caller: Service) -> None:
    with lab.zone({CLUSTER_SET_NAME: "nxdomain"}):
        assert [lab.call(message, new_caller)["outcome"] for message in (FRESH, REUSE)] == ["dns_nxdomain"] * 2
    assert [lab.call(message, new_caller)["outcome"] for message in (FRESH, REUSE)] == ["ok"] * 2


@pytest.mark.parametrize(
    ("options", "candidates"),
    [
        pytest.param(NDOTS_5, [f"{CLUSTER_SET_NAME}.{suffix}" for suffix in SEARCH], id="ndots:5"),
        pytest.param(NDOTS_2, [], id="ndots:2"),
    ],
)
def test_with_ndots_2_a_call_asks_dns_2_questions_and_not_14(lab: Lab, options: str, candidates: list[str]) -> None:
    with lab.resolver(options):
        lab.forget_queries()
        lab.call(FRESH)
        assert lab.queries() == [
            *(query for name in candidates for query in asked(name, "NXDOMAIN")),
            Query(CLUSTER_SET_NAME, "A", "NOERROR"),
            Query(CLUSTER_SET_NAME, "AAAA", "NOERROR"),
        ]
        with lab.without_ipv6():
            lab.forget_queries()
            lab.call(FRESH)
        assert lab.queries() == [
            *(Query(name, "A", "NXDOMAIN") for name in candidates),
            Query(CLUSTER_SET_NAME, "A", "NOERROR"),
        ]


def asked(name: str, answer: str) -> list[Query]:
    return [Query(name, kind, answer) for kind in ("A", "AAAA")]


# Pods that go away


def test_a_producer_that_is_killed_before_it_answers_closed_the_connection(lab: Lab) -> None:
    with lab.producer(NEW_POD) as producer, lab.endpoints(NEW_POD):
        call = lab.calling({**FRESH, "delay": 2000})
        time.sleep(0.5)
        producer.stop(signal.SIGKILL)
        hop = call.result()
    assert told(hop) == ("closed", 502, "caller")
    assert taken(hop) == ["dnsMillis", "connectMillis", "sendMillis", "waitMillis"]
    assert hop["phases"]["waitMillis"] < 1900
    assert hop["connection"]["peerAddress"] == f"{CLUSTER_SET_IP}:8080"
    assert hop["connection"]["localAddress"].startswith(f"{CALLER_POD}:")
    assert hop["connection"]["reused"] is False
    assert hop["addresses"] == [CLUSTER_SET_IP]


def test_a_producer_that_is_killed_before_it_read_the_request_reset_the_connection(lab: Lab) -> None:
    with lab.producer(NEW_POD) as producer, lab.endpoints(NEW_POD):
        producer.process.send_signal(signal.SIGSTOP)
        call = lab.calling(FRESH)
        time.sleep(0.5)
        producer.stop(signal.SIGKILL)
        hop = call.result()
    assert told(hop) == ("reset", 502, "caller")
    assert "ECONNRESET" in hop["error"]
    assert taken(hop) == ["dnsMillis", "connectMillis", "sendMillis", "waitMillis"]
    assert hop["connection"]["peerAddress"] == f"{CLUSTER_SET_IP}:8080"


def test_a_firewall_that_resets_an_open_connection_is_a_reset_and_the_next_call_opens_another(lab: Lab) -> None:
    pod_of(lab.call(REUSE))
    with lab.firewall("REJECT --reject-with tcp-reset"):
        hop = lab.call(REUSE)
    assert told(hop) == ("reset", 502, "caller")
    assert hop["connection"]["reused"] is True
    assert hop["connection"]["peerAddress"] == f"{CLUSTER_SET_IP}:8080"
    after = lab.call(REUSE)
    assert told(after) == ("ok", 200, "producer")
    assert after["connection"]["reused"] is False


def test_the_call_after_the_death_of_an_idle_pod_goes_to_another(lab: Lab, new_caller: Service) -> None:
    with lab.producer(NEW_POD) as producer:
        with lab.endpoints(NEW_POD):
            assert pod_of(lab.call(REUSE, new_caller)) == NEW_POD
        producer.stop(signal.SIGKILL)
        hop = lab.call(REUSE, new_caller)
    assert pod_of(hop) in PRODUCER_PODS
    assert hop["connection"]["reused"] is False


def test_failed_calls_leave_nothing_open(lab: Lab) -> None:
    descriptors = Path(f"/proc/{lab.main_caller.process.pid}/fd")
    lab.call(FRESH)
    before = len(list(descriptors.iterdir()))
    with lab.zone({CLUSTER_SET_NAME: "nxdomain"}):
        failed = [lab.call(FRESH)["outcome"] for _ in range(10)]
    with lab.endpoints():
        failed += [lab.call(FRESH)["outcome"] for _ in range(10)]
    with lab.firewall("DROP"):
        calls = [lab.calling(FRESH) for _ in range(10)]
        failed += [call.result()["outcome"] for call in calls]
    assert Counter(failed) == {"dns_nxdomain": 10, "refused": 10, "connect_timeout": 10}
    time.sleep(0.2)
    assert len(list(descriptors.iterdir())) <= before
