"""Reads the objects of a target from the API server of the own cluster: ServiceImport, Service, EndpointSlices.

Only for checks, and only where the pod's token is mounted, as `k8s/components/diagnose` does with a Role for the own
namespace. A failed read is a value, `ReadError`; nothing here raises.
"""

import asyncio
import re
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import httpx
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from caller.hop.outcome import one_line, os_text, tls_text
from caller.settings import Settings
from caller.target import Target

TIMEOUT_SECONDS = 2.0
"""Of one request to the API server; a target needs two, one after the other."""
MAX_BYTES = 4_194_304
"""Of one reply. 250 pods, the maximum of a multi-cluster Service, are about 100 KB of EndpointSlices."""
MAX_TEXT = 400
"""Characters of an error message of the API server; the reason is at the end of a long sentence."""
TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, 2.1. Anything else in a header would raise an error that contains it."""

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
DERIVED_SERVICE = ("net.gke.io/derived-service", "multicluster.kubernetes.io/derived-service")
"""Annotations of a ServiceImport: GKE's, and that of implementations of KEP-1645."""

T = TypeVar("T")
Many = Annotated[list[T], BeforeValidator(lambda value: [] if value is None else value)]
Map = Annotated[dict[str, str], BeforeValidator(lambda value: {} if value is None else value)]
"""Go encodes an empty list or map as null."""


class Part(BaseModel):
    """A part of a Kubernetes object; fields that are not needed are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Metadata(Part):
    name: str
    labels: Map = {}
    annotations: Map = {}


class Port(Part):
    port: int
    protocol: str = "TCP"

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"


class Condition(Part):
    type: str
    status: str
    reason: str = ""
    message: str = ""


class ImportSpec(Part):
    type: str = "ClusterSetIP"
    ips: Many[str] = []
    ports: Many[Port] = []


class ExportingCluster(Part):
    cluster: str

    @property
    def name(self) -> str:
        """On GKE `projects/NUMBER/locations/LOCATION/memberships/NAME`, elsewhere the name."""
        return self.cluster.rpartition("/")[2]


class ImportStatus(Part):
    clusters: Many[ExportingCluster] = []
    conditions: Many[Condition] = []


class ServiceImport(Part):
    """Of `net.gke.io/v1` or `multicluster.x-k8s.io/v1alpha1` (KEP-1645), which have the same fields."""

    api_version: str
    metadata: Metadata
    spec: ImportSpec
    status: ImportStatus = ImportStatus()

    @property
    def on_gke(self) -> bool:
        return self.api_version.startswith("net.gke.io/")

    @property
    def derived_service(self) -> str | None:
        """The Service that represents the import in this cluster; its EndpointSlices are those of the import."""
        names = (self.metadata.annotations.get(key) for key in DERIVED_SERVICE)
        return next((name for name in names if name and LABEL.fullmatch(name)), None)


class ServiceSpec(Part):
    type: str = "ClusterIP"
    cluster_ip: str | None = Field(default=None, alias="clusterIP")
    external_name: str | None = None
    ports: Many[Port] = []
    selector: Map = {}


class Service(Part):
    metadata: Metadata
    spec: ServiceSpec


class EndpointConditions(Part):
    ready: bool | None = None


class Endpoint(Part):
    addresses: Many[str] = []
    conditions: EndpointConditions = EndpointConditions()

    @property
    def ready(self) -> bool:
        """Unknown counts as ready (discovery.k8s.io/v1, EndpointConditions)."""
        return self.conditions.ready is not False


class EndpointSlice(Part):
    metadata: Metadata
    address_type: str = "IPv4"
    endpoints: Many[Endpoint] = []

    @property
    def source_cluster(self) -> str | None:
        return self.metadata.labels.get("multicluster.kubernetes.io/source-cluster")


class EndpointSliceList(Part):
    items: Many[EndpointSlice] = []


class Status(Part):
    """The API server's reply instead of an object."""

    reason: str = ""
    message: str = ""
    details: Annotated[dict[str, Any], BeforeValidator(lambda value: value or {})] = {}


class Missing(Enum):
    """The reason for a 404."""

    OBJECT = "no object of that name"
    KIND = "the API server does not serve that kind: its CRD is not installed"


@dataclass(frozen=True)
class ReadError:
    """Why an object could not be read."""

    reason: str
    next_step: str
    fatal: bool = False
    """The API server could not be queried, so no object can be read."""


