"""From a hop to its likely causes: selects the row in the table of `causes.py` and fills in the names of the call."""

import shlex
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from caller.explain.causes import IN_CLUSTER, NOT_IN_A_CLUSTER, TABLE, Cause, Symptom
from caller.explain.dns import DnsAnswer, DnsReport, addresses_of, cluster_domain
from caller.hop.connect import failed_attempts
from caller.hop.model import Hop
from caller.hop.outcome import Outcome
from caller.target import Target
from common.messages import LOCAL, ClusterMetadata, Message, Wire


class DiagnosedCause(Wire):
    """A likely cause, with the command that confirms it."""

    cause: str
    command: str = Field(description="for a shell, with the names of this call")
    fix: str
    source: str = Field(description="documentation of the rule")


class Diagnosis(Wire):
    """The meaning of a call that failed or deserves a warning."""

    severity: Literal["error", "warning"]
    title: str
    summary: str
    causes: list[DiagnosedCause] = Field(description="most likely first")


SLOW_DNS_MILLIS = 4500
"""A lost query is sent again after 5 s (resolv.conf(5), `timeout`)."""

ROWS = {outcome: [row for row in TABLE if outcome in row.outcomes] for outcome in Outcome}


def diagnose(
    hop: Hop,
    target: Target,
    message: Message,
    *,
    dns: DnsReport | None = None,
    sanity_check: DnsAnswer | None = None,
    last_seen: ClusterMetadata | None = None,
    timeouts: tuple[float, float] = (2, 65),
) -> Diagnosis | None:
    """The diagnosis of this hop; None for `ok` without a warning.

    :param dns: the report on the target's name, if DNS was queried.
    :param sanity_check: the resolver's answer for a name that exists in every cluster.
    :param last_seen: who answered the last successful call to this target, for the names in commands.
    :param timeouts: of the connection and of the whole call, in seconds.
    """
    symptoms = set(symptoms_of(hop, target, message, dns, sanity_check, timeouts[1]))
    for row in ROWS[hop.outcome]:
        if target.kind in row.kinds and (row.symptom is None or row.symptom in symptoms):
            names = Names(names_of(hop, target, message, last_seen, timeouts, sanity_check))
            summary = row.summary.format_map(names.as_text)
            if "not_in_a_cluster" in symptoms and target.kind != "other":
                summary = f"{summary} {NOT_IN_A_CLUSTER}"
            return Diagnosis(
                severity=row.severity,
                title=row.title,
                summary=summary,
                causes=[filled(cause, names) for cause in ranked(row.causes, symptoms)],
            )
    return None


def ranked(causes: tuple[Cause, ...], symptoms: set[Symptom]) -> list[Cause]:
    """Causes whose symptom was seen, then those without a symptom."""
    return [cause for cause in causes if cause.symptom in symptoms] + [
        cause for cause in causes if cause.symptom is None
    ]


class Names:
    """The names of one call: quoted for a shell in commands, unquoted in sentences."""

    def __init__(self, values: dict[str, str]) -> None:
        self.as_text = values
        self.quoted = {name: shlex.quote(value) for name, value in values.items()}


def filled(cause: Cause, names: Names) -> DiagnosedCause:
    return DiagnosedCause(
        cause=cause.cause.format_map(names.as_text),
        command=cause.command.format_map(names.quoted),
        fix=cause.fix.format_map(names.quoted),  # some are commands
        source=cause.source,
    )


