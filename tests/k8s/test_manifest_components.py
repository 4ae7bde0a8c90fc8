"""The optional components: each builds, they go together, and what they name exists and outlasts a call and a run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from caller.settings import Settings as CallerSettings
from common.server import KEEP_ALIVE_SECONDS
from lab.processes import ROOT
from tests.support.manifests import (
    COMPONENTS,
    K8S,
    PLACES,
    Manifest,
    components_of,
    config_of,
    container_of,
    manifests_of,
    named,
    of_kind,
    only,
    pod_of,
    probes_of,
    template_labels,
    validate,
    with_components,
)

EITHER_OR = [{"gke-ingress", "gateway", "istio-gateway"}, {"mcs-export", "mcs-api"}]
"""Components that do the same by other means."""
FRONT = {"gke-ingress": "tests/gke-ingress", "gateway": "tests/gateway", "istio-gateway": "tests/istio-gateway"}
"""Ways to the page, each with an overlay that has it."""
LONGEST_CALL = CallerSettings.model_fields["call_timeout_seconds"].default
LONGEST_RUN = CallerSettings.model_fields["run_max_seconds"].default
LONGEST_DELAY = CallerSettings.model_fields["max_delay_millis"].default / 1000


def caller_of(manifests: list[Manifest]) -> Manifest:
    return named(manifests, "Deployment", "sample-caller-v1")


def test_the_components_are_those_of_the_design() -> None:
    assert COMPONENTS == [
        "autoscaling/caller",
        "autoscaling/producer",
        "diagnose",
        "gateway",
        "gke-ingress",
        "istio-gateway",
        "mcs-api",
        "mcs-export",
        "pod-monitoring",
        "run-job",
        "service-monitor",
        "tracing",
    ]


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_can_be_added_to_the_bases(component: str, tmp_path: Path) -> None:
    bare = {(one["kind"], one["metadata"]["name"]): one for one in with_components(tmp_path, [])}
    alone = tmp_path / "alone"
    alone.mkdir()
    manifests = with_components(alone, [component])
    for manifest in manifests:
        validate(manifest)
    assert [one for one in manifests if bare.get((one["kind"], one["metadata"]["name"])) != one], "it changes nothing"


def test_every_component_is_used_by_an_overlay_under_test_and_none_beside_its_like() -> None:
    assert {component for place in PLACES if place.startswith("tests/") for component in components_of(place)} == set(
        COMPONENTS
    )
    for place in PLACES:
        for choice in EITHER_OR:
            assert len(choice & set(components_of(place))) <= 1, place


@pytest.mark.parametrize("component", sorted({component.partition("/")[0] for component in COMPONENTS}))
def test_every_component_explains_itself_in_about_ten_lines(component: str) -> None:
    lines = (K8S / "components" / component / "README.md").read_text().splitlines()
    assert lines[0] == f"# {component}"
    assert 4 <= len(lines) <= 14
    assert max(len(line) for line in lines) <= 130


def test_every_schema_of_a_custom_resource_is_used() -> None:
    used = {
        f"{manifest['kind'].lower()}-{manifest['apiVersion'].replace('/', '-')}.json"
        for place in PLACES
        for manifest in manifests_of(place)
    }
    assert {path.name for path in (ROOT / "tests/schemas").glob("*.json")} - {"metadata.json"} <= used


# The path to the page


@pytest.mark.parametrize("component", FRONT)
def test_the_way_to_the_page_outlasts_every_call_and_every_run(component: str) -> None:
    """A run's events come twice a second, and nothing between may end the stream or hold it back."""
    manifests = manifests_of(FRONT[component])
    if component == "gke-ingress":
        timeout = only(manifests, "BackendConfig")["spec"]["timeoutSec"]
    elif component == "gateway":
        timeout = only(manifests, "GCPBackendPolicy")["spec"]["default"]["timeoutSec"]
    else:
        (route,) = only(manifests, "VirtualService")["spec"]["http"]
        timeout = int(re.fullmatch(r"(\d+)s", route["timeout"])[1])  # type: ignore[index]
        assert route["retries"] == {"attempts": 0}, "a retry would hide a failure"
    assert timeout > LONGEST_RUN + LONGEST_CALL
    assert timeout > LONGEST_DELAY


