"""The story of one export, from before it to after its end, seen by the caller: API, exit codes and metrics.

The numbers are those of the conformance tests of Multi-Cluster Services (kubernetes-sigs/mcs-api, `conformance/`) that
a caller can observe.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from caller.explain.dns import GOOD_SECONDS
from lab.cluster import Cluster
from lab.lab import (
    CLUSTER_NAME,
    CLUSTER_SET_IP,
    CLUSTER_SET_URL,
    CLUSTER_URL,
    HEADLESS_NAME,
    LOCAL_PRODUCER_POD,
    PRODUCER_PODS,
    THIRD_PODS,
    Lab,
    pod_name,
)

FRESH = {"payload": "ping", "connection": "fresh"}
NO_LOCAL_SERVICE = {CLUSTER_NAME: "nxdomain"}
T = TypeVar("T")
PRODUCER, THIRD = "producer-cluster", "third-cluster"


@pytest.fixture(scope="module", autouse=True)
def _before_the_export(lab: Lab) -> Iterator[None]:
    """The Service exists in all three clusters, and none exports it."""
    with lab.exported(), lab.scaled(lab.third_cluster, 1):
        yield


def json_of(
    lab: Lab, *arguments: str, cluster: Cluster | None = None, status: int = 0, url: str = CLUSTER_SET_URL
) -> Any:
    """The JSON that the command prints; it must end with this status."""
    done = lab.cli(*arguments, "--json", cluster=cluster, PRODUCER_URL=url)
    assert done.returncode == status, (done.stdout, done.stderr)
    return json.loads(done.stdout.splitlines()[-1] if arguments[0] == "run" else done.stdout)


def many(lab: Lab, count: int, *arguments: str, cluster: Cluster | None = None, status: int = 0) -> dict[str, Any]:
    """The summary of calls over fresh connections."""
    done = json_of(lab, "run", "--rate", "50", "--count", str(count), *arguments, cluster=cluster, status=status)
    summary: dict[str, Any] = done["summary"]
    return summary


def everywhere(lab: Lab, call: Callable[[Cluster], T]) -> list[T]:
    """The results in every cluster, concurrently."""
    with ThreadPoolExecutor(len(lab.clusters)) as threads:
        return list(threads.map(call, lab.clusters))


# Before the export


def test_before_the_export_the_causes_are_export_namespace_wait(lab: Lab) -> None:
    counted = lab.hops_counted(outcome="dns_nxdomain", peer_cluster="unknown")
    with lab.zone(NO_LOCAL_SERVICE):
        time.sleep(GOOD_SECONDS)
        hop = lab.call(FRESH)
    assert (hop["outcome"], hop["statusCode"], hop["crossing"]["cluster"]) == ("dns_nxdomain", 502, None)
    causes = [cause["cause"] for cause in hop["diagnosis"]["causes"]]
    assert "no ServiceExport" in causes[0]
    assert "The namespace istio-apps does not exist in the caller's cluster" in causes[1]
    assert "younger than five minutes" in causes[2]
    assert "wait" in hop["diagnosis"]["causes"][2]["fix"]
    assert lab.hops_counted(outcome="dns_nxdomain", peer_cluster="unknown") == counted + 1


def test_before_the_export_the_command_line_fails_unless_that_is_expected(lab: Lab) -> None:
    for command in ("call", "check"):
        assert lab.cli(command).returncode == 1
        assert lab.cli(command, "--expect-outcome", "dns_nxdomain").returncode == 0


def test_7_a_service_that_is_not_exported_answers_in_no_cluster(lab: Lab) -> None:
    for summary in everywhere(lab, lambda cluster: many(lab, 20, "--max-failures", "0", cluster=cluster, status=1)):
        assert (summary["outcomes"], summary["distribution"]["clusters"]) == ({"dns_nxdomain": 20}, {})


# The export, then its endpoints


def test_an_export_without_a_ready_pod_resolves_and_refuses(lab: Lab) -> None:
    with lab.exported(lab.producer_cluster), lab.scaled(lab.producer_cluster, 0):
        hop = lab.call(FRESH)
        assert (hop["outcome"], hop["addresses"]) == ("refused", [CLUSTER_SET_IP])
        assert hop["phases"]["connectMillis"] < 1000, "it does not wait for the timeout"
        assert "no ready pod" in hop["diagnosis"]["causes"][0]["cause"]
        assert lab.cli("check").returncode == 1
        assert lab.cli("check", "--expect-outcome", "refused").returncode == 0


def test_1_and_8_an_exported_service_has_one_address_and_answers_in_every_cluster(lab: Lab) -> None:
    with lab.exported(lab.producer_cluster):
        hops = everywhere(lab, lambda cluster: json_of(lab, "call", "--expect-cluster", PRODUCER, cluster=cluster))
    assert [(hop["outcome"], hop["addresses"]) for hop in hops] == [("ok", [CLUSTER_SET_IP])] * 3
    assert [hop["crossing"]["cluster"] for hop in hops] == [True, False, True]


def test_3_a_cluster_local_name_is_the_service_of_its_own_cluster(lab: Lab) -> None:
    with lab.exported(lab.producer_cluster):
        hops = everywhere(lab, lambda cluster: json_of(lab, "call", "--target", CLUSTER_URL, cluster=cluster))
    for cluster, hop in zip(lab.clusters, hops, strict=True):
        assert hop["producerMetadata"]["clusterName"] == cluster.name
        assert (hop["addresses"], hop["crossing"]["cluster"]) == ([cluster.cluster_ip], False)


def test_with_endpoints_the_call_crosses_clusters_in_api_metrics_and_cli(lab: Lab) -> None:
    labels = {"target": CLUSTER_SET_URL, "outcome": "ok", "peer_cluster": PRODUCER, "crossing": "region"}
    counted = lab.hops_counted(**labels)
    with lab.exported(lab.producer_cluster):
        hop = lab.call(FRESH)
        assert lab.cli("check", "--expect-cluster", PRODUCER).returncode == 0
        assert "cross-cluster: yes" in lab.cli("call").stdout
    assert (hop["outcome"], hop["answeredBy"]["who"], hop["diagnosis"]) == ("ok", "producer", None)
    assert hop["crossing"] == {"cluster": True, "zone": True, "region": True}
    assert (hop["callerMetadata"]["clusterName"], hop["producerMetadata"]["clusterName"]) == (
        "caller-cluster",
        PRODUCER,
    )
    assert lab.hops_counted(**labels) == counted + 1


def test_9_only_the_exporter_answers_for_a_service_that_two_clusters_have(lab: Lab) -> None:
    with lab.exported(lab.producer_cluster):
        summaries = everywhere(lab, lambda cluster: many(lab, 10, "--expect-cluster", PRODUCER, cluster=cluster))
    for summary in summaries:
        assert (summary["distribution"]["clusters"], summary["failures"]) == ({PRODUCER: 10}, 0)


# A second exporter


def test_two_exporters_share_the_calls(lab: Lab) -> None:
    with lab.exported(lab.producer_cluster, lab.third_cluster):
        assert lab.cli("check").returncode == 0
        pods = {**dict.fromkeys(PRODUCER_PODS, 10), THIRD_PODS[0]: 10}
        summary = lab.running(50, 30).result()
        assert summary["distribution"]["clusters"] == {PRODUCER: 20, THIRD: 10}
        assert summary["distribution"]["pods"] == {pod_name(pod): calls for pod, calls in pods.items()}
        assert summary["balance"]["verdict"] == "even"
        many(lab, 12, "--max-failures", "0", "--expect-cluster", f"{PRODUCER},{THIRD}")


def test_while_one_exporter_is_scaled_to_zero_the_other_answers_and_no_call_is_lost(lab: Lab) -> None:
    with lab.exported(lab.producer_cluster, lab.third_cluster):
        running = lab.running(20, 80)
        time.sleep(1)
        with lab.scaled(lab.producer_cluster, 0):
            assert many(lab, 12)["distribution"]["clusters"] == {THIRD: 12}
            summary = running.result()
    assert (summary["outcomes"], summary["outages"]) == ({"ok": 80}, [])
    assert set(summary["distribution"]["clusters"]) == {PRODUCER, THIRD}


def test_12_the_name_exists_as_long_as_one_export(lab: Lab) -> None:
    with lab.exported(lab.producer_cluster, lab.third_cluster):
        assert {cluster_of(lab) for _ in range(3)} == {PRODUCER, THIRD}
        lab.unexport(lab.producer_cluster)
        assert {cluster_of(lab) for _ in range(3)} == {THIRD}
        lab.unexport(lab.third_cluster)
        hop = lab.call(FRESH)
        assert (hop["outcome"], hop["addresses"]) == ("dns_nxdomain", [])
        lab.export(lab.third_cluster)
        assert cluster_of(lab) == THIRD


def cluster_of(lab: Lab) -> str:
    return str(lab.call(FRESH)["producerMetadata"]["clusterName"])


# The end of the export


def test_22_the_outage_of_a_run_is_the_time_without_the_name(lab: Lab) -> None:
    with lab.exported(lab.producer_cluster):
        started = time.monotonic()
        running = lab.running(20, 160)
        time.sleep(2)
        unexporting = time.monotonic()
        lab.unexport(lab.producer_cluster)
        unexported = time.monotonic()
        time.sleep(2)
        exporting = time.monotonic()
        lab.export(lab.producer_cluster)
        exported = time.monotonic()
        summary = running.result()
    assert set(summary["outcomes"]) - {"refused"} == {"ok", "dns_nxdomain"}  # refused: resolved before, connected after
    outage = max(summary["outages"], key=lambda outage: outage["millis"])
    assert outage["outcomes"]["dns_nxdomain"] >= outage["callsLost"] - 2
    assert outage["before"]["cluster"] == outage["after"]["cluster"] == PRODUCER
    doubt = 0.3 + summary["schedulingDelay"]["maxMillis"] / 1000  # six intervals between calls
    assert exporting - unexported - doubt < outage["millis"] / 1000 < exported - unexporting + doubt
    assert 0 < outage["atSeconds"] < unexported - started + doubt


# Other kinds of Service


def test_4_and_5_the_names_of_a_headless_service_are_its_pods(lab: Lab) -> None:
    pods = {PRODUCER_PODS[0]: PRODUCER, PRODUCER_PODS[1]: PRODUCER, THIRD_PODS[0]: THIRD}
    with lab.exported(lab.producer_cluster, lab.third_cluster):
        hop = json_of(lab, "call", url=f"http://{HEADLESS_NAME}:8080")
        assert sorted(hop["addresses"]) == sorted(pods)
        for pod, cluster in pods.items():
            hop = json_of(lab, "call", url=f"http://{pod_name(pod)}.{cluster}.{HEADLESS_NAME}:8080")
            assert hop["addresses"] == [pod]
            assert named(hop["producerMetadata"]) == (pod_name(pod), cluster)


def named(metadata: Mapping[str, Any]) -> tuple[str, str]:
    return metadata["podName"], metadata["clusterName"]


def test_15_with_session_affinity_all_connections_of_a_client_reach_one_pod(lab: Lab) -> None:
    with lab.exported(lab.producer_cluster, lab.third_cluster):
        for affinity, pods in ((True, 1), (False, 3)):
            with lab.endpoints(*PRODUCER_PODS, THIRD_PODS[0], affinity=affinity):
                summary = many(lab, 12)
                assert (summary["outcomes"], len(summary["distribution"]["pods"])) == ({"ok": 12}, pods)


def test_the_local_service_answers_throughout(lab: Lab) -> None:
    answers = Counter(lab.call({**FRESH, "target": CLUSTER_URL})["producerMetadata"]["ipAddress"] for _ in range(3))
    assert answers == {LOCAL_PRODUCER_POD: 3}
