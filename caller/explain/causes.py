"""Causes of failed calls and what to do about them: the table. `diagnosis.py` selects a row and fills it in.

A row is for outcomes and kinds of name; the first match is used. A cause may require a symptom, a fact of this very call:
causes whose symptom was seen come first, causes whose symptom was not seen are not listed. Names in braces are replaced by
the names of the call. `source` is the documentation of the rule.
"""

from dataclasses import dataclass
from typing import Literal

from caller.hop.outcome import Outcome
from caller.target import NameKind

GKE_MCS = "https://docs.cloud.google.com/kubernetes-engine/docs/how-to/multi-cluster-services"
GKE_DNS = "https://docs.cloud.google.com/kubernetes-engine/docs/how-to/cloud-dns"
GKE_LB = "https://docs.cloud.google.com/kubernetes-engine/docs/troubleshooting/load-balancing"
GCLB_LOGS = "https://docs.cloud.google.com/load-balancing/docs/https/https-logging-monitoring"
GOOGLE_MTU = "https://docs.cloud.google.com/vpc/docs/mtu"
MCS_BASIC = (
    "https://github.com/GoogleCloudPlatform/gke-networking-recipes/blob/main/services/multi-cluster/mcs-basic/README.md"
)
KEP = "https://github.com/kubernetes/enhancements/blob/master/keps/sig-multicluster/1645-multi-cluster-services-api/README.md"
KEP_DNS = "https://github.com/kubernetes/enhancements/blob/master/keps/sig-multicluster/1645-multi-cluster-services-api/specification.md"
K8S_DNS = "https://kubernetes.io/docs/tasks/administer-cluster/dns-debugging-resolution/"
K8S_SERVICE = "https://kubernetes.io/docs/tasks/debug/debug-application/debug-service/"
K8S_POLICY = "https://kubernetes.io/docs/concepts/services-networking/network-policies/"
K8S_POD_DNS = "https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-dns-config"
VPC_TEST = "https://docs.cloud.google.com/network-intelligence-center/docs/connectivity-tests/concepts/overview"
RFC9110 = "https://www.rfc-editor.org/rfc/rfc9110"
RFC9112 = "https://www.rfc-editor.org/rfc/rfc9112#section-9"
ENVOY_FLAGS = "https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags"
ISTIO_NET = "https://istio.io/latest/docs/ops/common-problems/network-issues/"
ISTIO_MTLS = "https://istio.io/latest/docs/tasks/security/authentication/mtls-migration/"
ISTIO_AUTHZ = "https://istio.io/latest/docs/ops/common-problems/security-issues/"
ISTIO_EGRESS = "https://istio.io/latest/docs/tasks/traffic-management/egress/egress-control/"
PYTHON_SSL = "https://docs.python.org/3/library/ssl.html"
THIS = "README.md"

Symptom = Literal[
    "own_cluster",
    "slow_dns",
    "fault_asked_for",
    "overloaded",
    "draining",
    "input_refused",
    "masked_nxdomain",
    "resolver_silent",
    "resolver_failed",
    "sanity_check_failed",
    "no_resolver",
    "not_in_a_cluster",
    "local_service_exists",
    "exported_name_exists",
    "name_exists_now",
    "aaaa_lost",
    "reused_connection",
    "delay_over_timeout",
    "envoy",
    "no_healthy_upstream",
    "upstream_connect_error",
    "upstream_tls",
    "upstream_timeout",
    "rbac",
    "injected_by_mesh",
    "circuit_broken",
    "rate_limited",
    "passed_on",
    "google",
    "web_server",
    "tls_expired",
    "tls_name",
    "tls_untrusted",
    "tls_not_spoken",
    "tls_silent",
    "tls_client_refused",
    "tls_hello_refused",
    "unacknowledged",
    "large_request",
    "dead_addresses",
    "html",
    "too_large",
]
"""Something that was seen of a call, and that makes one cause the likely one."""


@dataclass(frozen=True)
class Cause:
    cause: str
    command: str
    fix: str
    source: str
    symptom: Symptom | None = None


@dataclass(frozen=True)
class Row:
    outcomes: tuple[Outcome, ...]
    kinds: tuple[NameKind, ...]
    title: str
    summary: str
    causes: tuple[Cause, ...]
    symptom: Symptom | None = None
    severity: Literal["error", "warning"] = "error"


ANY: tuple[NameKind, ...] = ("clusterset.local", "cluster.local", "short", "other")
IN_CLUSTER: tuple[NameKind, ...] = ("cluster.local", "short")