def names_of(
    hop: Hop,
    target: Target,
    message: Message,
    last_seen: ClusterMetadata | None,
    timeouts: tuple[float, float],
    sanity_check: DnsAnswer | None = None,
) -> dict[str, str]:
    """The names of a call. kubectl contexts are named as the clusters; unknown names are those of the README."""
    here = hop.caller_metadata
    there = hop.producer_metadata or last_seen
    own_namespace = here.namespace if here.namespace != LOCAL else "istio-apps"
    caller = here.cluster_name if here.cluster_name != LOCAL else "caller-cluster"
    producer = there.cluster_name if there and there.cluster_name != LOCAL else "producer-cluster"
    if target.kind in IN_CLUSTER:
        producer = caller
    return {
        "caller": caller,
        "producer": producer,
        "here": here.cluster_name if here.cluster_name != LOCAL else "the caller's cluster",
        "namespace": target.namespace or own_namespace,
        "service": target.service or "sample-producer",
        "host": target.host,
        "port": str(target.port),
        "name": target.name,
        "counterpart": target.counterpart
        or f"{target.service or 'sample-producer'}.{own_namespace}.svc.clusterset.local",
        "peer": hop.connection.peer_address or ", ".join(hop.addresses) or target.host,
        "peer_cluster": there.cluster_name if there and there.cluster_name != LOCAL else "the producer",
        "proxy": hop.answered_by.name if hop.answered_by.name != "unknown" else "A proxy that does not identify itself",
        "evidence": hop.answered_by.evidence,
        "status": str(hop.status_code),
        "error": hop.error or "",
        "millis": f"{hop.phases.connect_millis or 0:.1f}",
        "dns": f"{hop.phases.dns_millis or 0:.0f}",
        "delay": str(message.delay),
        "seconds": f"{timeouts[0] if hop.outcome is Outcome.CONNECT_TIMEOUT else timeouts[1]:g}",
        "service_account": here.service_account,
        "unacknowledged": f"{hop.connection.bytes_unacknowledged or 0:,}",
        "sent": f"{hop.connection.bytes_sent or 0:,}",
        "dead": failed_attempts(hop.connection.attempts),
        "sanity_check": sanity_check.name if sanity_check else "kubernetes.default",
    }


def symptoms_of(
    hop: Hop,
    target: Target,
    message: Message,
    dns: DnsReport | None,
    sanity_check: DnsAnswer | None,
    call_timeout: float,
) -> Iterator[Symptom]:
    yield from symptoms_of_reply(hop, message)
    yield from symptoms_of_connection(hop, message, call_timeout)
    if dns is not None:
        yield from symptoms_of_dns(hop, dns, sanity_check)
    if (hop.phases.dns_millis or 0) > SLOW_DNS_MILLIS:
        yield "slow_dns"
    if hop.crossing.cluster is False and target.kind == "clusterset.local":
        yield "own_cluster"


ENVOY_SYMPTOMS: tuple[tuple[str, Symptom], ...] = (
    ("no healthy upstream", "no_healthy_upstream"),
    ("certificate_verify_failed", "upstream_tls"),
    ("tls error", "upstream_tls"),
    ("tls_error", "upstream_tls"),
    ("upstream connect error", "upstream_connect_error"),
    ("upstream request timeout", "upstream_timeout"),
    ("stream timeout", "upstream_timeout"),
    ("rbac: access denied", "rbac"),
    ("fault filter abort", "injected_by_mesh"),
)
"""Phrases of a proxy's body, in lower case, and their symptom."""


def symptoms_of_reply(hop: Hop, message: Message) -> Iterator[Symptom]:
    text = (hop.error or "").lower()
    if hop.outcome is Outcome.HTTP_ERROR:
        if hop.fault_applied and hop.status_code == message.response_code:
            yield "fault_asked_for"
        if "max_in_flight" in text:
            yield "overloaded"
        if "shutdown_seconds" in text:
            yield "draining"
        if hop.status_code in (413, 415, 422):
            yield "input_refused"
    if hop.outcome is Outcome.PROXY_ERROR:
        yield from symptoms_of_proxy(hop, text)
        if hop.answered_by.name in ("nginx", "Apache httpd", "HAProxy", "Traefik", "Caddy"):
            yield "web_server"
    if hop.outcome is Outcome.BAD_REPLY:
        if "max_reply_bytes" in text:
            yield "too_large"
        if "text/html" in text:
            yield "html"


