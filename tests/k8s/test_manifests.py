"""The manifests, as `kubectl apply -k` sends them: their schemas, and the facts that a cross-cluster call rests on."""

import copy
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import kubernetes_validate
import pytest
import yaml
from starlette.types import ASGIApp

from caller.hop.wire import IDLE_SECONDS
from caller.settings import Settings as CallerSettings
from common import __version__
from common.settings import ServiceSettings
from producer.settings import Settings as ProducerSettings
from tests.support.manifests import (
    K8S,
    KUBERNETES_VERSIONS,
    OVERLAYS,
    PLACES,
    Manifest,
    components_of,
    config_of,
    container_of,
    deployments,
    manifests_of,
    named,
    of_kind,
    only,
    pod_of,
    probes_of,
    restricted_violations,
    template_labels,
    validate,
    workloads,
)
from tests.support.servers import caller_app, in_process, producer_app

SERVICES: dict[str, type[ServiceSettings]] = {"sample-caller": CallerSettings, "sample-producer": ProducerSettings}


@pytest.mark.parametrize("place", PLACES)
def test_every_object_of_an_overlay_fits_its_schema(place: str) -> None:
    for manifest in manifests_of(place):
        validate(manifest)


def test_the_versions_are_the_oldest_that_gke_serves_and_the_newest_that_is_known() -> None:
    assert KUBERNETES_VERSIONS[0] == "1.31"
    assert float(KUBERNETES_VERSIONS[-1].rpartition(".")[0]) >= 1.37


def changed(manifest: Manifest, path: str, value: Any) -> Manifest:
    """A copy in which one field, `a.b.0.c`, has this value."""
    whole = copy.deepcopy(manifest)
    *way, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    part: Any = whole
    for key in way:
        part = part[key]
    part[last] = value
    return whole


@pytest.mark.parametrize(
    ("place", "kind", "path", "value"),
    [
        ("caller-cluster", "Deployment", "spec.template.spec.terminationGracePeriod", 90),
        ("caller-cluster", "Deployment", "spec.replicas", "one"),
        ("caller-cluster", "PodDisruptionBudget", "spec.minAvailabel", 1),
        ("caller-cluster", "BackendConfig", "spec.timeout", 30),
        ("producer-cluster", "ServiceExport", "spec", {}),
        ("tests/gateway", "Gateway", "spec.listeners.0.protocol", "http"),
        ("tests/gateway", "HTTPRoute", "spec.rules.0.backendRefs.0.port", "http"),
        ("tests/gateway", "HealthCheckPolicy", "spec.default.config.type", "TCP"),
        ("tests/gateway", "GCPBackendPolicy", "spec.default.timeoutSec", "3600s"),
        ("tests/gateway", "PodMonitoring", "spec.endpoints.0.scrapeTimeout", "10s"),
        ("tests/gateway", "PodMonitoring", "spec.targetLabels.fromPod.0.to", "cluster"),
        ("tests/istio-gateway", "ServiceExport", "spec", {"name": "sample-producer"}),
        ("tests/istio-gateway", "Gateway", "spec.servers.0.port.number", "80"),
        ("tests/istio-gateway", "VirtualService", "spec.http.0.timeout", 3600),
        ("tests/istio-gateway", "ServiceMonitor", "spec.endpoints.0.timeout", "10s"),
        ("tests/istio-gateway", "Role", "rules.0.verb", "get"),
        ("tests/istio-gateway", "ConfigMap", "metadata.label", {}),
    ],
)
def test_the_validation_notices_what_an_api_server_would_refuse_or_drop(
    place: str, kind: str, path: str, value: Any
) -> None:
    manifest = of_kind(manifests_of(place), kind)[0]
    validate(manifest)
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        validate(changed(manifest, path, value))


def test_the_overlays_are_the_three_places() -> None:
    assert OVERLAYS == ["caller-cluster", "one-cluster", "producer-cluster"]
    assert {name: [d["metadata"]["name"] for d in of_kind(manifests_of(name), "Deployment")] for name in OVERLAYS} == {
        "caller-cluster": ["sample-caller-v1"],
        "producer-cluster": ["sample-producer-v1"],
        "one-cluster": ["sample-caller-v1", "sample-producer-v1"],
    }


