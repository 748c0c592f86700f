"""Carrying out activities: one attempt at a time, on the event loop or in a thread.

What lives here: the slots, the timeouts, and the verdict on a failed attempt.
What must not: recording; the owner of the run does that with the event it is
handed. `execution` (for its own run) and `tasks` (for others') call it.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import msgspec

from perdure.activity import Activity, ActivityContext, ActivityInfo, context
from perdure.errors import PayloadError
from perdure.model.events import ActivityCompleted, ActivityFailed, Failure
from perdure.model.failure import record
from perdure.model.payload import check_size, encode
from perdure.model.policies import ActivityOptions
from perdure.telemetry.tally import AttemptCounts, Tally
from perdure.telemetry.tally import Slots as SlotCounts

from .limits import Limits


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt to make."""

    info: ActivityInfo
    seq: int
    input: msgspec.Raw
    options: ActivityOptions


class Retry(msgspec.Struct, frozen=True):
    """The attempt failed and another one may start ``delay`` seconds later, knowing the last heartbeat's details."""

    failure: Failure
    delay: float
    details: Any = None


Verdict = ActivityCompleted | ActivityFailed | Retry

_NOT_BEGUN = object()
"""What a thread returns that did not begin because the lease was over by then."""


def judge(job: Job, error: BaseException, details: Any = None) -> Verdict:
    """Decide what a failed attempt means: another one, or the end."""
    failure = record(error)
    policy = job.options.retry
    delay = policy.delay(job.info.attempt) if policy.allows(error) and not isinstance(error, PayloadError) else None
    if delay is None:
        return ActivityFailed(job.seq, failure, job.info.attempt)
    return Retry(failure, delay, details)


class Slots:
    """A number of places and a queue for them."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.free = places
        self.queue: deque[Attempt] = deque()

    def enter(self, attempt: "Attempt") -> None:
        """Start the attempt now or when a place becomes free."""
        if self.free > 0:
            self.free -= 1
            attempt.start()
        else:
            self.queue.append(attempt)

    def leave(self) -> None:
        """Give the place to the next in the queue."""
        while self.queue:
            attempt = self.queue.popleft()
            if not attempt.over:
                attempt.start()
                return
        self.free += 1


class Attempt:
    """One attempt, waiting for a slot or under way. Reports its verdict exactly once, or never when cancelled."""

    def __init__(
        self, owner: "Attempts", activity: Activity[..., Any], job: Job, done: Callable[[Verdict], None]
    ) -> None:
        self._owner = owner
        self._activity = activity
        self._slots = owner.slots(activity)
        self._job = job
        self._counts = owner.counts[job.info.name]
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._last_beat = self._began = 0.0
        self._details: Any = None
        self._context: ActivityContext | None = None
        self.over = False

    def start(self) -> None:
        """Begin; called with a slot in hand."""
        options, job = self._job.options, self._job
        self._began = monotonic()
        if options.timeout is not None:
            message = (
                f"attempt {job.info.attempt} of {job.info.name} did not end within its timeout of {options.timeout:g} s"
            )
            self._timers.append(self._loop.call_later(options.timeout, self._expire, message))
        if options.heartbeat_timeout is not None:
            self._last_beat = self._loop.time()
            self._watch_heartbeat(options.heartbeat_timeout)
        self._context = ActivityContext(job.info, self._beat)
        variables = contextvars.copy_context()
        variables.run(context.set, self._context)
        name = f"activity {job.info.workflow_id}/{job.seq} {job.info.name}"
        if self._activity.is_async:
            self._task = self._loop.create_task(self._run_async(), name=name, context=variables)
        else:
            self._task = self._loop.create_task(self._run_in_thread(variables), name=name)

    def cancel(self) -> None:
        """Stop without a verdict. A thread is told and left to end by itself."""
        if self._began and not self.over:
            self._counts.cancelled += 1
        self._finish()
        if self._task is not None:
            self._task.cancel()

    async def ended(self) -> None:
        """Wait until the coroutine has ended."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run_async(self) -> None:
        try:
            if not self._owner.may_begin():
                return
            args, kwargs = self._activity.signature.decode_call(self._job.input)
            self._report_result(await self._activity.function(*args, **kwargs))
        except asyncio.CancelledError as error:
            self._report_error(error)  # without a verdict yet, the activity raised this by itself
        except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever an activity raises is its failure
            self._report_error(error)
        finally:
            self._task = None  # the task knows this object by its context: without a cycle both go at once
            self._slots.leave()
            self._owner.on_free()

    async def _run_in_thread(self, variables: contextvars.Context) -> None:
        try:
            args, kwargs = self._activity.signature.decode_call(self._job.input)
        except PayloadError as error:
            self._report_error(error)
            self._leave_thread()
            return
        call = self._owner.pool.submit(variables.run, self._call, args, kwargs)
        call.add_done_callback(lambda _: self._loop.is_closed() or self._loop.call_soon_threadsafe(self._leave_thread))
        try:
            result = await asyncio.shield(asyncio.wrap_future(call))
            if result is not _NOT_BEGUN:
                self._report_result(result)
        except asyncio.CancelledError:
            pass  # the verdict is in, or nobody wants one; the thread ends by itself
        except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever an activity raises is its failure
            self._report_error(error)

    def _call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return self._activity.function(*args, **kwargs) if self._owner.may_begin() else _NOT_BEGUN

    def _leave_thread(self) -> None:
        self._slots.leave()
        self._owner.on_free()

    def _report_result(self, value: Any) -> None:
        try:
            what = f"the result of activity {self._job.info.name}"
            result = encode(value, what)
            check_size(result, what, self._owner.payload_limit)
        except PayloadError as error:
            self._report_error(error)
        else:
            self._report(ActivityCompleted(self._job.seq, result, self._job.info.attempt))

    def _report_error(self, error: BaseException) -> None:
        if not self.over:
            self._report(judge(self._job, error, self._details))

    def _report(self, verdict: Verdict) -> None:
        if not self.over:
            self._finish()
            counts = self._counts
            if type(verdict) is ActivityCompleted:
                counts.completed += 1
            else:
                counts.failed += 1
            counts.seconds.observe(monotonic() - self._began)
            self._done(verdict)

    def _expire(self, message: str) -> None:
        self._report_error(TimeoutError(message))
        if self._task is not None:
            self._task.cancel()

    def _finish(self) -> None:
        self.over = True
        if self._context is not None:
            self._context.cancelled = True
            self._context = None
        for handle in self._timers:
            handle.cancel()
        self._owner.forget(self._job)

    def _beat(self, details: Any) -> None:
        # May be called from a thread; both assignments are atomic and only the last one counts.
        self._details = details
        self._last_beat = self._loop.time()

    def _watch_heartbeat(self, allowed: float) -> None:
        left = self._last_beat + allowed - self._loop.time()
        if left <= 0:
            name, attempt = self._job.info.name, self._job.info.attempt
            self._expire(f"attempt {attempt} of {name} sent no heartbeat for {allowed:g} s")
        else:
            self._timers[:] = [handle for handle in self._timers if not handle.cancelled()][:1]
            self._timers.append(self._loop.call_later(left, self._watch_heartbeat, allowed))