def symptoms_of_proxy(hop: Hop, text: str) -> Iterator[Symptom]:
    """Google's load balancers are Envoys and use their phrases; no mesh is involved."""
    if "Google" in hop.answered_by.name:
        yield "google"
        return
    found = [symptom for phrase, symptom in ENVOY_SYMPTOMS if phrase in text]
    if hop.status_code == 429:
        found.append("rate_limited")
    if "x-envoy-overloaded" in hop.returned_headers or "reset reason: overflow" in text:
        found = ["circuit_broken"]
    if "x-envoy-upstream-service-time" in hop.returned_headers:
        found.append("passed_on")
    yield from found
    if not found and "Envoy" in hop.answered_by.name and hop.status_code in (404, 502, 503):
        yield "envoy"


MIN_IPV6_MTU = 1280
"""A packet of this size passes every IPv6 link (RFC 8200, 5), and in practice every path."""


def symptoms_of_connection(hop: Hop, message: Message, call_timeout: float) -> Iterator[Symptom]:
    connection = hop.connection
    if connection.reused:
        yield "reused_connection"
    if message.delay / 1000 >= call_timeout:
        yield "delay_over_timeout"
    if connection.bytes_unacknowledged and connection.bytes_sent:
        yield "unacknowledged"
        if connection.bytes_sent > MIN_IPV6_MTU:
            yield "large_request"
    if hop.outcome is Outcome.OK and failed_attempts(connection.attempts):
        yield "dead_addresses"
    if hop.outcome is Outcome.TLS_ERROR:
        yield from symptoms_of_tls(hop)


def symptoms_of_tls(hop: Hop) -> Iterator[Symptom]:
    connection = hop.connection
    verify_error = (connection.tls_verify_error or "").lower()
    if "expired" in verify_error or "not yet valid" in verify_error:
        yield "tls_expired"
    if "mismatch" in verify_error:
        yield "tls_name"
    if "issuer" in verify_error or "self-signed" in verify_error or "self signed" in verify_error:
        yield "tls_untrusted"
    # The server's certificate is there, so a version and a cipher in common were found: it refuses the client.
    if connection.peer_certificate is not None and (connection.tls_alert or connection.closed_before_reply):
        yield "tls_client_refused"
    elif connection.closed_before_reply:
        yield "tls_hello_refused"
    text = (hop.error or "").lower()
    if "wrong_version_number" in text or "record_layer_failure" in text or "http_request" in text:
        yield "tls_not_spoken"
    if "not finished within" in text:
        yield "tls_silent"


def symptoms_of_dns(hop: Hop, dns: DnsReport, sanity_check: DnsAnswer | None) -> Iterator[Symptom]:
    in_a_cluster = cluster_domain(dns.resolv_conf) is not None
    if not in_a_cluster:
        yield "not_in_a_cluster"
    if dns.resolv_conf.error:
        yield "no_resolver"
    if in_a_cluster and sanity_check is not None and not sanity_check.addresses:
        yield "sanity_check_failed"
    rcodes = {answer.rcode for answer in dns.absolute}
    others = {answer.rcode for candidate in dns.candidates for answer in candidate.answers}
    if "NXDOMAIN" in rcodes and others & {"SERVFAIL", "REFUSED"}:
        yield "masked_nxdomain"
    if "TIMEOUT" in others:
        yield "resolver_silent"
    if others & {"SERVFAIL", "REFUSED", "NOTIMP", "ERROR"}:
        yield "resolver_failed"
    if addresses_of(dns.absolute) and dns.asked_at >= hop.started_at:
        yield "name_exists_now"
    if addresses_of(dns.absolute) and any((a.type, a.rcode) == ("AAAA", "TIMEOUT") for a in dns.absolute):
        yield "aaaa_lost"
    if addresses_of(dns.counterpart):
        yield "exported_name_exists" if dns.host.endswith("svc.cluster.local") else "local_service_exists"
