import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError


def merge(
    files: Annotated[list[Path], typer.Argument(help="Output files of `run --json`; `-` is standard input.")],
) -> None:
    """Merge the summaries of concurrent runs into one, and print it as JSON."""
    from caller.run.merge import merged
    from caller.run.model import Done, Summary

    summaries: list[Summary] = []
    for path in files:
        text = sys.stdin.read() if str(path) == "-" else read(path)
        found = [line for line in text.splitlines() if '"type":"done"' in line.replace(" ", "")]
        if not found:
            raise typer.BadParameter(f"{path} has no event of type done", param_hint="FILES")
        try:
            summaries += [Done.model_validate_json(line).summary for line in found]
        except ValidationError as invalid:
            raise typer.BadParameter(f"{path}: {invalid.errors()[0]['msg']}", param_hint="FILES") from None
    try:
        total = merged(summaries)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="FILES") from None
    sys.stdout.write(total.model_dump_json(by_alias=True, indent=2) + "\n")


def read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint="FILES") from None
