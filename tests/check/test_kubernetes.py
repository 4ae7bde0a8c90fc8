"""The checks of a target's objects in the API server, and of an API server that cannot be read."""

import asyncio
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from caller.check.cluster import api_server_check, cluster_checks
from caller.check.kubernetes import MAX_BYTES, TIMEOUT_SECONDS, EndpointSliceList, ServiceImport, read_snapshot
from caller.check.model import Check
from caller.hop.model import Hop
from caller.hop.outcome import Outcome
from caller.settings import Settings
from caller.target import Target, parse_target
from common.messages import ClusterMetadata
from lab.lab import CLUSTER_SET_IP, CLUSTER_SET_NAME, CLUSTER_SET_URL, CLUSTER_URL, Lab
from lab.processes import ROOT
from tests.explain.test_diagnosis import hop_of
from tests.support.kubernetes_api import (
    GKE,
    KEP,
    NAMESPACE,
    ROLE,
    TOKEN,
    ApiServer,
    Mount,
    Object,
    api_server,
    endpoint_slice,
    service,
    service_import,
    settings_for,
)
from tests.support.servers import Handler, http_reply, listening, read_request, swallowing

EXPORTED = parse_target("http://sample-producer.istio-apps.svc.clusterset.local:8080")
LOCAL_NAME = parse_target("http://sample-producer.istio-apps.svc.cluster.local:8080")
SHORT = parse_target("http://sample-producer:8080")
READY = (("10.8.2.11", True), ("10.8.2.12", True))
CALLER_HERE = ClusterMetadata(cluster_name="caller-cluster", namespace=NAMESPACE, service_account="sample-caller-sa")
IMPORTED = (service_import(), endpoint_slice(*READY))
"""A complete import, in a cluster that does not run the producer."""


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run in a pod themselves."""
    for name in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "SERVICE_ACCOUNT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    return Mount(tmp_path)


def settings(**given: Any) -> Settings:
    return Settings(**{"producer_url": EXPORTED.name, "pod_namespace": NAMESPACE} | given)


def called(outcome: Outcome = Outcome.OK, target: Target = EXPORTED, **fields: Any) -> Hop:
    return hop_of(outcome, **{"target": target.name, "caller_metadata": CALLER_HERE} | fields)


async def checks_of(given: dict[str, Any], hop: Hop | None = None, target: Target = EXPORTED) -> dict[str, Check]:
    """The checks of one target, by name; `kubernetes` is the check of the API server itself."""
    snapshot = await read_snapshot(settings(**given), [target])
    found = [api_server_check(snapshot), *cluster_checks(snapshot, target, hop or called(target=target))]
    for check in found:
        assert check.evidence
        assert (check.next_step is not None) is (check.verdict in ("warn", "fail")), check
        assert "{" not in f"{check.next_step}{check.command}", check
        assert TOKEN not in check.model_dump_json()
        if check.target is not None:
            assert (check.command is not None) is (check.verdict in ("warn", "fail")), check
    by_name = {check.check: check for check in found}
    assert len(by_name) == len(found)
    return by_name


async def checks_with(
    mount: Mount, *objects: Object, hop: Hop | None = None, target: Target = EXPORTED, **server: Any
) -> dict[str, Check]:
    async with api_server(mount, ApiServer(objects, **server)) as given:
        return await checks_of(given, hop, target)


def verdicts(checks: dict[str, Check]) -> dict[str, str]:
    return {name: check.verdict for name, check in checks.items()}


# Complete objects


@pytest.mark.parametrize(("version", "derived"), [(GKE, "gke-mcs-1a8qqpah56"), (KEP, "derived-9c8hhgqe")])
async def test_an_import_with_ready_endpoints_passes_with_all_its_facts(
    mount: Mount, version: str, derived: str
) -> None:
    objects = (service_import(version), endpoint_slice(*READY, ("10.8.2.13", False), of=derived))
    checks = await checks_with(mount, *objects, served=[version])
    assert verdicts(checks) == {"kubernetes": "pass", "serviceimport": "pass", "endpoints": "pass", "service": "pass"}
    assert checks["serviceimport"].evidence == (
        f"{version} ClusterSetIP, 34.118.229.70, port 8080/TCP, exported by producer-cluster"
    )
    assert checks["endpoints"].evidence == "2 ready (10.8.2.11, 10.8.2.12), 1 not ready (10.8.2.13)"
    assert "no Service sample-producer in namespace istio-apps" in checks["service"].evidence
    assert "https://127.0.0.1:" in checks["kubernetes"].evidence


async def test_the_slices_of_an_import_without_a_derived_service_are_found_by_the_label_of_the_kep(
    mount: Mount,
) -> None:
    imported = service_import(KEP)
    imported["metadata"]["annotations"] = None
    slices = [
        endpoint_slice(
            (address, True),
            of=f"sample-producer-{cluster}",
            labels={
                "multicluster.kubernetes.io/service-name": "sample-producer",
                "multicluster.kubernetes.io/source-cluster": cluster,
            },
        )
        for address, cluster in (("10.8.2.11", "gke-2"), ("10.12.0.5", "gke-3"))
    ]
    checks = await checks_with(mount, imported, *slices, endpoint_slice(("10.0.0.1", True), of="sample-producer"))
    assert checks["endpoints"].evidence == "2 ready (10.8.2.11, 10.12.0.5), 0 not ready, from gke-2, gke-3"


async def test_a_headless_import_needs_no_address(mount: Mount) -> None:
    imported = service_import(spec={"type": "Headless", "ips": None})
    checks = await checks_with(mount, imported, IMPORTED[1], hop=called(addresses=["10.8.2.11", "10.8.2.12"]))
    assert checks["serviceimport"].verdict == "pass"
    assert "Headless, no address" in checks["serviceimport"].evidence


async def test_a_pod_with_two_addresses_is_one_endpoint_and_unknown_readiness_is_ready(mount: Mount) -> None:
    slices = [endpoint_slice(("10.8.2.11", None)), endpoint_slice(("fd00::11", None), family="IPv6")]
    checks = await checks_with(mount, service_import(), *slices)
    assert checks["endpoints"].evidence == "1 ready (10.8.2.11), 0 not ready"


async def test_the_evidence_lists_only_a_few_of_many_endpoints(mount: Mount) -> None:
    many = endpoint_slice(*((f"10.8.2.{number}", True) for number in range(1, 101)))
    checks = await checks_with(mount, service_import(), many)
    assert checks["endpoints"].evidence.startswith("100 ready (10.8.2.1, ")
    assert "and 95 more" in checks["endpoints"].evidence


@pytest.mark.parametrize("target", [LOCAL_NAME, SHORT], ids=["cluster.local", "short"])
async def test_a_local_name_is_checked_by_its_service_and_its_own_endpoints(mount: Mount, target: Target) -> None:
    server = ApiServer([*IMPORTED, service(), endpoint_slice(("10.4.1.9", True), of="sample-producer")])
    async with api_server(mount, server) as given:
        checks = await checks_of(given, target=target)
    assert verdicts(checks) == {"kubernetes": "pass", "endpoints": "pass", "service": "pass"}
    assert checks["service"].evidence == "ClusterIP 34.118.225.10, port 8080/TCP"
    assert checks["endpoints"].evidence == "1 ready (10.4.1.9), 0 not ready"
    assert not any("serviceimports" in path for path in server.requests)


async def test_a_name_that_is_not_a_service_is_not_read(mount: Mount) -> None:
    server = ApiServer()
    async with api_server(mount, server) as given:
        checks = await checks_of(given, target=parse_target("https://producer.example.com"))
    assert verdicts(checks) == {"kubernetes": "pass"}
    assert server.requests == []


# The exact cause


async def test_without_an_import_the_missing_export_is_the_cause(mount: Mount) -> None:
    checks = await checks_with(mount, hop=called(Outcome.DNS_NXDOMAIN))
    found = checks["serviceimport"]
    assert found.verdict == "fail"
    assert found.evidence.startswith("no ServiceImport sample-producer in namespace istio-apps")
    assert "five minutes" in (found.next_step or "")
    assert found.command == (
        "kubectl --context producer-cluster -n istio-apps get service,serviceexport sample-producer"
    )
    assert "endpoints" not in checks


async def test_without_the_kind_the_fleet_feature_is_the_cause(mount: Mount) -> None:
    found = (await checks_with(mount, served=[], hop=called(Outcome.DNS_NXDOMAIN)))["serviceimport"]
    assert found.verdict == "fail"
    assert "no kind ServiceImport" in found.evidence
    assert "gcloud container fleet multi-cluster-services describe" in (found.command or "")


async def test_a_missing_object_is_a_warning_after_a_successful_call(mount: Mount) -> None:
    """A mesh may route the name without a ServiceImport."""
    assert (await checks_with(mount, served=[]))["serviceimport"].verdict == "warn"


@pytest.mark.parametrize("served", [[GKE], [KEP], [GKE, KEP]])
async def test_one_of_the_two_kinds_is_enough_to_report_a_missing_import(mount: Mount, served: list[str]) -> None:
    found = (await checks_with(mount, served=served))["serviceimport"]
    assert found.evidence.startswith("no ServiceImport")


@pytest.mark.parametrize(
    ("version", "next_step", "command"),
    [
        (GKE, "roles/compute.networkViewer", "gke-mcs-importer"),
        (KEP, "the log of the controller", "get endpointslices -l kubernetes.io/service-name=sample-producer"),
    ],
)
async def test_an_import_without_slices_is_the_importer(
    mount: Mount, version: str, next_step: str, command: str
) -> None:
    found = (await checks_with(mount, service_import(version), hop=called(Outcome.REFUSED)))["endpoints"]
    assert found.verdict == "fail"
    assert found.evidence.startswith("no EndpointSlice: the import ")
    assert "has ready pods" in (found.next_step or "")
    assert next_step in (found.next_step or "")
    assert command in (found.command or "")


@pytest.mark.parametrize("endpoints", [(), (("10.8.2.11", False), ("10.8.2.12", False))], ids=["none", "unready"])
async def test_slices_without_a_ready_endpoint_are_the_producers_pods(
    mount: Mount, endpoints: tuple[tuple[str, bool], ...]
) -> None:
    objects = (service_import(), endpoint_slice(*endpoints))
    found = (await checks_with(mount, *objects, hop=called(Outcome.REFUSED)))["endpoints"]
    assert found.verdict == "fail"
    assert found.evidence.startswith("0 ready")
    assert "readiness probe" in (found.next_step or "")
    assert found.command == "kubectl --context producer-cluster -n istio-apps get pods -l app=sample-producer -o wide"


async def test_ready_endpoints_and_a_connect_timeout_are_the_network(mount: Mount) -> None:
    found = (await checks_with(mount, *IMPORTED, hop=called(Outcome.CONNECT_TIMEOUT)))["endpoints"]
    assert found.verdict == "fail"
    assert "packets do not reach them" in found.evidence
    assert "10.8.2.11" in found.evidence
    assert "pod range" in (found.next_step or "")


async def test_an_import_whose_name_does_not_resolve_is_dns_and_the_derived_service_proves_it(mount: Mount) -> None:
    found = (await checks_with(mount, *IMPORTED, hop=called(Outcome.DNS_NXDOMAIN)))["serviceimport"]
    assert found.verdict == "fail"
    assert "DNS does not resolve its name" in found.evidence
    assert found.command == (
        "kubectl --context caller-cluster -n istio-apps exec deploy/sample-caller-v1 --"
        " env PRODUCER_URL=http://gke-mcs-1a8qqpah56.istio-apps.svc.cluster.local:8080 sample-caller call"
    )


async def test_a_name_that_resolves_to_another_address_fails(mount: Mount) -> None:
    hop = called(Outcome.REFUSED, addresses=["10.99.0.1"])
    found = (await checks_with(mount, *IMPORTED, hop=hop))["serviceimport"]
    assert found.verdict == "fail"
    assert "resolves to 10.99.0.1, which is not its address" in found.evidence


async def test_the_port_of_the_call_must_be_one_of_the_import(mount: Mount) -> None:
    target = parse_target("http://sample-producer.istio-apps.svc.clusterset.local:9090")
    found = (await checks_with(mount, *IMPORTED, hop=called(Outcome.REFUSED, target), target=target))["serviceimport"]
    assert found.verdict == "fail"
    assert "this call used 9090" in (found.next_step or "")


@pytest.mark.parametrize(
    ("changes", "evidence"),
    [
        ({"spec": {"ips": []}}, "no address"),
        ({"status": {"clusters": None}}, "exported by no cluster"),
        (
            {
                "status": {
                    "conditions": [
                        {"type": "Ready", "status": "False", "reason": "Pending", "message": "no free\naddress"}
                    ]
                }
            },
            "Ready is False: Pending no free address",
        ),
    ],
    ids=["no address", "no exporter", "not ready"],
)
async def test_the_evidence_of_an_incomplete_import_names_what_is_missing(
    mount: Mount, changes: Object, evidence: str
) -> None:
    found = (await checks_with(mount, service_import(KEP, **changes), hop=called(Outcome.REFUSED)))["serviceimport"]
    assert found.verdict == "fail"
    assert evidence in found.evidence


async def test_an_export_of_the_own_cluster_explains_a_call_that_did_not_cross(mount: Mount) -> None:
    both = [
        {"cluster": f"projects/1/locations/l/memberships/{name}"} for name in ("producer-cluster", "caller-cluster")
    ]
    objects = (service_import(status={"clusters": both}), IMPORTED[1], service())
    checks = await checks_with(mount, *objects, hop=called(crossing={"cluster": False}))
    assert checks["serviceimport"].verdict == "warn"
    assert "own cluster exports it too" in checks["serviceimport"].evidence
    assert "ClusterIP 34.118.225.10" in checks["service"].evidence
    assert (await checks_with(mount, *objects, hop=called(crossing={"cluster": True})))[
        "serviceimport"
    ].verdict == "pass"


@pytest.mark.parametrize(
    ("objects", "name", "evidence", "next_step"),
    [
        ((), "service", "no Service sample-producer", "svc.clusterset.local:8080"),
        ((service(),), "endpoints", "no pod has the labels", "selector of the Service"),
        ((service(ports=[{"port": 80}]),), "service", "port 80/TCP", "this call used 8080"),
        (
            (service(), endpoint_slice(("10.4.1.9", False), of="sample-producer")),
            "endpoints",
            "0 ready, 1 not ready (10.4.1.9)",
            "readiness probe",
        ),
    ],
    ids=["no service", "no slice", "port", "unready"],
)
async def test_a_broken_local_service_fails_with_its_reason(
    mount: Mount, objects: tuple[Object, ...], name: str, evidence: str, next_step: str
) -> None:
    hop = called(Outcome.REFUSED, LOCAL_NAME)
    found = (await checks_with(mount, *objects, hop=hop, target=LOCAL_NAME))[name]
    assert found.verdict == "fail"
    assert evidence in found.evidence
    assert next_step in (found.next_step or "")


async def test_an_external_name_is_a_warning(mount: Mount) -> None:
    external = service(type="ExternalName", externalName="producer.example.com", clusterIP=None, ports=None)
    found = (await checks_with(mount, external, target=LOCAL_NAME))["service"]
    assert (found.verdict, found.evidence) == ("warn", "ExternalName producer.example.com, port none")


async def test_a_derived_service_with_an_invalid_name_is_in_no_command(mount: Mount) -> None:
    imported = service_import()
    imported["metadata"]["annotations"]["net.gke.io/derived-service"] = "x; reboot {host}"
    checks = await checks_with(mount, imported, hop=called(Outcome.DNS_NXDOMAIN))
    assert "reboot" not in json.dumps([check.model_dump() for check in checks.values()])


@pytest.mark.parametrize("objects", [(), (service_import(),), IMPORTED, (service(),)])
@pytest.mark.parametrize("outcome", [Outcome.DNS_NXDOMAIN, Outcome.REFUSED, Outcome.CONNECT_TIMEOUT])
async def test_a_hostile_cluster_name_stays_one_word_of_every_command(
    mount: Mount, objects: tuple[Object, ...], outcome: Outcome
) -> None:
    hostile = "x; reboot {host} $(reboot)"
    here = CALLER_HERE.model_copy(update={"cluster_name": hostile, "service_account": hostile})
    there = ClusterMetadata(cluster_name=hostile)
    for target in (EXPORTED, LOCAL_NAME):
        hop = called(outcome, target, caller_metadata=here, producer_metadata=there)
        async with api_server(mount, ApiServer(objects)) as given:
            snapshot = await read_snapshot(settings(**given), [target])
        commands = [check.command for check in cluster_checks(snapshot, target, hop) if check.command]
        for command in commands:
            assert all(hostile in word for word in shlex.split(command) if "reboot" in word), command
            assert "$(reboot)" not in command.replace(shlex.quote(hostile), "")


# Objects that cannot be read


async def test_without_a_token_one_check_is_skipped_and_names_the_component(tmp_path: Path) -> None:
    checks = await checks_of({"service_account_dir": str(tmp_path / "none"), "kubernetes_service_host": "127.0.0.1"})
    assert verdicts(checks) == {"kubernetes": "skip"}
    assert "k8s/components/diagnose" in checks["kubernetes"].evidence


UNREADABLE = {"kubernetes": "warn", "serviceimport": "skip", "service": "skip"}


async def test_a_rejected_token_is_one_warning(mount: Mount) -> None:
    checks = await checks_with(mount, *IMPORTED, token="another")
    assert verdicts(checks) == UNREADABLE
    assert "rejects the pod's token (401)" in checks["kubernetes"].evidence


async def test_the_token_is_read_again_for_each_report(mount: Mount) -> None:
    async with api_server(mount, ApiServer(IMPORTED, token="renewed")) as given:
        assert (await checks_of(given))["kubernetes"].verdict == "warn"
        (mount.folder / "token").write_text("renewed\n")
        assert (await checks_of(given))["kubernetes"].verdict == "pass"


@pytest.mark.parametrize("missing", ["serviceimports", "services", "endpointslices"])
async def test_a_missing_right_does_not_affect_the_other_checks(mount: Mount, missing: str) -> None:
    role = {"rules": [rule for rule in ROLE["rules"] if rule["resources"] != [missing]]}
    checks = await checks_with(mount, *IMPORTED, role=role)
    name = {"serviceimports": "serviceimport", "services": "service", "endpointslices": "endpoints"}[missing]
    assert checks[name].verdict == "warn"
    assert "cannot read " in checks[name].evidence
    assert "forbidden (403)" in checks[name].evidence
    assert f'cannot {"list" if missing == "endpointslices" else "get"} resource "{missing}"' in checks[name].evidence
    assert "k8s/components/diagnose" in (checks[name].next_step or "")
    assert "auth can-i --list --as=system:serviceaccount:istio-apps:" in (checks[name].command or "")
    assert {check.verdict for other, check in checks.items() if other != name} == {"pass"}


async def test_another_namespace_is_forbidden(mount: Mount) -> None:
    target = parse_target("http://sample-producer.elsewhere.svc.clusterset.local:8080")
    checks = await checks_with(mount, *IMPORTED, target=target)
    assert verdicts(checks) == {"kubernetes": "pass", "serviceimport": "warn", "service": "warn"}
    assert 'in the namespace "elsewhere"' in checks["serviceimport"].evidence


async def test_a_server_with_a_certificate_of_another_authority_gets_no_token(mount: Mount) -> None:
    trustme.CA().cert_pem.write_to_path(str(mount.folder / "ca.crt"))
    server = ApiServer(IMPORTED)
    async with api_server(mount, server) as given:
        checks = await checks_of(given)
    assert verdicts(checks) == UNREADABLE
    assert "ca.crt does not verify the API server" in checks["kubernetes"].evidence
    assert server.requests == []


async def test_a_certificate_for_another_name_gets_no_token(tmp_path: Path) -> None:
    mount, server = Mount(tmp_path, "10.0.0.1"), ApiServer(IMPORTED)
    async with api_server(mount, server) as given:
        checks = await checks_of(given)
    assert verdicts(checks) == UNREADABLE
    assert "IP address mismatch" in checks["kubernetes"].evidence
    assert server.requests == []


async def test_an_api_server_that_refuses_connections_cannot_be_reached(mount: Mount) -> None:
    async with api_server(mount, ApiServer()) as given:
        pass
    checks = await checks_of(given)
    assert verdicts(checks) == UNREADABLE
    assert "ECONNREFUSED" in checks["kubernetes"].evidence


async def closing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await read_request(reader)


async def test_an_api_server_that_closes_without_a_reply_cannot_be_reached(mount: Mount) -> None:
    async with listening(closing, mount.tls()) as address:
        checks = await checks_of(settings_for(mount, address))
    assert verdicts(checks) == UNREADABLE
    assert checks["kubernetes"].evidence.endswith(": the connection was closed without a reply")


async def test_an_api_server_behind_a_firewall_times_out(mount: Mount) -> None:
    async with swallowing() as address:
        await assert_timed_out(settings_for(mount, address))


async def headers_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.1)


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


@pytest.mark.parametrize("handler", [silent, headers_only], ids=["silent", "drips"])
async def test_a_slow_api_server_times_out(mount: Mount, handler: Handler) -> None:
    async with listening(handler, mount.tls()) as address:
        await assert_timed_out(settings_for(mount, address))


async def assert_timed_out(given: dict[str, Any]) -> None:
    started = time.monotonic()
    checks = await checks_of(given)
    assert verdicts(checks) == UNREADABLE
    assert f" within {TIMEOUT_SECONDS:g} s" in checks["kubernetes"].evidence
    assert "no reply from the API server" in checks["kubernetes"].evidence
    assert TIMEOUT_SECONDS <= time.monotonic() - started < 5 * TIMEOUT_SECONDS


async def test_endless_replies_are_truncated(mount: Mount) -> None:
    written = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        while True:
            writer.write(b" " * 65_536)
            await writer.drain()
            written += 65_536

    async with listening(endless, mount.tls()) as address:
        checks = await checks_of(settings_for(mount, address))
    assert checks["service"].verdict in ("warn", "skip"), "no Service, or on a slow machine too late"
    buffers = 16 * 2**20
    assert written < 3 * (MAX_BYTES + buffers), "there were three requests"


@pytest.mark.parametrize(
    ("status", "body", "evidence"),
    [
        ("200 OK", "<html>", "is not a Service"),
        ("200 OK", '{"kind": "Service", "spec": 1}', "is not a Service"),
        ("500 Internal Server Error", "etcd is gone", "answered 500: etcd is gone"),
        ("429 Too Many Requests", '{"message": "slow down", "details": null}', "answered 429: slow down"),
        ("302 Found", "", "answered 302"),
    ],
    ids=["page", "shape", "500", "429", "redirect"],
)
async def test_an_unexpected_reply_is_a_warning_that_quotes_it(
    mount: Mount, status: str, body: str, evidence: str
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        headers = {"location": "https://127.0.0.1:1/", "connection": "close"}
        writer.write(http_reply(status, headers, body))
        await writer.drain()

    async with listening(handler, mount.tls()) as address:
        checks = await checks_of(settings_for(mount, address))
    assert checks["service"].verdict == "warn"
    assert evidence in checks["service"].evidence


@pytest.mark.parametrize(
    ("spoil", "evidence"),
    [
        (lambda folder: (folder / "token").write_text(""), "does not contain a token"),
        (lambda folder: (folder / "token").write_bytes(TOKEN.encode() + b"\nx"), "does not contain a token"),
        (lambda folder: (folder / "ca.crt").unlink(), "ca.crt beside the token is unusable: No such file"),
        (lambda folder: (folder / "ca.crt").write_text("none"), "ca.crt beside the token is unusable"),
    ],
    ids=["empty token", "two lines", "no ca.crt", "invalid ca.crt"],
)
async def test_an_incomplete_mount_is_a_warning_with_its_reason(mount: Mount, spoil: Any, evidence: str) -> None:
    spoil(mount.folder)
    checks = await checks_of({"service_account_dir": str(mount.folder), "kubernetes_service_host": "127.0.0.1"})
    assert verdicts(checks) == {"kubernetes": "warn"}
    assert evidence in checks["kubernetes"].evidence


async def test_an_invalid_host_is_a_warning(mount: Mount) -> None:
    checks = await checks_of({"service_account_dir": str(mount.folder), "kubernetes_service_host": "::no"})
    assert verdicts(checks) == {"kubernetes": "warn"}
    assert "KUBERNETES_SERVICE_HOST" in checks["kubernetes"].evidence


async def test_a_token_outside_a_cluster_is_a_warning(mount: Mount) -> None:
    checks = await checks_of({"service_account_dir": str(mount.folder)})
    assert "KUBERNETES_SERVICE_HOST is not set" in checks["kubernetes"].evidence


async def test_the_own_namespace_is_that_of_the_mount_or_else_that_of_the_settings(mount: Mount) -> None:
    (mount.folder / "namespace").unlink()
    checks = await checks_with(mount, service(), endpoint_slice(("10.4.1.9", True), of="sample-producer"), target=SHORT)
    assert verdicts(checks) == {"kubernetes": "pass", "endpoints": "pass", "service": "pass"}


async def test_the_logs_contain_no_token(mount: Mount, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        await checks_with(mount, *IMPORTED)
        await checks_with(mount, *IMPORTED, token="another")
    assert TOKEN not in caplog.text


def test_the_role_grants_exactly_what_the_checks_read() -> None:
    rights = {
        (group, resource, verb)
        for rule in ROLE["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert ROLE["kind"] == "Role"
    assert rights == {
        ("net.gke.io", "serviceimports", "get"),
        ("multicluster.x-k8s.io", "serviceimports", "get"),
        ("", "services", "get"),
        ("discovery.k8s.io", "endpointslices", "get"),
        ("discovery.k8s.io", "endpointslices", "list"),
    }


def test_a_null_list_or_map_is_empty() -> None:
    nulls = {"metadata": {"name": "a", "labels": None}, "endpoints": None, "ports": None}
    assert EndpointSliceList.model_validate({"items": [nulls]}).items[0].endpoints == []
    assert EndpointSliceList.model_validate({"items": None}).items == []
    spec = {"type": "Headless", "ips": None, "ports": None}
    empty = {
        "apiVersion": KEP,
        "metadata": {"name": "a", "annotations": None},
        "spec": spec,
        "status": {"clusters": None},
    }
    assert ServiceImport.model_validate(empty).status.clusters == []


# Two clusters


class Cluster:
    """An API server in the caller's cluster; a test sets its objects."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment: dict[str, str] = {}

    def set_objects(self, *objects: Object) -> None:
        draft = self.folder / "objects.new"
        draft.write_text(json.dumps(objects))
        draft.replace(self.folder / "objects.json")


