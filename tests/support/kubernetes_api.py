"""A Kubernetes API server over TLS: objects by their paths, rights by the Role of `k8s/components/diagnose`, errors.

    python -m tests.support.kubernetes_api FOLDER ADDRESS PORT

serves the objects in `objects.json` of the folder, which it reads again for each request, with `server.pem` as its
certificate.
"""

import asyncio
import json
import re
import ssl
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme
import yaml

from lab.processes import ROOT
from tests.support.servers import http_reply, listening, read_request

Object = dict[str, Any]

ROLE: Object = yaml.safe_load((ROOT / "k8s/components/diagnose/role.yaml").read_text())
GKE = "net.gke.io/v1"
KEP = "multicluster.x-k8s.io/v1alpha1"
BUILT_IN = ("v1", "discovery.k8s.io/v1")
NAMESPACE = "istio-apps"
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzYW1wbGUtY2FsbGVyLXNhIn0.c2lnbmF0dXJl"
PATH = re.compile(
    r"/(?:api|apis)/(?P<version>.+)/namespaces/(?P<namespace>[^/]+)/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?"
)
PLURALS = {"ServiceImport": "serviceimports", "Service": "services", "EndpointSlice": "endpointslices"}


def service_import(version: str = GKE, **changes: Any) -> Object:
    """A ServiceImport as GKE's controller or another implementation writes it; `changes` to `spec` and `status`."""
    gke = version == GKE
    member = "projects/123456789/locations/us-central1/memberships/producer-cluster" if gke else "producer-cluster"
    prefix = "net.gke.io" if gke else "multicluster.kubernetes.io"
    spec = {
        "ips": ["34.118.229.70"],
        "ports": [{"port": 8080, "protocol": "TCP"} if gke else {"name": "http", "port": 8080, "protocol": "TCP"}],
        "sessionAffinity": "None",
        "type": "ClusterSetIP",
    }
    status: Object = {"clusters": [{"cluster": member}]}
    return {
        "apiVersion": version,
        "kind": "ServiceImport",
        "metadata": {
            "name": "sample-producer",
            "namespace": NAMESPACE,
            "annotations": {f"{prefix}/derived-service": "gke-mcs-1a8qqpah56" if gke else "derived-9c8hhgqe"},
            "labels": {"app.kubernetes.io/managed-by": "gke-mcs-controller.gke.io"} if gke else None,
            "uid": "0a1b2c3d-0000-4000-8000-000000000000",
        },
        "spec": spec | changes.pop("spec", {}),
        "status": status | changes.pop("status", {}),
    }


def service(**spec: Any) -> Object:
    ports = [{"name": "http", "port": 8080, "protocol": "TCP", "targetPort": "http", "appProtocol": "http"}]
    default = {
        "type": "ClusterIP",
        "clusterIP": "34.118.225.10",
        "ports": ports,
        "selector": {"app": "sample-producer"},
    }
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "sample-producer", "namespace": NAMESPACE},
        "spec": default | spec,
        "status": {"loadBalancer": {}},
    }


def endpoint_slice(
    *endpoints: tuple[str, bool | None],
    of: str = "gke-mcs-1a8qqpah56",
    family: str = "IPv4",
    labels: Mapping[str, str] = {},
) -> Object:
    """An EndpointSlice of `(address, ready)`; without endpoints the field is null, as Go writes it."""
    found = [
        {
            "addresses": [address],
            "conditions": {"ready": ready, "serving": ready, "terminating": False} if ready is not None else {},
            "targetRef": {"kind": "Pod", "name": f"sample-producer-v1-{number}", "namespace": NAMESPACE},
        }
        for number, (address, ready) in enumerate(endpoints)
    ]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{of}-{len(found)}{family.lower()}",
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": of, **labels},
        },
        "addressType": family,
        "endpoints": found or None,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