def test_every_file_holds_one_document_of_two_spaces_indent() -> None:
    for path in (*K8S.rglob("*.yaml"), *K8S.parent.glob("tests/overlays/*/*.yaml")):
        text = path.read_text()
        assert len(list(yaml.safe_load_all(text))) == 1, path
        assert "\t" not in text, path


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_namespace_is_the_same_everywhere_and_enforces_restricted(name: str) -> None:
    manifests = manifests_of(name)
    namespace = only(manifests, "Namespace")
    assert namespace["metadata"]["name"] == "istio-apps"
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {m["metadata"]["namespace"] for m in manifests if m["kind"] != "Namespace"} == {"istio-apps"}


def test_pods_meet_pod_security_restricted() -> None:
    for place, _, workload in workloads():
        assert list(restricted_violations(pod_of(workload))) == [], f"{place} {workload['metadata']['name']}"
        assert pod_of(workload)["securityContext"]["runAsUser"] == 1000, place


@pytest.mark.parametrize(
    ("violation", "path", "value"),
    [
        ("hostNetwork", "hostNetwork", True),
        ("volume of type hostPath", "volumes", [{"name": "node", "hostPath": {"path": "/"}}]),
        ("sysctls", "securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}]),
        ("runAsNonRoot", "securityContext.runAsNonRoot", False),
        ("runAsUser", "securityContext.runAsUser", 0),
        ("seccompProfile", "securityContext.seccompProfile", {"type": "Unconfined"}),
        ("runAsNonRoot", "containers.0.securityContext.runAsNonRoot", False),
        ("privileged", "containers.0.securityContext.privileged", True),
        ("allowPrivilegeEscalation", "containers.0.securityContext.allowPrivilegeEscalation", True),
        ("capabilities.drop", "containers.0.securityContext.capabilities", {}),
        ("capabilities.add", "containers.0.securityContext.capabilities", {"drop": ["ALL"], "add": ["NET_RAW"]}),
        ("hostPort", "containers.0.ports.0.hostPort", 8080),
        ("readinessProbe.httpGet.host", "containers.0.readinessProbe.httpGet.host", "10.0.0.1"),
    ],
)
def test_the_check_of_pod_security_notices(violation: str, path: str, value: Any) -> None:
    pod = pod_of(only(manifests_of("caller-cluster"), "Deployment"))
    assert list(restricted_violations(changed(pod, path, value))) == [violation]


def test_pods_hold_no_token_but_the_caller_with_diagnose() -> None:
    for place, manifests, workload in workloads():
        diagnosing = "diagnose" in components_of(place) and workload["metadata"]["name"] == "sample-caller-v1"
        assert pod_of(workload)["automountServiceAccountToken"] is diagnosing, place
        accounts = {one["metadata"]["name"]: one for one in of_kind(manifests, "ServiceAccount")}
        assert accounts[pod_of(workload)["serviceAccountName"]]["automountServiceAccountToken"] is False, place


def test_pods_write_nothing_and_see_no_service_links() -> None:
    for place, _, workload in workloads():
        assert container_of(workload)["securityContext"]["readOnlyRootFilesystem"] is True, place
        assert pod_of(workload)["enableServiceLinks"] is False, place
        assert not pod_of(workload).keys() & {"volumes", "initContainers"}, place


def test_pods_ask_for_what_they_need_and_are_bounded_in_memory() -> None:
    for place, _, workload in workloads():
        resources = container_of(workload)["resources"]
        assert resources["requests"].keys() == {"cpu", "memory", "ephemeral-storage"}, place
        assert resources["limits"].keys() == {"memory"}, place


def test_an_eviction_takes_one_pod_at_a_time_and_never_waits_for_good() -> None:
    for place, manifests, deployment in deployments():
        budget = named(manifests, "PodDisruptionBudget", container_of(deployment)["name"])
        assert budget["spec"]["maxUnavailable"] == 1, place
        assert "minAvailable" not in budget["spec"], "with one replica no node could be drained"
        selected = budget["spec"]["selector"]["matchLabels"]
        assert selected.items() <= template_labels(deployment).items(), place
        others = [other for _, _, other in workloads() if template_labels(other)["app"] != selected["app"]]
        assert not any(selected.items() <= template_labels(other).items() for other in others), place


def test_a_rollout_never_takes_a_pod_away_before_its_successor_is_ready() -> None:
    for place, _, deployment in deployments():
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}, place


