"""Preflight: checks the path to the producer step by step, without a browser and without rights in the cluster.

One fresh call per target; DNS, TCP, TLS, HTTP, identity and crossing are read from its hop. Where the caller may read
objects of its cluster, checks of those follow. All targets, the resolver's sanity check, the DNS reports and the
requests to the API server are concurrent, so that everything takes as long as the slowest call (`CALL_SECONDS`).
"""

import asyncio
import time
from collections.abc import Sequence

from caller.check.cluster import api_server_check, cluster_checks
from caller.check.kubernetes import read_snapshot
from caller.check.model import Check, CheckReport, TargetResult
from caller.check.steps import (
    identity_finding,
    resolv_conf_finding,
    resolver_finding,
    settings_finding,
    target_checks,
)
from caller.explain.dns import DnsAnswer, DnsReport
from caller.explain.explain import Explained, Explainer
from caller.target import Target
from common.messages import Message

CALL_SECONDS = 5.0
"""Timeout of one call; with the DNS report after a failure, everything stays below 10 s."""
REUSE_SECONDS = 2.0
"""How long a report is reused, so that frequent requests cause no more calls to the producer."""


class Preflight:
    """Runs the checks for the API: concurrent requests share one report, which is reused for `REUSE_SECONDS`."""

    def __init__(self, explainer: Explainer) -> None:
        self.explainer = explainer
        self.running: asyncio.Task[CheckReport] | None = None
        self.ended = 0.0

    async def report(self) -> CheckReport:
        if self.running is None or (self.running.done() and time.monotonic() - self.ended > REUSE_SECONDS):
            self.running = asyncio.create_task(self.run())
        return await asyncio.shield(self.running)

    async def run(self) -> CheckReport:
        try:
            return await run_checks(self.explainer, self.explainer.client.settings.targets)
        finally:
            self.ended = time.monotonic()


async def run_checks(explainer: Explainer, targets: Sequence[Target]) -> CheckReport:
    """Run all checks once."""
    client = explainer.client
    started = time.perf_counter()
    snapshot, probes = await asyncio.gather(
        read_snapshot(client.settings, targets), asyncio.gather(*(probe(explainer, target) for target in targets))
    )
    _, dns, answer = probes[0]
    findings = {
        "settings": settings_finding(targets[0]),
        "identity": identity_finding(client.identity),
        "resolv.conf": resolv_conf_finding(dns.resolv_conf),
        "resolver": resolver_finding(dns.resolv_conf, answer),
    }
    checks = [
        Check(check=name, verdict=verdict, evidence=evidence, next_step=step)
        for name, (verdict, evidence, step) in findings.items()
    ]
    checks.append(api_server_check(snapshot))
    for target, (hop, dns, _) in zip(targets, probes, strict=True):
        of_target = [*target_checks(target, hop, dns), *cluster_checks(snapshot, target, hop)]
        checks += of_target if target is targets[0] else map(as_warning, of_target)
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


def as_warning(check: Check) -> Check:
    """A failed check of a target of COMPARE_URLS, which need not work, is a warning."""
    return check.model_copy(update={"verdict": "warn"}) if check.verdict == "fail" else check


async def probe(explainer: Explainer, target: Target) -> tuple[Explained, DnsReport, DnsAnswer]:
    """One fresh call with its explanation, the DNS report of the target, and the resolver's sanity check."""

    async def explained() -> Explained:
        message = Message(payload="check")
        hop = await explainer.client.call(message, target, connection="fresh", timeout_seconds=CALL_SECONDS)
        return await explainer.explain(hop, message, target, CALL_SECONDS)

    hop, (dns, answer) = await asyncio.gather(explained(), explainer.dns.about(target))
    return hop, dns, answer
