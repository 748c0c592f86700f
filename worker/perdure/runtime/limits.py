"""How much a worker takes on.

What lives here: `Limits`, which users set and the rooms of this floor read. What must not: anything that is counted.
"""

from dataclasses import dataclass

from perdure.errors import DefinitionError
from perdure.model.payload import LIMIT
from perdure.model.policies import LONGEST, seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a worker takes on. Times are in seconds.

    ``runs`` are in memory at a time, ``activities`` on the event loop,
    ``threads`` in the thread pool. A worker that is silent for ``lease`` loses
    its runs to others. ``drain`` is how long attempts may go on after a stop. A
    turn that computes for ``turn`` is interrupted and its run is held. A result,
    an activity's input or a side effect may have ``payload`` bytes of JSON.
    Raises `DefinitionError` for numbers with which no work would be done.
    """

    runs: int = 1_000
    activities: int = 100
    threads: int = 16
    lease: float = 10.0
    drain: float = 20.0
    turn: float = 2.0
    payload: int = LIMIT

    def __post_init__(self) -> None:
        for name in ("runs", "activities", "threads", "payload"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                message = f"Limits.{name} must be a whole number above 0, not {number!r}"
                raise DefinitionError(message)
        seconds(self.lease, "Limits.lease")
        seconds(self.turn, "Limits.turn")
        drain: object = self.drain
        if isinstance(drain, bool) or not isinstance(drain, int | float) or not 0 <= drain <= LONGEST:
            message = f"Limits.drain must be a number of seconds, 0 or more, at most a hundred years, not {drain!r}"
            raise DefinitionError(message)
