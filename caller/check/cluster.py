"""What the own cluster's objects say about a call: exact where DNS and sockets can only hint at a cause."""

from collections.abc import Iterator

from caller.check.kubernetes import EndpointSlice, Missing, Port, Service, ServiceImport, Sight, Unseen, View
from caller.check.model import Check, Verdict
from caller.explain.causes import FIREWALL, IMPORTER_IAM, NETWORK_POLICY
from caller.explain.diagnosis import Names, names_of
from caller.hop.outcome import Hop, Outcome, one_line
from caller.target import Target
from common.messages import LOCAL, Message

DNS_FAILED = (Outcome.DNS_NXDOMAIN, Outcome.DNS_NO_DATA, Outcome.DNS_UNAVAILABLE)
MOST_SHOWN = 5
"""Addresses in a sentence."""


def api_server_check(view: View) -> Check:
    """Whether there is a token, and an API server that takes it."""
    if not view.mounted:
        evidence = (
            "no token is mounted, so ServiceImport, Service and EndpointSlices were not looked at;"
            " k8s/components/diagnose mounts one"
        )
        return Check(check="kubernetes", verdict="skip", evidence=evidence)
    if view.failure is not None:
        return Check(check="kubernetes", verdict="warn", evidence=view.failure.why, next_step=view.failure.next_step)
    answered = f"answers in {view.millis} ms" if view.sights else "was not asked: no target is a Service"
    return Check(check="kubernetes", verdict="pass", evidence=f"the API server {view.server} {answered}")


def cluster_checks(view: View, target: Target, hop: Hop) -> Iterator[Check]:
    """The objects behind one target; none without a token, or for a name that is no Service."""
    sight = view.sights.get(target)
    if sight is None:
        return
    checks = ClusterChecks(sight, target, hop)
    if sight.service_import is not None:
        yield checks.service_import(sight.service_import)
    if sight.slices is not None:
        yield checks.endpoints(sight.slices)
    yield checks.service(sight.service)


