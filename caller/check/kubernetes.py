"""What the API server of the own cluster knows of a target: its ServiceImport, its Service, the endpoints behind them.

Only checks ask, and only where the pod's token is mounted, as `k8s/components/diagnose` does with a Role for the own
namespace. What cannot be read is a value, `Unseen`; nothing here raises.
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

from caller.hop.outcome import Outcome, failure_of, one_line
from caller.settings import Settings
from caller.target import Target

ANSWER_SECONDS = 2.0
"""For one answer of the API server; a target needs two, one after the other."""
MOST_BYTES = 4_194_304
"""Of one answer. 250 pods, the most of a multi-cluster Service, are some 100 KB of EndpointSlices."""
MOST_TEXT = 400
"""Characters of a message of the API server; what it refuses, it says at the end of a long sentence."""
TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, 2.1. Anything else in a header would be an error that shows it."""

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
DERIVED_SERVICE = ("net.gke.io/derived-service", "multicluster.kubernetes.io/derived-service")
"""Annotations of a ServiceImport: GKE's, and the one of KEP-1645's implementations."""

T = TypeVar("T")
Many = Annotated[list[T], BeforeValidator(lambda value: [] if value is None else value)]
Map = Annotated[dict[str, str], BeforeValidator(lambda value: {} if value is None else value)]
"""Go writes an empty list or map as null."""


class Part(BaseModel):
    """A part of a Kubernetes object; what is not needed here is passed over."""

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
    """Of `net.gke.io/v1` or `multicluster.x-k8s.io/v1alpha1` (KEP-1645), which look alike."""

    api_version: str
    metadata: Metadata
    spec: ImportSpec
    status: ImportStatus = ImportStatus()

    @property
    def on_gke(self) -> bool:
        return self.api_version.startswith("net.gke.io/")

    @property
    def derived_service(self) -> str | None:
        """The Service that stands for the import in this cluster; its EndpointSlices are those of the import."""
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
    """What the API server answers instead of an object."""

    reason: str = ""
    message: str = ""
    details: Annotated[dict[str, Any], BeforeValidator(lambda value: value or {})] = {}


class Missing(Enum):
    """Why the answer was 404."""

    OBJECT = "there is no object of that name"
    KIND = "the API server does not serve that kind: its CRD is not installed"


@dataclass(frozen=True)
class Unseen:
    """What could not be read, and why."""

    why: str
    next_step: str
    altogether: bool = False
    """The API server could not be asked at all, so nothing else can be read either."""


@dataclass(frozen=True)
class Sight:
    """What the API server knows of one target; None where that was not looked for."""

    namespace: str
    service_import: ServiceImport | Missing | Unseen | None
    service: Service | Missing | Unseen
    slices: list[EndpointSlice] | Unseen | None


@dataclass(frozen=True)
class View:
    """All that was looked for. Without a token `sights` is empty."""

    server: str = ""
    millis: float = 0.0
    mounted: bool = False
    failure: Unseen | None = None
    sights: dict[Target, Sight] = field(default_factory=dict)


@dataclass(frozen=True)
class Access:
    """How the API server is reached; read anew each time, because the kubelet renews the token."""

    server: str
    namespace: str
    token: str = field(repr=False)
    tls: ssl.SSLContext


async def look(settings: Settings, targets: Sequence[Target]) -> View:
    """Ask about all targets at once. Never raises; takes at most about twice `ANSWER_SECONDS`."""
    access = access_of(settings)
    if access is None:
        return View()
    if isinstance(access, Unseen):
        return View(mounted=True, failure=access)
    async with httpx.AsyncClient(
        base_url=access.server,
        headers={"authorization": f"Bearer {access.token}", "accept": "application/json"},
        timeout=ANSWER_SECONDS,
        verify=access.tls,
        trust_env=False,
    ) as client:
        api = Api(client)
        known = [target for target in targets if target.service]
        sights = await asyncio.gather(*(sight(api, target, access.namespace) for target in known))
    return View(access.server, api.fastest, True, api.failure, dict(zip(known, sights, strict=True)))


def access_of(settings: Settings) -> Access | Unseen | None:
    """None: no token is mounted."""
    folder = Path(settings.service_account_dir)
    try:
        token = (folder / "token").read_bytes().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        return Unseen(f"the token cannot be read: {error.strerror}", "see the volumes of the pod", altogether=True)
    if not TOKEN.fullmatch(token):
        return Unseen("the file of the token does not hold a token", "see the volumes of the pod", altogether=True)
    host = settings.kubernetes_service_host
    if host is None:
        step = "run the check in a pod, where Kubernetes sets it"
        return Unseen("a token is mounted, but KUBERNETES_SERVICE_HOST is not set", step, altogether=True)
    server = f"https://{f'[{host}]' if ':' in host else host}:{settings.kubernetes_service_port}"
    try:
        httpx.URL(server)
    except httpx.InvalidURL as error:
        step = "leave KUBERNETES_SERVICE_HOST to Kubernetes"
        return Unseen(f"KUBERNETES_SERVICE_HOST is no host: {error}", step, altogether=True)
    try:
        # Not `create_default_context`: from Python 3.13 on it refuses the certificates of some older clusters.
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.load_verify_locations(folder / "ca.crt")
    except OSError as error:
        why = f"ca.crt beside the token cannot be used: {error.strerror or error}"
        return Unseen(why, "see the ConfigMap kube-root-ca.crt of the namespace", altogether=True)
    try:
        namespace = (folder / "namespace").read_text().strip()
    except (OSError, ValueError):
        namespace = ""
    return Access(server, namespace or settings.pod_namespace or "default", token.decode(), tls)


