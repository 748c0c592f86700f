"""What a worker is to the runs that it owns.

What lives here: the protocol between `execution` and `tenure`, which implements it. What must not: code.
"""

from typing import TYPE_CHECKING, Protocol

from perdure.model.runs import Ending, RunId

from .attempts import Attempts
from .clock import StoreClock
from .flush import Flusher
from .turns import TurnQueue

if TYPE_CHECKING:
    from .execution import Execution


class Home(Protocol):
    """What an execution needs from its worker."""

    name: str
    build: str
    payload_limit: int
    queues: tuple[str, ...]
    clock: StoreClock
    turns: TurnQueue
    flusher: Flusher
    attempts: Attempts
    draining: bool
    resting: set[RunId]
    """Runs that wait for something from outside and do nothing here."""

    def came_to_rest(self) -> None:
        """Take note that a run has begun to wait."""

    def left(self, execution: "Execution", ending: Ending | None) -> None:
        """Take note that the run is not owned here any more; None: somebody else has it, or closed it."""

    def awaited(self, run_id: RunId) -> bool:
        """Tell whether somebody in this process waits for the run to close."""

    def offer(self, queues: frozenset[str]) -> None:
        """Take note that there are tasks to take from these queues."""