class ClusterChecks:
    """The checks of one target. A finding fails where the call failed too; after a call that went well it warns."""

    def __init__(self, sight: Sight, target: Target, hop: Hop) -> None:
        self.sight = sight
        self.target = target
        self.hop = hop
        self.bad: Verdict = "warn" if hop.outcome is Outcome.OK else "fail"
        values = names_of(hop, target, Message(payload="check"), None, (0, 0))
        own = hop.caller_metadata.namespace
        self.names = Names(
            values | {"namespace": sight.namespace, "own_namespace": own if own != LOCAL else sight.namespace}
        )

    def check(
        self, name: str, verdict: Verdict, evidence: str, next_step: str | None = None, command: str | None = None
    ) -> Check:
        """A check whose next step and command are filled in with the names of the call."""
        return Check(
            check=name,
            target=self.target.name,
            verdict=verdict,
            evidence=evidence,
            next_step=next_step and next_step.format_map(self.names.quoted),
            command=command and command.format_map(self.names.quoted),
        )

    def unseen(self, name: str, unseen: Unseen) -> Check:
        if unseen.altogether:  # said once, by `api_server_check`
            return self.check(name, "skip", unseen.why)
        return self.check(name, "warn", f"could not be seen: {unseen.why}", unseen.next_step, CAN_I)

    def service_import(self, found: ServiceImport | Missing | Unseen) -> Check:
        name = "serviceimport"
        where = "{service} in namespace {namespace} of {here}".format_map(self.names.as_text)
        if isinstance(found, Unseen):
            return self.unseen(name, found)
        if found is Missing.KIND:
            return self.check(
                name,
                self.bad,
                "this cluster has no kind ServiceImport, of net.gke.io/v1 or multicluster.x-k8s.io/v1alpha1:"
                " nothing imports Services here",
                "enable Multi-Cluster Services for the fleet, register this cluster in it, and wait for the CRD",
                "gcloud container fleet multi-cluster-services describe; gcloud container fleet memberships list",
            )
        if isinstance(found, Missing):
            return self.check(
                name,
                self.bad,
                f"there is no ServiceImport {where}: nothing exports it, or the export has not arrived yet",
                "export it in the producer's cluster (k8s/components/mcs-export); the first export takes about five"
                " minutes, the first of a fleet up to twenty",
                "kubectl --context {producer} -n {namespace} get service,serviceexport {service}",
            )
        return self.imported(name, found)

    def imported(self, name: str, found: ServiceImport) -> Check:
        """Whether the import that is there fits the call."""
        see = "kubectl --context {caller} -n {namespace} get serviceimport {service} -o yaml"
        spec, exporters = found.spec, [cluster.name for cluster in found.status.clusters]
        evidence = (
            f"{found.api_version} {spec.type}, {', '.join(spec.ips) or 'no address'},"
            f" port {listed(spec.ports)}, exported by {', '.join(exporters) or 'no cluster'}"
        )
        not_true = next(
            (one for one in found.status.conditions if one.status == "False" and one.type != "Conflict"), None
        )
        if not_true is not None:
            reason = f"{evidence}; {not_true.type} is False: {one_line(f'{not_true.reason} {not_true.message}')}"
            return self.check(name, self.bad, reason, "see the conditions of the import and of the export", see)
        if spec.type == "ClusterSetIP" and not spec.ips:
            return self.check(name, self.bad, evidence, "wait for the address: the import is being set up", see)
        if not exporters:
            step = "see whether the ServiceExport is still there; where it is, the import has not been updated yet"
            command = "kubectl --context {producer} -n {namespace} describe serviceexport {service}"
            return self.check(name, self.bad, evidence, step, command)
        if spec.ports and self.target.port not in [port.port for port in spec.ports]:
            step = "put a port of the import into PRODUCER_URL (this call used {port})"
            return self.check(name, self.bad, evidence, step, see)
        if self.hop.outcome in DNS_FAILED:
            return self.not_in_dns(name, found, evidence)
        if spec.ips and self.hop.addresses and not set(spec.ips) & set(self.hop.addresses):
            evidence = f"{evidence}; the name resolves to {', '.join(self.hop.addresses)}, which is not its address"
            step = "wait for the TTL of the answer; if it stays so, another zone answers for {host}"
            return self.check(name, self.bad, evidence, step, see)
        own = self.hop.caller_metadata.cluster_name
        if self.hop.crossing.cluster is False and own in exporters:
            step = "call some times with fresh connections; for remote answers only, delete the ServiceExport here"
            command = "kubectl --context {caller} -n {namespace} get serviceexport {service}"
            return self.check(name, "warn", f"{evidence}: the caller's own cluster exports it too", step, command)
        return self.check(name, "pass", evidence)

    def not_in_dns(self, name: str, found: ServiceImport, evidence: str) -> Check:
        """The import is there and its name is not: the zone of clusterset.local, not the export, is at fault."""
        evidence = f"{evidence}; the import is there, but DNS does not know its name"
        if found.derived_service is None:
            step = "see that the cluster's DNS serves clusterset.local: CoreDNS needs the plugin multicluster"
            command = "kubectl --context {caller} -n kube-system get configmap coredns -o yaml"
            return self.check(name, self.bad, evidence, step, command)
        url = f"http://{found.derived_service}.{self.sight.namespace}.svc.cluster.local:{self.target.port}"
        return self.check(
            name,
            self.bad,
            evidence,
            "wait some minutes for the zone of clusterset.local; if it stays so, it is missing, or not visible from the"
            " caller's project. The derived Service is called without it",
            "kubectl --context {caller} -n {own_namespace} exec deploy/sample-caller-v1 --"
            f" env PRODUCER_URL={url} sample-caller call",
        )

    def endpoints(self, slices: list[EndpointSlice] | Unseen) -> Check:
        name = "endpoints"
        if isinstance(slices, Unseen):
            return self.unseen(name, slices)
        slices = of_one_family(slices)
        ready = addresses(slices, ready=True)
        waiting = [address for address in addresses(slices, ready=False) if address not in ready]
        clusters = sorted({one.source_cluster for one in slices if one.source_cluster})
        evidence = f"{len(ready)} ready{shown(ready)}, {len(waiting)} not ready{shown(waiting)}"
        if clusters:
            evidence = f"{evidence}, from {', '.join(clusters)}"
        if not slices:
            return self.no_slices(name)
        if not ready:
            return self.check(
                name,
                self.bad,
                f"{evidence}: connections are refused",
                "make a pod of the producer ready: see its readiness probe, and that the Deployment is not scaled to 0",
                "kubectl --context {producer} -n {namespace} get pods -l app={service} -o wide",
            )
        if self.hop.outcome in (Outcome.CONNECT_TIMEOUT, Outcome.UNREACHABLE):
            cause = FIREWALL if self.target.kind == "clusterset.local" else NETWORK_POLICY
            return self.check(
                name,
                "fail",
                f"{evidence}: the cluster knows where to go, and packets do not arrive there",
                cause.fix,
                cause.command,
            )
        return self.check(name, "pass", evidence)

    def no_slices(self, name: str) -> Check:
        found = self.sight.service_import
        if not isinstance(found, ServiceImport):
            return self.check(
                name,
                self.bad,
                "no EndpointSlice: no pod has the labels that the Service selects",
                "compare the labels of the pods with the selector of the Service",
                "kubectl --context {caller} -n {namespace} get pods --show-labels",
            )
        evidence = "no EndpointSlice: the import has arrived, its endpoints have not"
        pods = "see that the producer has ready pods; if it has: "
        if found.on_gke:
            return self.check(name, self.bad, evidence, f"{pods}{IMPORTER_IAM.fix}", IMPORTER_IAM.command)
        command = (
            "kubectl --context {producer} -n {namespace} get endpointslices -l kubernetes.io/service-name={service}"
        )
        step = f"{pods}see the log of the controller that imports Services"
        return self.check(name, self.bad, evidence, step, command)

    def service(self, found: Service | Missing | Unseen) -> Check:
        """The Service of this cluster: what the call reaches, or what it must not be taken for."""
        name = "service"
        if isinstance(found, Unseen):
            return self.unseen(name, found)
        across = self.target.kind == "clusterset.local"
        where = "Service {service} in namespace {namespace} of {here}".format_map(self.names.as_text)
        see = "kubectl --context {caller} -n {namespace} get service {service} -o yaml"
        if isinstance(found, Missing):
            if across:
                return self.check(name, "pass", f"no {where}: only the import can answer")
            step = "deploy the producer here too, or call http://{service}.{namespace}.svc.clusterset.local:{port}"
            command = "kubectl --context {caller} -n {namespace} get service"
            return self.check(name, self.bad, f"there is no {where}", step, command)
        spec = found.spec
        evidence = f"{spec.type} {spec.external_name or spec.cluster_ip or ''}, port {listed(spec.ports)}"
        if across:
            return self.check(name, "pass", f"{evidence}: what the name in cluster.local means here")
        if spec.type == "ExternalName":
            step = "see where it leads: it is a name in DNS, not a Service with endpoints"
            return self.check(name, "warn", evidence, step, see)
        if spec.ports and self.target.port not in [port.port for port in spec.ports]:
            step = "put a port of the Service into PRODUCER_URL (this call used {port})"
            return self.check(name, self.bad, evidence, step, see)
        return self.check(name, "pass", evidence)


CAN_I = (
    "kubectl --context {caller} -n {namespace} auth can-i --list"
    " --as=system:serviceaccount:{own_namespace}:{service_account}"
)


def listed(ports: list[Port]) -> str:
    return ", ".join(str(port) for port in ports) or "none"


def of_one_family(slices: list[EndpointSlice]) -> list[EndpointSlice]:
    """A pod with two addresses is in two slices; it is one endpoint all the same."""
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


def shown(found: list[str]) -> str:
    if not found:
        return ""
    more = f", and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
    return f" ({', '.join(found[:MOST_SHOWN])}{more})"
