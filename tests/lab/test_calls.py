"""Calls across clusters: connections and their phases, DNS lookups and their queries, pods that end."""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
TWO_TIMEOUTS = (1950, 4900)
"""ms. Of the lab's resolv.conf, 1 s each, on a machine that may be busy; by default one takes 5 s."""
PHASES = ("dnsMillis", "connectMillis", "tlsMillis", "sendMillis", "waitMillis", "bodyMillis")
NEW_POD = "10.8.2.13"
SILENT = dict.fromkeys((CLUSTER_SET_NAME, *(f"{CLUSTER_SET_NAME}.{suffix}" for suffix in SEARCH)), "silent")
"""No answer to any query of a call by the clusterset name."""


@pytest.fixture(autouse=True)
def _restored(lab: Lab) -> Iterator[None]:
    """After each test everything works again."""
    yield
    answered = {lab.call(FRESH)["producerMetadata"]["ipAddress"] for _ in PRODUCER_PODS}
    assert answered == set(PRODUCER_PODS)


def result_of(hop: dict[str, Any]) -> tuple[str, int, str]:
    return hop["outcome"], hop["statusCode"], hop["answeredBy"]["who"]


def phases_of(hop: dict[str, Any]) -> list[str]:
    """The phases of the call; they add up to the round trip."""
    times = {name: hop["phases"][name] for name in PHASES if hop["phases"][name] is not None}
    assert sum(times.values()) == pytest.approx(hop["roundTripTimeMillis"], abs=0.01)
    return list(times)


def pod_of(hop: dict[str, Any]) -> str:
    assert hop["outcome"] == "ok", hop["error"]
    return str(hop["producerMetadata"]["ipAddress"])


# Successful calls


def test_the_clusterset_name_is_answered_by_the_other_cluster(lab: Lab) -> None:
    hop = lab.call(FRESH)
    assert result_of(hop) == ("ok", 200, "producer")
    assert hop["target"] == CLUSTER_SET_URL
    assert hop["received"] == "ping"
    assert hop["crossing"] == {"cluster": True, "zone": True, "region": True}
    assert hop["addresses"] == [CLUSTER_SET_IP]
    assert phases_of(hop) == ["dnsMillis", "connectMillis", "sendMillis", "waitMillis", "bodyMillis"]
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
    assert result_of(hop) == ("ok", 200, "producer")
    assert pod_of(hop) == LOCAL_PRODUCER_POD
    assert hop["crossing"] == {"cluster": False, "zone": False, "region": False}
    assert hop["addresses"] == [CLUSTER_IP]
    assert hop["connection"]["peerAddress"] == f"{CLUSTER_IP}:8080"


def test_fresh_connections_are_distributed_over_the_pods(lab: Lab) -> None:
    hops = [lab.call(FRESH) for _ in range(6)]
    assert Counter(pod_of(hop) for hop in hops) == dict.fromkeys(PRODUCER_PODS, 3)
    assert {hop["connection"]["peerAddress"] for hop in hops} == {f"{CLUSTER_SET_IP}:8080"}


def test_a_reused_connection_stays_on_one_pod_and_needs_no_dns(lab: Lab) -> None:
    first = lab.call(REUSE)
    lab.forget_queries()
    hops = [lab.call(REUSE) for _ in range(6)]
    assert {pod_of(hop) for hop in hops} == {pod_of(first)}
    assert {hop["connection"]["reused"] for hop in hops} == {True}
    assert {hop["connection"]["localAddress"] for hop in hops} == {first["connection"]["localAddress"]}
    assert all(phases_of(hop) == ["sendMillis", "waitMillis", "bodyMillis"] for hop in hops)
    assert [hop["addresses"] for hop in hops] == [[]] * 6
    assert lab.queries() == []


