"""Where activities run: here, or wherever a worker takes them from the task table.

What lives here: one pure decision for each turn. What must not: starting or
writing anything. `execution` asks before it commits a turn.

The owner of a run carries out activities itself while it has free slots and a
short backlog: no row, no round trip. What is left over, and what belongs to
other queues or is not known here, becomes a task in the same commit.
"""

from collections.abc import Set as AbstractSet
from typing import Protocol

import msgspec

from perdure.engine.primitives.activity import PendingActivity
from perdure.engine.run import Decision, Run
from perdure.model.events import ActivityCancelRequested, ActivityScheduled
from perdure.model.policies import MICROSECONDS
from perdure.model.runs import NewTask

from .attempts import Attempts
from .clock import StoreClock
from .options import encode_options

BACKLOG = 2
"""Attempts that may wait for a slot of this process, for each slot."""


class Site(Protocol):
    """What a decision depends on."""

    queues: tuple[str, ...]
    clock: StoreClock
    attempts: Attempts


class Placed(msgspec.Struct, frozen=True, gc=False):
    """The ``seq`` of activities to start here, new rows for the task table, and rows to take out of it."""

    here: tuple[int, ...] = ()
    tasks: tuple[NewTask, ...] = ()
    dropped: tuple[int, ...] = ()


NOWHERE = Placed()


def place(site: Site, run: Run, decision: Decision, remote: AbstractSet[int], *, everything: bool) -> Placed:
    """Place the activities that ``decision`` scheduled; after a claim (``everything``) all that are pending.

    ``remote`` holds the ``seq`` that have a row in the task table already.
    """
    if everything:
        waiting = [pending for pending in run.activities.values() if pending.seq not in remote]
    else:
        waiting = [
            pending
            for command in decision.commands
            if type(command) is ActivityScheduled and (pending := run.activities.get(command.seq)) is not None
        ]
    if not waiting and not remote:
        return NOWHERE
    here: list[int] = []
    tasks: list[NewTask] = []
    planned = {True: 0, False: 0}
    for pending in waiting:
        queue = pending.options.queue or run.info.queue
        if _fits(site, pending, queue, planned):
            here.append(pending.seq)
        else:
            tasks.append(_task(pending, queue, site.clock.now()))
    if not remote:
        return Placed(tuple(here), tuple(tasks))
    cancelled = (command.seq for command in decision.commands if isinstance(command, ActivityCancelRequested))
    return Placed(tuple(here), tuple(tasks), tuple(seq for seq in cancelled if seq in remote))


def _fits(site: Site, pending: PendingActivity, queue: str, planned: dict[bool, int]) -> bool:
    activity = site.attempts.activities.get(pending.name)
    if activity is None or queue not in site.queues:
        return False
    slots = site.attempts.slots[activity.is_async]
    if planned[activity.is_async] >= slots.free - len(slots.queue) + BACKLOG * slots.places:
        return False
    planned[activity.is_async] += 1
    return True


def _task(pending: PendingActivity, queue: str, now: int) -> NewTask:
    return NewTask(
        seq=pending.seq,
        queue=queue,
        name=pending.name,
        input=bytes(pending.input),
        options=encode_options(pending.options),
        attempt=pending.attempt,
        delay=max(0.0, (pending.retry_at - now) / MICROSECONDS),
    )
