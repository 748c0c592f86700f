"""The first turn of a run that is started in this process, taken before its start is recorded.

What lives here: `Beginning`, which a store asks for the turn to record together with the start. What must not: anything
that acts on the world: until `Beginning.took` nothing has happened. `tenure` makes one for each run that it would take.

When the first turn comes to more than a turn (the run closes at once, is to be held, needs rows in other tables, or is
too large), it is forgotten, the start is recorded alone, and the run goes the way of every claimed run.
"""

import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from perdure.engine.run import Decision, Definition, Run
from perdure.errors import EngineFault
from perdure.model.events import Turn, WorkflowExecutionStarted
from perdure.model.runs import UNBORN, ClaimedRun, NewRun, RunInfo
from perdure.store import records
from perdure.store.base import MOST_OF_A_TURN
from perdure.telemetry.logs import about

from .flush import Flusher
from .placement import Placed, Site, place
from .turns import header

logger = logging.getLogger("perdure.worker")


class Host(Site, Protocol):
    """What a first turn needs from its worker."""

    name: str
    build: str
    payload_limit: int
    flusher: Flusher


class Begun(msgspec.Struct, frozen=True):
    """A run after its first turn."""

    run: Run
    decision: Decision
    placed: Placed


class Beginning:
    """A run that the worker would take. Made with the first turn already taken, if that is all there is to do."""

    def __init__(
        self,
        host: Host,
        definition: Definition,
        new: NewRun,
        started: WorkflowExecutionStarted,
        adopt: Callable[[ClaimedRun, Begun | None], None],
    ) -> None:
        self._adopt = adopt
        self._flusher = host.flusher
        self._begun = _begin(host, definition, new, started)
        self.turn: Turn | None = self._begun.decision.turn if self._begun is not None else None
        self._flusher.starting += self._begun is not None

    def took(self, run: ClaimedRun) -> None:
        """Own the run from now on."""
        self._flusher.starting -= self._begun is not None
        self._adopt(run, self._begun)

    def dropped(self) -> None:
        """Forget the run."""
        if self._begun is not None:
            self._flusher.starting -= 1
            self._begun.run.evict()


def _begin(host: Host, definition: Definition, new: NewRun, started: WorkflowExecutionStarted) -> Begun | None:
    info = RunInfo(id=new.id, run_id=UNBORN, namespace=new.namespace, workflow=new.workflow, queue=new.queue)
    run = Run(definition, info)
    run.payload_limit = host.payload_limit
    try:
        decision = run.turn(header(host.name, host.build, host.clock.now()), (started,))
    except EngineFault:
        run.evict()  # taken again after the start, the turn holds the run and says why
        return None
    except Exception:
        logger.exception("the first turn of %s failed; it is taken again after the start", new.id, extra=about(info))
        run.evict()
        return None
    placed = place(host, run, decision, frozenset(), everything=False)
    more = decision.closing is not None or decision.visible is not None or bool(placed.tasks)
    if not more and decision.turn is not None and len(decision.turn.events) * host.payload_limit > MOST_OF_A_TURN:
        more = records.turn_size(decision.turn) > MOST_OF_A_TURN
    if more:
        run.evict()
        return None
    return Begun(run, decision, placed)
