"""Activities, as the workflow code sees them: a future that a command stands behind.

What lives here: scheduling, the pending state, resolution, cancellation. What
must not: running the activity; the runtime does that, from `PendingActivity`.
"""

import asyncio
from typing import TYPE_CHECKING, Any, cast

import msgspec

from perdure.engine.loop import HASH_STEP, HASHES, RunFuture, RunLoop
from perdure.errors import ActivityError
from perdure.model.events import (
    ActivityAttemptFailed,
    ActivityCancelRequested,
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
)
from perdure.model.failure import rebuild
from perdure.model.payload import Reader
from perdure.model.policies import ActivityOptions

if TYPE_CHECKING:
    from perdure.engine.run import Run


class PendingActivity(msgspec.Struct):
    """An activity that was asked for and has not ended: what the runtime needs to carry it out.

    ``attempt`` is the number of the next attempt, from 1; it may start at
    ``retry_at`` (microseconds; 0: at once).
    """

    seq: int
    name: str
    input: msgspec.Raw
    options: ActivityOptions
    future: "ActivityFuture"
    result: Reader
    attempt: int = 1
    retry_at: int = 0


class ActivityFuture(RunFuture[Any]):
    """What an activity call returns inside a workflow. Cancelling it asks for the activity's cancellation."""

    __slots__ = ("seq",)

    seq: int

    def cancel(self, msg: Any | None = None) -> bool:
        """Stop waiting; the running attempt is told to stop."""
        if self.done():
            return False
        run = cast("Run", cast("RunLoop", self.get_loop()).host)
        if not run.tearing_down:
            run.emit(ActivityCancelRequested(self.seq))
            del run.activities[self.seq]
        return super().cancel(msg)

    def close(self) -> None:
        """Do what a task group asks of a coroutine that it does not take any more, from Python 3.13 on."""
        self.cancel()


def schedule(
    run: "Run", name: str, payload: msgspec.Raw, options: ActivityOptions, result: Reader
) -> asyncio.Future[Any]:
    """Emit the command and return the future of its result. The recorded input counts, whatever code replays it."""
    seq = run.next_seq()
    queue = options.queue if options.queue != run.info.queue else None
    if len(payload) > run.payload_limit:
        run.check_size(payload, f"the input of activity {name}")
    recorded = run.emit(ActivityScheduled(seq, name, payload, queue))
    loop = run.loop
    future = ActivityFuture(loop=loop)
    future.ordinal = loop.hash = (loop.hash + HASH_STEP) & HASHES
    future.seq = seq
    run.activities[seq] = PendingActivity(seq, name, recorded.input, options, future, result)
    return future


def completed(run: "Run", event: ActivityCompleted) -> bool:
    """Resolve the future with the decoded result; a result that does not fit raises where it is awaited.

    Like its siblings below False when nobody waits for it any more.
    """
    pending = run.activities.pop(event.seq, None)
    if pending is None:
        return False
    try:
        value = pending.result.read(event.result, f"the result of activity {pending.name}")
    except ValueError as error:
        pending.future.set_exception(error)
    else:
        pending.future.set_result(value)
    return True


def failed(run: "Run", event: ActivityFailed) -> bool:
    """Raise where the activity is awaited."""
    pending = run.activities.pop(event.seq, None)
    if pending is None:
        return False
    pending.future.set_exception(ActivityError(pending.name, event.attempt, rebuild(event.failure)))
    return True


def attempt_failed(run: "Run", event: ActivityAttemptFailed) -> bool:
    """Remember which attempt comes next; the code is not told."""
    pending = run.activities.get(event.seq)
    if pending is None or pending.attempt != event.attempt:
        return False
    pending.attempt = event.attempt + 1
    pending.retry_at = event.retry_at
    return True
