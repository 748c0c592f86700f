"""What Perdure promises about speed, and whether the numbers keep it.

What lives here: one entry for each target, pure functions of what was measured. What must not: opinions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.measure import Sample
from benchmarks.results import Measured, find, number

AS_FAST: Final = 1.25
"""How far two costs may lie apart and still count as the same: less is noise on a small machine."""

SERVER_CORES: Final = 2
"""What the server of a benchmark has: workers that ask for more than this wait for PostgreSQL."""

NOTHING_KB: Final = 0.15
"""Less than any object of its own that a worker could keep for a run; allocators are not exact."""


@dataclass(frozen=True)
class Verdict:
    """A target, what was measured, and whether that meets it; ``met`` is None where nothing was measured."""

    name: str
    target: str
    measured: str
    met: bool | None


def at_least(name: str, wanted: float, value: float | None, unit: str = "") -> Verdict:
    """Judge a number that should be large."""
    return Verdict(name, f"≥ {wanted:,g}{unit}", _said(value, unit), None if value is None else value >= wanted)


def at_most(name: str, wanted: float, value: float | None, unit: str = "") -> Verdict:
    """Judge a number that should be small."""
    return Verdict(name, f"≤ {wanted:,g}{unit}", _said(value, unit), None if value is None else value <= wanted)


def ratio(above: float | None, below: float | None) -> float | None:
    """Return a ratio; None where one side is missing."""
    return above / below if above is not None and below else None


def p50(measured: Measured | None) -> float | None:
    """Return the median of the rounds' medians, in milliseconds."""
    return None if measured is None else measured.median(_p50)


def verdicts(found: Sequence[Measured]) -> list[Verdict]:
    """Return every target with what was measured."""
    return [*_throughput(found), *_latency(found), *_costs(found), *_size(found), *_memory(found)]


def _throughput(found: Sequence[Measured]) -> list[Verdict]:
    rates = {
        subject: measured.rate
        for subject in ("Perdure", "Perdure, uvloop", "DBOS", "bare core", "bare core, uvloop")
        if (measured := find(found, "sequential", "50 in flight", subject)) is not None
    }
    ours = rates.get("Perdure")
    fans = [find(found, "fan-out", "1,000 at once", subject) for subject in ("Perdure", "DBOS")]
    started = find(found, "start", "500 at a time", "Perdure")
    return [
        at_least("sequential, 50 in flight: times DBOS", 60, ratio(ours, rates.get("DBOS"))),
        at_least("sequential, 50 in flight: share of the bare core", 0.5, ratio(ours, rates.get("bare core"))),
        at_least("the same, both on uvloop", 0.5, ratio(rates.get("Perdure, uvloop"), rates.get("bare core, uvloop"))),
        at_least("fan-out of 1,000: times DBOS", 20, ratio(*(fan.rate if fan else None for fan in fans))),
        at_least("start, in batches", 5_000, started.rate if started else None, " a second"),
    ]


def _latency(found: Sequence[Measured]) -> list[Verdict]:
    dbos = p50(find(found, "single", "one process", "DBOS"))
    here = p50(find(found, "single", "one process", "Perdure"))
    apart = p50(find(found, "single", "client and worker in two", "Perdure"))
    return [
        at_most("single, one process: p50 as a share of DBOS's", 0.25, ratio(here, dbos)),
        at_most("single, client and worker in two: p50 as a share of DBOS's", 0.5, ratio(apart, dbos)),
    ]


def _costs(found: Sequence[Measured]) -> list[Verdict]:
    busy = find(found, "sequential", "50 in flight", "Perdure")
    replays = [m.extra("us_per_event") for m in found if m.scenario == "cold replay" and m.subject == "Perdure"]
    resting = find(found, "idle", "nothing to do", "Perdure")
    four = find(found, "processes", "4 workers", "Perdure")
    shares = ratio(four.cpu_postgres, four.cpu_ours) if four else None
    workers = four.cpu(*(name for name in four.processes if name.startswith("worker"))) if four else None
    asked_for = ratio(four.cpu_postgres, workers) if four else None
    return [
        at_most("WAL an activity, 50 in flight", 400, busy.wal if busy else None, " B"),
        at_most("commits an activity, 50 in flight", 0.05, busy.commits if busy else None),
        at_most("cold replay, all in", 10, max((r for r in replays if r is not None), default=None), " µs an event"),
        at_most("idle worker", 1, resting.rate if resting else None, " statements a second"),
        at_least("4 worker processes: PostgreSQL's CPU as a multiple of ours", 1, shares),
        at_least(
            "4 worker processes that use a core each: what they ask of PostgreSQL",
            SERVER_CORES,
            4 * asked_for if asked_for is not None else None,
            " cores",
        ),
    ]


def _size(found: Sequence[Measured]) -> list[Verdict]:
    claims = [p50(m) for m in found if m.scenario == "backlog" and m.subject == "Perdure"]
    long = next((m for m in found if m.scenario == "long run" and m.samples), None)
    growth = ratio(long.extra("tenth_10_us"), long.extra("tenth_1_us")) if long else None
    size = f" ({number(long.extra('events'))} events)" if long else ""
    return [
        at_most(
            "claims: time with the large backlog as a multiple of that with 1,000",
            AS_FAST,
            ratio(claims[-1], claims[0]) if len(claims) > 1 else None,
        ),
        at_most(f"long run: cost of an event, last tenth to first{size}", AS_FAST, growth),
    ]


def _memory(found: Sequence[Measured]) -> list[Verdict]:
    kept = find(found, "memory", "one worker process", "Perdure")

    def of(name: str) -> float | None:
        return kept.extra(name) if kept is not None else None

    return [
        at_most("idle worker process", 80, of("idle_mb"), " MB"),
        at_most("1,000 active runs add", 30, of("active_adds_mb"), " MB"),
        at_most("a run that is parked for a message adds", NOTHING_KB, of("parked_run_adds_kb"), " kB"),
        at_most("a run that is parked for a timer adds", NOTHING_KB, of("sleeping_run_adds_kb"), " kB"),
    ]


def _p50(sample: Sample) -> float | None:
    return sample.p50


def _said(value: float | None, unit: str) -> str:
    return "not measured" if value is None else f"{number(value)}{unit}"