@pytest.mark.parametrize("component", ["gke-ingress", "gateway"])
def test_the_load_balancer_drains_as_long_as_the_pod_lives(component: str) -> None:
    manifests = manifests_of(FRONT[component])
    if component == "gke-ingress":
        draining = only(manifests, "BackendConfig")["spec"]["connectionDraining"]
    else:
        draining = only(manifests, "GCPBackendPolicy")["spec"]["default"]["connectionDraining"]
    config = config_of(manifests, caller_of(manifests))
    assert draining["drainingTimeoutSec"] >= float(config["DRAIN_SECONDS"]) + float(config["SHUTDOWN_SECONDS"])
    assert draining["drainingTimeoutSec"] <= pod_of(caller_of(manifests))["terminationGracePeriodSeconds"]


def test_an_idle_connection_is_closed_by_the_load_balancer_and_not_by_the_pod() -> None:
    """Google's keep theirs for 600 s; a request that meets a pod's close is answered 502."""
    assert KEEP_ALIVE_SECONDS > 600


@pytest.mark.parametrize("component", ["gke-ingress", "gateway"])
def test_the_health_check_is_the_readiness_probe_and_notices_within_the_drain(component: str) -> None:
    manifests = manifests_of(FRONT[component])
    if component == "gke-ingress":
        check = http = only(manifests, "BackendConfig")["spec"]["healthCheck"]
    else:
        check = only(manifests, "HealthCheckPolicy")["spec"]["default"]
        http = check["config"]["httpHealthCheck"]
    assert http["requestPath"] == probes_of(caller_of(manifests))["readinessProbe"]["httpGet"]["path"]
    assert http["port"] == container_of(caller_of(manifests))["ports"][0]["containerPort"]
    assert check["timeoutSec"] <= check["checkIntervalSec"]
    noticed = check["checkIntervalSec"] * check["unhealthyThreshold"] + check["timeoutSec"]
    assert noticed < float(config_of(manifests, caller_of(manifests))["DRAIN_SECONDS"])


def test_the_gateway_leads_to_the_callers_service() -> None:
    manifests = manifests_of("tests/gateway")
    gateway, route = only(manifests, "Gateway"), only(manifests, "HTTPRoute")
    (parent,) = route["spec"]["parentRefs"]
    (listener,) = gateway["spec"]["listeners"]
    assert (parent["name"], parent["sectionName"]) == (gateway["metadata"]["name"], listener["name"])
    ((backend,),) = [rule["backendRefs"] for rule in route["spec"]["rules"]]
    service = named(manifests, "Service", backend["name"])
    assert backend["port"] in [port["port"] for port in service["spec"]["ports"]]
    for kind in ("HealthCheckPolicy", "GCPBackendPolicy"):
        target = only(manifests, kind)["spec"]["targetRef"]
        assert target == {"group": "", "kind": "Service", "name": backend["name"]}


def test_the_istio_gateway_leads_to_the_callers_service() -> None:
    manifests = manifests_of("tests/istio-gateway")
    gateway, virtual = only(manifests, "Gateway"), only(manifests, "VirtualService")
    assert virtual["spec"]["gateways"] == [gateway["metadata"]["name"]]
    assert virtual["spec"]["hosts"] == gateway["spec"]["servers"][0]["hosts"]
    destination = virtual["spec"]["http"][0]["route"][0]["destination"]
    service = named(manifests, "Service", destination["host"])
    assert destination["port"]["number"] in [port["port"] for port in service["spec"]["ports"]]


# Scaling and metrics


@pytest.mark.parametrize("service", ["caller", "producer"])
def test_the_autoscaler_scales_a_deployment_that_leaves_the_number_to_it(service: str, tmp_path: Path) -> None:
    manifests = with_components(tmp_path, [f"autoscaling/{service}"])
    scaler = only(manifests, "HorizontalPodAutoscaler")["spec"]
    deployment = named(manifests, scaler["scaleTargetRef"]["kind"], scaler["scaleTargetRef"]["name"])
    assert scaler["scaleTargetRef"]["apiVersion"] == deployment["apiVersion"]
    assert container_of(deployment)["name"] == f"sample-{service}"
    assert "replicas" not in deployment["spec"]
    assert scaler["maxReplicas"] > scaler["minReplicas"] >= 2
    assert sum("replicas" in other["spec"] for other in of_kind(manifests, "Deployment")) == 1