@dataclass(frozen=True)
class TargetObjects:
    """The objects of one target; None where they were not read."""

    namespace: str
    service_import: ServiceImport | Missing | ReadError | None
    service: Service | Missing | ReadError
    slices: list[EndpointSlice] | ReadError | None


@dataclass(frozen=True)
class Snapshot:
    """The objects of all targets. Without a token `objects` is empty."""

    server: str = ""
    millis: float = 0.0
    token_mounted: bool = False
    failure: ReadError | None = None
    objects: dict[Target, TargetObjects] = field(default_factory=dict)


@dataclass(frozen=True)
class Access:
    """How to reach the API server; not cached, because the kubelet renews the token."""

    server: str
    namespace: str
    token: str = field(repr=False)
    tls: ssl.SSLContext


async def read_snapshot(settings: Settings, targets: Sequence[Target]) -> Snapshot:
    """Read the objects of all targets concurrently. Never raises; takes at most about twice `TIMEOUT_SECONDS`."""
    access = access_of(settings)
    if access is None:
        return Snapshot()
    if isinstance(access, ReadError):
        return Snapshot(token_mounted=True, failure=access)
    async with httpx.AsyncClient(
        base_url=access.server,
        headers={"authorization": f"Bearer {access.token}", "accept": "application/json"},
        timeout=TIMEOUT_SECONDS,
        verify=access.tls,
        trust_env=False,
    ) as client:
        api = Api(client)
        known = [target for target in targets if target.service]
        objects = await asyncio.gather(*(read_objects(api, target, access.namespace) for target in known))
    return Snapshot(access.server, api.fastest, True, api.failure, dict(zip(known, objects, strict=True)))


def access_of(settings: Settings) -> Access | ReadError | None:
    """None: no token is mounted."""
    folder = Path(settings.service_account_dir)
    try:
        token = (folder / "token").read_bytes().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        return ReadError(f"the token cannot be read: {error.strerror}", "check the volumes of the pod", fatal=True)
    if not TOKEN.fullmatch(token):
        return ReadError("the token file does not contain a token", "check the volumes of the pod", fatal=True)
    host = settings.kubernetes_service_host
    if host is None:
        step = "run the check in a pod, where Kubernetes sets it"
        return ReadError("a token is mounted, but KUBERNETES_SERVICE_HOST is not set", step, fatal=True)
    server = f"https://{f'[{host}]' if ':' in host else host}:{settings.kubernetes_service_port}"
    try:
        httpx.URL(server)
    except httpx.InvalidURL as error:
        step = "leave KUBERNETES_SERVICE_HOST to Kubernetes"
        return ReadError(f"KUBERNETES_SERVICE_HOST is not a host: {error}", step, fatal=True)
    try:
        # Not `create_default_context`: since Python 3.13 it rejects the certificates of some older clusters.
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.load_verify_locations(folder / "ca.crt")
    except OSError as error:
        reason = f"ca.crt beside the token is unusable: {error.strerror or error}"
        return ReadError(reason, "check the ConfigMap kube-root-ca.crt of the namespace", fatal=True)
    try:
        namespace = (folder / "namespace").read_text().strip()
    except (OSError, ValueError):
        namespace = ""
    return Access(server, namespace or settings.pod_namespace or "default", token.decode(), tls)


GROUPS = ("net.gke.io/v1", "multicluster.x-k8s.io/v1alpha1")
"""GKE's, and the one that every other implementation serves."""


async def read_objects(api: "Api", target: Target, own_namespace: str) -> TargetObjects:
    namespace = target.namespace or own_namespace
    path_of_namespace = f"namespaces/{namespace}"
    requests = [api.get(f"/api/v1/{path_of_namespace}/services/{target.service}", Service)]
    found: list[Any]
    if target.kind == "clusterset.local":
        found = await asyncio.gather(
            *requests,
            *(
                api.get(f"/apis/{group}/{path_of_namespace}/serviceimports/{target.service}", ServiceImport)
                for group in GROUPS
            ),
        )
    else:
        found = await asyncio.gather(*requests)
    service, *imports = found
    chosen = choose(imports) if imports else None
    selector = None
    if isinstance(chosen, ServiceImport):
        derived = chosen.derived_service
        label = "kubernetes.io/service-name" if derived else "multicluster.kubernetes.io/service-name"
        selector = f"{label}={derived or target.service}"
    elif chosen is None and isinstance(service, Service):
        selector = f"kubernetes.io/service-name={target.service}"
    slices: list[EndpointSlice] | ReadError | None = None
    if selector is not None:
        path = f"/apis/discovery.k8s.io/v1/{path_of_namespace}/endpointslices"
        listed = await api.get(path, EndpointSliceList, {"labelSelector": selector})
        if isinstance(listed, Missing):
            listed = ReadError(f"EndpointSlices: {listed.value}", "check that the API server is that of this cluster")
        slices = listed.items if isinstance(listed, EndpointSliceList) else listed
    return TargetObjects(namespace, chosen, service, slices)


