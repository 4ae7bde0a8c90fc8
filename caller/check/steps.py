"""The checks that need no rights in the cluster: settings, resolver, and the steps of a call."""

from collections.abc import Callable, Iterator

from caller.check.model import Check, Verdict
from caller.explain.dns import DnsAnswer, DnsReport, ResolvConf, cluster_domain
from caller.explain.explain import Explained
from caller.hop.connect import failed_attempts
from caller.hop.outcome import Outcome
from caller.target import Target
from common import __version__
from common.cluster import Identity
from common.messages import LOCAL

MAX_SKEW_MILLIS = 1000
"""Clock skew above which logs of two clusters are hard to compare."""
SLOW_LOOKUP_MILLIS = 1000
DOTS_OF_CLUSTERSET = 4
"""Dots in `sample-producer.istio-apps.svc.clusterset.local`: with a larger `ndots` the search list is tried first."""

Finding = tuple[Verdict, str, str | None]
"""Verdict, evidence, next step."""


def settings_finding(first: Target) -> Finding:
    if first.kind == "clusterset.local":
        return "pass", f"PRODUCER_URL is {first.name}", None
    name = f"{first.service or 'sample-producer'}.{first.namespace or 'istio-apps'}.svc.clusterset.local"
    return (
        "warn",
        f"PRODUCER_URL is {first.name}, which is not a clusterset.local name",
        f"to cross clusters, set PRODUCER_URL to http://{name}:8080",
    )


def identity_finding(identity: Identity) -> Finding:
    here = identity.metadata
    evidence = f"cluster {here.cluster_name}, zone {here.zone}, pod {here.pod_name} (from the {identity.source})"
    if LOCAL not in (here.cluster_name, here.zone):
        return "pass", evidence, None
    return (
        "warn",
        evidence,
        "without a cluster name, crossings are unknown: on GKE check that the metadata server is reachable,"
        " elsewhere set CLUSTER_NAME, CLUSTER_LOCATION and ZONE",
    )


def resolv_conf_finding(conf: ResolvConf) -> Finding:
    if conf.error:
        return "fail", conf.error, "set dnsPolicy: ClusterFirst on the pod"
    search = " ".join(conf.search) or "nothing"
    evidence = f"nameserver {', '.join(conf.nameservers)}; search {search}; ndots {conf.ndots}"
    if conf.ndots > DOTS_OF_CLUSTERSET and conf.search:
        return (
            "warn",
            f"{evidence}: an exported name is tried with every search domain first",
            "set dnsConfig.options ndots to 2 on the pod (as k8s/base/caller does)",
        )
    return "pass", evidence, None


def resolver_finding(conf: ResolvConf, answer: DnsAnswer) -> Finding:
    evidence = f"{answer.name}: {answer_text(answer)}"
    if answer.addresses:
        return "pass", evidence, None
    if cluster_domain(conf) is None:
        return "skip", "the search list has no svc. domain: not running in a pod of a cluster", None
    return "fail", evidence, "the cluster's DNS is broken: repair it first"


def target_checks(target: Target, hop: Explained, dns: DnsReport) -> Iterator[Check]:
    """The steps of one call in their order; the steps after the first failed one are skipped."""
    stopped_at = None if hop.outcome is Outcome.OK else STEP_OF.get(hop.outcome, "http")
    failed = False
    for step, find in STEPS.items():
        command = None
        if step == stopped_at:
            failed = True
            verdict, evidence, next_step = failure_finding(hop, dns if step == "dns" else None)
            command = hop.diagnosis.causes[0].command if hop.diagnosis else None
        elif failed:
            verdict, evidence, next_step = "skip", f"{stopped_at} failed", None
        else:
            verdict, evidence, next_step = find(hop, dns)
        yield Check(
            check=step,
            target=target.name,
            verdict=verdict,
            evidence=evidence,
            next_step=next_step,
            command=command,
        )


STEP_OF = {
    Outcome.DNS_NXDOMAIN: "dns",
    Outcome.DNS_NO_DATA: "dns",
    Outcome.DNS_UNAVAILABLE: "dns",
    Outcome.REFUSED: "tcp",
    Outcome.UNREACHABLE: "tcp",
    Outcome.CONNECT_TIMEOUT: "tcp",
    Outcome.TLS_ERROR: "tls",
}
"""The step that fails with an outcome; any other outcome fails at HTTP."""


def failure_finding(hop: Explained, dns: DnsReport | None) -> Finding:
    """The failed step, with the most likely cause."""
    evidence = f"{hop.outcome}: {hop.error}" + (f"; {dns_text(dns)}" if dns else "")
    return "fail", evidence, hop.diagnosis.causes[0].cause if hop.diagnosis else None