CLUSTER_DNS_BROKEN = Cause(
    "The cluster's DNS is broken, not this name: {sanity_check} is not answered either.",
    "kubectl --context {caller} -n kube-system get pods -l k8s-app=kube-dns",
    "repair kube-dns, NodeLocal DNSCache or Cloud DNS in the caller's cluster first",
    K8S_DNS,
    symptom="sanity_check_failed",
)
NOT_IN_A_CLUSTER = (
    "The caller's search list has no cluster.local, so it does not run in a pod of a cluster, where such names live."
)
"""Follows the summary. It is not a cause: the causes are of use to somebody who deploys next."""
WRONG_PORT = Cause(
    "The port is wrong: it must be the port of the Service, which need not be the container's.",
    "kubectl --context {caller} -n {namespace} get service {service} -o jsonpath='{{.spec.ports}}'",
    "put the Service's port into PRODUCER_URL (this call used {port})",
    K8S_SERVICE,
)
NO_READY_PODS = Cause(
    "The producer has no ready pod: scaled to 0, failing its readiness probe, or not started yet.",
    "kubectl --context {producer} -n {namespace} get pods,endpointslices -l app={service}",
    "scale it up, or repair what its readiness probe says",
    K8S_SERVICE,
)
IMPORTER_IAM = Cause(
    "The Service is imported but has no endpoints: the importer may not read the network, because its IAM binding is"
    " missing or has the old serviceAccount: form.",
    "kubectl --context {caller} -n gke-mcs logs -l k8s-app=gke-mcs-importer --tail=50",
    "bind roles/compute.networkViewer to principal://…/subject/ns/gke-mcs/sa/gke-mcs-importer, then restart the importer:"
    " kubectl --context {caller} -n gke-mcs rollout restart deployment gke-mcs-importer",
    GKE_MCS,
)
STALE_ENDPOINTS = Cause(
    "The pod behind this address is gone and the caller's cluster has not learnt it yet: the backend service of a"
    " multi-cluster Service drains for 0 s, so only the pod's own drain protects callers.",
    "kubectl --context {producer} -n {namespace} get pods -l app={service} -o wide",
    "give the producer a drain (DRAIN_SECONDS) that is longer than the endpoints take; call again with a fresh connection",
    GKE_LB,
)
NETWORK_POLICY = Cause(
    "A NetworkPolicy drops it: egress in the caller's namespace, or ingress at the producer, where only an ipBlock can match"
    " a pod of another cluster (Multi-Cluster Services do not support NetworkPolicy).",
    'for c in {caller} {producer}; do kubectl --context "$c" -n {namespace} get networkpolicy; done',
    "allow the pod range of the caller's cluster and port {port}",
    K8S_POLICY,
)
FIREWALL = Cause(
    "A firewall between the clusters drops it: a deny rule, often a hierarchical policy, ranks above the rule that the fleet"
    " made for pod to pod.",
    "gcloud compute firewall-rules list --filter='direction=INGRESS AND (name~mcs OR denied:*)' --sort-by=priority",
    "allow the caller's pod range to the producer's pod range, TCP {port}; a Connectivity Test names the rule that drops",
    VPC_TEST,
)
NO_ROUTE = Cause(
    "There is no route between the networks: the clusters are neither in one VPC, nor peered, nor in one Shared VPC.",
    "gcloud container clusters list --format='table(name,location,network,clusterIpv4Cidr)'",
    "put both clusters into one VPC, or peer the two",
    GKE_MCS,
)
SNAT = Cause(
    "Pod addresses are translated on the way (ip-masq-agent or NAT of your own), so the rule for pod ranges does not match.",
    "kubectl --context {caller} -n kube-system get configmap ip-masq-agent -o yaml",
    "add the producer's pod range to nonMasqueradeCIDRs",
    GKE_MCS,
)
STRICT_MTLS = Cause(
    "The producer is in a mesh that demands mTLS (STRICT), and the caller speaks plain HTTP.",
    "kubectl --context {producer} get peerauthentication --all-namespaces",
    "set PERMISSIVE for the producer, or put both clusters into one mesh",
    ISTIO_MTLS,
)
PRODUCER_DIED = Cause(
    "The producer's process ended in the midst of the call: killed for memory, crashed, or stopped without a drain.",
    "kubectl --context {producer} -n {namespace} get pods -l app={service} -o wide"
    " && kubectl --context {producer} -n {namespace} logs -l app={service} --previous --tail=50",
    "see `lastState` of the container; raise its memory limit or repair what made it end",
    K8S_SERVICE,
)
OTHER_PROTOCOL = Cause(
    "What listens there does not speak HTTP, or wants TLS.",
    "kubectl --context {caller} -n {namespace} exec deploy/sample-caller-v1 -- sample-caller check --target {name}",
    "put the port that speaks HTTP into PRODUCER_URL, or https:// if it wants TLS",
    K8S_SERVICE,
)

