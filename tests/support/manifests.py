"""The manifests as `kubectl apply -k` sends them; what they must fit: their schemas, and Pod Security *restricted*."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from referencing import Registry, Resource

from lab.processes import ROOT

Manifest = dict[str, Any]

K8S = ROOT / "k8s"
SCHEMAS = ROOT / "tests" / "schemas"

OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))
"""Places that the product is deployed to."""
TEST_OVERLAYS = sorted(path.parent.name for path in ROOT.glob("tests/overlays/*/kustomization.yaml"))
"""Both services with as many components as go together."""
PLACES = {name: K8S / "overlays" / name for name in OVERLAYS} | {
    f"tests/{name}": ROOT / "tests" / "overlays" / name for name in TEST_OVERLAYS
}
COMPONENTS = sorted(
    str(path.parent.relative_to(K8S / "components")) for path in K8S.glob("components/**/kustomization.yaml")
)

KUBERNETES_VERSIONS = ["1.31", kubernetes_validate.latest_version()]
"""The oldest that GKE serves in its Extended channel, and the newest that the validator knows."""


def manifests_of(place: str) -> list[Manifest]:
    return kustomize(PLACES[place])


def kustomize(folder: Path) -> list[Manifest]:
    return [manifest for manifest in yaml.safe_load_all(rendered(folder)) if manifest]


@cache
def rendered(folder: Path) -> str:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    build = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False, timeout=60)
    assert build.returncode == 0, build.stderr
    assert not build.stderr, f"kustomize warns: {build.stderr}"
    return build.stdout


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


def components_of(place: str) -> list[str]:
    """The components that an overlay lists."""
    kustomization = yaml.safe_load((PLACES[place] / "kustomization.yaml").read_text())
    return [path.partition("components/")[2] for path in kustomization.get("components", [])]


def validate(manifest: Manifest) -> None:
    """Against the schema of the Kubernetes versions, or for a custom resource against that of `tests/schemas`.

    :raises ValidationError: of `jsonschema` or of `kubernetes_validate`; unknown fields are errors.
    """
    own_schema = SCHEMAS / f"{manifest['kind'].lower()}-{manifest['apiVersion'].replace('/', '-')}.json"
    if own_schema.exists():
        schema = json.loads(own_schema.read_text())
        jsonschema.Draft202012Validator(schema, registry=shared_schemas()).validate(manifest)
    else:
        for version in KUBERNETES_VERSIONS:
            kubernetes_validate.validate(manifest, version, strict=True)


@cache
def shared_schemas() -> Registry[Any]:
    metadata = Resource.from_contents(json.loads((SCHEMAS / "metadata.json").read_text()))
    return metadata @ Registry()


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def only(manifests: list[Manifest], kind: str) -> Manifest:
    found = of_kind(manifests, kind)
    assert len(found) == 1, f"{len(found)} of kind {kind}"
    return found[0]


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    return only([manifest for manifest in manifests if manifest["metadata"]["name"] == name], kind)


def deployments() -> Iterator[tuple[str, list[Manifest], Manifest]]:
    """Every Deployment of every place."""
    for place in PLACES:
        manifests = manifests_of(place)
        for deployment in of_kind(manifests, "Deployment"):
            yield place, manifests, deployment


def workloads() -> Iterator[tuple[str, list[Manifest], Manifest]]:
    """Everything that starts pods, in every place."""
    for place in PLACES:
        manifests = manifests_of(place)
        for workload in manifests:
            if "template" in workload.get("spec", {}):
                yield place, manifests, workload


def pod_of(workload: Manifest) -> Manifest:
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def template_labels(workload: Manifest) -> dict[str, str]:
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def container_of(workload: Manifest) -> Manifest:
    containers: list[Manifest] = pod_of(workload)["containers"]
    assert len(containers) == 1
    return containers[0]


def config_of(manifests: list[Manifest], workload: Manifest) -> dict[str, str]:
    """The data of the ConfigMap that the container really refers to, hash and all."""
    names = [source["configMapRef"]["name"] for source in container_of(workload)["envFrom"]]
    maps = {config["metadata"]["name"]: config["data"] for config in of_kind(manifests, "ConfigMap")}
    return {key: value for name in names for key, value in maps[name].items()}


def probes_of(deployment: Manifest) -> dict[str, Manifest]:
    container = container_of(deployment)
    return {name: container[name] for name in ("startupProbe", "readinessProbe", "livenessProbe")}


RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def restricted_violations(pod: Manifest) -> Iterator[str]:
    """What the Pod Security Standard *restricted* has against a pod of Linux containers.

    https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
    """
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield field
    for volume in pod.get("volumes", []):
        if types := volume.keys() - {"name"} - RESTRICTED_VOLUMES:
            yield f"volume of type {', '.join(types)}"
    if pod.get("securityContext", {}).get("sysctls"):
        yield "sysctls"
    for key in ("initContainers", "containers", "ephemeralContainers"):
        for container in pod.get(key, []):
            yield from container_violations(container, pod.get("securityContext", {}))


def container_violations(container: Manifest, of_pod: Manifest) -> Iterator[str]:
    own = container.get("securityContext", {})
    context = of_pod | own
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if context.get("runAsNonRoot") is not True:
        yield "runAsNonRoot"
    if 0 in (own.get("runAsUser"), of_pod.get("runAsUser")):
        yield "runAsUser"
    if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile"
    if own.get("procMount", "Default") != "Default":
        yield "procMount"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities.drop"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities.add"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "hostPort"
    for hook in ("startupProbe", "readinessProbe", "livenessProbe"):
        if "host" in container.get(hook, {}).get("httpGet", {}):
            yield f"{hook}.httpGet.host"
