"""What clients do to runs: start, deliver, terminate, resume. One statement each, no lease.

What lives here: free functions of a lane; each returns its answer and the hint that follows from it. `store` puts
them together.
"""

import msgspec
from psycopg import errors

from perdure.model import codec
from perdure.model.events import Incoming, WorkflowExecutionCancelRequested, WorkflowExecutionTerminated
from perdure.model.runs import Hint, NewRun, RunId, RunState, Started, WorkerId
from perdure.store import records
from perdure.store.postgres.arrays import Bytea, boolean, byteas, int4, int8, text
from perdure.store.postgres.connection import Lane, Parameters, Row

NOTHING = Hint()

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


async def start(lane: Lane, new: NewRun) -> tuple[Started, Hint]:
    """Create the run and its turn 0, or return the run that has the key or the id already."""
    records.check_texts(new.id, new.namespace, new.workflow, new.queue, new.key or "")
    (event,), outside = codec.split_payloads([records.started_event(new)], records.LARGE)
    parameters = {
        "key": text(new.key),
        "namespace": text(new.namespace),
        "instance": text(new.id),
        "workflow": text(new.workflow),
        "queue": text(new.queue),
        "priority": int4(new.priority),
        "timeout": None if new.timeout is None else int8(round(new.timeout * 1_000_000)),
        "event": Bytea(_encoder.encode(event)),
        "payloads": byteas(outside),
    }
    while True:
        rows = await lane.fetch("start", parameters)
        # No row: another start of this id or key won a moment ago, too late for the statement to see its run.
        if rows:
            run_id, created, workflow = rows[0]
            hint = Hint(queues=frozenset({new.queue})) if created else NOTHING
            return Started(RunId(run_id), created, workflow), hint


async def deliver(lane: Lane, namespace: str, instance: str, event: Incoming) -> tuple[RunId | None, Hint]:
    """Number the message and put it into the inbox of the open run."""
    rows = await lane.fetch(
        "deliver",
        {
            "namespace": text(namespace),
            "instance": text(instance),
            "cancel": boolean(isinstance(event, WorkflowExecutionCancelRequested)),
            "body": Bytea(codec.encode_message(event)),
        },
    )
    if not rows:
        return None, NOTHING
    run_id, owner, queue, state = rows[0]
    return RunId(run_id), mail_hint(owner, queue, state)


def mail_hint(owner: int | None, queue: str, state: int) -> Hint:
    """Return whom to tell of new mail: the owner, or who might become it."""
    if owner is not None:
        return Hint(workers=frozenset({WorkerId(owner)}))
    return Hint(queues=frozenset({queue})) if state == RunState.READY else NOTHING


async def terminate(lane: Lane, namespace: str, instance: str, reason: str) -> tuple[RunId | None, Hint]:
    """Close the open run; the last message in its inbox tells its owner."""
    records.check_texts(reason)
    event = WorkflowExecutionTerminated(reason)
    parameters = {
        "namespace": text(namespace),
        "instance": text(instance),
        "outcome": Bytea(records.encode_outcome(event)),
        "event": Bytea(_encoder.encode(event)),
    }
    repeated = Repeated(parameters)
    rows: list[Row]
    while True:
        try:
            rows = await lane.fetch("terminate", parameters, on_repeat=repeated.again)
            break
        except errors.UniqueViolation:
            continue  # the owner recorded a turn at the same place in the same moment; the next try comes after it
    if not rows and repeated.happened:
        rows = await lane.fetch("terminated", parameters)  # by the try whose answer was lost
    if not rows:
        return None, NOTHING
    run_id, owner, changed = rows[0]
    workers = frozenset() if owner is None else frozenset({WorkerId(owner)})
    return RunId(run_id), Hint(workers=workers, closed=True, changed=changed)


async def resume(lane: Lane, namespace: str, instance: str) -> tuple[RunId | None, Hint]:
    """Make a held run ready again."""
    parameters = {"namespace": text(namespace), "instance": text(instance)}
    repeated = Repeated(parameters)
    rows = await lane.fetch("resume", parameters, on_repeat=repeated.again)
    if not rows and repeated.happened:
        rows = await lane.fetch("resumed", parameters)  # by the try whose answer was lost
    if not rows:
        return None, NOTHING
    run_id, queue, changed = rows[0]
    return RunId(run_id), Hint(queues=frozenset({queue}), changed=changed)
