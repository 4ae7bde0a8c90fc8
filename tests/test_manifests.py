"""The manifests, as `kubectl apply -k` sends them: their schemas, and the facts that a cross-cluster call rests on."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import kubernetes_validate
import pytest
import yaml

from caller.settings import Settings as CallerSettings
from caller.trace import IDLE_SECONDS
from common import __version__
from common.settings import ServiceSettings
from producer.settings import Settings as ProducerSettings

Manifest = dict[str, Any]

ROOT = Path(__file__).parent.parent
K8S = ROOT / "k8s"
SCHEMAS = Path(__file__).parent / "schemas"
OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))
COMPONENTS = sorted(path.parent.name for path in K8S.glob("components/*/kustomization.yaml"))
SERVICES: dict[str, type[ServiceSettings]] = {"sample-caller": CallerSettings, "sample-producer": ProducerSettings}

# The oldest Kubernetes that GKE still offers, and the newest that the validator knows.
KUBERNETES_VERSIONS = ["1.31", kubernetes_validate.latest_version()]


def kustomize(folder: Path) -> list[Manifest]:
    return [manifest for manifest in yaml.safe_load_all(rendered(folder)) if manifest]


@cache
def rendered(folder: Path) -> str:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    build = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    assert build.returncode == 0, build.stderr
    assert not build.stderr, f"kustomize warns: {build.stderr}"
    return build.stdout


def overlay(name: str) -> list[Manifest]:
    return kustomize(K8S / "overlays" / name)


def with_components(folder: Path, components: list[str]) -> list[Manifest]:
    """Both services with these components, by a kustomization that exists only for the test."""
    here = Path(os.path.relpath(K8S, folder.resolve()))
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "istio-apps",
        "resources": [str(here / "base" / base) for base in ("namespace", "caller", "producer")],
        "components": [str(here / "components" / component) for component in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return kustomize(folder)


def validate(manifest: Manifest) -> None:
    group = manifest["apiVersion"].replace("/", "-")
    own_schema = SCHEMAS / f"{manifest['kind'].lower()}-{group}.json"
    if own_schema.exists():
        jsonschema.Draft202012Validator(json.loads(own_schema.read_text())).validate(manifest)
    else:
        for version in KUBERNETES_VERSIONS:
            kubernetes_validate.validate(manifest, version, strict=True)


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def only(manifests: list[Manifest], kind: str) -> Manifest:
    found = of_kind(manifests, kind)
    assert len(found) == 1, f"{len(found)} of kind {kind}"
    return found[0]


def deployments() -> Iterator[tuple[str, list[Manifest], Manifest]]:
    for name in OVERLAYS:
        manifests = overlay(name)
        for deployment in of_kind(manifests, "Deployment"):
            yield name, manifests, deployment


def pod_of(deployment: Manifest) -> Manifest:
    spec: Manifest = deployment["spec"]["template"]["spec"]
    return spec


def template_labels(deployment: Manifest) -> dict[str, str]:
    labels: dict[str, str] = deployment["spec"]["template"]["metadata"]["labels"]
    return labels


def container_of(deployment: Manifest) -> Manifest:
    containers: list[Manifest] = pod_of(deployment)["containers"]
    assert len(containers) == 1
    return containers[0]


def config_of(manifests: list[Manifest], deployment: Manifest) -> dict[str, str]:
    """The data of the ConfigMap that the container really refers to, hash and all."""
    names = [source["configMapRef"]["name"] for source in container_of(deployment)["envFrom"]]
    maps = {config["metadata"]["name"]: config["data"] for config in of_kind(manifests, "ConfigMap")}
    return {key: value for name in names for key, value in maps[name].items()}


def probes_of(deployment: Manifest) -> dict[str, Manifest]:
    container = container_of(deployment)
    return {name: container[name] for name in ("startupProbe", "readinessProbe", "livenessProbe")}


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_object_of_an_overlay_fits_its_schema(name: str) -> None:
    for manifest in overlay(name):
        validate(manifest)


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_can_be_added_to_the_bases(component: str, tmp_path: Path) -> None:
    for manifest in with_components(tmp_path, [component]):
        validate(manifest)


def test_all_components_can_be_used_together(tmp_path: Path) -> None:
    for manifest in with_components(tmp_path, COMPONENTS):
        validate(manifest)


def test_the_validation_notices_an_unknown_field() -> None:
    deployment = only(overlay("caller-cluster"), "Deployment")
    pod_of(deployment)["terminationGracePeriod"] = 90
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(deployment)


def test_the_overlays_are_the_three_places() -> None:
    assert OVERLAYS == ["caller-cluster", "one-cluster", "producer-cluster"]
    assert {name: [d["metadata"]["name"] for d in of_kind(overlay(name), "Deployment")] for name in OVERLAYS} == {
        "caller-cluster": ["sample-caller-v1"],
        "producer-cluster": ["sample-producer-v1"],
        "one-cluster": ["sample-caller-v1", "sample-producer-v1"],
    }


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_explains_itself_in_about_ten_lines(component: str) -> None:
    lines = (K8S / "components" / component / "README.md").read_text().splitlines()
    assert lines[0] == f"# {component}"
    assert 4 <= len(lines) <= 14


def test_every_file_holds_one_document_of_two_spaces_indent() -> None:
    for path in K8S.rglob("*.yaml"):
        text = path.read_text()
        assert len(list(yaml.safe_load_all(text))) == 1, path
        assert "\t" not in text, path


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_namespace_is_the_same_everywhere_and_enforces_restricted(name: str) -> None:
    manifests = overlay(name)
    namespace = only(manifests, "Namespace")
    assert namespace["metadata"]["name"] == "istio-apps"
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {m["metadata"]["namespace"] for m in manifests if m["kind"] != "Namespace"} == {"istio-apps"}


def test_pods_meet_pod_security_restricted() -> None:
    for place, _, deployment in deployments():
        pod, container = pod_of(deployment), container_of(deployment)
        assert pod["securityContext"]["runAsNonRoot"] is True, place
        assert pod["securityContext"]["runAsUser"] == 1000, place
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, place
        assert container["securityContext"]["allowPrivilegeEscalation"] is False, place
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, place
        assert "privileged" not in container["securityContext"], place
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC", "volumes", "initContainers"}, place
        assert all("hostPort" not in port for port in container["ports"]), place


def test_pods_hold_no_token_write_nothing_and_see_no_service_links() -> None:
    for place, manifests, deployment in deployments():
        pod = pod_of(deployment)
        assert container_of(deployment)["securityContext"]["readOnlyRootFilesystem"] is True, place
        assert pod["automountServiceAccountToken"] is False, place
        assert pod["enableServiceLinks"] is False, place
        accounts = [account["metadata"]["name"] for account in of_kind(manifests, "ServiceAccount")]
        assert pod["serviceAccountName"] in accounts, place


def test_pods_ask_for_little_and_are_bounded_in_memory() -> None:
    for place, _, deployment in deployments():
        resources = container_of(deployment)["resources"]
        assert resources["requests"].keys() == {"cpu", "memory", "ephemeral-storage"}, place
        assert resources["limits"].keys() == {"memory"}, place


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
    """A readiness time-out above its period breaks the health check that Multi-Cluster Services makes of it."""
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


def test_the_drain_outlasts_the_idle_connections_of_the_caller() -> None:
    """An idle connection used again within the drain is told to close; used after it, the call would be lost."""
    for place, manifests, deployment in deployments():
        assert float(config_of(manifests, deployment)["DRAIN_SECONDS"]) > IDLE_SECONDS, place


def test_every_variable_of_the_manifests_is_a_setting() -> None:
    for place, manifests, deployment in deployments():
        known = {field.upper() for field in SERVICES[container_of(deployment)["name"]].model_fields}
        given = {variable["name"] for variable in container_of(deployment)["env"]}
        assert given | config_of(manifests, deployment).keys() <= known, place


def test_the_settings_accept_the_values_of_the_manifests(monkeypatch: pytest.MonkeyPatch) -> None:
    for _, manifests, deployment in deployments():
        with monkeypatch.context() as environment:
            for variable in container_of(deployment)["env"]:
                environment.setenv(variable["name"], "")  # what the downward API gives on an older cluster
            for name, value in config_of(manifests, deployment).items():
                environment.setenv(name, value)
            settings = SERVICES[container_of(deployment)["name"]]()
        assert settings.drain_seconds == 20
        assert settings.zone is None


def test_the_cluster_name_is_left_to_the_metadata_server() -> None:
    for place, manifests, deployment in deployments():
        given = {variable["name"] for variable in container_of(deployment)["env"]}
        assert "CLUSTER_NAME" not in given | config_of(manifests, deployment).keys(), place


def test_images_come_from_the_registry_in_the_version_of_the_project() -> None:
    for place, _, deployment in deployments():
        container = container_of(deployment)
        expected = f"us-docker.pkg.dev/sample/docker-repo/{container['name']}:{__version__}"
        assert container["image"] == expected, place


def test_the_producer_has_two_replicas_and_the_caller_one() -> None:
    replicas = {d["metadata"]["name"]: d["spec"]["replicas"] for d in of_kind(overlay("one-cluster"), "Deployment")}
    assert replicas == {"sample-caller-v1": 1, "sample-producer-v1": 2}


def test_the_export_has_the_name_and_namespace_of_the_service() -> None:
    manifests = overlay("producer-cluster")
    export, service = only(manifests, "ServiceExport"), only(manifests, "Service")
    for field in ("name", "namespace"):
        assert export["metadata"][field] == service["metadata"][field]


def test_the_caller_calls_the_exported_service_by_its_clusterset_name() -> None:
    producer = overlay("producer-cluster")
    exported, port = only(producer, "ServiceExport")["metadata"], only(producer, "Service")["spec"]["ports"][0]["port"]
    caller = overlay("caller-cluster")
    url = urlsplit(config_of(caller, only(caller, "Deployment"))["PRODUCER_URL"])
    assert url.scheme == "http"
    assert url.hostname == f"{exported['name']}.{exported['namespace']}.svc.clusterset.local"
    assert url.port == port


def test_in_one_cluster_the_caller_calls_the_service_by_its_plain_name() -> None:
    manifests = overlay("one-cluster")
    caller = next(d for d in of_kind(manifests, "Deployment") if d["metadata"]["name"] == "sample-caller-v1")
    assert config_of(manifests, caller)["PRODUCER_URL"] == "http://sample-producer:8080"
    assert "sample-producer" in {service["metadata"]["name"] for service in of_kind(manifests, "Service")}


def test_the_caller_asks_for_the_clusterset_name_as_it_stands() -> None:
    manifests = overlay("caller-cluster")
    deployment = only(manifests, "Deployment")
    ndots = {o["name"]: o["value"] for o in pod_of(deployment)["dnsConfig"]["options"]}["ndots"]
    host = urlsplit(config_of(manifests, deployment)["PRODUCER_URL"]).hostname
    assert host is not None
    assert int(ndots) <= host.count(".")
    assert int(ndots) > "sample-producer".count("."), "the plain name must still go through the search list"


def test_no_network_policy_stands_in_the_way_of_the_other_cluster() -> None:
    for name in OVERLAYS:
        assert not of_kind(overlay(name), "NetworkPolicy"), name


def test_the_ingress_leads_to_the_caller_and_names_its_class_by_annotation() -> None:
    manifests = overlay("caller-cluster")
    ingress, service = only(manifests, "Ingress"), only(manifests, "Service")
    assert ingress["metadata"]["annotations"]["kubernetes.io/ingress.class"] == "gce"
    assert "ingressClassName" not in ingress["spec"]
    backend = ingress["spec"]["defaultBackend"]["service"]
    assert backend["name"] == service["metadata"]["name"] == "sample-caller"
    assert backend["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}


def test_the_load_balancer_uses_the_backend_config_and_outlasts_every_call() -> None:
    manifests = overlay("caller-cluster")
    config, service, deployment = (only(manifests, kind) for kind in ("BackendConfig", "Service", "Deployment"))
    annotations = service["metadata"]["annotations"]
    assert json.loads(annotations["cloud.google.com/backend-config"]) == {"default": config["metadata"]["name"]}
    assert json.loads(annotations["cloud.google.com/neg"]) == {"ingress": True}

    spec, check = config["spec"], config["spec"]["healthCheck"]
    assert spec["timeoutSec"] > CallerSettings.model_fields["call_timeout_seconds"].default
    longest_end = float(config_of(manifests, deployment)["SHUTDOWN_SECONDS"])
    assert spec["connectionDraining"]["drainingTimeoutSec"] > longest_end
    assert check["timeoutSec"] <= check["checkIntervalSec"]
    assert check["requestPath"] == probes_of(deployment)["readinessProbe"]["httpGet"]["path"]
    assert check["port"] == container_of(deployment)["ports"][0]["containerPort"]


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
