"""A hop and a report of checks, for people at a terminal."""

from collections.abc import Iterator

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from caller.check.model import Check, Verdict
from caller.check.steps import CheckReport, dns_text
from caller.hop.outcome import Crossing, Hop, Outcome, Phases
from common.messages import ClusterMetadata

WIDTH_OF_PIPES = 110
BAR_CELLS = 44

SIGNS: dict[Verdict, tuple[str, str]] = {
    "pass": ("✓", "green"),
    "warn": ("!", "yellow"),
    "fail": ("✗", "bold red"),
    "skip": ("–", "dim"),
}
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


def print_hop(hop: Hop) -> None:
    """What happened, who it was between, where the time went, and what to do next."""
    console = terminal()
    say(console, headline(hop), style="green" if hop.outcome is Outcome.OK else "bold red")
    if hop.error:
        say(console, hop.error, indent=2)
    say(console, f"cross-cluster: {crossing_text(hop.crossing)}", indent=2)
    say(console, connection_text(hop), indent=2)
    console.print()
    console.print(identities(hop.caller_metadata, hop.producer_metadata))
    console.print()
    console.print(waterfall(hop.phases, hop.round_trip_time_millis))
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
            # Not wrapped, so that both can be copied in one piece.
            console.print(Text(f"     {printable(cause.command)}", style="cyan"), soft_wrap=True)
            say(console, f"fix: {cause.fix}", indent=5)
            console.print(Text(f"     {cause.source}", style="dim"), soft_wrap=True)


def print_checks(report: CheckReport) -> None:
    """One line a check, with what to do where it is not a pass."""
    console = terminal()
    group: str | None = None
    for check in report.checks:
        if check.target != group:
            group = check.target
            console.print()
            say(console, group or "", style="bold")
        print_check(console, check)
    console.print()
    count = {verdict: sum(check.verdict == verdict for check in report.checks) for verdict in SIGNS}
    sign, style = SIGNS[report.verdict]
    numbers = ", ".join(f"{number} {verdict}" for verdict, number in count.items() if number)
    say(console, f"{sign} {report.verdict}: {numbers}, in {report.millis:.0f} ms", style=style)


def print_check(console: Console, check: Check) -> None:
    sign, style = SIGNS[check.verdict]
    line = Text(f"{sign} {check.verdict:<4} {check.check:<13} ", style=style)
    line.append(printable(check.evidence), style="default")
    console.print(line, soft_wrap=True)
    if check.next_step:
        console.print(Text(f"{'':21}→ {printable(check.next_step)}"), soft_wrap=True)
    if check.command:
        console.print(Text(f"{'':23}{printable(check.command)}", style="cyan"), soft_wrap=True)


def terminal() -> Console:
    """Standard output; a pipe gets no colours and a fixed width."""
    console = Console(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, emoji=False, width=WIDTH_OF_PIPES)


def say(console: Console, text: str, *, style: str = "", indent: int = 0) -> None:
    """A paragraph, wrapped, all of its lines indented."""
    console.print(Padding(Text(printable(text), style=style), (0, 0, 0, indent)))


def printable(text: str) -> str:
    """What another side said must not steer the terminal: control characters are shown, not sent."""
    return "".join(char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in text)


def headline(hop: Hop) -> str:
    millis = f"{hop.round_trip_time_millis:.1f} ms"
    if hop.answered_by.who == "caller":
        return f"✗ {hop.outcome}: no answer from {hop.target} in {millis}"
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
    kind = "open" if connection.reused else "new"
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


def waterfall(phases: Phases, total: float) -> Table:
    """Each phase as a bar where it was in the round trip; the network and the producer split the wait."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("phase")
    table.add_column("ms", justify="right")
    table.add_column("bar", no_wrap=True)
    for label, start, millis in spans(phases):
        if millis is None:
            table.add_row(f"  {label}", "–", Text("not taken", style="dim"))
        else:
            table.add_row(f"  {label}", f"{millis:.3f}", bar(start, millis, total))
    table.add_row("  round trip", f"{total:.3f}", "")
    return table


def spans(phases: Phases) -> Iterator[tuple[str, float, float | None]]:
    """Label, start and length in ms. Where in the wait the network's share was cannot be seen; it is drawn first."""
    start = 0.0
    for label in ("dns", "connect", "tls", "send", "wait", "body"):
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
    """At least one cell, so that nothing that took time is missing."""
    scale = BAR_CELLS / total if total else 0
    before = min(int(start * scale), BAR_CELLS - 1)
    cells = max(1, min(round(millis * scale), BAR_CELLS - before))
    return Text(" " * before + "█" * cells, style="cyan")
