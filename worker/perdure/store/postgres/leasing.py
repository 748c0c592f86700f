"""Workers and their leases: register, renew, resign, expire, recover.

What lives here: free functions of a lane (of the lease thread's line for `renew`). What must not: runs' turns.
"""

import secrets
from collections.abc import Sequence

from perdure.errors import LeaseLostError, SchemaVersionError
from perdure.model.hints import MANY, NOTHING, Hint
from perdure.model.runs import WorkerId
from perdure.model.workers import Expired, Lease, Renewal, WorkerInfo
from perdure.store import records
from perdure.store.base import (
    ABSENT_BUILD,
    ABSENT_BUILD_MESSAGE,
    POISON,
    POISON_MESSAGE,
    UNKNOWN_WORKFLOW,
    UNKNOWN_WORKFLOW_MESSAGE,
)
from perdure.store.postgres.arrays import boolean, int8, int8s, text, texts
from perdure.store.postgres.connection import Lane
from perdure.store.postgres.line import LeaseLine

NOBODY: dict[str, object] = {"worker": None, "epoch": None}
"""The fence parameters of a caller that has no lease."""


def fence(lease: Lease) -> dict[str, object]:
    """Return the parameters by which a statement asks whether the lease is in force."""
    return {"worker": int8(lease.worker), "epoch": int8(lease.epoch)}


def lost(lease: Lease) -> LeaseLostError:
    """Return the error for a lease that is gone."""
    return LeaseLostError(f"the lease of worker {lease.worker} is gone; its runs belong to others now")


async def register(lane: Lane, info: WorkerInfo) -> Lease:
    """Create a worker. A repeated try may leave a second row behind, which expires by itself."""
    records.check_texts(info.namespace, info.name, info.build, *info.queues, *info.workflows)
    epoch = secrets.randbits(63)
    rows = await lane.fetch(
        "register",
        {
            "epoch": int8(epoch),
            "namespace": text(info.namespace),
            "name": text(info.name),
            "build": text(info.build),
            "queues": texts(list(dict.fromkeys(info.queues))),
            "workflows": texts(list(dict.fromkeys(info.workflows))),
            "lease": int8(round(info.lease * 1_000_000)),
        },
    )
    worker, server, installation = rows[0]
    if installation is None:
        message = (
            "the table perdure.installation is empty, and idempotency keys begin with what it holds: restore its row, "
            "or where that is lost insert 12 random hexadecimal digits, then start the workers again"
        )
        raise SchemaVersionError(message)
    return Lease(WorkerId(worker), epoch, info.namespace, installation, server, info.lease)


def renew(line: LeaseLine, lease: Lease) -> Renewal:
    """Extend the lease and forget workers whose lease expired."""
    rows = line.fetch("renew", fence(lease), lease.length)
    if not rows:
        raise lost(lease)
    now, reaped, server = rows[0]
    # A try that was not answered may have removed them.
    unanswered, line.unanswered = line.unanswered, False
    return Renewal(now, reaped or unanswered, server)


async def resign(lane: Lane, lease: Lease) -> Hint:
    """Give back every owned run and task and forget the worker."""
    return await _expel(lane, {**fence(lease), "dead": None})


async def expire(lane: Lane, namespace: str, worker_name: str) -> tuple[Expired, Hint]:
    """Take the leases of the workers of this name away, and give back what they had."""
    # By their ids: when the answer is lost and the statement repeated, another one may have come under this name.
    dead = [row[0] for row in await lane.fetch("named", {"namespace": text(namespace), "name": text(worker_name)})]
    if not dead:
        return Expired(0, ()), NOTHING
    hint = await _expel(lane, {**NOBODY, "dead": int8s(dead)})
    # A claim that was in flight took runs that the statement before could not see.
    _, _, keys, more = await _recover(lane, namespace, NOBODY)
    return Expired(len(dead), tuple(keys)), hint | more


async def recover(lane: Lane, lease: Lease) -> tuple[int, Hint]:
    """Make ready what vanished workers had, and held runs that this worker's code may free."""
    alive, freed, _, hint = await _recover(lane, lease.namespace, fence(lease))
    if not alive:
        raise lost(lease)
    return freed, hint


async def hold_unknown(lane: Lane, lease: Lease) -> tuple[int, Hint]:
    """Hold ready runs that no worker can take."""
    rows = await lane.fetch(
        "hold_unknown",
        {
            **fence(lease),
            "unknown": text(UNKNOWN_WORKFLOW),
            "unknown_message": text(UNKNOWN_WORKFLOW_MESSAGE),
            "absent": text(ABSENT_BUILD),
            "absent_message": text(ABSENT_BUILD_MESSAGE),
        },
    )
    alive, held, changed = rows[0]
    if not alive:
        raise lost(lease)
    return held, Hint(changed=changed)


async def _expel(lane: Lane, parameters: dict[str, object]) -> Hint:
    ((queues,),) = await lane.fetch("expel", parameters)
    return _work(queues)


async def _recover(lane: Lane, namespace: str, parameters: dict[str, object]) -> tuple[bool, int, Sequence[str], Hint]:
    rows = await lane.fetch(
        "recover",
        {
            **parameters,
            "unleased": boolean(parameters["worker"] is None),
            "namespace": text(namespace),
            "unknown": text(UNKNOWN_WORKFLOW),
            "absent": text(ABSENT_BUILD),
            "poison": text(POISON),
            "poison_message": text(POISON_MESSAGE),
        },
    )
    alive, freed, queues, changed, keys = rows[0]
    return alive, freed, keys or (), _work(queues) | Hint(changed=changed)


def _work(queues: Sequence[str] | None) -> Hint:
    """Return the hint for runs and tasks that vanished workers had."""
    return Hint(queues=frozenset(queues), tasks=frozenset(queues), count=MANY) if queues else NOTHING
