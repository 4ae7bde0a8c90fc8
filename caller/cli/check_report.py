from rich.console import Console
from rich.text import Text

from caller.check.model import Check, CheckReport, Verdict
from caller.cli.terminal import printable, say, terminal

MARKS: dict[Verdict, tuple[str, str]] = {
    "pass": ("✓", "green"),
    "warn": ("!", "yellow"),
    "fail": ("✗", "bold red"),
    "skip": ("–", "dim"),
}


def print_checks(report: CheckReport) -> None:
    """One line per check, with the next step."""
    console = terminal()
    group: str | None = None
    for check in report.checks:
        if check.target != group:
            group = check.target
            console.print()
            say(console, group or "", style="bold")
        print_check(console, check)
    console.print()
    count = {verdict: sum(check.verdict == verdict for check in report.checks) for verdict in MARKS}
    mark, style = MARKS[report.verdict]
    numbers = ", ".join(f"{number} {verdict}" for verdict, number in count.items() if number)
    say(console, f"{mark} {report.verdict}: {numbers}, in {report.millis:.0f} ms", style=style)


def print_check(console: Console, check: Check) -> None:
    mark, style = MARKS[check.verdict]
    line = Text(f"{mark} {check.verdict:<4} {check.check:<13} ", style=style)
    line.append(printable(check.evidence), style="default")
    console.print(line, soft_wrap=True)
    if check.next_step:
        console.print(Text(f"{'':21}→ {printable(check.next_step)}"), soft_wrap=True)
    if check.command:
        console.print(Text(f"{'':23}{printable(check.command)}", style="cyan"), soft_wrap=True)
