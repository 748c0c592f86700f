"""Charts as SVG, drawn by hand.

What lives here: pure functions from numbers to text. What must not: files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from benchmarks.results import Measured, number

WIDTH: Final = 760
LEFT: Final = 190
RIGHT: Final = 90
ROW: Final = 26
TOP: Final = 56
COLOURS: Final = {"Perdure": "#2563eb", "DBOS": "#d97706"}
FLOOR: Final = "#94a3b8"


@dataclass(frozen=True)
class Bar:
    """One number and whose it is."""

    label: str
    value: float


def colour(label: str) -> str:
    """Return the colour of a subject; floors are grey."""
    return next((code for name, code in COLOURS.items() if label.startswith(name)), FLOOR)


def bars(title: str, unit: str, groups: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """Return horizontal bars on a logarithmic axis, in titled groups."""
    values = [bar.value for _, group in groups for bar in group if bar.value > 0]
    if not values:
        return ""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    if math.log10(min(values)) - low < 0.15:  # the shortest bar has to be seen
        low -= 1
    span = (WIDTH - LEFT - RIGHT) / max(1, high - low)
    height = TOP + sum(ROW * (len(group) + 1) for _, group in groups) + 16
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
            'font-family="system-ui, sans-serif" font-size="13" role="img">'
        ),
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="24" font-size="15" font-weight="600" fill="#0f172a">{escape(title)}</text>',
        f'<text x="16" y="42" font-size="12" fill="#64748b">{escape(unit)}, logarithmic</text>',
    ]
    for power in range(low, high + 1):
        x = LEFT + (power - low) * span
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{height - 18}" stroke="#e2e8f0"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{height - 4}" font-size="11" fill="#64748b" text-anchor="middle">'
            f"{number(10.0**power)}</text>"
        )
    y = TOP
    for name, group in groups:
        parts.append(f'<text x="16" y="{y + 18}" font-weight="600" fill="#0f172a">{escape(name)}</text>')
        y += ROW
        for bar in group:
            length = (math.log10(bar.value) - low) * span if bar.value > 0 else 0.0
            parts += [
                f'<text x="{LEFT - 8}" y="{y + 17}" fill="#334155" text-anchor="end">{escape(bar.label)}</text>',
                (
                    f'<rect x="{LEFT}" y="{y + 4}" width="{length:.1f}" height="{ROW - 8}" rx="2" '
                    f'fill="{colour(bar.label)}"/>'
                ),
                f'<text x="{LEFT + length + 6:.1f}" y="{y + 17}" fill="#0f172a">{number(bar.value)}</text>',
            ]
            y += ROW
    return "\n".join([*parts, "</svg>", ""])


def charts(found: Sequence[Measured]) -> dict[str, str]:
    """Return the pictures of the report by file name; none where nothing was measured."""
    settings = list(dict.fromkeys(m.setting for m in found if m.scenario == "sequential"))
    throughput = [
        (setting, [Bar(m.subject, m.rate) for m in found if (m.scenario, m.setting) == ("sequential", setting)])
        for setting in settings
    ]
    latency = []
    for scenario, title in (("single", "one activity"), ("alone", "five activities")):
        measured = [m for m in found if m.scenario == scenario]
        group = [
            Bar(m.subject if "one process" in m.setting else f"{m.subject}, 2 processes", middle)
            for m in measured
            if (middle := m.median(lambda sample: sample.p50)) is not None
        ]
        if group:
            latency.append((title, group))
    drawn = {
        "throughput.svg": bars("Workflows of five sequential activities", "activities a second", throughput),
        "latency.svg": bars("One workflow on an idle system", "milliseconds until its result, p50", latency),
    }
    return {name: picture for name, picture in drawn.items() if picture}
