"""What was found: samples by scenario, setting and subject, and the words for them.

What lives here: pure functions on numbers. What must not: measuring.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.measure import POSTGRES, Sample


@dataclass(frozen=True)
class Measured:
    """The rounds of one subject in one setting of a scenario."""

    scenario: str
    setting: str
    subject: str
    samples: list[Sample]

    def median(self, of: Callable[[Sample], float | None]) -> float | None:
        """Return the middle of the rounds; None where the scenario has no such number."""
        values = [value for sample in self.samples if (value := of(sample)) is not None]
        return statistics.median(values) if values else None

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.median(lambda sample: sample.rate) or 0.0

    @property
    def spread(self) -> float:
        """How far the rounds lie apart, as a share of their median."""
        rates = [sample.rate for sample in self.samples]
        return (max(rates) - min(rates)) / self.rate if self.rate else 0.0

    def extra(self, name: str) -> float | None:
        """Return the median of what only this scenario knows."""
        return self.median(lambda sample: sample.extra.get(name))

    @property
    def processes(self) -> list[str]:
        """The names of our processes, in order; PostgreSQL is none of them."""
        return sorted({name for sample in self.samples for name in sample.cpu} - {POSTGRES})

    def cpu(self, *processes: str) -> float | None:
        """Return the CPU seconds per 1,000 operations of these processes together; None where they were not read."""

        def of(sample: Sample) -> float | None:
            spent = [sample.cpu[name] for name in processes if name in sample.cpu]
            return sum(spent) / sample.operations * 1_000 if spent and sample.operations else None

        return self.median(of)

    @property
    def cpu_ours(self) -> float | None:
        """CPU seconds per 1,000 operations of everything but PostgreSQL."""
        return self.cpu(*self.processes)

    @property
    def cpu_postgres(self) -> float | None:
        """CPU seconds per 1,000 operations of PostgreSQL's processes."""
        return self.cpu(POSTGRES)

    @property
    def commits(self) -> float | None:
        """Writing transactions per operation."""
        return self.median(lambda sample: sample.commits / sample.operations if sample.operations else None)

    @property
    def wal(self) -> float | None:
        """WAL bytes per operation."""
        return self.median(lambda sample: sample.wal / sample.operations if sample.operations else None)

    def line(self, unit: str) -> str:
        """Return one line for the terminal."""
        latency = self.median(lambda sample: sample.p50)
        said = f"p50 {number(latency)} ms" if latency is not None else ""
        return f"{self.setting:<26} {self.subject:<20} {number(self.rate):>9} {unit}/s  {said}"


def number(value: float | None) -> str:
    """Return a number with as many digits as it is worth."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 0.1:
        return f"{value:.2f}"
    return f"{value:.2g}" if size >= 0.0001 else f"{value:.0e}"


def find(found: Iterable[Measured], scenario: str, setting: str, subject: str) -> Measured | None:
    """Return what was measured there, if anything was."""
    wanted = (scenario, setting, subject)
    return next((m for m in found if (m.scenario, m.setting, m.subject) == wanted and m.samples), None)


def as_json(found: Iterable[Measured]) -> list[dict[str, Any]]:
    """Return everything in the form that is written beside the report."""
    return [asdict(measured) for measured in found]


def from_json(data: Iterable[dict[str, Any]]) -> list[Measured]:
    """Read what `as_json` wrote."""
    return [Measured(**{**item, "samples": [Sample(**sample) for sample in item["samples"]]}) for item in data]
