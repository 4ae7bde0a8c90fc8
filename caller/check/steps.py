"""Preflight: is the way to the producer right, step by step, without a browser and without rights in the cluster.

Per target one fresh call is made; DNS, TCP, TLS, HTTP, identity and crossing are read off its hop. Where
the caller may read a few objects of its cluster, what they say of the target comes after. All targets, the control
query, the DNS reports and the questions to the API server go at once, so that everything takes as long as the slowest
call, which has `CALL_SECONDS`.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence

from pydantic import Field

from caller.check.cluster import api_server_check, cluster_checks
from caller.check.kubernetes import look
from caller.check.model import Check, Verdict
from caller.explain.dns import DnsAnswer, DnsReport, ResolvConf, cluster_domain
from caller.hop.client import ProducerClient
from caller.hop.outcome import Hop, Outcome
from caller.target import Target
from common import __version__
from common.cluster import Identity
from common.messages import LOCAL, Message, Wire

CALL_SECONDS = 5.0
"""For one call; with the DNS report that follows a failure everything stays below 10 s."""
GOOD_SECONDS = 2.0
"""How long a report is shown again, so that asking often calls the producer no more often."""
SKEW_MILLIS = 1000
"""A difference between the clocks that makes logs of two clusters hard to compare."""
SLOW_LOOKUP_MILLIS = 1000
DOTS_OF_CLUSTERSET = 4
"""Dots in `sample-producer.istio-apps.svc.clusterset.local`: with a larger `ndots` the search list is tried first."""

Finding = tuple[Verdict, str, str | None]
"""Verdict, evidence, next step."""


class TargetResult(Wire):
    """What became of the call to one target."""

    target: str
    outcome: Outcome
    cluster_name: str | None = Field(description="who answered; null: nobody, or it did not say")


class CheckReport(Wire):
    """All checks, the worst verdict, and how long they took."""

    verdict: Verdict
    targets: list[TargetResult]
    checks: list[Check]
    millis: float


class Preflight:
    """Runs the checks for the API: those who ask at once share one run, and its report is good for `GOOD_SECONDS`."""

    def __init__(self, client: ProducerClient) -> None:
        self.client = client
        self.running: asyncio.Task[CheckReport] | None = None
        self.ended = 0.0

    async def report(self) -> CheckReport:
        if self.running is None or (self.running.done() and time.monotonic() - self.ended > GOOD_SECONDS):
            self.running = asyncio.create_task(self.run())
        return await asyncio.shield(self.running)

    async def run(self) -> CheckReport:
        try:
            return await run_checks(self.client, self.client.settings.targets)
        finally:
            self.ended = time.monotonic()


async def run_checks(client: ProducerClient, targets: Sequence[Target]) -> CheckReport:
    """Look at everything, once."""
    started = time.perf_counter()
    view, probes = await asyncio.gather(
        look(client.settings, targets), asyncio.gather(*(probe(client, target) for target in targets))
    )
    _, dns, answer = probes[0]
    findings = {
        "settings": settings_finding(targets[0]),
        "identity": identity_finding(client.identity),
        "resolv.conf": resolv_conf_finding(dns.resolv_conf),
        "control query": control_finding(dns.resolv_conf, answer),
    }
    checks = [
        Check(check=name, verdict=verdict, evidence=evidence, next_step=step)
        for name, (verdict, evidence, step) in findings.items()
    ]
    checks.append(api_server_check(view))
    for target, (hop, dns, _) in zip(targets, probes, strict=True):
        of_target = [*target_checks(target, hop, dns), *cluster_checks(view, target, hop)]
        checks += of_target if target is targets[0] else map(warning, of_target)
    results = [
        TargetResult(target=target.name, outcome=hop.outcome, cluster_name=hop.answering_cluster)
        for target, (hop, _, _) in zip(targets, probes, strict=True)
    ]
    verdicts = {check.verdict for check in checks}
    return CheckReport(
        verdict="fail" if "fail" in verdicts else "warn" if "warn" in verdicts else "pass",
        targets=results,
        checks=checks,
        millis=round((time.perf_counter() - started) * 1000, 3),
    )


def warning(check: Check) -> Check:
    """What fails of an address that is there to be compared with, which may well lead nowhere, is a warning."""
    return check.model_copy(update={"verdict": "warn"}) if check.verdict == "fail" else check


async def probe(client: ProducerClient, target: Target) -> tuple[Hop, DnsReport, DnsAnswer]:
    """One fresh call, explained, the report on the name, and the resolver's answer to the control query."""

    async def explained() -> Hop:
        message = Message(payload="check")
        hop = await client.call(message, target, connection="fresh", timeout_seconds=CALL_SECONDS)
        return await client.explain(hop, message, target, CALL_SECONDS)

    hop, (dns, answer) = await asyncio.gather(explained(), client.dns.about(target))
    return hop, dns, answer


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
        "without a cluster name no crossing can be told: on GKE see that the metadata server is reachable,"
        " elsewhere set CLUSTER_NAME, CLUSTER_LOCATION and ZONE",
    )


def resolv_conf_finding(conf: ResolvConf) -> Finding:
    if conf.error:
        return "fail", conf.error, "use dnsPolicy ClusterFirst on the pod"
    search = " ".join(conf.search) or "nothing"
    evidence = f"nameserver {', '.join(conf.nameservers)}; search {search}; ndots {conf.ndots}"
    if conf.ndots > DOTS_OF_CLUSTERSET and conf.search:
        return (
            "warn",
            f"{evidence}: an exported name is tried with every search domain first",
            "set dnsConfig.options ndots to 2 on the pod (k8s/base/caller does)",
        )
    return "pass", evidence, None


