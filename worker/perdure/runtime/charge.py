"""What a worker brings to each of its tenures.

What lives here: data, and what a tenure needs of those who wait for runs. What must not: behaviour. `worker` fills it
in, `tenure` reads it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from perdure.engine.run import Definition
from perdure.model.events import ClosedFromOutside, Closing
from perdure.model.runs import RunId
from perdure.model.workers import WorkerInfo
from perdure.store.base import Store
from perdure.telemetry.tally import Tally

from .limits import Limits


class Audience(Protocol):
    """Those in this process who wait for runs; `watcher.Watcher` is one."""

    def near(self, run_id: RunId) -> None:
        """Told of every run that the worker takes."""

    def far(self, run_id: RunId) -> None:
        """Told of every run that leaves the worker open, or closed by somebody else."""

    def closed(self, run_id: RunId, outcome: Closing | ClosedFromOutside) -> None:
        """Told of every run that the worker closes."""

    def awaits(self, run_id: RunId) -> bool:
        """Tell whether somebody here waits for the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What a worker brings to each of its tenures."""

    store: Store
    info: WorkerInfo
    workflows: Mapping[str, Definition]
    activities: Mapping[str, Any]
    limits: Limits
    audience: Audience
    tally: Tally
    hears: Callable[[], bool]
    """Whether hints of other processes reach this one."""
