"""What clients do to runs: terminate, resume, suspend. One statement each, no lease.

What lives here: free functions of a lane; each returns its answer and the hint that follows from it. `store` puts
them together; `births` and `deliveries` have the rest.
"""

import uuid

import msgspec
from psycopg import errors

from perdure.model.events import (
    TIMED_OUT,
    ClosedFromOutside,
    WorkflowExecutionTerminated,
)
from perdure.model.hints import NOTHING, Hint
from perdure.model.runs import RunId, RunState, WorkerId
from perdure.model.workers import Lease
from perdure.store import records
from perdure.store.postgres.arrays import Bytea, boolean, int4, int8, text
from perdure.store.postgres.connection import AnswerLostError, Lane, Parameters, Patience, Row, look_first
from perdure.store.postgres.leasing import fence, lost
from perdure.store.postgres.owning import forget

_encoder = msgspec.json.Encoder()


class Repeated:
    """Whether a lane had to run a statement again; `again` is its ``on_repeat``, with the same parameters."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self.happened = False

    def again(self) -> Parameters:
        """Take note, and return the parameters."""
        self.happened = True
        return self._parameters


async def terminate(
    lane: Lane, namespace: str, instance: str, reason: str, run_id: RunId | None
) -> tuple[RunId | None, Hint]:
    """Close the open run; the last message in its inbox tells its owner."""
    records.check_texts(reason)
    event = WorkflowExecutionTerminated(reason, uuid.uuid4().hex)
    return await _close(lane, _target(namespace, instance, run_id), RunState.TERMINATED, event)


async def time_out(lane: Lane, lease: Lease) -> tuple[int, Hint]:
    """Close some of the runs that nobody owns and whose deadline has passed, those first that are late for longest."""
    rows = await lane.fetch("overdue", fence(lease))
    if not rows:
        raise lost(lease)
    closed, hint = 0, NOTHING
    for namespace, instance, run_id in rows:
        if run_id is not None:
            target = _target(namespace, instance, RunId(run_id))
            found, more = await _close(lane, target, RunState.TIMED_OUT, TIMED_OUT)
            closed, hint = closed + (found is not None), hint | more
    return closed, hint


async def _close(
    lane: Lane, target: Parameters, state: RunState, event: ClosedFromOutside
) -> tuple[RunId | None, Hint]:
    parameters = {
        **target,
        "ending": int4(state),
        "outcome": Bytea(records.encode_outcome(event)),
        "event": Bytea(_encoder.encode(event)),
    }
    rows: list[Row] = []
    patience: Patience | None = None
    while not rows:
        try:
            rows = await lane.fetch("terminate", parameters, on_repeat=look_first, patience=patience)
            break
        except errors.UniqueViolation:
            pass  # the owner recorded a turn at the same place in the same moment; the next try comes after it
        except AnswerLostError:
            patience = patience or Patience()
            # Another instance of the same id may be open by now, which nobody wants to end.
            rows = await lane.fetch("terminated", parameters)
    if not rows:
        return None, NOTHING
    closed, owner, changed, mail, seen = rows[0][:5]
    if mail > seen:
        await forget(lane, [(RunId(closed), number) for number in range(seen + 1, mail + 1)])
    hint = Hint(closed=frozenset({RunId(closed)}), changed=changed)
    if owner is None:
        return RunId(closed), hint
    await lane.fetch("withdraw", {"run": int8(closed)})
    return RunId(closed), hint | Hint(workers=frozenset({WorkerId(owner)}))


async def resume(lane: Lane, namespace: str, instance: str, run_id: RunId | None) -> tuple[RunId | None, Hint]:
    """Make a held run ready again."""
    parameters = _target(namespace, instance, run_id)
    repeated = Repeated(parameters)
    rows = await lane.fetch("resume", parameters, on_repeat=repeated.again)
    if not rows and repeated.happened:
        rows = await lane.fetch("resumed", parameters)  # by the try whose answer was lost
    if not rows:
        return None, NOTHING
    resumed, queue, changed = rows[0]
    return RunId(resumed), Hint(queues=frozenset({queue}), changed=changed)


async def adopt(lane: Lane, run_id: RunId, key: str) -> Hint:
    """Give a run the key of another object. A repeat tells of the change once more, which does no harm."""
    rows = await lane.fetch("adopt", {"run": int8(run_id), "key": text(key)})
    return Hint(changed=bool(rows))


async def suspend(
    lane: Lane, namespace: str, instance: str, run_id: RunId | None, *, suspended: bool
) -> tuple[RunId | None, Hint]:
    """Let nobody take the open run, or let them again."""
    parameters = {**_target(namespace, instance, run_id), "suspended": boolean(suspended)}
    rows = await lane.fetch("suspend", parameters)
    if not rows:
        return None, NOTHING
    found, owner, queue, changed = rows[0]
    if owner is not None:
        return RunId(found), Hint(workers=frozenset({WorkerId(owner)}), changed=changed)
    return RunId(found), Hint(queues=frozenset() if suspended else frozenset({queue}), changed=changed)


def _target(namespace: str, instance: str, run_id: RunId | None) -> dict[str, object]:
    """Return the parameters that name the open run of an instance: whichever it is, or this one alone."""
    return {"namespace": text(namespace), "instance": text(instance), "run": int8(run_id)}
