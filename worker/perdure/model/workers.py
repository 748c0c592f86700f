"""Workers as a store knows them: who they are, by which right they own runs, and what they are told of it.

What lives here: data that the runtime and the stores exchange about a worker. What must not: the runs that it
owns, which are in `runs`.
"""

import msgspec

from perdure.model.events import Microseconds
from perdure.model.runs import RunId, WorkerId


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Who a worker is. ``lease`` is in seconds."""

    namespace: str
    name: str
    build: str
    queues: tuple[str, ...]
    workflows: tuple[str, ...]
    lease: float


class Lease(msgspec.Struct, frozen=True, gc=False):
    """A worker's right to own runs: the row and its random epoch. ``namespace`` is the tenant it serves.

    ``installation`` names the store among all that there are: see `ActivityInfo.idempotency_key`.
    ``server`` tells apart the servers, and the starts of one, that have had the store: another one may lack what was
    confirmed last. A heartbeat that is not answered within ``length`` seconds comes to nothing.
    """

    worker: WorkerId
    epoch: int
    namespace: str
    installation: str
    server: int = 0
    length: float = float("inf")


class Known(msgspec.Struct, frozen=True, gc=False):
    """What an owner was told is recorded of a run: the ``seq`` of the last turn, the number of the last message."""

    run_id: RunId
    turn: int
    mail: int


class Expired(msgspec.Struct, frozen=True, gc=False):
    """The answer to an expulsion: how many workers there were, and the keys of the runs that others may take now."""

    workers: int
    keys: tuple[str, ...]


class Renewal(msgspec.Struct, frozen=True, gc=False):
    """The answer to a heartbeat: the database's clock, and whether other workers' leases were found expired.

    ``server`` is that of `Lease`, as it is now.
    """

    now: Microseconds
    reaped: bool
    server: int = 0