@pytest.mark.parametrize("millis", [150, 400])
def test_latency_of_the_link_is_in_connect_and_network_only(lab: Lab, millis: int) -> None:
    """Each of the two has one round trip. The smallest of five, because the machine may be busy."""
    with lab.latency(millis):
        far = [lab.call(FRESH)["phases"] for _ in range(5)]
        near = [lab.call({**FRESH, "target": CLUSTER_URL})["phases"] for _ in range(5)]
    for phase in ("connectMillis", "networkMillis"):
        assert millis <= min(phases[phase] for phases in far) < 2 * millis
        assert min(phases[phase] for phases in near) < millis
    for phase in ("dnsMillis", "producerWorkMillis"):
        assert min(phases[phase] for phases in far) < millis


# Lookups


def test_a_dns_server_that_answers_no_query_costs_two_timeouts(lab: Lab) -> None:
    """glibc ends the search list at the first timeout, but still queries the name itself."""
    with lab.zone(SILENT):
        lab.forget_queries()
        hop = lab.call(FRESH)
    assert result_of(hop) == ("dns_unavailable", 502, "none")
    assert TWO_TIMEOUTS[0] < hop["phases"]["dnsMillis"] < TWO_TIMEOUTS[1]
    by_glibc = [*queries_for(f"{CLUSTER_SET_NAME}.{SEARCH[0]}", "silent"), *queries_for(CLUSTER_SET_NAME, "silent")]
    assert lab.queries()[:4] == by_glibc  # the queries of the DNS report may follow


def test_a_slow_lookup_ends_with_the_timeout_of_the_call(lab: Lab, caller_with_short_timeout: Service) -> None:
    with lab.zone(SILENT), lab.resolver("ndots:5 timeout:5 attempts:1"):
        hop = lab.call(FRESH, caller_with_short_timeout)
    assert result_of(hop) == ("dns_unavailable", 502, "none")
    assert "no DNS answer within" in hop["error"]
    assert 1950 < hop["roundTripTimeMillis"] < 8000, "the lookup takes 10 s"


def test_hanging_lookups_do_not_delay_the_lookup_of_another_name(lab: Lab, new_caller: Service) -> None:
    with lab.zone(SILENT), lab.resolver("ndots:5 timeout:4 attempts:1"):
        hanging = [lab.calling(FRESH, new_caller) for _ in range(40)]
        time.sleep(0.5)
        hop = lab.call({**FRESH, "target": CLUSTER_URL}, new_caller)
        assert not any(call.done() for call in hanging)
        assert Counter(call.result()["outcome"] for call in hanging) == {"dns_unavailable": 40}
    assert result_of(hop) == ("ok", 200, "producer")


