"""Checks of the own cluster's objects: exact where DNS and sockets are only symptoms."""

from collections.abc import Iterator

from caller.check.kubernetes import (
    EndpointSlice,
    Missing,
    Port,
    ReadError,
    Service,
    ServiceImport,
    Snapshot,
    TargetObjects,
)
from caller.check.model import Check, Verdict
from caller.explain.causes import FIREWALL, IMPORTER_IAM, NETWORK_POLICY
from caller.explain.diagnosis import Names, names_of
from caller.hop.model import Hop
from caller.hop.outcome import Outcome, one_line
from caller.target import Target
from common.messages import LOCAL, Message

DNS_FAILED = (Outcome.DNS_NXDOMAIN, Outcome.DNS_NO_DATA, Outcome.DNS_UNAVAILABLE)
MAX_ADDRESSES = 5
"""Of addresses in a sentence."""


def api_server_check(snapshot: Snapshot) -> Check:
    """Whether a token is mounted, and the API server accepts it."""
    if not snapshot.token_mounted:
        evidence = (
            "no token is mounted, so ServiceImport, Service and EndpointSlices were not read;"
            " k8s/components/diagnose mounts one"
        )
        return Check(check="kubernetes", verdict="skip", evidence=evidence)
    if snapshot.failure is not None:
        return Check(
            check="kubernetes", verdict="warn", evidence=snapshot.failure.reason, next_step=snapshot.failure.next_step
        )
    answered = f"answers in {snapshot.millis} ms" if snapshot.objects else "was not queried: no target is a Service"
    return Check(check="kubernetes", verdict="pass", evidence=f"the API server {snapshot.server} {answered}")


def cluster_checks(snapshot: Snapshot, target: Target, hop: Hop) -> Iterator[Check]:
    """Checks of the objects of one target; none without a token, or if the target is not a Service."""
    objects = snapshot.objects.get(target)
    if objects is None:
        return
    checks = ClusterChecks(objects, target, hop)
    if objects.service_import is not None:
        yield checks.service_import(objects.service_import)
    if objects.slices is not None:
        yield checks.endpoints(objects.slices)
    yield checks.service(objects.service)


