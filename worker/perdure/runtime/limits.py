"""How much a worker takes on.

What lives here: `Limits`, which users set and the rooms of this floor read. What must not: anything that is counted.
"""

from dataclasses import dataclass

from perdure.model.payload import LIMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a worker takes on. Times are in seconds.

    ``runs`` are in memory at a time, ``activities`` on the event loop,
    ``threads`` in the thread pool. A worker that is silent for ``lease`` loses
    its runs to others. ``drain`` is how long attempts may go on after a stop. A
    turn that computes for ``turn`` is interrupted and its run is held. A result,
    an activity's input or a side effect may have ``payload`` bytes of JSON.
    """

    runs: int = 1_000
    activities: int = 100
    threads: int = 16
    lease: float = 10.0
    drain: float = 20.0
    turn: float = 2.0
    payload: int = LIMIT