GROUPS = ("net.gke.io/v1", "multicluster.x-k8s.io/v1alpha1")
"""GKE's own, and the one that every other implementation serves."""


async def sight(api: "Api", target: Target, own_namespace: str) -> Sight:
    namespace = target.namespace or own_namespace
    of_namespace = f"namespaces/{namespace}"
    asked = [api.get(f"/api/v1/{of_namespace}/services/{target.service}", Service)]
    found: list[Any]
    if target.kind == "clusterset.local":
        found = await asyncio.gather(
            *asked,
            *(
                api.get(f"/apis/{group}/{of_namespace}/serviceimports/{target.service}", ServiceImport)
                for group in GROUPS
            ),
        )
    else:
        found = await asyncio.gather(*asked)
    service, *imports = found
    chosen = choose(imports) if imports else None
    selector = None
    if isinstance(chosen, ServiceImport):
        derived = chosen.derived_service
        label = "kubernetes.io/service-name" if derived else "multicluster.kubernetes.io/service-name"
        selector = f"{label}={derived or target.service}"
    elif chosen is None and isinstance(service, Service):
        selector = f"kubernetes.io/service-name={target.service}"
    slices: list[EndpointSlice] | Unseen | None = None
    if selector is not None:
        path = f"/apis/discovery.k8s.io/v1/{of_namespace}/endpointslices"
        listed = await api.get(path, EndpointSliceList, {"labelSelector": selector})
        if isinstance(listed, Missing):
            listed = Unseen(f"EndpointSlices: {listed.value}", "see whether the API server is that of this cluster")
        slices = listed.items if isinstance(listed, EndpointSliceList) else listed
    return Sight(namespace, chosen, service, slices)


def choose(found: Sequence[ServiceImport | Missing | Unseen]) -> ServiceImport | Missing | Unseen:
    """The answer that says most: an object; that there is none; that it could not be read; that the kind is unknown."""
    for answer in found:
        if isinstance(answer, ServiceImport):
            return answer
    if Missing.OBJECT in found:
        return Missing.OBJECT
    return next((answer for answer in found if isinstance(answer, Unseen)), Missing.KIND)


M = TypeVar("M", bound=Part)


class Api:
    """Reads objects. `failure`: why the API server could not be asked at all; `fastest`: its best answer, in ms."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.failure: Unseen | None = None
        self.fastest = 0.0

    async def get(self, path: str, kind: type[M], query: dict[str, str] | None = None) -> M | Missing | Unseen:
        started = time.perf_counter()
        try:
            async with (
                asyncio.timeout(ANSWER_SECONDS),
                self.client.stream("GET", path, params=query) as response,
            ):
                body = await whole(response)
        except (httpx.HTTPError, OSError, UnicodeError) as error:
            self.failure = unreachable(self.client.base_url, error)
            return self.failure
        millis = round((time.perf_counter() - started) * 1000, 1)
        self.fastest = min(self.fastest or millis, millis)
        answer = understood(response.status_code, body, kind)
        if isinstance(answer, Unseen) and answer.altogether:
            self.failure = answer
        return answer


async def whole(response: httpx.Response) -> bytes:
    """The body, up to one byte more than is accepted."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MOST_BYTES:
            break
    return bytes(body)


def unreachable(server: httpx.URL, error: Exception) -> Unseen:
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        why = f"the API server {server} did not answer within {ANSWER_SECONDS:g} s"
        step = "ask again; if it stays so, a NetworkPolicy or a firewall may keep the pod from it"
        return Unseen(why, step, altogether=True)
    outcome, text = failure_of(error, "connect")
    if outcome is Outcome.TLS_ERROR:
        why = f"the API server {server} is not the one that ca.crt vouches for: {text}"
        step = "see what stands between, and compare ca.crt with the ConfigMap kube-root-ca.crt of the namespace"
        return Unseen(why, step, altogether=True)
    step = "see that no NetworkPolicy and no firewall keeps the pod from it"
    return Unseen(f"the API server {server} cannot be reached: {text}", step, altogether=True)


def understood(status: int, body: bytes, kind: type[M]) -> M | Missing | Unseen:
    """The object, or why it is none."""
    if status == 200:
        try:
            return kind.model_validate_json(body)
        except ValidationError as invalid:
            why = f"an answer of the API server is no {kind.__name__}: {one_line(invalid.errors()[0]['msg'])}"
            return Unseen(why, "see what answers in place of the API server")
    try:
        said = Status.model_validate_json(body)
    except ValidationError:
        said = Status()
    if status == 404:
        # An unknown kind is answered with a plain text, an unknown object with a Status that names it.
        return Missing.OBJECT if said.reason == "NotFound" and "name" in said.details else Missing.KIND
    if status == 401:
        why = "the API server does not accept the pod's token (401): it has expired, or is of another cluster"
        return Unseen(why, "restart the pod: the kubelet should have renewed the token", altogether=True)
    text = " ".join((said.message or body.decode("utf-8", "replace")).split())[:MOST_TEXT]
    if status == 403:
        return Unseen(
            f"not allowed (403): {text}", "use k8s/components/diagnose; its Role is for the own namespace only"
        )
    return Unseen(f"the API server answered {status}: {text}", "ask again; see the state of the control plane")