def test_every_pod_that_serves_is_scraped_by_google_and_no_other() -> None:
    manifests = manifests_of("tests/gateway")
    monitoring = only(manifests, "PodMonitoring")["spec"]
    selected = monitoring["selector"]["matchLabels"]
    (endpoint,) = monitoring["endpoints"]
    for workload in (*of_kind(manifests, "Deployment"), *of_kind(manifests, "Job")):
        serves = workload["kind"] == "Deployment"
        assert (selected.items() <= template_labels(workload).items()) is serves, workload["metadata"]["name"]
        if serves:
            assert endpoint["port"] in [port["name"] for port in container_of(workload)["ports"]]
            assert {label["from"] for label in monitoring["targetLabels"]["fromPod"]} <= template_labels(
                workload
            ).keys()
    assert endpoint["path"] == "/metrics"


def test_every_service_is_scraped_by_the_operator() -> None:
    manifests = manifests_of("tests/istio-gateway")
    monitor = only(manifests, "ServiceMonitor")["spec"]
    (endpoint,) = monitor["endpoints"]
    for service in of_kind(manifests, "Service"):
        labels = service["metadata"]["labels"]
        assert monitor["selector"]["matchLabels"].items() <= labels.items()
        assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
        assert {monitor["jobLabel"], *monitor["targetLabels"]} <= labels.keys()
    assert endpoint["path"] == "/metrics"


# Rights


def test_diagnose_binds_a_role_of_the_namespace_to_the_callers_account_and_nothing_wider() -> None:
    manifests = manifests_of("tests/gateway")
    binding, role = only(manifests, "RoleBinding"), only(manifests, "Role")
    assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == ("Role", role["metadata"]["name"])
    account = pod_of(caller_of(manifests))["serviceAccountName"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "istio-apps"}]
    assert {verb for rule in role["rules"] for verb in rule["verbs"]} == {"get", "list"}
    assert not any("*" in values for rule in role["rules"] for values in rule.values())
    for place in PLACES:
        assert not [one for one in manifests_of(place) if one["kind"].startswith("Cluster")], place
        assert bool(of_kind(manifests_of(place), "Role")) is ("diagnose" in components_of(place)), place


# The ingress and the Job


def test_the_ingress_leads_to_the_caller_and_names_its_class_by_annotation() -> None:
    manifests = manifests_of("caller-cluster")
    ingress, service = only(manifests, "Ingress"), only(manifests, "Service")
    assert ingress["metadata"]["annotations"]["kubernetes.io/ingress.class"] == "gce"
    assert "ingressClassName" not in ingress["spec"]
    backend = ingress["spec"]["defaultBackend"]["service"]
    assert backend["name"] == service["metadata"]["name"] == "sample-caller"
    assert backend["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}


def test_the_ingress_uses_the_backend_config_and_container_native_endpoints() -> None:
    manifests = manifests_of("caller-cluster")
    annotations = only(manifests, "Service")["metadata"]["annotations"]
    config = only(manifests, "BackendConfig")["metadata"]["name"]
    assert json.loads(annotations["cloud.google.com/backend-config"]) == {"default": config}
    assert json.loads(annotations["cloud.google.com/neg"]) == {"ingress": True}


def test_the_run_job_is_restricted_like_the_caller_and_no_service_takes_its_pods_for_endpoints(tmp_path: Path) -> None:
    manifests = with_components(tmp_path, ["run-job"])
    job = only(manifests, "Job")
    caller = next(
        found for found in of_kind(manifests, "Deployment") if found["metadata"]["name"] == "sample-caller-v1"
    )
    for key in ("securityContext", "automountServiceAccountToken", "enableServiceLinks", "dnsConfig"):
        assert pod_of(job)[key] == pod_of(caller)[key]
    assert container_of(job)["securityContext"] == container_of(caller)["securityContext"]
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["parallelism"] == job["spec"]["completions"] > 1
    for service in of_kind(manifests, "Service"):
        assert not service["spec"]["selector"].items() <= template_labels(job).items()


def test_the_run_job_gives_arguments_that_the_command_line_takes(tmp_path: Path) -> None:
    arguments = container_of(only(with_components(tmp_path, ["run-job"]), "Job"))["args"]
    shorter = [value if value != "60s" else "100ms" for value in arguments]
    environment = {"PATH": os.environ["PATH"], "GCE_METADATA_HOST": "none", "PRODUCER_URL": "http://127.0.0.1:1"}
    command = [sys.executable, "-m", "caller", *shorter]
    ended = subprocess.run(command, env=environment, cwd=K8S.parent, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 0, ended.stderr
    assert '"type":"done"' in ended.stdout.splitlines()[-1]