class Attempts:
    """The activities that this process knows, and the attempts that it is making.

    ``slots`` bounds the attempts on the event loop at a time, ``threads`` those
    of synchronous functions; one that timed out keeps its thread until it
    returns, as threads cannot be interrupted.
    """

    def __init__(self, activities: Mapping[str, Activity[..., Any]], limits: Limits, tally: Tally) -> None:
        self.activities = activities
        self.counts = tally.attempts
        self.counts.update({name: AttemptCounts() for name in activities if name not in self.counts})
        self.pool = ThreadPoolExecutor(limits.threads, thread_name_prefix="perdure-activity")
        self.loop_slots = Slots(limits.activities)
        self.thread_slots = Slots(limits.threads)
        self.payload_limit = limits.payload
        self.on_free: Callable[[], None] = lambda: None
        self.may_begin: Callable[[], bool] = lambda: True
        self._attempts: dict[tuple[int, int], Attempt] = {}

    def slots(self, activity: Activity[..., Any]) -> Slots:
        """Return the slots that this activity's attempts take their place from."""
        return self.loop_slots if activity.is_async else self.thread_slots

    def free(self) -> int:
        """Return how many attempts of any kind could start now."""
        return min(slots.free - len(slots.queue) for slots in (self.loop_slots, self.thread_slots))

    def standing(self) -> dict[str, SlotCounts]:
        """Return how many attempts of each kind there may be, are and wait."""
        kinds = {"async": self.loop_slots, "thread": self.thread_slots}
        return {
            kind: SlotCounts(slots.places, slots.places - slots.free, len(slots.queue)) for kind, slots in kinds.items()
        }

    def submit(self, job: Job, done: Callable[[Verdict], None]) -> None:
        """Make the attempt as soon as a slot is free, then call ``done`` once."""
        activity = self.activities[job.info.name]
        attempt = Attempt(self, activity, job, done)
        self._attempts[job.info.run_id, job.seq] = attempt
        self.slots(activity).enter(attempt)

    def cancel(self, run_id: int, seq: int) -> None:
        """Stop an attempt, if it is being made here; its ``done`` is not called any more."""
        attempt = self._attempts.get((run_id, seq))
        if attempt is not None:
            attempt.cancel()

    def forget(self, job: Job) -> None:
        """Called by an attempt that is over."""
        self._attempts.pop((job.info.run_id, job.seq), None)

    async def stop(self) -> None:
        """Cancel everything and wait for what runs on the event loop; threads are told, and end by themselves."""
        attempts = list(self._attempts.values())
        for attempt in attempts:
            attempt.cancel()
        for attempt in attempts:
            await attempt.ended()
        self.pool.shutdown(wait=False, cancel_futures=True)
