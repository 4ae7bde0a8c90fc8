"""Identity of this process: environment, else metadata server, else `local`. Never raises or delays a request."""

import asyncio
import json
import logging
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx

from common import __version__
from common.messages import LOCAL, ClusterMetadata
from common.settings import ServiceSettings

log = logging.getLogger(__name__)

METADATA_PATH = "/computeMetadata/v1/"
METADATA_HEADERS = {"Metadata-Flavor": "Google"}
TIMEOUT_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0


class Identity:
    """The identity of this process; `metadata` is what is known so far.

    The environment takes precedence. Missing fields come from the GCE metadata server, which is queried in the
    background until it answers: in a new GKE pod it can be unavailable for the first seconds
    (https://docs.cloud.google.com/kubernetes-engine/docs/concepts/workload-identity#limitations).
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.queried = asyncio.Event()
        """Set after the first query of the metadata server, successful or not."""
        self.project = settings.google_cloud_project
        """The Google Cloud project; None where unknown."""
        self.update(metadata_from(settings, {}), "environment")

    def update(self, metadata: ClusterMetadata, source: str) -> None:
        self.metadata = metadata
        self.source = source
        self.header = json.dumps(metadata.model_dump(by_alias=True), separators=(",", ":")).encode("ascii")
        """The same as the value of a header: JSON in ASCII on one line."""

    @asynccontextmanager
    async def kept(self) -> AsyncIterator["Identity"]:
        """Query the metadata server in the background while the context is open."""
        querying = asyncio.create_task(self._query_until_answered())
        try:
            yield self
        finally:
            querying.cancel()
            with suppress(asyncio.CancelledError):
                await querying

    async def _query_until_answered(self) -> None:
        host = self.settings.gce_metadata_host
        if host == "none":
            self.queried.set()
            return
        async with httpx.AsyncClient(
            base_url=f"http://{host}",
            headers=METADATA_HEADERS,
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
            verify=False,  # noqa: S501 - plain HTTP on a link-local address; a TLS context would cost 20 ms
        ) as client:
            pause = 0.5
            while True:
                try:
                    document = await query(client)
                except (httpx.HTTPError, httpx.InvalidURL, ValueError, TimeoutError) as error:
                    log.debug("no identity from metadata server %s: %r", host, error)
                else:
                    self.update(metadata_from(self.settings, document), "metadata server")
                    self.project = self.project or _text(document, "project", "projectId") or None
                    return
                finally:
                    self.queried.set()
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


async def query(client: httpx.AsyncClient) -> dict[str, Any]:
    """The metadata server's whole document.

    :raises httpx.HTTPError: no reply within a second, or an error status.
    :raises ValueError: the reply is not a metadata server's (no `Metadata-Flavor: Google`, or not a JSON object).
    """
    async with asyncio.timeout(2 * TIMEOUT_SECONDS):
        response = await client.get(METADATA_PATH, params={"recursive": "true"})
    response.raise_for_status()
    if response.headers.get("metadata-flavor") != "Google":
        raise ValueError("the reply has no `Metadata-Flavor: Google`")
    document = response.json()
    if not isinstance(document, dict):
        raise ValueError(f"expected a JSON object, got {type(document).__name__}")
    return document


def metadata_from(settings: ServiceSettings, document: dict[str, Any]) -> ClusterMetadata:
    """The identity from settings and `document`, the metadata server's `?recursive=true` reply, or empty."""
    location = settings.cluster_location or _text(document, "instance", "attributes", "cluster-location")
    zone = settings.zone or _text(document, "instance", "zone").rpartition("/")[2]
    return ClusterMetadata(
        cluster_name=settings.cluster_name or _text(document, "instance", "attributes", "cluster-name") or LOCAL,
        cluster_location=location or LOCAL,
        host_name=settings.host_name or _text(document, "instance", "hostname") or socket.gethostname(),
        ip_address=settings.pod_ip or own_address(),
        zone=zone or LOCAL,
        region=settings.region or region_of(zone) or region_of(location) or LOCAL,
        pod_name=settings.pod_name or LOCAL,
        namespace=settings.pod_namespace or LOCAL,
        node_name=settings.node_name or LOCAL,
        service_account=settings.service_account or LOCAL,
        version=__version__,
    )


def resource_attributes(name: str, identity: Identity) -> dict[str, str]:
    """Resource attributes of traces and metrics, without those that are unknown.

    Names: https://opentelemetry.io/docs/specs/semconv/resource/
    """
    here = identity.metadata
    google = identity.source == "metadata server"
    known: dict[str, str | None] = {
        "service.name": name,
        "service.version": here.version,
        "cloud.provider": "gcp" if google else None,
        "cloud.platform": "gcp_kubernetes_engine" if google else None,
        "cloud.account.id": identity.project,
        "cloud.region": here.region,
        "cloud.availability_zone": here.zone,
        "host.name": here.host_name,
        "k8s.cluster.name": here.cluster_name,
        "k8s.namespace.name": here.namespace,
        "k8s.node.name": here.node_name,
        "k8s.pod.name": here.pod_name,
    }
    return {key: value for key, value in known.items() if value is not None and value != LOCAL}


def region_of(location: str) -> str:
    """`us-west1-a` → `us-west1`; a region is returned as it is. The metadata server of a VM has no region."""
    return re.sub(r"-[a-z]$", "", location)


def own_address() -> str:
    """The source address of this host's default route (a UDP `connect` sends no packet), or `local`."""
    for family, documentation_address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((documentation_address, 9))
            return str(probe.getsockname()[0])
    return LOCAL


def _text(document: dict[str, Any], *path: str) -> str:
    value: Any = document
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""
