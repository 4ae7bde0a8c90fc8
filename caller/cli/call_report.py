from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from caller.check.steps import dns_text
from caller.cli.terminal import BAR_CELLS, printable, say, terminal
from caller.explain.explain import Explained
from caller.hop.model import Crossing, Hop
from caller.hop.outcome import Outcome
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


def print_call(hop: Explained) -> None:
    """Outcome, identities, phases, diagnosis."""
    console = terminal()
    say(console, headline(hop), style="green" if hop.outcome is Outcome.OK else "bold red")
    if hop.error:
        say(console, hop.error, indent=2)
    say(console, f"cross-cluster: {crossing_text(hop.crossing)}", indent=2)
    say(console, connection_text(hop), indent=2)
    console.print()
    console.print(identities(hop.caller_metadata, hop.producer_metadata))
    console.print()
    console.print(waterfall(hop))
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


def connection_text(hop: Hop) -> str:
    connection = hop.connection
    if connection.peer_address is None:
        return f"no connection; addresses: {', '.join(hop.addresses) or 'none'}"
    tls = f", {connection.tls_version} with {connection.tls_peer_name}" if connection.tls_version else ""
    kind = "reused" if connection.reused else "new"
    return f"{kind} connection {connection.local_address} → {connection.peer_address}{tls}"


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
    """Each phase as a bar at its place in the round trip; network and producer divide the wait."""
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
        start += millis or 0


def bar(start: float, millis: float, total: float) -> Text:
    """At least one cell, so that every phase is visible."""
    scale = BAR_CELLS / total if total else 0
    before = min(int(start * scale), BAR_CELLS - 1)
    cells = max(1, min(round(millis * scale), BAR_CELLS - before))
    return Text(" " * before + "█" * cells, style="cyan")
