"""The terminal: two consoles, tables, ages, and texts that fit.

What lives here: how things look. What must not: what is shown. On a terminal
there are colours and lines are cut to fit; into a pipe goes plain text, whole.
"""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)

Cell = str | Text

PHASE_STYLES = {
    "Pending": "yellow",
    "Running": "cyan",
    "Stalled": "bold red",
    "Succeeded": "green",
    "Failed": "red",
    "Cancelled": "magenta",
    "Terminated": "magenta",
    "TimedOut": "red",
}


def phase(name: str) -> Text:
    """Return a phase in its colour."""
    return Text(name, style=PHASE_STYLES.get(name, ""))


def note(text: str) -> None:
    """Tell a person something beside the output that a script reads."""
    err.print(Text(text, style="dim"))


def show_json(value: Any) -> None:
    """Print JSON: in lines for people on a terminal, in one line for programs."""
    if out.is_terminal:
        out.print_json(msgspec.json.encode(value).decode(), indent=2)
    else:
        show_json_line(value)


def show_json_line(value: Any) -> None:
    """Print one JSON object in one line, never coloured."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def show_line(line: Text) -> None:
    """Print one line, cut at the edge of a terminal."""
    if out.is_terminal:
        line.truncate(out.width, overflow="ellipsis")
    out.print(line)


def show_table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print columns under their names; on a terminal the last one is cut to fit."""
    cells = [[Text(name, style="bold") for name in head]]
    cells += [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    widths = [max(row[column].cell_len for row in cells) for column in range(len(head))]
    for row in cells:
        line = Text()
        for cell, width in zip(row[:-1], widths[:-1], strict=True):
            line.append_text(cell).append(" " * (width - cell.cell_len + 3))
        line.append_text(row[-1])
        line.rstrip()
        show_line(line)


def age(since: datetime, now: datetime | None = None) -> str:
    """Return how long ago ``since`` was, in one or two units: ``12s``, ``3m4s``, ``5h``, ``2d``."""
    return duration(((now or datetime.now(UTC)) - since).total_seconds())


def duration(seconds: float) -> str:
    """Return a length of time as people read it."""
    whole = max(0, int(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes_left = divmod(minutes, 60)
    if whole < 60:
        return f"{whole}s"
    if minutes < 10:
        return f"{minutes}m{rest}s" if rest else f"{minutes}m"
    if hours < 1:
        return f"{minutes}m"
    if hours < 10:
        return f"{hours}h{minutes_left}m" if minutes_left else f"{hours}h"
    return f"{hours}h" if hours < 48 else f"{hours // 24}d"


def clock(time: datetime) -> str:
    """Return the time of day in the zone of whoever reads it, to the millisecond."""
    return time.astimezone().strftime("%H:%M:%S.") + f"{time.microsecond // 1000:03d}"


def moment(time: datetime) -> str:
    """Return date and time in the zone of whoever reads it, and how long ago that was."""
    now = datetime.now(UTC)
    relation = f"{age(time, now)} ago" if time <= now else f"in {duration((time - now).total_seconds())}"
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S} ({relation})"


def from_microseconds(time: int) -> datetime:
    """Return a recorded time as a `datetime`."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time)


def printable(text: str) -> str:
    """Return the text without characters that would steer the terminal instead of being read."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def clip(text: str, limit: int) -> str:
    """Return the text in one line of at most ``limit`` characters."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def compact(raw: msgspec.Raw | bytes, limit: int = 120) -> str:
    """Return recorded JSON in one line of at most ``limit`` characters, not escaped where it need not be."""
    try:
        text = json.dumps(msgspec.json.decode(raw), ensure_ascii=False)
    except msgspec.DecodeError:
        text = bytes(raw).decode(errors="replace")
    return clip(text, limit)