TABLE: tuple[Row, ...] = (
    Row(
        (Outcome.DNS_NXDOMAIN,),
        ("clusterset.local",),
        "The exported name does not exist",
        "The resolver says NXDOMAIN for {host}: nothing is imported under this name in {here}.",
        (
            CLUSTER_DNS_BROKEN,
            Cause(
                "The name exists by now: it appeared after this call.",
                "kubectl --context {caller} -n {namespace} get serviceimport {service}",
                "call again",
                GKE_MCS,
                symptom="name_exists_now",
            ),
            Cause(
                "The Service exists in the caller's own cluster only ({counterpart} resolves); nobody exports it.",
                "kubectl --context {caller} -n {namespace} get service,serviceexport,serviceimport {service}",
                "export it from the producer's cluster, or call {counterpart} if the local one is meant",
                KEP_DNS,
                symptom="local_service_exists",
            ),
            Cause(
                "There is no ServiceExport, or its name or namespace is not that of the Service.",
                "kubectl --context {producer} -n {namespace} get service,serviceexport {service}",
                "apply a ServiceExport named {service} in namespace {namespace} of the producer's cluster"
                " (k8s/overlays/producer-cluster has it)",
                GKE_MCS,
            ),
            Cause(
                "The namespace {namespace} does not exist in the caller's cluster, so nothing is imported there.",
                "kubectl --context {caller} get namespace {namespace}",
                "kubectl --context {caller} create namespace {namespace}",
                MCS_BASIC,
            ),
            Cause(
                "The export is younger than five minutes; the first one of a fleet may take twenty.",
                "kubectl --context {producer} -n {namespace} describe serviceexport {service}"
                " && kubectl --context {caller} -n {namespace} get serviceimport {service}",
                "wait and call again",
                MCS_BASIC,
            ),
            Cause(
                "Multi-Cluster Services are not enabled, or a cluster is not in the fleet: then the CRD is missing, or"
                " `describe` does not list the membership.",
                "kubectl --context {producer} get crd serviceexports.net.gke.io"
                " && gcloud container fleet multi-cluster-services describe && gcloud container fleet memberships list",
                "gcloud container fleet multi-cluster-services enable, and register both clusters",
                GKE_MCS,
            ),
            Cause(
                "The importer does not run: its pod is pending for lack of CPU, or was evicted.",
                "kubectl --context {caller} -n gke-mcs get pods",
                "give the caller's cluster more room",
                GKE_MCS,
            ),
            Cause(
                "The Service is headless and has no ready pod: then even its name does not exist.",
                "kubectl --context {producer} -n {namespace} get service {service} -o jsonpath='{{.spec.clusterIP}}'"
                " && kubectl --context {producer} -n {namespace} get pods -l app={service}",
                "make a pod ready",
                KEP_DNS,
            ),
            Cause(
                "The DNS zone of the fleet is not visible in this cluster: Shared VPC with Cloud DNS in cluster scope, or the"
                " zone was deleted. The derived name gke-mcs-….{namespace}.svc.cluster.local still works then.",
                "gcloud dns managed-zones list && kubectl --context {caller} -n {namespace} get serviceimport {service}"
                " -o jsonpath='{{.metadata.annotations}}'",
                "use VPC scope, or export again so that the zone is created again",
                "https://github.com/GoogleCloudPlatform/gke-networking-recipes/issues/206",
            ),
            Cause(
                "Not on GKE: CoreDNS has no `multicluster clusterset.local` in its Corefile.",
                "kubectl --context {caller} -n kube-system get configmap coredns -o yaml",
                "add the plugin, and the RBAC that lets it read ServiceImports",
                "https://github.com/coredns/multicluster",
            ),
        ),
    ),
    Row(
        (Outcome.DNS_NXDOMAIN,),
        ("cluster.local",),
        "No such Service in the caller's own cluster",
        "The resolver says NXDOMAIN for {host}. A cluster.local name never leaves its cluster.",
        (
            CLUSTER_DNS_BROKEN,
            Cause(
                "The producer runs in another cluster: its exported name {counterpart} exists.",
                "kubectl --context {caller} -n {namespace} get serviceimport {service}",
                "set PRODUCER_URL to http://{counterpart}:{port}",
                KEP_DNS,
                symptom="exported_name_exists",
            ),
            Cause(
                "The producer runs in another cluster, which is reached by {counterpart} only.",
                "kubectl --context {caller} -n {namespace} get service {service}",
                "set PRODUCER_URL to http://{counterpart}:{port}",
                KEP_DNS,
            ),
            Cause(
                "The Service has another name or namespace, or was not applied.",
                "kubectl --context {caller} get service --all-namespaces --field-selector metadata.name={service}",
                "apply it, or correct PRODUCER_URL",
                K8S_SERVICE,
            ),
        ),
    ),
    Row(
        (Outcome.DNS_NXDOMAIN,),
        ("short",),
        "No such Service in the caller's own cluster",
        "The resolver knows no {host} under any domain of the search list, and that has no clusterset.local.",
        (
            CLUSTER_DNS_BROKEN,
            Cause(
                "The producer runs in another cluster: a short name never leaves its cluster.",
                "kubectl --context {caller} -n {namespace} get service,serviceimport {service}",
                "set PRODUCER_URL to http://{service}.{namespace}.svc.clusterset.local:{port}",
                KEP_DNS,
            ),
            Cause(
                "The Service is in another namespace than the caller, or was not applied.",
                "kubectl --context {caller} get service --all-namespaces --field-selector metadata.name={service}",
                "apply it, or add its namespace to the name",
                K8S_SERVICE,
            ),
        ),
    ),
    Row(
        (Outcome.DNS_NXDOMAIN,),
        ("other",),
        "The name does not exist",
        "The resolver says NXDOMAIN for {host}.",
        (
            CLUSTER_DNS_BROKEN,
            Cause(
                "The name is misspelt, or its zone is private to another network.",
                "kubectl --context {caller} -n {namespace} exec deploy/sample-caller-v1 -- getent hosts {host}",
                "correct PRODUCER_URL, or make the zone visible to the network of the caller's cluster",
                GKE_DNS,
            ),
        ),
    ),
    Row(
        (Outcome.DNS_NO_DATA,),
        ANY,
        "The name exists and has no address",
        "The resolver knows {host} and gives no address of a kind that this pod uses.",
        (
            Cause(
                "No cluster that exports the Service has a ready pod (Submariner and headless Services say it this way).",
                "kubectl --context {producer} -n {namespace} get pods,endpointslices -l app={service}",
                "make a pod ready",
                "https://submariner.io/getting-started/architecture/service-discovery/",
            ),
            Cause(
                "The name has addresses of one family only, and the pod has none of that family.",
                "kubectl --context {caller} -n {namespace} get pods -o jsonpath='{{.items[*].status.podIPs}}'",
                "make the Service dual-stack, or call from a pod of its family",
                "https://kubernetes.io/docs/concepts/services-networking/dual-stack/",
            ),
        ),
    ),
    Row(
        (Outcome.DNS_UNAVAILABLE,),
        ANY,
        "Nobody could say whether the name exists",
        "getaddrinfo gave up on {host}: the resolver answered with an error, or not at all.",
        (
            CLUSTER_DNS_BROKEN,
            Cause(
                "The name does not exist, and a search domain that answers SERVFAIL hides it: the absolute name is NXDOMAIN.",
                "kubectl --context {caller} -n {namespace} exec deploy/sample-caller-v1 -- cat /etc/resolv.conf",
                "set dnsConfig.options ndots to 2 on the caller, so that the absolute name is tried first; then see the"
                " causes of dns_nxdomain",
                K8S_POD_DNS,
                symptom="masked_nxdomain",
            ),
            Cause(
                "The name exists, and the lookup waits for AAAA queries that get no answer: 5 s for each that is lost.",
                "kubectl --context {caller} -n {namespace} exec deploy/sample-caller-v1 -- cat /etc/resolv.conf",
                "set ndots to 2, use NodeLocal DNSCache, or the option single-request-reopen",
                K8S_DNS,
                symptom="aaaa_lost",
            ),
            Cause(
                "The resolver does not answer: kube-dns has no ready pod, or a NetworkPolicy drops UDP and TCP port 53.",
                "kubectl --context {caller} -n kube-system get pods,endpointslices -l k8s-app=kube-dns"
                " && kubectl --context {caller} -n {namespace} get networkpolicy",
                "repair it, or allow egress to port 53",
                K8S_DNS,
                symptom="resolver_silent",
            ),
            Cause(
                "The resolver answers with an error (SERVFAIL or REFUSED): it is overloaded, cannot reach its own upstream,"
                " or, with CoreDNS, its multicluster plugin has not yet synchronised.",
                "kubectl --context {caller} -n kube-system logs -l k8s-app=kube-dns --all-containers --tail=50",
                "call again; if it lasts, repair or scale the cluster's DNS",
                "https://github.com/coredns/multicluster",
                symptom="resolver_failed",
            ),
            Cause(
                "The pod has no usable /etc/resolv.conf.",
                "kubectl --context {caller} -n {namespace} get pods -l app=sample-caller"
                " -o jsonpath='{{.items[*].spec.dnsPolicy}}'",
                "use dnsPolicy ClusterFirst",
                K8S_POD_DNS,
                symptom="no_resolver",
            ),
            Cause(
                "It was a passing fault: the resolver answers now.",
                "kubectl --context {caller} -n kube-system top pods -l k8s-app=kube-dns",
                "call again; if it comes back, use NodeLocal DNSCache",
                K8S_DNS,
            ),
        ),
    ),
    Row(
        (Outcome.REFUSED,),
        ("clusterset.local",),
        "The name resolves, and nothing is behind its address",
        "{host} has the address of an imported Service, and the connection was refused in {millis} ms: a ClusterSetIP without"
        " an endpoint refuses immediately.",
        (
            NO_READY_PODS,
            IMPORTER_IAM,
            Cause(
                WRONG_PORT.cause,
                "kubectl --context {caller} -n {namespace} get serviceimport {service} -o jsonpath='{{.spec.ports}}'",
                WRONG_PORT.fix,
                GKE_MCS,
            ),
            STALE_ENDPOINTS,
            Cause(
                "The synchronisation stopped: a readiness probe whose timeout exceeds its period is refused as a health check.",
                "kubectl --context {producer} -n {namespace} get deploy -o"
                " jsonpath='{{.items[*].spec.template.spec.containers[*].readinessProbe}}'",
                "make timeoutSeconds at most periodSeconds",
                "https://github.com/istio/istio/issues/47310",
            ),
            Cause(
                "Two clusters export the Service with different ports; the older export wins.",
                "kubectl --context {producer} -n {namespace} get serviceexport {service} -o yaml",
                "give the Service the same ports in all clusters that export it",
                KEP,
            ),
            Cause(
                "The producer listens on 127.0.0.1 only.",
                "kubectl --context {producer} -n {namespace} exec deploy/sample-producer-v1 -- printenv HOST",
                "listen on 0.0.0.0 (HOST)",
                K8S_SERVICE,
            ),
        ),
    ),
    Row(
        (Outcome.REFUSED,),
        IN_CLUSTER,
        "The name resolves, and nothing is behind its address",
        "{host} resolves, and port {port} refused the connection in {millis} ms: a Service without an endpoint does.",
        (
            Cause(
                NO_READY_PODS.cause,
                "kubectl --context {caller} -n {namespace} get pods,endpointslices -l app={service}",
                NO_READY_PODS.fix,
                K8S_SERVICE,
            ),
            WRONG_PORT,
            STALE_ENDPOINTS,
            Cause(
                "The Service's selector fits no pod.",
                "kubectl --context {caller} -n {namespace} get service {service} -o jsonpath='{{.spec.selector}}'",
                "make the selector fit the labels of the producer's pods",
                K8S_SERVICE,
            ),
            Cause(
                "The producer runs in another cluster; here only its Service exists, without pods.",
                "kubectl --context {caller} -n {namespace} get service,serviceimport {service}",
                "set PRODUCER_URL to http://{service}.{namespace}.svc.clusterset.local:{port}",
                KEP_DNS,
            ),
        ),
    ),
    Row(
        (Outcome.REFUSED,),
        ("other",),
        "Nothing listens there",
        "Port {port} of {host} refused the connection in {millis} ms.",
        (
            Cause(
                "The producer is not running there, or has no ready endpoint behind this address.",
                "kubectl --context {producer} -n {namespace} get pods,endpointslices -l app=sample-producer",
                "start it, or correct PRODUCER_URL",
                K8S_SERVICE,
            ),
            Cause(
                f"If the address is a ClusterSetIP: {IMPORTER_IAM.cause[0].lower()}{IMPORTER_IAM.cause[1:]}",
                IMPORTER_IAM.command,
                IMPORTER_IAM.fix,
                IMPORTER_IAM.source,
            ),
            Cause(
                "The port is wrong.",
                "kubectl --context {producer} -n {namespace} get service -o wide",
                "correct PRODUCER_URL (this call used port {port})",
                K8S_SERVICE,
            ),
        ),
    ),
    Row(
        (Outcome.CONNECT_TIMEOUT,),
        ("clusterset.local",),
        "The packets get no answer",
        "{host} resolves, and no answer came to the connection within {seconds} s: something drops the packets.",
        (FIREWALL, NO_ROUTE, NETWORK_POLICY, SNAT, STALE_ENDPOINTS),
    ),
    Row(
        (Outcome.CONNECT_TIMEOUT,),
        IN_CLUSTER,
        "The packets get no answer",
        "{host} resolves, and no answer came to the connection within {seconds} s: something drops the packets.",
        (
            NETWORK_POLICY,
            STALE_ENDPOINTS,
            Cause(
                "The node of the producer's pod is gone or cut off.",
                "kubectl --context {caller} get nodes"
                " && kubectl --context {caller} -n {namespace} get pods -l app={service} -o wide",
                "wait until the pod is replaced, or delete it",
                "https://kubernetes.io/docs/concepts/architecture/nodes/",
            ),
        ),
    ),
    Row(
        (Outcome.CONNECT_TIMEOUT,),
        ("other",),
        "The packets get no answer",
        "No answer came from {host}:{port} within {seconds} s: something drops the packets, or nobody has the address.",
        (
            Cause(
                "The address is a ClusterIP of another cluster; those are good inside their own cluster only.",
                "kubectl --context {producer} get service --all-namespaces -o wide | grep -F {host}",
                "call the exported name SERVICE.NAMESPACE.svc.clusterset.local",
                GKE_MCS,
            ),
            FIREWALL,
            NO_ROUTE,
            NETWORK_POLICY,
        ),
    ),
    Row(
        (Outcome.UNREACHABLE,),
        ANY,
        "There is no way to the address",
        "A router, a firewall or this pod's kernel says so: {error}",
        (
            Cause(
                "A firewall rejects it with an ICMP message, rather than dropping it.",
                FIREWALL.command,
                FIREWALL.fix,
                VPC_TEST,
            ),
            NO_ROUTE,
            STALE_ENDPOINTS,
            Cause(
                "The address is of a family that the pod has no route for (IPv6 on an IPv4 network).",
                "kubectl --context {caller} -n {namespace} get pods -o jsonpath='{{.items[*].status.podIPs}}'",
                "use a name that has an address of the pod's family",
                "https://kubernetes.io/docs/concepts/services-networking/dual-stack/",
            ),
        ),
    ),
    Row(
        (Outcome.TLS_ERROR,),
        ANY,
        "TCP connected, TLS did not",
        "The handshake with {host}:{port} failed: {error}",
        (
            Cause(
                "What listens there speaks plain HTTP, as the producer does: Multi-Cluster Services carry TCP and add no TLS.",
                "kubectl --context {caller} -n {namespace} get service {service} -o jsonpath='{{.spec.ports}}'",
                "write http:// in PRODUCER_URL",
                GKE_MCS,
                symptom="tls_not_spoken",
            ),
            Cause(
                "The port accepts connections and does not speak TLS, or a proxy between swallows the handshake.",
                "openssl s_client -connect {host}:{port} -servername {host} </dev/null",
                "write http:// in PRODUCER_URL, or use the port that speaks TLS",
                GKE_MCS,
                symptom="tls_silent",
            ),
            Cause(
                "The certificate is not issued for {host}: it needs that very DNS name (SPIFFE certificates have none).",
                "openssl s_client -connect {host}:{port} -servername {host} </dev/null"
                " | openssl x509 -noout -ext subjectAltName",
                "issue a certificate with the DNS name {host}",
                "https://www.rfc-editor.org/rfc/rfc9525",
                symptom="tls_name",
            ),
            Cause(
                "The certificate is from an authority that the caller does not trust.",
                "openssl s_client -connect {host}:{port} -servername {host} -showcerts </dev/null",
                "mount the authority's certificate and set SSL_CERT_FILE to it",
                PYTHON_SSL,
                symptom="tls_untrusted",
            ),
            Cause(
                "The certificate has expired, or is not valid yet.",
                "openssl s_client -connect {host}:{port} -servername {host} </dev/null | openssl x509 -noout -dates",
                "renew it, and restart what has the old one loaded",
                PYTHON_SSL,
                symptom="tls_expired",
            ),
            Cause(
                "The other side requires a client certificate, and the caller presents none.",
                "openssl s_client -connect {host}:{port} -servername {host} </dev/null 2>&1 | grep -i 'client certificate CA\\|alert'",
                "call a port that requires no client certificate, or put both sides into one mesh",
                "https://www.rfc-editor.org/rfc/rfc8446#section-4.4.2.4",
                symptom="tls_client_refused",
            ),
            Cause(
                "The other side closed or reset the connection in reply to the ClientHello: no TLS on this port, or a proxy"
                " without a route for the server name {host}.",
                "openssl s_client -connect {host}:{port} -servername {host} </dev/null",
                "write http:// in PRODUCER_URL, or use the port and the name that the proxy expects",
                "https://www.rfc-editor.org/rfc/rfc8446#section-4.1.2",
                symptom="tls_hello_refused",
            ),
            Cause(
                "Both sides have no protocol version or cipher in common, or the other side requires a client certificate.",
                "openssl s_client -connect {host}:{port} -servername {host} </dev/null",
                "see the alert that it prints; the caller presents no certificate",
                PYTHON_SSL,
            ),
        ),
    ),
    Row(
        (Outcome.RESET,),
        ANY,
        "The connection was reset",
        "TCP connected to {peer}, and the other side broke the connection off: {error}",
        (
            Cause(
                "The connection was idle and had been closed on the other side, or on the way, before this call used it.",
                "kubectl --context {caller} -n {namespace} exec deploy/sample-caller-v1 -- sample-caller call"
                " --target {name}",
                "call with a fresh connection; the idle time of what is between must be longer than the caller's 15 s",
                RFC9112,
                symptom="reused_connection",
            ),
            STRICT_MTLS,
            STALE_ENDPOINTS,
            PRODUCER_DIED,
            OTHER_PROTOCOL,
        ),
    ),
    Row(
        (Outcome.CLOSED,),
        ANY,
        "The connection was closed before the reply was complete",
        "TCP connected to {peer}, and the other side hung up without a complete reply.",
        (
            Cause(
                "The connection was idle, and the producer closed it in the moment in which this call used it.",
                "kubectl --context {caller} -n {namespace} exec deploy/sample-caller-v1 -- sample-caller call"
                " --target {name}",
                "call again; a server's keep-alive must be longer than its clients' idle time",
                RFC9112,
                symptom="reused_connection",
            ),
            PRODUCER_DIED,
            STALE_ENDPOINTS,
            OTHER_PROTOCOL,
        ),
    ),
    Row(
        (Outcome.READ_TIMEOUT,),
        ANY,
        "Connected, but the request did not arrive",
        "TCP connected to {peer}, but {unacknowledged} of the {sent} bytes sent were not acknowledged within {seconds} s.",
        (
            Cause(
                "The kept connection leads nowhere any more: the pod is gone, or a firewall or NAT on the path forgot the connection.",
                "kubectl --context {caller} -n {namespace} exec deploy/sample-caller-v1 -- sample-caller call"
                " --target {name}",
                "call with a fresh connection",
                "https://docs.cloud.google.com/vpc/docs/firewalls#specifications",
                symptom="reused_connection",
            ),
            Cause(
                "Large packets are lost on the path (MTU of a VPN or a tunnel): small requests arrive, large ones do not.",
                "gcloud compute networks list --format='table(name,mtu)'",
                "set the same MTU on all networks of the path, and allow ICMP",
                GOOGLE_MTU,
                symptom="large_request",
            ),
            Cause(
                "The packets of the connection are dropped since it was opened: a node or a pod is gone, or a firewall rule is new.",
                "kubectl --context {producer} -n {namespace} get pods -l app={service} -o wide",
                "call again with a fresh connection; compare the firewall rules of both networks",
                K8S_SERVICE,
            ),
        ),
        symptom="unacknowledged",
    ),
    Row(
        (Outcome.READ_TIMEOUT,),
        ANY,
        "Connected, and no complete reply in time",
        "TCP connected to {peer}, and the reply was not complete within {seconds} s.",
        (
            Cause(
                "The delay that was asked for ({delay} ms) is longer than the caller waits.",
                "kubectl --context {caller} -n {namespace} exec deploy/sample-caller-v1 -- printenv CALL_TIMEOUT_SECONDS",
                "ask for a shorter delay, or raise CALL_TIMEOUT_SECONDS",
                THIS,
                symptom="delay_over_timeout",
            ),
            Cause(
                "The producer hangs or is overloaded: it accepts connections and does not answer.",
                "kubectl --context {producer} -n {namespace} top pods -l app={service}"
                " && kubectl --context {producer} -n {namespace} logs -l app={service} --tail=50",
                "scale it, or restart the pod that hangs",
                K8S_SERVICE,
            ),
            Cause(
                "Large packets are lost on the way (MTU of a VPN or of a tunnel): small messages pass, large ones hang.",
                "gcloud compute networks list --format='table(name,mtu)'",
                "give all networks on the way the same MTU, and let ICMP through",
                GOOGLE_MTU,
            ),
            STALE_ENDPOINTS,
        ),
    ),
    Row(
        (Outcome.HTTP_ERROR,),
        ANY,
        "The producer answered with an error, as it was asked to",
        "The way there and back works: {peer_cluster} answered {status}, because this call asked for it.",
        (
            Cause(
                "The message asked for responseCode {status}.",
                "kubectl --context {caller} -n {namespace} exec deploy/sample-caller-v1 -- sample-caller call"
                " --target {name}",
                "call with responseCode 200, or with a smaller faultRate",
                THIS,
            ),
        ),
        symptom="fault_asked_for",
        severity="warning",
    ),
    Row(
        (Outcome.HTTP_ERROR,),
        ANY,
        "The producer itself answered with an error",
        "The way there and back works: {peer_cluster} answered {status}. The network is not to blame.",
        (
            Cause(
                "The producer has as many requests in flight as it allows (MAX_IN_FLIGHT).",
                "kubectl --context {producer} -n {namespace} top pods -l app={service}",
                "scale the producer, or raise MAX_IN_FLIGHT",
                f"{RFC9110}#section-15.6.4",
                symptom="overloaded",
            ),
            Cause(
                "The producer is stopping, and the call took longer than it was willing to wait (SHUTDOWN_SECONDS).",
                "kubectl --context {producer} -n {namespace} get pods -l app={service}",
                "call again: another pod answers",
                THIS,
                symptom="draining",
            ),
            Cause(
                "The producer refuses the message: its limits are narrower than the caller's.",
                "kubectl --context {producer} -n {namespace} get configmap -l app.kubernetes.io/name={service} -o yaml",
                "give both the same MAX_PAYLOAD_BYTES and MAX_DELAY_MILLIS",
                THIS,
                symptom="input_refused",
            ),
            Cause(
                "The producer, or what runs under its name, failed on this request.",
                "kubectl --context {producer} -n {namespace} logs -l app={service} --tail=50",
                "see its log by the x-request-id of this call",
                f"{RFC9110}#section-15.6.1",
            ),
        ),
    ),
    Row(
        (Outcome.PROXY_ERROR,),
        ANY,
        "Something between answered, not the producer",
        "{proxy} answered {status} in place of the producer ({evidence}).",
        (
            Cause(
                "Envoy knows no healthy endpoint: all are unready, or ejected by outlier detection.",
                "istioctl --context {caller} proxy-config endpoints deploy/sample-caller-v1.{namespace} | grep -F {service}",
                "make a pod ready; see outlierDetection in the DestinationRule",
                ENVOY_FLAGS,
                symptom="no_healthy_upstream",
            ),
            Cause(
                "Envoy could not do TLS with the other side: the meshes have different root certificates, or ISTIO_MUTUAL is"
                " set for a producer outside the mesh.",
                "istioctl --context {caller} proxy-config secret deploy/sample-caller-v1.{namespace}",
                "give both meshes one root, or set the DestinationRule's tls mode to DISABLE for {host}",
                "https://github.com/istio/istio/issues/32523",
                symptom="upstream_tls",
            ),
            Cause(
                "Envoy's circuit breaker is open: more connections or requests than the DestinationRule allows.",
                "kubectl --context {caller} get destinationrule --all-namespaces -o yaml | grep -n -A12 connectionPool",
                "call less often, or raise maxConnections and http1MaxPendingRequests",
                "https://istio.io/latest/docs/tasks/traffic-management/circuit-breaking/",
                symptom="circuit_broken",
            ),
            Cause(
                "A rate limit of a proxy refuses the call.",
                "kubectl --context {caller} get envoyfilter --all-namespaces -o yaml | grep -n -i rate",
                "call less often, or raise the limit",
                "https://istio.io/latest/docs/tasks/policy-enforcement/rate-limit/",
                symptom="rate_limited",
            ),
            Cause(
                "The proxy passed on the reply of something behind it, which is not the producer.",
                "kubectl --context {caller} -n {namespace} get endpointslices -l kubernetes.io/service-name={service}",
                "correct PRODUCER_URL, or what the proxy routes {host} to",
                ENVOY_FLAGS,
                symptom="passed_on",
            ),
            Cause(
                "Envoy could not connect to the producer, or was cut off: refused, timed out or reset behind the proxy.",
                "kubectl --context {caller} -n {namespace} logs deploy/sample-caller-v1 -c istio-proxy --tail=20",
                "see response_flags there (UF, URX, UC), and then the causes of refused and connect_timeout",
                ISTIO_NET,
                symptom="upstream_connect_error",
            ),
            Cause(
                "A timeout of the mesh or gateway is shorter than the call: the VirtualService's, or Envoy's 15 s.",
                "kubectl --context {caller} get virtualservice --all-namespaces -o yaml | grep -n timeout",
                "ask for a shorter delay, or raise the timeout",
                "https://istio.io/latest/docs/concepts/traffic-management/#timeouts",
                symptom="upstream_timeout",
            ),
            Cause(
                "An AuthorizationPolicy denies the caller's identity.",
                "kubectl --context {producer} get authorizationpolicy --all-namespaces -o yaml",
                "allow the principal of the caller's service account {service_account}",
                ISTIO_AUTHZ,
                symptom="rbac",
            ),
            Cause(
                "A fault is injected on purpose by a VirtualService, or a load balancer has no healthy backend.",
                "kubectl --context {caller} get virtualservice --all-namespaces -o yaml | grep -n -A5 'fault:'",
                "remove the fault; at a load balancer, repair the health check",
                "https://istio.io/latest/docs/tasks/traffic-management/fault-injection/",
                symptom="injected_by_mesh",
            ),
            Cause(
                "The sidecar does not know {host}: with REGISTRY_ONLY it answers 502 itself.",
                "istioctl --context {caller} proxy-config routes deploy/sample-caller-v1.{namespace} | grep -F {host}",
                "add a ServiceEntry for it, or call the derived name gke-mcs-….{namespace}.svc.cluster.local",
                ISTIO_EGRESS,
                symptom="envoy",
            ),
            Cause(
                "A Google Cloud load balancer stands between, and has no healthy backend or none for this host and path.",
                "gcloud compute backend-services list --format='value(name)'"
                " | xargs -I% gcloud compute backend-services get-health % --global",
                "repair its health check and its routes; see statusDetails in its log",
                GCLB_LOGS,
                symptom="google",
            ),
            Cause(
                "A web server or an ingress controller stands where the producer should be, and cannot reach what is behind.",
                "kubectl --context {caller} -n {namespace} get service {service} -o wide",
                "correct PRODUCER_URL, or see the error log of that server",
                K8S_SERVICE,
                symptom="web_server",
            ),
            Cause(
                "PRODUCER_URL leads to something else than the producer.",
                "kubectl --context {caller} -n {namespace} get endpointslices -l kubernetes.io/service-name={service}",
                "correct PRODUCER_URL; called was {name}",
                K8S_SERVICE,
            ),
        ),
    ),
    Row(
        (Outcome.BAD_REPLY,),
        ANY,
        "The reply is not the producer's",
        "{host}:{port} answered, and not as the producer does: {error}",
        (
            Cause(
                "The reply is larger than the caller reads.",
                "kubectl --context {caller} -n {namespace} exec deploy/sample-caller-v1 -- printenv MAX_REPLY_BYTES",
                "raise MAX_REPLY_BYTES, if it is the producer's",
                THIS,
                symptom="too_large",
            ),
            Cause(
                "A web page answered: a login page, a default backend, or another service under this name.",
                "kubectl --context {caller} -n {namespace} get service,endpointslices -o wide",
                "correct PRODUCER_URL",
                K8S_SERVICE,
                symptom="html",
            ),
            Cause(
                "Another service, or another protocol, listens on this port.",
                "kubectl --context {caller} -n {namespace} get service,endpointslices -o wide",
                "correct PRODUCER_URL (this call used port {port}); for a port that wants TLS write https://",
                K8S_SERVICE,
            ),
        ),
    ),
    Row(
        (Outcome.CANCELLED,),
        ANY,
        "The client disconnected",
        "The call was given up before the reply came; seen in logs and metrics only.",
        (
            Cause(
                "A load balancer in front of the caller gave up: 30 s by default, which a longer delay exceeds. The browser"
                " sees its 502 or 504.",
                "kubectl --context {caller} -n {namespace} get backendconfig,gcpbackendpolicy -o yaml | grep -n timeoutSec",
                "raise timeoutSec (k8s/components/gke-ingress does)",
                GCLB_LOGS,
            ),
            Cause(
                "The browser or the client cancelled, or has a timeout of its own.",
                "kubectl --context {caller} -n {namespace} logs deploy/sample-caller-v1 --tail=50",
                "nothing to do",
                f"{RFC9110}#section-15",
            ),
        ),
    ),
    Row(
        (Outcome.OK,),
        ("clusterset.local",),
        "Answered, but by the caller's own cluster",
        "{host} was answered in {peer_cluster}, where the caller runs: this call did not cross clusters.",
        (
            Cause(
                "Both clusters export the Service, so the name stands for the pods of both, and this call went to a local one.",
                "kubectl --context {caller} -n {namespace} get serviceimport {service} -o jsonpath='{{.status.clusters}}'",
                "call some times with fresh connections; to have remote answers only, delete the ServiceExport here",
                GKE_MCS,
            ),
            Cause(
                "CLUSTER_NAME is set to the same value in both clusters.",
                'for c in {caller} {producer}; do kubectl --context "$c" -n {namespace} get pods'
                " -o jsonpath='{{.items[*].spec.containers[*].env}}'; done",
                "leave CLUSTER_NAME out: on GKE the metadata server says it",
                THIS,
            ),
        ),
        symptom="own_cluster",
        severity="warning",
    ),
    Row(
        (Outcome.OK,),
        ANY,
        "It works, but not every address does",
        "{peer} answered after other addresses of {host} did not: {dead}.",
        (
            Cause(
                "The name has addresses of pods that are gone, or that the caller cannot reach.",
                "kubectl --context {caller} -n {namespace} get endpointslices -l kubernetes.io/service-name={service}",
                "compare the addresses with the producer's pods",
                K8S_DNS,
            ),
            Cause(
                "The name has IPv6 addresses, and the pod has no IPv6 network, or the reverse.",
                "kubectl --context {caller} -n {namespace} get pods -o jsonpath='{{.items[*].status.podIPs}}'",
                "remove the records of the family that the pods lack",
                "https://www.rfc-editor.org/rfc/rfc8305#section-5",
            ),
        ),
        symptom="dead_addresses",
        severity="warning",
    ),
    Row(
        (Outcome.OK,),
        ANY,
        "It works, and the lookup is slow",
        "The name took {dns} ms to resolve: a query is lost and asked again after 5 s.",
        (
            Cause(
                "AAAA queries are dropped, or two queries over one socket lose each other (conntrack race).",
                "kubectl --context {caller} -n {namespace} exec deploy/sample-caller-v1 -- cat /etc/resolv.conf",
                "set ndots to 2, use NodeLocal DNSCache, or the option single-request-reopen",
                K8S_DNS,
            ),
        ),
        symptom="slow_dns",
        severity="warning",
    ),
)