def choose(found: Sequence[ServiceImport | Missing | ReadError]) -> ServiceImport | Missing | ReadError:
    """The most informative answer: an object, else that there is none, else a read error, else an unknown kind."""
    for answer in found:
        if isinstance(answer, ServiceImport):
            return answer
    if Missing.OBJECT in found:
        return Missing.OBJECT
    return next((answer for answer in found if isinstance(answer, ReadError)), Missing.KIND)


M = TypeVar("M", bound=Part)


class Api:
    """Reads objects. `failure`: why the API server could not be queried; `fastest`: its fastest reply, in ms."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.failure: ReadError | None = None
        self.fastest = 0.0

    async def get(self, path: str, kind: type[M], query: dict[str, str] | None = None) -> M | Missing | ReadError:
        started = time.perf_counter()
        try:
            async with (
                asyncio.timeout(TIMEOUT_SECONDS),
                self.client.stream("GET", path, params=query) as response,
            ):
                body = await read_body(response)
        except (httpx.HTTPError, OSError, UnicodeError) as error:
            self.failure = unreachable(self.client.base_url, error)
            return self.failure
        millis = round((time.perf_counter() - started) * 1000, 1)
        self.fastest = min(self.fastest or millis, millis)
        answer = parse_reply(response.status_code, body, kind)
        if isinstance(answer, ReadError) and answer.fatal:
            self.failure = answer
        return answer


async def read_body(response: httpx.Response) -> bytes:
    """The body, at most about `MAX_BYTES` of it."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_BYTES:
            break
    return bytes(body)


def unreachable(server: httpx.URL, error: Exception) -> ReadError:
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        reason = f"no reply from the API server {server} within {TIMEOUT_SECONDS:g} s"
        step = "retry; if it persists, a NetworkPolicy or a firewall may block the pod"
        return ReadError(reason, step, fatal=True)
    cause = network_error(error)
    if isinstance(cause, ssl.SSLError):
        reason = f"ca.crt does not verify the API server {server}: {tls_text(cause)}"
        step = "compare ca.crt with the ConfigMap kube-root-ca.crt of the namespace; check for a proxy in between"
        return ReadError(reason, step, fatal=True)
    step = "check that no NetworkPolicy and no firewall blocks the pod"
    text = os_text(cause) if cause else "the connection was closed without a reply"
    return ReadError(f"cannot reach the API server {server}: {text}", step, fatal=True)


def network_error(error: BaseException | None) -> OSError | None:
    """The error below those of httpx and of the libraries under it, which raise one another; None: there is none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error
        below = error.exceptions[-1] if isinstance(error, BaseExceptionGroup) else None  # of anyio, for each address
        error = below or error.__cause__ or error.__context__
    return None


def parse_reply(status: int, body: bytes, kind: type[M]) -> M | Missing | ReadError:
    """The object, or why there is none."""
    if status == 200:
        try:
            return kind.model_validate_json(body)
        except ValidationError as invalid:
            reason = f"the reply of the API server is not a {kind.__name__}: {one_line(invalid.errors()[0]['msg'])}"
            return ReadError(reason, "check what answers instead of the API server")
    try:
        error = Status.model_validate_json(body)
    except ValidationError:
        error = Status()
    if status == 404:
        # The reply for an unknown kind is plain text, for an unknown object a Status that names it.
        return Missing.OBJECT if error.reason == "NotFound" and "name" in error.details else Missing.KIND
    if status == 401:
        reason = "the API server rejects the pod's token (401): it has expired, or belongs to another cluster"
        return ReadError(reason, "restart the pod: the kubelet should have renewed the token", fatal=True)
    text = " ".join((error.message or body.decode("utf-8", "replace")).split())[:MAX_TEXT]
    if status == 403:
        return ReadError(
            f"forbidden (403): {text}", "use k8s/components/diagnose; its Role covers only the own namespace"
        )
    return ReadError(f"the API server answered {status}: {text}", "retry; check the state of the control plane")
