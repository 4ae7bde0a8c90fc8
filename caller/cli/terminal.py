"""Standard output for people."""

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

WIDTH_OF_PIPES = 110
BAR_CELLS = 44


def terminal() -> Console:
    """Standard output; a pipe gets no colors and a fixed width."""
    console = Console(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, emoji=False, width=WIDTH_OF_PIPES)


def say(console: Console, text: str, *, style: str = "", indent: int = 0) -> None:
    """A paragraph, wrapped, all of its lines indented."""
    console.print(Padding(Text(printable(text), style=style), (0, 0, 0, indent)))


def printable(text: str) -> str:
    """Text from outside with control characters escaped, so that it cannot control the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in text)
