"""Line charts as SVG, legible on light and on dark."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 410, 260
"""Size of one panel."""
LEFT, RIGHT, TOP, BOTTOM = 52, 162, 40, 42
COLORS = ("#2f7ed8", "#d9730d", "#1f9d63", "#a05cc9", "#c2453f", "#8b8b8b", "#b58900", "#3aa6a6")
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #222 }
  .title { font-weight: 600 }
  .grid { stroke: #8884; stroke-width: 1 }
  polyline { fill: none; stroke-width: 2 }
  @media (prefers-color-scheme: dark) { text { fill: #ddd } }
"""


class Panel(NamedTuple):
    """One chart: a logarithmic scale, over steps of equal width."""

    title: str
    steps: Sequence[str]
    step_name: str
    lines: Mapping[str, Sequence[float]]
    """By name: one value per step."""


def svg(title: str, panels: Sequence[Panel]) -> str:
    """The panels side by side."""
    width = WIDTH * len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
    ]
    for number, panel in enumerate(panels):
        parts += [f'<g transform="translate({number * WIDTH} 0)">', *drawn(panel), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def drawn(panel: Panel) -> list[str]:
    values = [max(value, 1e-3) for line in panel.lines.values() for value in line]
    lowest, highest = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    highest = max(highest, lowest + 1)

    def x(step: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / max(len(panel.steps) - 1, 1)

    def y(value: float) -> float:
        share = (math.log10(max(value, 1e-3)) - lowest) / (highest - lowest)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    parts = [f'<text class="title" x="{LEFT}" y="20">{escape(panel.title)}</text>']
    for decade in range(lowest, highest + 1):
        height = y(10.0**decade)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{10.0**decade:,g}</text>')
    for step, label in enumerate(panel.steps):
        parts.append(f'<text x="{x(step):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{escape(label)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(panel.step_name)}</text>')
    labels = apart([(y(line[-1]), name) for name, line in panel.lines.items()])
    for color, (name, line) in zip(COLORS, panel.lines.items(), strict=False):
        points = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in enumerate(line))
        parts.append(f'<polyline points="{points}" stroke="{color}"/>')
        parts += [
            f'<circle cx="{x(step):.1f}" cy="{y(value):.1f}" r="3" fill="{color}"/>' for step, value in enumerate(line)
        ]
        height = labels[name]
        parts.append(f'<rect x="{WIDTH - RIGHT + 8}" y="{height - 4:.1f}" width="8" height="8" fill="{color}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 20}" y="{height + 4:.1f}">{escape(name)}</text>')
    return parts


def apart(wanted: Sequence[tuple[float, str]], least: float = 15) -> dict[str, float]:
    """The height of each label: the end of its line, or lower, so that labels do not overlap."""
    placed: dict[str, float] = {}
    last = -math.inf
    for height, name in sorted(wanted):
        last = max(height, last + least)
        placed[name] = last
    return placed
