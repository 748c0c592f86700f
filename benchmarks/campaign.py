"""Carrying a plan out: databases, programs, rounds in turns.

What lives here: the order of things. What must not: what is measured (`plan`) and what the numbers mean (`report`).
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.environment import dbos_python
from benchmarks.measure import Sample
from benchmarks.plan import DBOS, Scenario, Step, Subject
from benchmarks.programs import Program, ProgramError
from benchmarks.results import Measured
from benchmarks.talk import Setup
from perdure.store.postgres.migrate import migrate
from tests.support.postgres import Server

LEAST_SECONDS: Final = 0.4
"""How long a floor should run at least to be measured: it writes the same rows several times over to get there."""

MOST_BYTES: Final = 20_000_000
"""But no more than this, so that it does not busy the server with checkpoints."""


@dataclass
class Campaign:
    """Scenarios on one server.

    The databases of a scenario are dropped after it: autovacuum would go through them for minutes and be counted for
    those that follow. To drop one forces a checkpoint, so that it is done between scenarios.
    """

    server: Server
    say: Callable[[str], None]
    found: list[Measured] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def run(self, scenarios: Iterable[Scenario]) -> list[Measured]:
        """Measure everything and return it in the order of the plan; ``failed`` says what could not be measured."""
        monitor = self.server.create_database()
        for scenario in scenarios:
            began = time.monotonic()
            self.say(f"{scenario.name}: {scenario.about}")
            try:
                with contextlib.ExitStack() as stack:
                    programs: dict[str, Program] = {}
                    for step in scenario.steps:
                        if step.subject.identity not in programs:
                            dsn = self.server.create_database()
                            stack.callback(self.server.drop_database, dsn)
                            program = stack.enter_context(start(step.subject, dsn, monitor))
                            programs[step.subject.identity] = program
                    self.measure(scenario, programs)
            except ProgramError as error:  # the others are worth measuring all the same
                self.failed[scenario.name] = str(error)
                self.say(f"  FAILED: {error}")
            self.say(f"  {time.monotonic() - began:.0f} s")
        return self.found

    def measure(self, scenario: Scenario, programs: dict[str, Program]) -> None:
        """Warm every subject, then let them take turns, round by round."""
        places = [Measured(scenario.name, step.setting, step.subject.name, []) for step in scenario.steps]
        self.found += places

        def one(step: Step, place: Measured) -> None:
            place.samples.append(programs[step.subject.identity].ask(step.ask, self.arguments(scenario.name, step)))

        for step in scenario.steps:
            if step.prepare is not None:
                programs[step.subject.identity].ask(step.prepare, step.arguments)
            if step.warm is not None:
                programs[step.subject.identity].ask(step.ask, step.warm)
        for number in range(max(step.rounds for step in scenario.steps)):
            due = [pair for pair in zip(scenario.steps, places, strict=True) if number < pair[0].rounds]
            if scenario.together:
                with ThreadPoolExecutor(len(due)) as pool:
                    list(pool.map(lambda pair: one(*pair), due))
            else:
                for step, place in due:
                    one(step, place)
        for place in places:
            self.say(f"  {place.line(scenario.unit)}")

    def arguments(self, scenario: str, step: Step) -> dict[str, Any]:
        """Return the arguments; a floor gets those of the rows that were written last."""
        if step.rows_of is None:
            return dict(step.arguments)
        wanted = (scenario, step.setting, step.rows_of)
        return rows_like(next(m for m in self.found if (m.scenario, m.setting, m.subject) == wanted).samples[-1])


def start(subject: Subject, dsn: str, monitor: str) -> Program:
    """Start a subject on a database of its own."""
    if subject.module.startswith("benchmarks.perdure"):
        migrate(dsn)
    python = dbos_python() if subject.name == DBOS.name else sys.executable
    return Program(subject.module, Setup(dsn, monitor, dict(subject.options)), python=python)


def rows_like(sample: Sample) -> dict[str, int]:
    """Return what a floor has to write to have written what this sample recorded, once or several times."""
    rows, size = int(sample.extra["rows"]), sample.extra["bytes"]
    batch = max(1, min(500, round(rows / max(1, sample.extra["flushes"]))))
    seconds = rows / batch * 0.0005 + rows * 0.00001  # a guess at what it takes
    times = max(1, min(round(LEAST_SECONDS / seconds), int(MOST_BYTES / size)))
    return {
        "rows": rows * times,
        "size": max(1, round(size / rows)),
        "batch": batch,
        "operations": sample.operations * times,
    }