class ApiServer:
    """Checks a request in the order of a real API server: authentication, authorization, kind, object."""

    def __init__(
        self,
        objects: Sequence[Object] = (),
        *,
        served: Sequence[str] = (GKE, KEP),
        role: Object = ROLE,
        token: str = TOKEN,
    ) -> None:
        self.objects = list(objects)
        self.served = (*BUILT_IN, *served)
        self.role = role
        self.token = token
        self.requests: list[str] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await read_request(reader)).decode("latin-1")
        method, target, _ = head.splitlines()[0].split(" ")
        self.requests.append(target)
        given = re.search(r"^authorization: Bearer (.*)\r$", head, re.MULTILINE | re.IGNORECASE)
        status, body = self.answer(method, target, given and given[1])
        plain = isinstance(body, str)
        kind = "text/plain; charset=utf-8" if plain else "application/json"
        headers = {"content-type": kind, "connection": "close"}
        writer.write(http_reply(status, headers, body if isinstance(body, str) else json.dumps(body)))
        await writer.drain()

    def answer(self, method: str, target: str, token: str | None) -> tuple[str, Object | str]:
        if token != self.token:
            return "401 Unauthorized", failure(401, "Unauthorized", "Unauthorized")
        parts = urlsplit(target)
        found = PATH.fullmatch(parts.path)
        assert method == "GET", method
        assert found, target
        version, namespace, plural, name = found.group("version", "namespace", "plural", "name")
        group = version.rpartition("/")[0]
        verb = "get" if name else "list"
        if namespace != NAMESPACE or not allowed(self.role, group, plural, verb):
            named = f'{plural}{group and "."}{group} "{name}"' if name else f"{plural}{group and '.'}{group}"
            who = f'User "system:serviceaccount:{NAMESPACE}:sample-caller-sa" cannot {verb} resource "{plural}"'
            text = f'{named} is forbidden: {who} in API group "{group}" in the namespace "{namespace}"'
            return "403 Forbidden", failure(403, "Forbidden", text, name=name, group=group, kind=plural)
        if version not in self.served:
            return "404 Not Found", "404 page not found\n"
        objects = [one for one in self.objects if one["apiVersion"] == version and PLURALS[one["kind"]] == plural]
        if name is None:
            key, _, value = parse_qs(parts.query)["labelSelector"][0].partition("=")
            items = [one for one in objects if one["metadata"]["labels"].get(key) == value]
            return "200 OK", {"apiVersion": version, "kind": "EndpointSliceList", "metadata": {}, "items": items}
        for one in objects:
            if one["metadata"]["name"] == name:
                return "200 OK", one
        text = f'{plural}{group and "."}{group} "{name}" not found'
        return "404 Not Found", failure(404, "NotFound", text, name=name, group=group, kind=plural)


def allowed(role: Object, group: str, plural: str, verb: str) -> bool:
    """RBAC: whether one rule has the group, the resource and the verb."""
    return any(
        group in rule["apiGroups"] and plural in rule["resources"] and verb in rule["verbs"] for rule in role["rules"]
    )


def failure(code: int, reason: str, message: str, **details: str | None) -> Object:
    known = {key: value for key, value in details.items() if value}
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
        **({"details": known} if known else {}),
    }


class Mount:
    """The folder that the kubelet mounts: token, ca.crt, namespace; and an authority for the server's certificate."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.certificate = self.authority.issue_cert(*(names or ("127.0.0.1",)))
        self.authority.cert_pem.write_to_path(str(folder / "ca.crt"))
        (folder / "token").write_text(TOKEN)
        (folder / "namespace").write_text(NAMESPACE)

    def tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.certificate.configure_cert(context)
        return context


@asynccontextmanager
async def api_server(mount: Mount, server: ApiServer) -> AsyncIterator[dict[str, Any]]:
    """The server on a free port; the settings of a caller that uses it."""
    async with listening(server.handle, mount.tls()) as address:
        yield settings_for(mount, address)


def settings_for(mount: Mount, address: str) -> dict[str, Any]:
    host, _, port = address.partition(":")
    return {
        "kubernetes_service_host": host,
        "kubernetes_service_port": int(port),
        "service_account_dir": str(mount.folder),
    }


async def serve(folder: Path, address: str, port: int) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "server.pem")

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ApiServer(json.loads((folder / "objects.json").read_text())).handle(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, address, port, ssl=tls)
    (folder / "ready").touch()
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
