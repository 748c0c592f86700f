"""The first turn of a run, taken before the run is owned: before its start is recorded, or before it is claimed.

What lives here: `Beginning`, which a store asks for the turn to record together with a start in this process, and
`ahead`, for a run that another one has announced. What must not: anything that acts on the world: until the run is
owned nothing has happened. `tenure` makes a beginning for each run that it would take, `claiming` calls `ahead`.

When the first turn comes to more than a turn (the run closes at once, is to be held, needs rows in other tables, or is
too large), it is forgotten, and the run goes the way of every claimed run.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from perdure.engine.replay import replay
from perdure.engine.run import Decision, Definition, Run
from perdure.errors import EngineFault
from perdure.model.events import Incoming, Turn, WorkflowExecutionStarted
from perdure.model.runs import UNBORN, ClaimedRun, NewRun, RunInfo
from perdure.store import records
from perdure.store.base import MOST_OF_A_TURN
from perdure.telemetry.logs import about
from perdure.workflow import logger as code

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

    def speak(self) -> None:
        """Log what the code has logged, now that the turn is recorded."""
        unsaid, self.run.unsaid = self.run.unsaid, None
        for entry in unsaid or ():
            code.logger.handle(entry)


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
        if self._begun is not None:
            self._begun.speak()
        self._adopt(run, self._begun)

    def dropped(self) -> None:
        """Forget the run."""
        if self._begun is not None:
            self._flusher.starting -= 1
            self._begun.run.evict()


def ahead(host: Host, definition: Definition, run: ClaimedRun) -> Begun | None:
    """Take the next turn of a run that nobody owns yet; None when it is not that simple."""
    return _take(host, definition, run.info, run.history, ())


def _begin(host: Host, definition: Definition, new: NewRun, started: WorkflowExecutionStarted) -> Begun | None:
    info = RunInfo(id=new.id, run_id=UNBORN, namespace=new.namespace, workflow=new.workflow, queue=new.queue)
    return _take(host, definition, info, (), (started,))


def _take(
    host: Host, definition: Definition, info: RunInfo, history: Sequence[Turn], incoming: Sequence[Incoming]
) -> Begun | None:
    run: Run | None = None
    try:
        run = replay(definition, info, history)
        run.payload_limit = host.payload_limit
        run.unsaid = []
        decision = run.turn(header(host.name, host.build, host.clock.now()), incoming)
        placed = place(host, run, decision, frozenset(), everything=False)
        if _is_all(host, decision, placed):
            return Begun(run, decision, placed)
    except EngineFault:
        pass  # taken again by an owner, the turn holds the run and says why
    except Exception:
        logger.exception("the first turn of %s failed; its owner takes it again", info.id, extra=about(info))
    if run is not None:
        run.evict()
    return None


def _is_all(host: Host, decision: Decision, placed: Placed) -> bool:
    """Whether there is a turn to record and nothing else."""
    if decision.turn is None or decision.closing is not None or decision.visible is not None or placed.tasks:
        return False
    if len(decision.turn.events) * host.payload_limit <= MOST_OF_A_TURN:
        return True
    return records.turn_size(decision.turn) <= MOST_OF_A_TURN