def test_pods_prefer_to_spread_over_zones_and_nodes() -> None:
    for place, _, deployment in deployments():
        constraints = pod_of(deployment)["topologySpreadConstraints"]
        assert [c["topologyKey"] for c in constraints] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
        for constraint in constraints:
            assert constraint["whenUnsatisfiable"] == "ScheduleAnyway", place
            assert constraint["labelSelector"]["matchLabels"].items() <= template_labels(deployment).items(), place


def test_selectors_are_those_of_the_original_and_match_the_pods() -> None:
    for place, manifests, deployment in deployments():
        app = container_of(deployment)["name"]
        assert deployment["spec"]["selector"]["matchLabels"] == {"app": app, "version": "v1"}, place
        assert template_labels(deployment).items() >= {"app": app, "version": "v1"}.items(), place
        assert template_labels(deployment)["app.kubernetes.io/name"] == app, place
        service = next(s for s in of_kind(manifests, "Service") if s["metadata"]["name"] == app)
        assert service["spec"]["selector"] == {"app": app}, place


def test_services_reach_the_container_by_the_port_named_http() -> None:
    for place, manifests, deployment in deployments():
        container = container_of(deployment)
        service = next(s for s in of_kind(manifests, "Service") if s["metadata"]["name"] == container["name"])
        assert "type" not in service["spec"], "only ClusterIP and headless Services can be exported"
        assert service["spec"]["ports"] == [
            {"name": "http", "port": 8080, "targetPort": "http", "appProtocol": "http"}
        ], place
        assert container["ports"] == [{"name": "http", "containerPort": 8080}], place


def test_a_probe_answers_within_its_period() -> None:
    """A readiness timeout above its period breaks the health check that Multi-Cluster Services makes of it."""
    for place, _, deployment in deployments():
        for name, probe in probes_of(deployment).items():
            assert probe.get("timeoutSeconds", 1) <= probe.get("periodSeconds", 10), f"{place} {name}"


def test_probes_are_plain_http_on_the_paths_of_the_original() -> None:
    for place, _, deployment in deployments():
        paths = {name: probe["httpGet"]["path"] for name, probe in probes_of(deployment).items()}
        assert paths == {
            "startupProbe": "/actuator/health/liveness",
            "readinessProbe": "/actuator/health/readiness",
            "livenessProbe": "/actuator/health/liveness",
        }, place
        for probe in probes_of(deployment).values():
            assert probe["httpGet"]["port"] == "http", place
            assert "scheme" not in probe["httpGet"], place


@pytest.mark.parametrize(("service", "app"), [("sample-caller", caller_app), ("sample-producer", producer_app)])
async def test_what_probes_and_scrapes_ask_for_is_there(service: str, app: Callable[..., ASGIApp]) -> None:
    deployment = named(manifests_of("one-cluster"), "Deployment", f"{service}-v1")
    assert container_of(deployment)["ports"][0]["containerPort"] == SERVICES[service].model_fields["port"].default
    urls = ["http://sample-producer:8080"] if app is caller_app else []
    async with in_process(app(*urls)) as client:
        for path in {probe["httpGet"]["path"] for probe in probes_of(deployment).values()} | {"/metrics"}:
            assert (await client.get(path)).status_code == 200, path


def test_the_grace_period_outlasts_drain_and_shutdown() -> None:
    for place, manifests, deployment in deployments():
        config = config_of(manifests, deployment)
        needed = float(config["DRAIN_SECONDS"]) + float(config["SHUTDOWN_SECONDS"])
        assert pod_of(deployment)["terminationGracePeriodSeconds"] >= needed + 5, place


def test_shutdown_waits_for_the_longest_delay() -> None:
    for place, manifests, deployment in deployments():
        settings = SERVICES[container_of(deployment)["name"]]
        longest = settings.model_fields["max_delay_millis"].default / 1000
        assert float(config_of(manifests, deployment)["SHUTDOWN_SECONDS"]) > longest, place


def test_the_drain_outlasts_a_health_check_that_notices() -> None:
    """Of a load balancer in front, and the one that Multi-Cluster Services makes of the readiness probe."""
    for place, manifests, deployment in deployments():
        drain = float(config_of(manifests, deployment)["DRAIN_SECONDS"])
        probe = probes_of(deployment)["readinessProbe"]
        assert drain > probe["periodSeconds"] * probe.get("failureThreshold", 3) + probe["timeoutSeconds"], place