def control_finding(conf: ResolvConf, answer: DnsAnswer) -> Finding:
    evidence = f"{answer.name}: {answer_text(answer)}"
    if answer.addresses:
        return "pass", evidence, None
    if cluster_domain(conf) is None:
        return "skip", "the search list has no svc. domain: this is no pod of a cluster", None
    return "fail", evidence, "the cluster's own DNS is broken: repair it before anything else"


def target_checks(target: Target, hop: Hop, dns: DnsReport) -> Iterator[Check]:
    """The steps of one call in their order; after the first that failed the rest are skipped."""
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
"""The step at which an outcome stops a call; any other stops it at HTTP."""


def failure_finding(hop: Hop, dns: DnsReport | None) -> Finding:
    """What stopped the call, with the likeliest cause."""
    evidence = f"{hop.outcome}: {hop.error}" + (f"; {dns_text(dns)}" if dns else "")
    return "fail", evidence, hop.diagnosis.causes[0].cause if hop.diagnosis else None


def dns_finding(hop: Hop, dns: DnsReport) -> Finding:
    millis = hop.phases.dns_millis
    if millis is None:
        return "skip", dns_text(dns), None
    evidence = f"{', '.join(hop.addresses)} in {millis} ms; {dns_text(dns)}"
    if millis > SLOW_LOOKUP_MILLIS:
        return "warn", evidence, "queries are lost on the way: see ndots, and use NodeLocal DNSCache"
    return "pass", evidence, None


def dns_text(dns: DnsReport) -> str:
    if not dns.candidates:
        return "an address, nothing to resolve"
    if dns.hosts_file:
        return "from /etc/hosts, no query"
    answers = "; ".join(f"{answer.type} {answer_text(answer)}" for answer in dns.absolute)
    return f"{answers}; a lookup costs {dns.queries} queries, {dns.wasted_queries} of them for nothing"


def answer_text(answer: DnsAnswer) -> str:
    found = ", ".join(answer.addresses) or "no address"
    ttl = f", TTL {answer.ttl} s" if answer.ttl is not None else ""
    return f"{answer.rcode}, {found}{ttl} in {answer.millis} ms"


def tcp_finding(hop: Hop, _: DnsReport) -> Finding:
    return "pass", f"connected to {hop.connection.peer_address} in {hop.phases.connect_millis} ms", None


def tls_finding(hop: Hop, _: DnsReport) -> Finding:
    if hop.connection.tls_version is None:
        return "skip", "plain http", None
    return (
        "pass",
        f"{hop.connection.tls_version} with {hop.connection.tls_peer_name} in {hop.phases.tls_millis} ms",
        None,
    )


def http_finding(hop: Hop, _: DnsReport) -> Finding:
    return "pass", f"{hop.status_code} in {hop.round_trip_time_millis} ms; {hop.answered_by.evidence}", None


def peer_finding(hop: Hop, _: DnsReport) -> Finding:
    there = hop.producer_metadata
    if there is not None and there.cluster_name != LOCAL:
        return "pass", f"cluster {there.cluster_name}, zone {there.zone}, pod {there.pod_name}", None
    return (
        "warn",
        "the producer does not know its cluster",
        "on GKE see that its pods reach the metadata server, elsewhere set CLUSTER_NAME there",
    )


def crossing_finding(hop: Hop, _: DnsReport) -> Finding:
    words = {True: "yes", False: "no", None: "unknown"}
    crossing = hop.crossing
    evidence = f"cluster: {words[crossing.cluster]}, region: {words[crossing.region]}, zone: {words[crossing.zone]}"
    if crossing.cluster is None:
        return "warn", evidence, "both sides must know their cluster"
    if crossing.cluster is False and hop.diagnosis is not None and ".clusterset.local" in hop.target:
        return "warn", evidence, hop.diagnosis.causes[0].cause
    return "pass", evidence, None


def version_finding(hop: Hop, _: DnsReport) -> Finding:
    there = hop.producer_metadata
    if there is None or there.version == LOCAL:
        return "skip", "the producer does not say its version", None
    evidence = f"caller {__version__}, producer {there.version}"
    if there.version != __version__:
        return "warn", evidence, "deploy the same version to both clusters"
    return "pass", evidence, None


def clock_finding(hop: Hop, _: DnsReport) -> Finding:
    skew = hop.clock_skew
    if skew is None:
        return "skip", "the reply has no x-producer-time", None
    millis = round(skew.millis, 1) or 0.0  # and not -0.0
    evidence = f"the producer's clock less the caller's: {millis:+.1f} ms, give or take {skew.error_millis:.1f} ms"
    if abs(skew.millis) - skew.error_millis > SKEW_MILLIS:
        return "warn", evidence, "synchronise both clocks: log lines of the two clusters do not line up"
    return "pass", evidence, None


STEPS: dict[str, Callable[[Hop, DnsReport], Finding]] = {
    "dns": dns_finding,
    "tcp": tcp_finding,
    "tls": tls_finding,
    "http": http_finding,
    "identity": peer_finding,
    "crossing": crossing_finding,
    "version": version_finding,
    "clock": clock_finding,
}
"""What is looked at per target, in the order of a call, when the call got beyond it."""
