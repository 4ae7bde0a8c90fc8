"""The identity, from a real local server that behaves like Google's metadata server."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from common.cluster import Identity, metadata_from, region_of
from common.messages import ClusterMetadata
from common.settings import ServiceSettings
from tests.support.servers import in_process, listening, producer_app, serving

DOCUMENT = {
    "instance": {
        "attributes": {"cluster-location": "us-west1", "cluster-name": "caller-cluster", "cluster-uid": "0badcafe"},
        "hostname": "gke-caller-pool-1.c.project.internal",
        "id": 1234567890123456789,
        "serviceAccounts": {},
        "zone": "projects/123456789012/zones/us-west1-a",
    },
    "project": {"numericProjectId": 123456789012, "projectId": "project"},
}


class MetadataServer:
    """As in https://docs.cloud.google.com/compute/docs/metadata/querying-metadata: 403 without the header."""

    def __init__(self) -> None:
        self.queries = 0
        self.delay = 0.0
        self.failures = 0
        self.document: Any = DOCUMENT
        self.flavor = "Google"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        await (await self.answer(Request(scope)))(scope, receive, send)

    async def answer(self, request: Request) -> Response:
        self.queries += 1
        await asyncio.sleep(self.delay)
        if request.headers.get("metadata-flavor") != "Google":
            return PlainTextResponse("Missing Metadata-Flavor:Google header.", 403)
        if self.queries <= self.failures:
            return PlainTextResponse("not yet", 503)
        if request.url.path != "/computeMetadata/v1/" or request.query_params.get("recursive") != "true":
            return PlainTextResponse("not found", 404)
        return JSONResponse(self.document, headers={"metadata-flavor": self.flavor})


@asynccontextmanager
async def metadata_server() -> AsyncIterator[tuple[MetadataServer, str]]:
    server = MetadataServer()
    async with serving(server) as url:
        yield server, url.removeprefix("http://")


async def identity_after(host: str, seconds: float, **settings: str) -> Identity:
    """The identity as soon as it came from the metadata server, or as it is after this time."""
    identity = Identity(ServiceSettings(gce_metadata_host=host, **settings))  # type: ignore[arg-type]
    async with identity.kept():
        deadline = time.monotonic() + seconds
        while identity.source != "metadata server" and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
    return identity


async def test_all_fields_come_from_one_query() -> None:
    async with metadata_server() as (server, host):
        identity = await identity_after(host, 20)
    assert server.queries == 1
    assert identity.metadata.cluster_name == "caller-cluster"
    assert identity.metadata.cluster_location == "us-west1"
    assert identity.metadata.zone == "us-west1-a"
    assert identity.metadata.region == "us-west1"
    assert identity.metadata.host_name == "gke-caller-pool-1.c.project.internal"
    assert json.loads(identity.header)["clusterName"] == "caller-cluster"


async def test_the_environment_takes_precedence() -> None:
    async with metadata_server() as (_, host):
        identity = await identity_after(host, 20, cluster_name="mine", zone="europe-west4-c", pod_name="pod-1")
    assert identity.metadata.cluster_name == "mine"
    assert (identity.metadata.zone, identity.metadata.region) == ("europe-west4-c", "europe-west4")
    assert identity.metadata.cluster_location == "us-west1"
    assert identity.metadata.pod_name == "pod-1"


async def test_a_server_that_is_not_available_yet_is_queried_again() -> None:
    async with metadata_server() as (server, host):
        server.failures = 1
        identity = await identity_after(host, 20)
    assert identity.metadata.cluster_name == "caller-cluster"
    assert server.queries == 2


async def test_without_a_server_everything_unknown_is_local() -> None:
    identity = await identity_after("metadata.invalid", 0.5)
    assert identity.source == "environment"
    assert identity.metadata.cluster_name == identity.metadata.zone == identity.metadata.region == "local"
    assert identity.metadata.host_name
    assert identity.metadata.ip_address


async def test_a_query_times_out_after_a_second() -> None:
    async with metadata_server() as (server, host):
        server.delay = 5
        identity = await identity_after(host, 3)
    assert identity.source == "environment"
    assert identity.queried.is_set()


@pytest.mark.parametrize("document", ["text", [], {}, {"instance": "x"}, {"instance": {"attributes": [], "zone": 1}}])
async def test_a_document_of_another_shape_is_not_an_error(document: Any) -> None:
    async with metadata_server() as (server, host):
        server.document = document
        identity = await identity_after(host, 1)
    assert identity.metadata.cluster_name == "local"


async def test_a_reply_without_googles_header_is_ignored() -> None:
    async with metadata_server() as (server, host):
        server.flavor = "Other"
        identity = await identity_after(host, 1)
    assert identity.source == "environment"


async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def test_a_hanging_server_delays_neither_start_nor_readiness_nor_calls_nor_stop() -> None:
    """A query takes a second to time out. A busy machine may slow down one attempt, but not three."""
    seconds = []
    for _ in range(3):
        async with listening(hang) as host:
            started = time.perf_counter()
            async with in_process(producer_app(gce_metadata_host=host)) as client:
                assert (await client.get("/actuator/health/readiness")).status_code == 200
                assert (await client.post("/producer/messages", json={"payload": "a"})).status_code == 200
            seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1


@pytest.mark.parametrize(
    ("location", "region"),
    [("us-west1-a", "us-west1"), ("us-west1", "us-west1"), ("europe-west4-c", "europe-west4"), ("", "")],
)
def test_the_region_is_derived(location: str, region: str) -> None:
    assert region_of(location) == region


def test_the_region_is_derived_from_the_location_of_a_zonal_cluster_too() -> None:
    metadata = metadata_from(ServiceSettings(), {"instance": {"attributes": {"cluster-location": "us-east4-b"}}})
    assert (metadata.cluster_location, metadata.zone, metadata.region) == ("us-east4-b", "local", "us-east4")


def test_the_identity_has_the_keys_of_the_kotlin_contract() -> None:
    keys = set(ClusterMetadata().model_dump(by_alias=True))
    assert keys >= {"clusterName", "clusterLocation", "hostName", "ipAddress", "zone", "region"}
