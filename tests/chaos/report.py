"""The report on a chaos, for people (Markdown) and for programs (JSON).

What lives here: rendering of an `Outcome`. What must not: measuring and judging; `verdict` does that.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.chaos.faults import Fault
from tests.chaos.scenario import Outcome
from tests.chaos.verdict import quantile

TEXT = """\
# Chaos with seed {seed}

{runs:,} runs with {steps:,} activities and {events:,} events in {seconds:g} s, through {faults} faults;
the lease is {lease:g} s. {attempts:,} attempts began. Clients had to repeat {repeated_calls:,} calls.
Activities a second: {speed_mean:,} on average, {speed_median:,} in the median second, {speed_best:,} in the best one;
{speed_seconds_without_any} seconds without any.

Recovery: seconds until an affected run that had something to do went on, from the end of the fault (for a worker that
was killed or frozen past its lease: from that moment). *Alone*: no other fault was on meanwhile.

| fault | times | runs affected | alone | median | p99 | max | in company: median | p99 | max |
|---|---|---|---|---|---|---|---|---|---|"""


def summarise(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome as plain values."""
    first, last = min(outcome.steps_by_second, default=0), max(outcome.steps_by_second, default=0)
    by_second = [outcome.steps_by_second[second] for second in range(first, last + 1)]
    kinds: dict[str, list[Fault]] = defaultdict(list)
    for fault in outcome.faults:
        kinds[fault.kind].append(fault)
    return {
        "seed": outcome.plan.seed,
        "lease": outcome.plan.lease,
        "runs": outcome.runs,
        "events": outcome.events,
        "attempts": outcome.attempts,
        "steps": sum(by_second),
        "seconds": round(outcome.seconds, 1),
        "faults": len(outcome.faults),
        "repeated_calls": outcome.repeated_calls,
        "steps_a_second": {
            "mean": round(sum(by_second) / max(1, len(by_second))),
            "median": round(quantile(by_second, 0.5)),
            "best": max(by_second, default=0),
            "seconds_without_any": by_second.count(0),
        },
        "kinds": {kind: _kind(faults) for kind, faults in sorted(kinds.items())},
        "longest_waits": [wait._asdict() for wait in outcome.longest_waits],
        "complaints": outcome.complaints,
        "log": [
            {"at": round(fault.began, 3), "kind": fault.kind, "note": fault.note, "alone": fault.alone,
             "seconds": round(fault.ended - fault.began, 3), **_recovery(fault.recovered)}
            for fault in sorted(outcome.faults, key=lambda fault: fault.began)
        ],
    }  # fmt: skip


def _kind(faults: Sequence[Fault]) -> dict[str, Any]:
    return {
        "times": len(faults),
        "affected_runs": sum(len(fault.affected) for fault in faults),
        "alone": {"times": sum(fault.alone for fault in faults), **_recovery(_all(faults, alone=True))},
        "in_company": _recovery(_all(faults, alone=False)),
    }


def _all(faults: Sequence[Fault], *, alone: bool) -> list[float]:
    return [seconds for fault in faults if fault.alone is alone for seconds in fault.recovered]


def _recovery(values: Sequence[float]) -> dict[str, Any]:
    return {
        "measured": len(values),
        "median": round(quantile(values, 0.5), 3),
        "p99": round(quantile(values, 0.99), 3),
        "max": round(max(values, default=0.0), 3),
    }


def markdown(summary: dict[str, Any]) -> str:
    """Return the report as a page."""
    speed = summary["steps_a_second"]
    lines = [TEXT.format(**summary, **{f"speed_{name}": value for name, value in speed.items()})]
    for kind, found in summary["kinds"].items():
        alone, company = found["alone"], found["in_company"]
        cells = (kind, found["times"], found["affected_runs"], alone["times"], *_cells(alone), *_cells(company))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "The longest times in which nothing happened to a run that had something to do:"]
    lines += [f"- {wait['seconds']:.2f} s: run {wait['run']}, {wait['what']}" for wait in summary["longest_waits"]]
    lines += ["", f"Verdict: {'everything is as it has to be' if not summary['complaints'] else 'NOT RIGHT'}."]
    lines += [f"- {complaint}" for complaint in summary["complaints"][:50]]
    return "\n".join(lines) + "\n"


def _cells(recovery: dict[str, Any]) -> list[str]:
    return [f"{recovery[name]:.2f}" if recovery["measured"] else "" for name in ("median", "p99", "max")]


def write(outcome: Outcome, folder: Path) -> str:
    """Write ``report.json`` and ``report.md`` into the folder; return the page."""
    summary = summarise(outcome)
    page = markdown(summary)
    (folder / "report.json").write_text(json.dumps(summary, indent=1))
    (folder / "report.md").write_text(page)
    return page
