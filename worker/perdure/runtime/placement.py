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

from .attempts import Attempts, Slots
from .clock import StoreClock
from .options import encode_options


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

    ``remote`` holds the ``seq`` that have a row in the task table already, or another place after a claim.
    """
    commands = decision.commands
    if len(commands) == 1 and not everything and not remote:  # nearly all turns: a short way to the same answer
        command = commands[0]
        if type(command) is not ActivityScheduled:
            return NOWHERE
        slots = _slots(site, run, run.activities[command.seq])
        if slots is not None and slots.room > 0:
            return Placed((command.seq,))
    if everything:
        wanted = [seq for seq in run.activities if seq not in remote]
    else:
        wanted = [command.seq for command in commands if type(command) is ActivityScheduled]
    if not wanted and not remote:
        return NOWHERE
    here: list[int] = []
    tasks: list[NewTask] = []
    planned: dict[Slots, int] = {}
    for seq in wanted:
        pending = run.activities.get(seq)
        if pending is None:
            continue
        slots = _slots(site, run, pending)
        already = planned.get(slots, 0) if slots is not None else 0
        if slots is not None and already < slots.room:
            planned[slots] = already + 1
            here.append(seq)
        else:
            tasks.append(_task(pending, pending.options.queue or run.info.queue, site.clock.now()))
    if not remote:
        return Placed(tuple(here), tuple(tasks))
    cancelled = (command.seq for command in commands if isinstance(command, ActivityCancelRequested))
    return Placed(tuple(here), tuple(tasks), tuple(seq for seq in cancelled if seq in remote))


def _slots(site: Site, run: Run, pending: PendingActivity) -> Slots | None:
    """Return where this process would carry the activity out, if it can."""
    queue = pending.options.queue or run.info.queue
    return site.attempts.slots_of.get(pending.name) if queue in site.queues else None


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
