"""The report: Markdown from numbers.

What lives here: pure functions. What must not: files, measuring.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.plan import Scenario
from benchmarks.results import Measured, number
from benchmarks.targets import Verdict, verdicts

HOW = """\
Written by `make bench` (`make bench SCALE=full` measures more and longer); raw numbers are in
[numbers.json](numbers.json). What the numbers mean for the design is in
[Where the time goes](../explanation/performance.md).

All subjects share the machine with the one PostgreSQL server that they write to, each in a database and processes of
its own, and take turns: every round measures all of them once. Numbers are medians of the rounds. *Spread* is the
distance between the fastest and the slowest round as a share of the median rate: differences below it mean nothing.

- **bare rows**: a loop that writes as many rows of as many bytes as Perdure recorded, in batches of the same size, with
  the same fence, and does nothing else. No engine that writes these rows in these batches can be faster.
- **bare core**: a deterministic asyncio loop for each run, one history row a turn, the fence and group commit; no
  retries, timeouts, messages, takeover or metrics. The distance from here to Perdure is the price of those.
- **DBOS**: asynchronous workflows and steps as its documentation shows them, one process.
- **CPU** is in seconds per 1,000 operations: *ours* is everything but PostgreSQL (client and worker; DBOS's process
  likewise), *server* all processes of PostgreSQL. **Commits** are transactions that wrote something; **WAL** is the
  distance that the insert position moved, full-page images included. Both are those of the whole server.
"""

COLUMNS = (
    "setting",
    "subject",
    "per second",
    "p50 ms",
    "p99 ms",
    "CPU ours",
    "CPU server",
    "commits",
    "WAL B",
    "spread",
)

INTERNAL = {"rows", "bytes", "flushes", "paused"}
"""What floors are built from."""


def render(about: Mapping[str, str], scenarios: Iterable[Scenario], found: Sequence[Measured]) -> str:
    """Return the whole report."""
    parts = ["# Benchmarks", HOW, "## Targets", f"Load of the machine: {about['load']}."]
    parts.append(targets_table(verdicts(found)))
    parts += ["![Throughput](throughput.svg)", "![Latency](latency.svg)", "## The machine"]
    parts.append("\n".join(f"- **{name}**: {value}" for name, value in about.items()))
    for scenario in scenarios:
        measured = [m for m in found if m.scenario == scenario.name and m.samples]
        if measured:
            parts += [f"## {scenario.name.capitalize()}", f"{scenario.about} Operations: {scenario.unit}."]
            parts.append(table(COLUMNS, [row(m) for m in measured]))
            facts = extras(measured)
            if facts:
                parts.append(table(("setting", "subject", "what", "value"), facts))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def targets_table(judged: Iterable[Verdict]) -> str:
    """Return the targets as a table."""
    words = {True: "met", False: "**missed**", None: ""}
    return table(("target", "wanted", "measured", ""), [(v.name, v.target, v.measured, words[v.met]) for v in judged])


def row(measured: Measured) -> tuple[str, ...]:
    """Return one line of a scenario's table."""
    return (
        measured.setting,
        measured.subject,
        number(measured.rate),
        number(measured.median(lambda sample: sample.p50)),
        number(measured.median(lambda sample: sample.p99)),
        number(measured.cpu_ours),
        number(measured.cpu_postgres),
        number(measured.commits),
        number(measured.wal),
        f"{measured.spread:.0%} of {len(measured.samples)}",
    )


def extras(found: Iterable[Measured]) -> list[tuple[str, str, str, str]]:
    """Return what only some scenarios know, and CPU by process where there are several of ours."""
    facts = []
    for measured in found:
        if len(measured.processes) > 1:
            facts += [(measured, f"CPU of {name}", measured.cpu(name)) for name in measured.processes]
        names = [name for name in measured.samples[0].extra if name not in INTERNAL]
        facts += [(measured, name.replace("_", " "), measured.extra(name)) for name in names]
    return [(measured.setting, measured.subject, name, number(value)) for measured, name, value in facts]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; numbers stand on the right."""
    lines = [f"| {' | '.join(head)} |", "|" + "|".join("---" for _ in head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows)])