class ClusterChecks:
    """The checks of one target. A bad finding fails if the call failed too, else it warns."""

    def __init__(self, objects: TargetObjects, target: Target, hop: Hop) -> None:
        self.objects = objects
        self.target = target
        self.hop = hop
        self.bad: Verdict = "warn" if hop.outcome is Outcome.OK else "fail"
        values = names_of(hop, target, Message(payload="check"), None, (0, 0))
        own = hop.caller_metadata.namespace
        self.names = Names(
            values | {"namespace": objects.namespace, "own_namespace": own if own != LOCAL else objects.namespace}
        )

    def check(
        self, name: str, verdict: Verdict, evidence: str, next_step: str | None = None, command: str | None = None
    ) -> Check:
        """A check; names in braces in next step and command are replaced by those of the call."""
        return Check(
            check=name,
            target=self.target.name,
            verdict=verdict,
            evidence=evidence,
            next_step=next_step and next_step.format_map(self.names.quoted),
            command=command and command.format_map(self.names.quoted),
        )

    def unread(self, name: str, kind: str, error: ReadError) -> Check:
        if error.fatal:  # `api_server_check` warns
            return self.check(name, "skip", error.reason)
        return self.check(name, "warn", f"cannot read {kind}: {error.reason}", error.next_step, CAN_I)

    def service_import(self, found: ServiceImport | Missing | ReadError) -> Check:
        name = "serviceimport"
        where = "{service} in namespace {namespace} of {here}".format_map(self.names.as_text)
        if isinstance(found, ReadError):
            return self.unread(name, "ServiceImport", found)
        if found is Missing.KIND:
            return self.check(
                name,
                self.bad,
                "this cluster has no kind ServiceImport, neither of net.gke.io/v1 nor of"
                " multicluster.x-k8s.io/v1alpha1: nothing imports Services here",
                "enable Multi-Cluster Services for the fleet, register this cluster in it, and wait for the CRD",
                "gcloud container fleet multi-cluster-services describe; gcloud container fleet memberships list",
            )
        if isinstance(found, Missing):
            return self.check(
                name,
                self.bad,
                f"no ServiceImport {where}: it is not exported, or the export has not been synchronized yet",
                "export it in the producer's cluster (k8s/components/mcs-export); the first export takes about five"
                " minutes, the first of a fleet up to twenty",
                "kubectl --context {producer} -n {namespace} get service,serviceexport {service}",
            )
        return self.imported(name, found)

    def imported(self, name: str, found: ServiceImport) -> Check:
        """Whether the existing import matches the call."""
        see = "kubectl --context {caller} -n {namespace} get serviceimport {service} -o yaml"
        spec, exporters = found.spec, [cluster.name for cluster in found.status.clusters]
        evidence = (
            f"{found.api_version} {spec.type}, {', '.join(spec.ips) or 'no address'},"
            f" port {format_ports(spec.ports)}, exported by {', '.join(exporters) or 'no cluster'}"
        )
        not_true = next(
            (one for one in found.status.conditions if one.status == "False" and one.type != "Conflict"), None
        )
        if not_true is not None:
            reason = f"{evidence}; {not_true.type} is False: {one_line(f'{not_true.reason} {not_true.message}')}"
            return self.check(name, self.bad, reason, "check the conditions of the import and of the export", see)
        if spec.type == "ClusterSetIP" and not spec.ips:
            return self.check(name, self.bad, evidence, "wait for the address: the import is being created", see)
        if not exporters:
            step = "check that the ServiceExport still exists; if so, the import has not been updated yet"
            command = "kubectl --context {producer} -n {namespace} describe serviceexport {service}"
            return self.check(name, self.bad, evidence, step, command)
        if spec.ports and self.target.port not in [port.port for port in spec.ports]:
            step = "use a port of the import in PRODUCER_URL (this call used {port})"
            return self.check(name, self.bad, evidence, step, see)
        if self.hop.outcome in DNS_FAILED:
            return self.not_in_dns(name, found, evidence)
        if spec.ips and self.hop.addresses and not set(spec.ips) & set(self.hop.addresses):
            evidence = f"{evidence}; the name resolves to {', '.join(self.hop.addresses)}, which is not its address"
            step = "wait for the TTL of the answer; if it persists, another DNS zone answers for {host}"
            return self.check(name, self.bad, evidence, step, see)
        own = self.hop.caller_metadata.cluster_name
        if self.hop.crossing.cluster is False and own in exporters:
            step = "call several times with fresh connections; for remote answers only, delete the ServiceExport here"
            command = "kubectl --context {caller} -n {namespace} get serviceexport {service}"
            return self.check(name, "warn", f"{evidence}: the caller's own cluster exports it too", step, command)
        return self.check(name, "pass", evidence)

    def not_in_dns(self, name: str, found: ServiceImport, evidence: str) -> Check:
        """The import exists and its name does not: the DNS zone clusterset.local is wrong, not the export."""
        evidence = f"{evidence}; the import exists, but DNS does not resolve its name"
        if found.derived_service is None:
            step = "check that the cluster's DNS serves clusterset.local: CoreDNS needs the plugin multicluster"
            command = "kubectl --context {caller} -n kube-system get configmap coredns -o yaml"
            return self.check(name, self.bad, evidence, step, command)
        url = f"http://{found.derived_service}.{self.objects.namespace}.svc.cluster.local:{self.target.port}"
        return self.check(
            name,
            self.bad,
            evidence,
            "wait some minutes for the DNS zone clusterset.local; if it persists, the zone is missing, or not visible"
            " from the caller's project. The derived Service works without it",
            "kubectl --context {caller} -n {own_namespace} exec deploy/sample-caller-v1 --"
            f" env PRODUCER_URL={url} sample-caller call",
        )

    def endpoints(self, slices: list[EndpointSlice] | ReadError) -> Check:
        name = "endpoints"
        if isinstance(slices, ReadError):
            return self.unread(name, "EndpointSlices", slices)
        slices = of_one_family(slices)
        ready = addresses(slices, ready=True)
        waiting = [address for address in addresses(slices, ready=False) if address not in ready]
        clusters = sorted({one.source_cluster for one in slices if one.source_cluster})
        evidence = f"{len(ready)} ready{format_addresses(ready)}, {len(waiting)} not ready{format_addresses(waiting)}"
        if clusters:
            evidence = f"{evidence}, from {', '.join(clusters)}"
        if not slices:
            return self.no_slices(name)
        if not ready:
            return self.check(
                name,
                self.bad,
                f"{evidence}: connections are refused",
                "make a pod of the producer ready: check its readiness probe and the replicas of the Deployment",
                "kubectl --context {producer} -n {namespace} get pods -l app={service} -o wide",
            )
        if self.hop.outcome in (Outcome.CONNECT_TIMEOUT, Outcome.UNREACHABLE):
            cause = FIREWALL if self.target.kind == "clusterset.local" else NETWORK_POLICY
            return self.check(
                name,
                "fail",
                f"{evidence}: the cluster has endpoints, but packets do not reach them",
                cause.fix,
                cause.command,
            )
        return self.check(name, "pass", evidence)

    def no_slices(self, name: str) -> Check:
        found = self.objects.service_import
        if not isinstance(found, ServiceImport):
            return self.check(
                name,
                self.bad,
                "no EndpointSlice: no pod has the labels that the Service selects",
                "compare the labels of the pods with the selector of the Service",
                "kubectl --context {caller} -n {namespace} get pods --show-labels",
            )
        evidence = "no EndpointSlice: the import is synchronized, its endpoints are not"
        pods = "check that the producer has ready pods; if it has: "
        if found.on_gke:
            return self.check(name, self.bad, evidence, f"{pods}{IMPORTER_IAM.fix}", IMPORTER_IAM.command)
        command = (
            "kubectl --context {producer} -n {namespace} get endpointslices -l kubernetes.io/service-name={service}"
        )
        step = f"{pods}check the log of the controller that imports Services"
        return self.check(name, self.bad, evidence, step, command)

    def service(self, found: Service | Missing | ReadError) -> Check:
        """The Service of this cluster: what the call reaches, or what it may be confused with."""
        name = "service"
        if isinstance(found, ReadError):
            return self.unread(name, "Service", found)
        across = self.target.kind == "clusterset.local"
        where = "Service {service} in namespace {namespace} of {here}".format_map(self.names.as_text)
        see = "kubectl --context {caller} -n {namespace} get service {service} -o yaml"
        if isinstance(found, Missing):
            if across:
                return self.check(name, "pass", f"no {where}: only the import can answer")
            step = "deploy the producer here too, or call http://{service}.{namespace}.svc.clusterset.local:{port}"
            command = "kubectl --context {caller} -n {namespace} get service"
            return self.check(name, self.bad, f"no {where}", step, command)
        spec = found.spec
        evidence = f"{spec.type} {spec.external_name or spec.cluster_ip or ''}, port {format_ports(spec.ports)}"
        if across:
            return self.check(name, "pass", f"{evidence}: the target of the cluster.local name")
        if spec.type == "ExternalName":
            step = "check its external name: it is an alias in DNS, not a Service with endpoints"
            return self.check(name, "warn", evidence, step, see)
        if spec.ports and self.target.port not in [port.port for port in spec.ports]:
            step = "use a port of the Service in PRODUCER_URL (this call used {port})"
            return self.check(name, self.bad, evidence, step, see)
        return self.check(name, "pass", evidence)


CAN_I = (
    "kubectl --context {caller} -n {namespace} auth can-i --list"
    " --as=system:serviceaccount:{own_namespace}:{service_account}"
)


def format_ports(ports: list[Port]) -> str:
    return ", ".join(str(port) for port in ports) or "none"


def of_one_family(slices: list[EndpointSlice]) -> list[EndpointSlice]:
    """Slices of the first address type: a pod with two addresses is in two slices, and is one endpoint."""
    return [one for one in slices if one.address_type == slices[0].address_type]


def addresses(slices: list[EndpointSlice], *, ready: bool) -> list[str]:
    """Each address once, in the order of the slices."""
    return list(
        dict.fromkeys(
            address
            for one in slices
            for endpoint in one.endpoints
            if endpoint.ready is ready
            for address in endpoint.addresses[:1]
        )
    )


def format_addresses(found: list[str]) -> str:
    if not found:
        return ""
    more = f", and {len(found) - MAX_ADDRESSES} more" if len(found) > MAX_ADDRESSES else ""
    return f" ({', '.join(found[:MAX_ADDRESSES])}{more})"
