"""A run for people: on a terminal a live picture, in a pipe a line now and then; at the end the summary."""

from collections import deque

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from caller.cli.terminal import BAR_CELLS, printable, say, terminal
from caller.run.engine import (
    Done,
    Event,
    Failed,
    Gap,
    GapClosed,
    Latency,
    Progress,
    RunSpec,
    Spread,
    Started,
    Tick,
    Who,
)

SPARKS = "▁▂▃▄▅▆▇█"
SPARK_CELLS = 60


class RunScreen:
    """A run as it goes on: on a terminal a live picture, in a pipe a line every few seconds; at the end the summary."""

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
            case GapClosed():
                self.note(gap_text(event.gap), "yellow")
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
                Group(self.bar(progress), self.spark(), peers_table(progress), spread_table(progress.spread))
            )
        elif self.seen % 10 == 0:
            say(self.console, f"{progress.elapsed_seconds:.0f} s: {progress.done} done, {outcomes_text(progress)}")

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
    sent = f"{summary.sent} of {summary.offered} due calls were sent"
    out = f", {summary.left_out} left out because too many were open" if summary.left_out else ""
    say(console, f"{done.ended}{reason}; {sent}{out}, {outcomes_text(summary)}", style="bold")
    console.print(peers_table(summary))
    console.print(spread_table(summary.spread))
    shares = summary.evenness
    tested = f" (chi-squared {shares.chi_squared}, p = {shares.p_value})" if shares.chi_squared is not None else ""
    say(console, f"spread over {shares.pods} pods: {shares.verdict}{tested}")
    for gap in summary.gaps:
        say(console, gap_text(gap), style="yellow")
    late = summary.lateness
    if late.count:
        say(
            console,
            f"calls were started late by p50 {late.p50_millis:.1f} ms, p99 {late.p99_millis:.1f} ms",
            style="dim",
        )


def outcomes_text(progress: Progress) -> str:
    return ", ".join(f"{number} {outcome}" for outcome, number in progress.outcomes.items()) or "nothing came back yet"


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


def spread_table(spread: Spread) -> Table:
    """Who answered, as bars."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for kind, counts in (("cluster", spread.clusters), ("zone", spread.zones), ("pod", spread.pods)):
        total = sum(counts.values()) or 1
        for name, number in sorted(counts.items(), key=lambda item: -item[1]):
            cells = max(1, round(number / total * BAR_CELLS))
            table.add_row(kind, printable(name), str(number), Text("█" * cells, style="cyan"), f"{number / total:.0%}")
    return table


def gap_text(gap: Gap) -> str:
    outcomes = ", ".join(f"{number} {outcome}" for outcome, number in gap.outcomes.items())
    after = f"now {where(gap.after)}" if gap.after else "until the end"
    before = f"before it {where(gap.before)}" if gap.before else "nobody had answered before"
    length = f"gap of {gap.millis / 1000:.2f} s at {gap.at_seconds:.1f} s"
    return f"{length}: {gap.calls_lost} calls lost ({outcomes}); {before}, {after}"


def where(who: Who) -> str:
    return f"{who.pod or 'a pod'} in {who.cluster or 'a cluster without a name'}"
