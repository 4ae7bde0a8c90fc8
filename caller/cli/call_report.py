from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from caller.check.steps import dns_text
from caller.cli.terminal import BAR_CELLS, printable, say, terminal
from caller.explain.explain import Explained
from caller.hop.connect import Attempt
from caller.hop.model import Certificate, Crossing, Hop
from caller.hop.outcome import Outcome, unacknowledged_text
from caller.hop.phases import PHASES, Phases
from common.messages import ClusterMetadata

IDENTITY_LABELS = {
    "cluster_name": "cluster",
    "cluster_location": "location",
    "zone": "zone",
    "region": "region",
    "pod_name": "pod",
    "namespace": "namespace",
    "node_name": "node",
    "service_account": "service account",
    "ip_address": "address",
    "host_name": "host",
    "version": "version",
}
MAX_SHOWN = 5
"""Attempts to connect, and names of a certificate; all of them are in the JSON."""


def print_call(hop: Explained) -> None:
    """Outcome, identities, phases, diagnosis."""
    console = terminal()
    say(console, headline(hop), style="green" if hop.outcome is Outcome.OK else "bold red")
    if hop.error:
        say(console, hop.error, indent=2)
    say(console, f"cross-cluster: {crossing_text(hop.crossing)}", indent=2)
    for line in connection_lines(hop):
        say(console, line, indent=2)
    console.print()
    console.print(identities(hop.caller_metadata, hop.producer_metadata))
    console.print()
    console.print(waterfall(hop))
    if hop.phases.delayed_phases:
        say(console, event_loop_text(hop.phases), indent=2)
    if hop.dns is not None:
        console.print()
        say(console, f"DNS: {dns_text(hop.dns)}")
        system = hop.dns.system
        say(console, f"getaddrinfo: {', '.join(system.addresses) or system.error} in {system.millis} ms", indent=2)
    if hop.diagnosis is not None:
        console.print()
        style = "bold red" if hop.diagnosis.severity == "error" else "yellow"
        say(console, hop.diagnosis.title, style=style)
        say(console, hop.diagnosis.summary, indent=2)
        for number, cause in enumerate(hop.diagnosis.causes, 1):
            console.print()
            say(console, f"{number}. {cause.cause}", indent=2)
            # Not wrapped, so that both can be copied.
            console.print(Text(f"     {printable(cause.command)}", style="cyan"), soft_wrap=True)
            say(console, f"fix: {cause.fix}", indent=5)
            console.print(Text(f"     {cause.source}", style="dim"), soft_wrap=True)


def headline(hop: Hop) -> str:
    millis = f"{hop.round_trip_time_millis:.1f} ms"
    if hop.answered_by.who == "none":
        return f"✗ {hop.outcome}: no reply from {hop.target} in {millis}"
    sign = "✓" if hop.outcome is Outcome.OK else "✗"
    where = f" in {hop.answering_cluster}" if hop.answering_cluster else ""
    return f"{sign} {hop.outcome}: {hop.reply_status} in {millis}, answered by {hop.answered_by.name}{where}"


def crossing_text(crossing: Crossing) -> str:
    words = {True: "yes", False: "no", None: "unknown"}
    return f"{words[crossing.cluster]} (region: {words[crossing.region]}, zone: {words[crossing.zone]})"


def connection_lines(hop: Hop) -> Iterator[str]:
    """What is known of the connection: TCP, TLS, bytes."""
    connection = hop.connection
    attempts = limited([attempt_text(attempt) for attempt in connection.attempts], " · ")
    if connection.peer_address is None:
        if attempts:
            yield f"no connection: {attempts}"
        return
    kind = "reused" if connection.reused else "new"
    idle = f", idle {duration_text(connection.idle_millis)}" if connection.idle_millis is not None else ""
    yield f"{kind} connection {connection.local_address} → {connection.peer_address}{idle}"
    if len(connection.attempts) > 1:
        yield f"attempts: {attempts}"
    if tls := ", ".join(tls_texts(hop)):
        yield tls
    if exchange := ", ".join(exchange_texts(hop)):
        yield exchange


def attempt_text(attempt: Attempt) -> str:
    return f"{attempt.address} {attempt.error or 'connected'} ({duration_text(attempt.millis)})"


def tls_texts(hop: Hop) -> Iterator[str]:
    connection = hop.connection
    if connection.tls_version:
        yield connection.tls_version
    if connection.peer_certificate:
        yield certificate_text(connection.peer_certificate, datetime.fromtimestamp(hop.started_at, UTC))
    # The error text of the call may have the same words.
    if (reason := connection.tls_verify_error) and reason not in (hop.error or ""):
        yield f"refused by the caller: {reason}"
    if connection.tls_alert:
        yield f"alert from the other side: {connection.tls_alert}"


def certificate_text(certificate: Certificate, at: datetime) -> str:
    """Names, issuer, and validity at that time."""
    names = limited(certificate.names, ", ") or "no name"
    return f"certificate of {names} from {certificate.issuer}, {validity_text(certificate, at)}"