@contextmanager
def cluster_of(lab: Lab, folder: Path) -> Iterator[Cluster]:
    address, port = "10.4.1.7", 6443
    mount = Mount(folder, address)
    mount.certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    cluster = Cluster(folder)
    cluster.environment = {
        "KUBERNETES_SERVICE_HOST": address,
        "KUBERNETES_SERVICE_PORT": str(port),
        "SERVICE_ACCOUNT_DIR": str(folder),
        "SERVICE_ACCOUNT": "sample-caller-sa",
    }
    cluster.set_objects()
    command = [
        *lab.caller_cluster.prefix,
        sys.executable,
        "-m",
        "tests.support.kubernetes_api",
        str(folder),
        address,
        str(port),
    ]
    process = subprocess.Popen(command, cwd=ROOT, env={"PATH": os.environ["PATH"]})
    try:
        deadline = time.monotonic() + 20
        while not (folder / "ready").exists():
            assert process.poll() is None, "the API server ended"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield cluster
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture
def cluster(lab: Lab, tmp_path: Path) -> Iterator[Cluster]:
    with cluster_of(lab, tmp_path) as cluster:
        yield cluster


def report_of(lab: Lab, environment: dict[str, str]) -> tuple[int, dict[tuple[str | None, str], dict[str, Any]]]:
    """`sample-caller check` in the caller's pod: its exit status, and its checks by target and name."""
    ended = subprocess.run(
        [*lab.caller_cluster.prefix, sys.executable, "-m", "caller", "check", "--json"],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "GCE_METADATA_HOST": "none",
            "POD_NAMESPACE": NAMESPACE,
            "PRODUCER_URL": CLUSTER_SET_URL,
            "COMPARE_URLS": CLUSTER_URL,
            **lab.caller_cluster.identity,
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert TOKEN not in ended.stdout + ended.stderr
    report = json.loads(ended.stdout)
    return ended.returncode, {(check["target"], check["check"]): check for check in report["checks"]}


LOCAL_OBJECTS = (service(), endpoint_slice(("10.4.1.9", True), of="sample-producer"))


def test_in_a_cluster_the_command_shows_the_objects_of_both_names(lab: Lab, cluster: Cluster) -> None:
    cluster.set_objects(service_import(), endpoint_slice(*READY), *LOCAL_OBJECTS)
    status, checks = report_of(lab, cluster.environment)
    assert status == 0
    assert checks[None, "kubernetes"]["verdict"] == "pass"
    assert CLUSTER_SET_IP in checks[CLUSTER_SET_URL, "serviceimport"]["evidence"]
    assert "2 ready" in checks[CLUSTER_SET_URL, "endpoints"]["evidence"]
    assert checks[CLUSTER_URL, "endpoints"]["evidence"] == "1 ready (10.4.1.9), 0 not ready"
    assert (CLUSTER_URL, "serviceimport") not in checks


def test_in_a_cluster_the_objects_show_whether_a_refusal_is_the_importer_or_the_pods(
    lab: Lab, cluster: Cluster
) -> None:
    with lab.endpoints():
        cluster.set_objects(service_import(), *LOCAL_OBJECTS)
        status, without_slices = report_of(lab, cluster.environment)
        cluster.set_objects(service_import(), endpoint_slice(("10.8.2.11", False)), *LOCAL_OBJECTS)
        _, unready = report_of(lab, cluster.environment)
    assert status == 1
    assert without_slices[CLUSTER_SET_URL, "tcp"]["verdict"] == "fail"
    assert "gke-mcs-importer" in without_slices[CLUSTER_SET_URL, "endpoints"]["command"]
    assert unready[CLUSTER_SET_URL, "endpoints"]["evidence"].startswith("0 ready, 1 not ready (10.8.2.11)")
    assert unready[CLUSTER_URL, "service"]["verdict"] == "pass"


def test_in_a_cluster_a_missing_name_is_the_export_or_the_zone(lab: Lab, cluster: Cluster) -> None:
    with lab.zone({CLUSTER_SET_NAME: "nxdomain"}):
        cluster.set_objects(*LOCAL_OBJECTS)
        _, without_import = report_of(lab, cluster.environment)
        cluster.set_objects(service_import(), endpoint_slice(*READY), *LOCAL_OBJECTS)
        _, without_name = report_of(lab, cluster.environment)
    assert without_import[CLUSTER_SET_URL, "serviceimport"]["evidence"].startswith("no ServiceImport")
    assert "DNS does not resolve its name" in without_name[CLUSTER_SET_URL, "serviceimport"]["evidence"]
    assert without_name[CLUSTER_SET_URL, "endpoints"]["verdict"] == "pass"


def test_in_a_cluster_ready_endpoints_and_dropped_packets_are_the_network(lab: Lab, cluster: Cluster) -> None:
    cluster.set_objects(service_import(), endpoint_slice(*READY), *LOCAL_OBJECTS)
    with lab.firewall("DROP"):
        _, checks = report_of(lab, cluster.environment)
    assert "packets do not reach them" in checks[CLUSTER_SET_URL, "endpoints"]["evidence"]


def test_an_unreachable_api_server_fails_no_other_check(lab: Lab, cluster: Cluster) -> None:
    status, checks = report_of(lab, {**cluster.environment, "KUBERNETES_SERVICE_PORT": "6444"})
    assert status == 0
    assert checks[None, "kubernetes"]["verdict"] == "warn"
    assert checks[CLUSTER_SET_URL, "serviceimport"]["verdict"] == "skip"
    assert checks[CLUSTER_SET_URL, "crossing"]["verdict"] == "pass"