def test_a_hanging_lookup_does_not_delay_the_end_of_the_caller(lab: Lab) -> None:
    slow = lab.resolver("ndots:5 timeout:10 attempts:1")
    with lab.zone(SILENT), slow, lab.caller(CALL_TIMEOUT_SECONDS="0.5") as caller:
        assert lab.call(FRESH, caller)["outcome"] == "dns_unavailable"
        stopping = time.monotonic()
        assert caller.stop(timeout=60) == 0
        assert time.monotonic() - stopping < 12, "the lookup takes 20 s"


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
def test_with_ndots_2_a_call_needs_2_dns_queries_and_not_14(lab: Lab, options: str, candidates: list[str]) -> None:
    with lab.resolver(options):
        lab.forget_queries()
        lab.call(FRESH)
        assert lab.queries() == [
            *(query for name in candidates for query in queries_for(name, "NXDOMAIN")),
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


def queries_for(name: str, answer: str) -> list[Query]:
    return [Query(name, kind, answer) for kind in ("A", "AAAA")]


# Pods that end


def test_a_producer_that_is_killed_before_it_answers_closes_the_connection(lab: Lab) -> None:
    with lab.producer(NEW_POD) as producer, lab.endpoints(NEW_POD):
        call = lab.calling({**FRESH, "delay": 8000})
        wait_for_a_request(lab, producer)
        producer.stop(signal.SIGKILL)
        hop = call.result()
    assert result_of(hop) == ("closed", 502, "none")
    assert phases_of(hop) == ["dnsMillis", "connectMillis", "sendMillis", "waitMillis"]
    assert hop["phases"]["waitMillis"] < 7900
    assert hop["connection"]["peerAddress"] == f"{CLUSTER_SET_IP}:8080"
    assert hop["connection"]["localAddress"].startswith(f"{CALLER_POD}:")
    assert hop["connection"]["reused"] is False
    assert hop["addresses"] == [CLUSTER_SET_IP]


def wait_for_a_request(lab: Lab, producer: Service) -> None:
    """Wait until the producer has a request in flight."""
    deadline = time.monotonic() + 5
    url = f"{producer.url}/metrics"
    while "\nhttp_server_active_requests 1.0\n" not in lab.producer_cluster.inside(lab.http.get, url).text:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_producer_that_is_killed_before_it_reads_the_request_resets_the_connection(lab: Lab) -> None:
    with lab.producer(NEW_POD) as producer, lab.endpoints(NEW_POD):
        producer.process.send_signal(signal.SIGSTOP)
        call = lab.calling(FRESH)
        time.sleep(2)
        producer.stop(signal.SIGKILL)
        hop = call.result()
    assert result_of(hop) == ("reset", 502, "none")
    assert "ECONNRESET" in hop["error"]
    assert phases_of(hop) == ["dnsMillis", "connectMillis", "sendMillis", "waitMillis"]
    assert hop["connection"]["peerAddress"] == f"{CLUSTER_SET_IP}:8080"


def test_a_firewall_that_resets_an_open_connection_is_a_reset_and_the_next_call_opens_another(lab: Lab) -> None:
    pod_of(lab.call(REUSE))
    with lab.firewall("REJECT --reject-with tcp-reset"):
        hop = lab.call(REUSE)
    assert result_of(hop) == ("reset", 502, "none")
    assert hop["connection"]["reused"] is True
    assert hop["connection"]["peerAddress"] == f"{CLUSTER_SET_IP}:8080"
    after = lab.call(REUSE)
    assert result_of(after) == ("ok", 200, "producer")
    assert after["connection"]["reused"] is False


def test_the_call_after_the_end_of_an_idle_pod_reaches_another_pod(lab: Lab, new_caller: Service) -> None:
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
    deadline = time.monotonic() + 10
    while len(list(descriptors.iterdir())) > before:
        assert time.monotonic() < deadline
        time.sleep(0.05)


# The kernel's own timeouts


@contextmanager
def kernel(lab: Lab, parameter: str, value: str) -> Iterator[None]:
    """A different kernel parameter in the caller's cluster."""
    with ExitStack() as stack:
        try:
            stack.enter_context(lab.caller_cluster.kernel(f"net/ipv4/{parameter}", value))
        except OSError as error:
            pytest.skip(f"kernel parameters cannot be changed here: {error}")
        yield


@pytest.fixture
def caller_with_long_timeouts(lab: Lab) -> Iterator[Service]:
    """A caller whose timeouts are longer than those of the kernel in these tests."""
    with lab.caller(CONNECT_TIMEOUT_SECONDS="60", CALL_TIMEOUT_SECONDS="60") as caller:
        yield caller


def test_a_connection_that_the_kernel_gives_up_is_a_connect_timeout(
    lab: Lab, caller_with_long_timeouts: Service
) -> None:
    with kernel(lab, "tcp_syn_retries", "1"), lab.firewall("DROP"):
        hop = lab.call(FRESH, caller_with_long_timeouts)
    assert result_of(hop) == ("connect_timeout", 504, "none")
    assert "ETIMEDOUT" in hop["error"]
    assert phases_of(hop) == ["dnsMillis", "connectMillis"]


def test_a_request_that_is_never_acknowledged_is_a_read_timeout(lab: Lab, caller_with_long_timeouts: Service) -> None:
    with kernel(lab, "tcp_retries2", "1"):
        assert lab.call(REUSE, caller_with_long_timeouts)["outcome"] == "ok"
        with lab.firewall("DROP"):
            hop = lab.call(REUSE, caller_with_long_timeouts)
    assert result_of(hop) == ("read_timeout", 504, "none")
    assert "ETIMEDOUT" in hop["error"]
    assert hop["connection"]["reused"] is True