def dns_finding(hop: Explained, dns: DnsReport) -> Finding:
    millis = hop.phases.dns_millis
    if millis is None:
        return "skip", dns_text(dns), None
    evidence = f"{', '.join(hop.addresses)} in {millis} ms; {dns_text(dns)}"
    if millis > SLOW_LOOKUP_MILLIS:
        return "warn", evidence, "DNS queries are lost: check ndots, and use NodeLocal DNSCache"
    return "pass", evidence, None


def dns_text(dns: DnsReport) -> str:
    if not dns.candidates:
        return "an IP address, no lookup"
    if dns.hosts_file:
        return "from /etc/hosts, no query"
    answers = "; ".join(f"{answer.type} {answer_text(answer)}" for answer in dns.absolute)
    return f"{answers}; {dns.queries} queries per lookup ({dns.wasted_queries} wasted)"


def answer_text(answer: DnsAnswer) -> str:
    found = ", ".join(answer.addresses) or "no address"
    ttl = f", TTL {answer.ttl} s" if answer.ttl is not None else ""
    return f"{answer.rcode}, {found}{ttl} in {answer.millis} ms"


def tcp_finding(hop: Explained, _: DnsReport) -> Finding:
    evidence = f"connected to {hop.connection.peer_address} in {hop.phases.connect_millis} ms"
    failed = failed_attempts(hop.connection.attempts)
    if failed:
        return "warn", f"{evidence}; {failed}", "compare the addresses of the name with the producer's pods"
    return "pass", evidence, None


def tls_finding(hop: Explained, _: DnsReport) -> Finding:
    if hop.connection.tls_version is None:
        return "skip", "plain HTTP", None
    return (
        "pass",
        f"{hop.connection.tls_version} with {hop.connection.tls_peer_name} in {hop.phases.tls_millis} ms",
        None,
    )


def http_finding(hop: Explained, _: DnsReport) -> Finding:
    return "pass", f"{hop.status_code} in {hop.round_trip_time_millis} ms; {hop.answered_by.evidence}", None


def peer_finding(hop: Explained, _: DnsReport) -> Finding:
    there = hop.producer_metadata
    if there is not None and there.cluster_name != LOCAL:
        return "pass", f"cluster {there.cluster_name}, zone {there.zone}, pod {there.pod_name}", None
    return (
        "warn",
        "the producer does not know its cluster",
        "on GKE check that its pods reach the metadata server, elsewhere set CLUSTER_NAME there",
    )


def crossing_finding(hop: Explained, _: DnsReport) -> Finding:
    words = {True: "yes", False: "no", None: "unknown"}
    crossing = hop.crossing
    evidence = f"cluster: {words[crossing.cluster]}, region: {words[crossing.region]}, zone: {words[crossing.zone]}"
    if crossing.cluster is None:
        return "warn", evidence, "both services must know their cluster"
    if crossing.cluster is False and hop.diagnosis is not None and ".clusterset.local" in hop.target:
        return "warn", evidence, hop.diagnosis.causes[0].cause
    return "pass", evidence, None


def version_finding(hop: Explained, _: DnsReport) -> Finding:
    there = hop.producer_metadata
    if there is None or there.version == LOCAL:
        return "skip", "the producer does not report its version", None
    evidence = f"caller {__version__}, producer {there.version}"
    if there.version != __version__:
        return "warn", evidence, "deploy the same version to both clusters"
    return "pass", evidence, None


def clock_finding(hop: Explained, _: DnsReport) -> Finding:
    skew = hop.clock_skew
    if skew is None:
        return "skip", "the reply has no x-producer-time", None
    millis = round(skew.millis, 1) or 0.0  # and not -0.0
    evidence = f"producer's clock minus caller's: {millis:+.1f} ms ± {skew.error_millis:.1f} ms"
    if abs(skew.millis) - skew.error_millis > MAX_SKEW_MILLIS:
        return "warn", evidence, "synchronize both clocks: log lines of the two clusters cannot be compared"
    return "pass", evidence, None


STEPS: dict[str, Callable[[Explained, DnsReport], Finding]] = {
    "dns": dns_finding,
    "tcp": tcp_finding,
    "tls": tls_finding,
    "http": http_finding,
    "identity": peer_finding,
    "crossing": crossing_finding,
    "version": version_finding,
    "clock": clock_finding,
}
"""The checks per target, in the order of a call."""
