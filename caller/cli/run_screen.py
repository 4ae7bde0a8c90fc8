"""A run for people: live on a terminal, a line every few seconds in a pipe; at the end the summary."""

from collections import deque

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from caller.cli.terminal import BAR_CELLS, printable, say, terminal
from caller.run.model import (
    Balance,
    Distribution,
    Done,
    Event,
    Failed,
    Latency,
    Outage,
    OutageClosed,
    Progress,
    RunSpec,
    Started,
    Tick,
    Who,
)

SPARKS = "▁▂▃▄▅▆▇█"
SPARK_CELLS = 60


class RunScreen:
    """Shows the events of a run as they come."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self.console = terminal()
        self.medians: deque[float] = deque(maxlen=SPARK_CELLS)
        self.live = (
            Live(console=self.console, refresh_per_second=4, transient=True) if self.console.is_terminal else None
        )
        self.seen = 0

    def show(self, event: Event) -> None:
        match event:
            case Started():
                say(self.console, self.headline(), style="bold")
                if self.live:
                    self.live.start()
            case Tick():
                self.tick(event.progress, event.recent)
                for who in event.new_pods:
                    self.note(f"+ {where(who)}", "green")
            case OutageClosed():
                self.note(outage_text(event.outage), "yellow")
            case Done():
                self.end()
                print_summary(self.console, event)
            case Failed():
                self.end()
                say(self.console, f"✗ failed: {event.reason}", style="bold red")

    def headline(self) -> str:
        spec = self.spec
        seconds = spec.count / spec.rate
        return (
            f"{spec.count} calls at {spec.rate:g}/s for {seconds:g} s, {spec.connection}, to {', '.join(spec.targets)}"
        )

    def note(self, text: str, style: str) -> None:
        (self.live.console if self.live else self.console).print(Text(printable(text), style=style), soft_wrap=True)

    def tick(self, progress: Progress, recent: Latency) -> None:
        self.medians.append(recent.p50_millis or 0.0)
        self.seen += 1
        if self.live:
            self.live.update(
                Group(
                    self.bar(progress), self.spark(), peers_table(progress), distribution_table(progress.distribution)
                )
            )
        elif self.seen % 10 == 0:
            say(self.console, f"{progress.elapsed_seconds:.0f} s: {progress.done} completed, {outcomes_text(progress)}")

    def bar(self, progress: Progress) -> Table:
        grid = Table.grid(padding=(0, 1))
        grid.add_row(
            ProgressBar(total=self.spec.count, completed=progress.offered, width=BAR_CELLS),
            f"{progress.done} of {self.spec.count}, {progress.rate:.1f}/s, {progress.in_flight} in flight,"
            f" {outcomes_text(progress)}",
        )
        return grid

    def spark(self) -> Text:
        top = max(self.medians, default=0) or 1
        line = "".join(SPARKS[min(int(median / top * (len(SPARKS) - 1)), len(SPARKS) - 1)] for median in self.medians)
        return Text(f"p50 {line} {self.medians[-1]:.1f} ms", style="cyan")

    def end(self) -> None:
        if self.live:
            self.live.stop()


def print_summary(console: Console, done: Done) -> None:
    summary = done.summary
    reason = f": {done.reason}" if done.reason else ""
    sent = f"{summary.sent} of {summary.offered} calls sent"
    dropped = f", {summary.dropped} dropped (in-flight limit)" if summary.dropped else ""
    say(console, f"{done.ended}{reason}: {sent}{dropped}, {outcomes_text(summary)}", style="bold")
    console.print(peers_table(summary))
    console.print(distribution_table(summary.distribution))
    say(console, balance_text(summary.balance))
    for outage in summary.outages:
        say(console, outage_text(outage), style="yellow")
    delay = summary.scheduling_delay
    if delay.count:
        say(console, f"scheduling delay: p50 {delay.p50_millis:.1f} ms, p99 {delay.p99_millis:.1f} ms", style="dim")


def balance_text(balance: Balance) -> str:
    if balance.verdict == "one pod":
        return "one pod answered"
    if balance.verdict == "no answers":
        return "no answers"
    tested = f" (p = {balance.p_value:.2g})" if balance.p_value is not None else ""
    return f"{balance.pods} pods answered: {balance.verdict}{tested}"


def outcomes_text(progress: Progress) -> str:
    return ", ".join(f"{number} {outcome}" for outcome, number in progress.outcomes.items()) or "none completed yet"


def peers_table(progress: Progress) -> Table:
    """Latency from the intended start, and service time beside it, by who answered."""
    table = Table(box=None, pad_edge=False)
    table.add_column("answered by")
    for column in ("calls", "p50", "p90", "p99", "max ms", "service p50", "p99 ms"):
        table.add_column(column, justify="right")
    for peer in progress.peers:
        latency, service = peer.latency, peer.service_time
        values = (latency.p50_millis, latency.p90_millis, latency.p99_millis, latency.max_millis)
        numbers = (*values, service.p50_millis, service.p99_millis)
        table.add_row(printable(peer.cluster), str(latency.count), *(f"{number or 0:.1f}" for number in numbers))
    return table


def distribution_table(distribution: Distribution) -> Table:
    """Who answered, as bars."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for kind, counts in (("cluster", distribution.clusters), ("zone", distribution.zones), ("pod", distribution.pods)):
        total = sum(counts.values()) or 1
        for name, number in sorted(counts.items(), key=lambda item: -item[1]):
            cells = max(1, round(number / total * BAR_CELLS))
            table.add_row(kind, printable(name), str(number), Text("█" * cells, style="cyan"), f"{number / total:.0%}")
    return table


def outage_text(outage: Outage) -> str:
    """When, how long, which failures, and who answered before and after."""
    since, until = outage.at_seconds, outage.at_seconds + outage.millis / 1000
    outcomes = ", ".join(f"{number} {outcome}" for outcome, number in outage.outcomes.items())
    before = f"last answer before: {where(outage.before)}" if outage.before else "no answer before"
    after = f"first after: {where(outage.after)}" if outage.after else "no answer until the end"
    return (
        f"outage from {since:.1f} s to {until:.1f} s ({outage.millis / 1000:.2f} s):"
        f" {outage.calls_lost} calls failed ({outcomes}); {before}; {after}"
    )


def where(who: Who) -> str:
    return f"{who.pod or 'a pod'} in {who.cluster or 'a cluster without a name'}"
