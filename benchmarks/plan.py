"""The words of a plan: who is measured (`Subject`), at what (`Step`, `Scenario`), and how much of it (`Scale`).

What lives here: data. What must not: processes and numbers; `scenarios` makes the plan, `campaign` carries it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final


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

    ``prepare`` names what the program is asked once before. ``warm`` are the arguments of a first round that does not
    count. ``rows_of`` names the subject whose rows a floor
    writes again: how many, how large and how many at a time is known only then.
    """

    setting: str
    subject: Subject
    ask: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    prepare: str | None = None
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
    idle_seconds: int = 60
    fan_outs: tuple[int, ...] = (1_000, 10_000)
    slow_fan_out: bool = False
    sleepers: int = 10_000
    backlog: int = 100_000
    parked: int = 3_000
    long: int = 10_000


SCALES: Final = {
    "default": Scale(name="default", rounds=3, factor=1),
    "full": Scale(
        name="full",
        rounds=5,
        factor=3,
        slow_fan_out=True,
        sleepers=100_000,
        backlog=1_000_000,
        parked=20_000,
        long=50_000,
    ),
}