def test_the_drain_outlasts_the_idle_connections_of_the_caller() -> None:
    """An idle connection used again within the drain is told to close; used after it, the call would be lost."""
    for place, manifests, deployment in deployments():
        assert float(config_of(manifests, deployment)["DRAIN_SECONDS"]) > IDLE_SECONDS, place


def test_every_variable_of_the_manifests_is_a_setting() -> None:
    for place, manifests, workload in workloads():
        service = container_of(workload)["image"].rpartition("/")[2].partition(":")[0]
        known = {field.upper() for field in SERVICES[service].model_fields}
        given = {variable["name"] for variable in container_of(workload)["env"]}
        assert given | config_of(manifests, workload).keys() <= known, place


def test_the_settings_accept_the_values_of_the_manifests(monkeypatch: pytest.MonkeyPatch) -> None:
    for _, manifests, deployment in deployments():
        with monkeypatch.context() as environment:
            for variable in container_of(deployment)["env"]:
                environment.setenv(variable["name"], "")  # what the downward API gives on an older cluster
            for name, value in config_of(manifests, deployment).items():
                environment.setenv(name, value)
            settings = SERVICES[container_of(deployment)["name"]]()
        assert settings.drain_seconds == 30
        assert settings.zone is None


def test_the_cluster_name_is_left_to_the_metadata_server() -> None:
    for place, manifests, deployment in deployments():
        given = {variable["name"] for variable in container_of(deployment)["env"]}
        assert "CLUSTER_NAME" not in given | config_of(manifests, deployment).keys(), place


def test_images_come_from_the_registry_in_the_version_of_the_project_and_by_the_overlay_only() -> None:
    for place, _, deployment in deployments():
        container = container_of(deployment)
        expected = f"us-docker.pkg.dev/sample/docker-repo/{container['name']}:{__version__}"
        assert container["image"] == (expected if place in OVERLAYS else container["name"]), place


def test_the_producer_has_two_replicas_and_the_caller_one() -> None:
    replicas = {
        d["metadata"]["name"]: d["spec"]["replicas"] for d in of_kind(manifests_of("one-cluster"), "Deployment")
    }
    assert replicas == {"sample-caller-v1": 1, "sample-producer-v1": 2}


@pytest.mark.parametrize("place", ["producer-cluster", "tests/gke-ingress", "tests/istio-gateway"])
def test_the_export_has_the_name_and_namespace_of_the_service(place: str) -> None:
    export = only(manifests_of(place), "ServiceExport")["metadata"]
    service = named(manifests_of(place), "Service", export["name"])["metadata"]
    assert (export["name"], export["namespace"]) == (service["name"], service["namespace"])


def test_the_caller_calls_the_exported_service_by_its_clusterset_name() -> None:
    producer = manifests_of("producer-cluster")
    exported, port = only(producer, "ServiceExport")["metadata"], only(producer, "Service")["spec"]["ports"][0]["port"]
    caller = manifests_of("caller-cluster")
    url = urlsplit(config_of(caller, only(caller, "Deployment"))["PRODUCER_URL"])
    assert url.scheme == "http"
    assert url.hostname == f"{exported['name']}.{exported['namespace']}.svc.clusterset.local"
    assert url.port == port


def test_in_one_cluster_the_caller_calls_the_service_by_its_plain_name() -> None:
    manifests = manifests_of("one-cluster")
    caller = next(d for d in of_kind(manifests, "Deployment") if d["metadata"]["name"] == "sample-caller-v1")
    assert config_of(manifests, caller)["PRODUCER_URL"] == "http://sample-producer:8080"
    assert "sample-producer" in {service["metadata"]["name"] for service in of_kind(manifests, "Service")}


def test_the_caller_asks_for_the_clusterset_name_as_it_stands() -> None:
    manifests = manifests_of("caller-cluster")
    deployment = only(manifests, "Deployment")
    ndots = {o["name"]: o["value"] for o in pod_of(deployment)["dnsConfig"]["options"]}["ndots"]
    host = urlsplit(config_of(manifests, deployment)["PRODUCER_URL"]).hostname
    assert host is not None
    assert int(ndots) <= host.count(".")
    assert int(ndots) > "sample-producer".count("."), "the plain name must still go through the search list"


def test_no_network_policy_stands_in_the_way_of_the_other_cluster() -> None:
    for place in PLACES:
        assert not of_kind(manifests_of(place), "NetworkPolicy"), place