def validity_text(certificate: Certificate, at: datetime) -> str:
    start, end = (f"{time:%Y-%m-%d %H:%M} UTC" for time in (certificate.not_before, certificate.not_after))
    if at < certificate.not_before:
        return f"not valid before {start}"
    hours = (certificate.not_after - at).total_seconds() / 3600
    span = f"{abs(hours) / 24:.0f} days" if abs(hours) >= 48 else f"{abs(hours):.0f} h"
    return f"valid until {end} ({span} left)" if hours >= 0 else f"expired {end} ({span} ago)"


def exchange_texts(hop: Hop) -> Iterator[str]:
    """Bytes and packets of the call."""
    connection = hop.connection
    lost = lost_text(hop)
    if lost and lost not in (hop.error or ""):
        yield lost
    elif connection.bytes_sent is not None:
        yield f"{connection.bytes_sent:,} bytes sent"
    if connection.bytes_received is not None:
        yield f"{connection.bytes_received:,} received"
    if connection.kernel_rtt_millis is not None:
        yield f"kernel RTT {duration_text(connection.kernel_rtt_millis)}"
    if connection.retransmits:
        yield f"retransmits: {connection.retransmits:,}"
    if connection.closed_before_reply:
        yield "closed before a reply"


def lost_text(hop: Hop) -> str:
    """Empty after a reply, and after a refused certificate: the caller closes right after its TLS alert."""
    connection = hop.connection
    if hop.answered_by.who != "none" or connection.tls_verify_error or not connection.bytes_unacknowledged:
        return ""
    return unacknowledged_text(connection.bytes_unacknowledged, connection.bytes_sent or 0)


def event_loop_text(phases: Phases) -> str:
    delay = duration_text(phases.event_loop_delay_millis or 0)
    return f"The caller's own event loop was late by {delay} ({', '.join(phases.delayed_phases)}): not the network."


def limited(texts: Sequence[str], separator: str) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(texts) - MAX_SHOWN} more" if len(texts) > MAX_SHOWN else ""
    return separator.join(texts[:MAX_SHOWN]) + more


def duration_text(millis: float) -> str:
    """Three significant digits, in ms or s."""
    if millis >= 1000:
        return f"{millis / 1000:,.1f} s"
    return f"{millis:.0f} ms" if millis >= 100 else f"{millis:.3g} ms"


def identities(caller: ClusterMetadata, producer: ClusterMetadata | None) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("")
    both = [("caller", caller), *([("producer", producer)] if producer else [])]
    for side, _ in both:
        table.add_column(side, overflow="fold")
    for field, label in IDENTITY_LABELS.items():
        table.add_row(f"  {label}", *(printable(str(getattr(identity, field))) for _, identity in both))
    return table


def waterfall(hop: Hop) -> Table:
    """Each phase as a bar at its place in the round trip; network, producer and event loop divide the wait."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("phase")
    table.add_column("ms", justify="right")
    table.add_column("bar", no_wrap=True)
    total = hop.round_trip_time_millis
    for label, start, millis in spans(hop.phases):
        if millis is None:
            table.add_row(f"  {label}", "–", Text(why_absent(hop, label.strip()), style="dim"))
        else:
            table.add_row(f"  {label}", f"{millis:.3f}", bar(start, millis, total))
    table.add_row("  round trip", f"{total:.3f}", "")
    return table


def why_absent(hop: Hop, phase: str) -> str:
    """Why a call did not have a phase."""
    if phase not in PHASES:  # a part of the wait
        return "not reported"
    if phase == "tls" and hop.target.startswith("http:"):
        return "plain HTTP"
    if phase in ("dns", "connect", "tls") and hop.connection.reused:
        return "reused connection"
    if phase == "dns" and hop.phases.connect_millis is not None:
        return "IP address"
    return "not reached"


def spans(phases: Phases) -> Iterator[tuple[str, float, float | None]]:
    """Label, start and duration in ms. The network's share of the wait has no known position; it is drawn first."""
    start = 0.0
    for label in PHASES:
        millis = getattr(phases, f"{label}_millis")
        yield label, start, millis
        if label == "wait" and phases.network_millis is not None:
            inside = start
            for part, name in (("network", "network"), ("producer_delay", "delay"), ("producer_work", "work")):
                share = getattr(phases, f"{part}_millis")
                yield f"  {name}", inside, share
                inside += share or 0
            # The caller noticed the reply only after the rest of the wait.
            if (late := round(start + (millis or 0) - inside, 3)) > 0:
                yield "  event loop", inside, late
        start += millis or 0


def bar(start: float, millis: float, total: float) -> Text:
    """At least one cell, so that every phase is visible."""
    scale = BAR_CELLS / total if total else 0
    before = min(int(start * scale), BAR_CELLS - 1)
    cells = max(1, min(round(millis * scale), BAR_CELLS - before))
    return Text(" " * before + "█" * cells, style="cyan")
