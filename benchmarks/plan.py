"""What is measured, and how much of it: the scenarios in their settings, for each subject.

What lives here: data, for the two scales. What must not: processes and numbers; `campaign` carries this out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

ACTIVITIES: Final = 5
"""Activities of a workflow where it is not said otherwise."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Somebody who does the work: a program, and how it is started."""

    name: str
    module: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def having(self, **options: Any) -> Subject:
        """Return this subject with more options."""
        return Subject(name=self.name, module=self.module, options={**self.options, **options})

    @property
    def identity(self) -> str:
        """Which process answers: subjects that differ in options have processes of their own."""
        return f"{self.name} {dict(self.options)}"


PERDURE: Final = Subject(name="Perdure", module="benchmarks.perdure_subject")
PERDURE_UVLOOP: Final = Subject(name="Perdure, uvloop", module=PERDURE.module, options={"uvloop": True})
DBOS: Final = Subject(name="DBOS", module="benchmarks.dbos_subject")
CORE: Final = Subject(name="bare core", module="benchmarks.floor_subject")
CORE_UVLOOP: Final = Subject(name="bare core, uvloop", module=CORE.module, options={"uvloop": True})
ROWS: Final = Subject(name="bare rows", module=CORE.module)
STATES: Final = Subject(name="Perdure", module="benchmarks.perdure_states")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One subject in one setting of a scenario, measured ``rounds`` times.

    ``warm`` are the arguments of a first round that does not count. ``rows_of`` names the subject whose rows a floor
    writes again: how many, how large and how many at a time is known only then.
    """

    setting: str
    subject: Subject
    ask: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    warm: Mapping[str, Any] | None = None
    rounds: int = 3
    rows_of: str | None = None


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Steps that are measured in turns, so that a noisy minute hits all of them."""

    name: str
    about: str
    unit: str
    steps: tuple[Step, ...]
    together: bool = False


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much work. ``factor`` multiplies what fast subjects do in a round."""

    name: str
    rounds: int
    factor: int
    signals: int = 100
    idle_seconds: int = 20
    fan_outs: tuple[int, ...] = (1_000, 10_000)
    slow_fan_out: bool = False
    sleepers: int = 10_000
    backlog: int = 100_000
    parked: int = 4_000
    long: int = 10_000


SCALES: Final = {
    "default": Scale(name="default", rounds=3, factor=1),
    "full": Scale(
        name="full",
        rounds=5,
        factor=3,
        idle_seconds=60,
        slow_fan_out=True,
        sleepers=100_000,
        backlog=1_000_000,
        parked=20_000,
        long=50_000,
    ),
}


def floor_of(step: Step) -> Step:
    """Return the floor of bare rows below a step of Perdure."""
    return Step(setting=step.setting, subject=ROWS, ask="rows", rounds=step.rounds, rows_of=step.subject.name)


def chains(count: int, workflows: int) -> dict[str, int]:
    """Return the arguments of the sequential scenario."""
    return {"in_flight": count, "workflows": workflows, "length": ACTIVITIES}


def sequential(scale: Scale) -> Scenario:
    """Workflows of five activities, some at a time."""
    steps: list[Step] = []
    for count, fast, slow in ((1, 150, 15), (10, 1_000, 60), (50, 2_000, 100), (500, 3_000, 500)):
        setting = f"{count} in flight"
        ours, theirs = chains(count, fast * scale.factor), chains(count, slow)
        quick = chains(count, max(100, 4 * count))
        mine = Step(setting=setting, subject=PERDURE, ask="sequential", arguments=ours, warm=quick, rounds=scale.rounds)
        steps += [mine, Step(**{**vars(mine), "subject": PERDURE_UVLOOP})]
        longer = chains(count, 2 * fast * scale.factor)  # the core is several times as fast
        steps += [Step(**{**vars(mine), "subject": core, "arguments": longer}) for core in (CORE, CORE_UVLOOP)]
        steps.append(floor_of(mine))
        # DBOS takes a quarter of a minute for 2,500 activities: there its rounds are few at the default scale.
        rounds = scale.rounds if count < 500 or scale.factor > 1 else 1
        warm = chains(min(count, 50), min(count, 50))
        steps.append(Step(setting=setting, subject=DBOS, ask="sequential", arguments=theirs, warm=warm, rounds=rounds))
    about = f"Workflows of {ACTIVITIES} activities, one after the other; a new one starts where one has ended."
    return Scenario(name="sequential", about=about, unit="activities", steps=tuple(steps))


def alone(scale: Scale, length: int, name: str) -> Scenario:
    """One workflow at a time on an idle system."""
    arguments = {"workflows": 40 * scale.factor, "length": length, "pause": 0.02}
    warm = arguments | {"workflows": 20}
    subjects = [
        ("one process", PERDURE),
        ("one process", PERDURE_UVLOOP),
        ("one process", DBOS),
        ("client and worker in two", PERDURE.having(processes=1)),
    ]
    steps = [
        Step(setting=setting, subject=subject, ask="single", arguments=arguments, warm=warm, rounds=scale.rounds)
        for setting, subject in subjects
    ]
    what = "one activity" if length == 1 else f"{length} activities"
    about = f"One workflow of {what} at a time, 20 ms apart, on a system that has nothing else to do."
    return Scenario(name=name, about=about, unit="activities", steps=tuple(steps))


def scenarios(scale: Scale) -> list[Scenario]:
    """Return everything, in the order in which it is measured."""
    return [sequential(scale), alone(scale, 1, "single"), alone(scale, ACTIVITIES, "alone")]
