"""Carrying out activities: one attempt at a time, on the event loop or in a thread.

What lives here: the slots, the timeouts, and the verdict on a failed attempt.
What must not: recording; the owner of the run does that with the event it is
handed. `execution` (for its own run) and `tasks` (for others') call it.
"""

import asyncio
import contextvars
import logging
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import msgspec

from perdure.activity import Activity, ActivityInfo
from perdure.errors import PayloadError
from perdure.model.events import ActivityCompleted, ActivityFailed, Failure
from perdure.model.failure import record
from perdure.model.payload import check_size, encode
from perdure.model.policies import ActivityOptions
from perdure.telemetry.tally import AttemptCounts, Tally
from perdure.telemetry.tally import Slots as SlotCounts

from .carriers import Carriers
from .limits import Limits

logger = logging.getLogger("perdure.worker")


class Job(msgspec.Struct, frozen=True):
    """One attempt to make. ``details`` is what the attempt before said last."""

    name: str
    attempt: int
    queue: str
    workflow_id: str
    run_id: int
    seq: int
    input: msgspec.Raw
    options: ActivityOptions
    details: bytes | None = None

    def info(self, installation: str) -> ActivityInfo:
        """Return what the attempt may know about itself; few ask."""
        return ActivityInfo(
            name=self.name,
            attempt=self.attempt,
            queue=self.queue,
            workflow_id=self.workflow_id,
            run_id=self.run_id,
            seq=self.seq,
            installation=installation,
            heartbeat_details=None if self.details is None else msgspec.json.decode(self.details),
        )


class Retry(msgspec.Struct, frozen=True):
    """The attempt failed and another one may start ``delay`` seconds later, knowing the last heartbeat's details."""

    failure: Failure
    delay: float
    details: bytes | None = None


Verdict = ActivityCompleted | ActivityFailed | Retry
Done = Callable[[Job, Verdict], None]

_NOT_BEGUN = object()
"""What a thread returns that did not begin because the lease was over by then."""


class _Raised(msgspec.Struct):
    """What a thread returns whose function raised: there are exceptions that a future does not take or pass on."""

    error: BaseException


def judge(job: Job, error: BaseException, details: bytes | None = None) -> ActivityFailed | Retry:
    """Decide what a failed attempt means: another one, or the end."""
    failure = record(error)
    policy = job.options.retry
    delay = policy.delay(job.attempt) if policy.allows(error) and not isinstance(error, PayloadError) else None
    if delay is None:
        return ActivityFailed(job.seq, failure, job.attempt)
    return Retry(failure, delay, details)


BACKLOG = 2
"""Attempts that may wait for a slot of this process, for each slot."""
TITLE = "activity "
"""How the names of the tasks and threads begin that make attempts."""
CLEANUP = 5.0
"""Seconds that an attempt on the event loop may take to end when it was cancelled, before it is left to itself."""


class Slots:
    """A number of places and a queue for them."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.free = places
        self.room = places + BACKLOG * places
        """How many more may enter without making the queue too long."""
        self.queue: deque[Attempt] = deque()

    def enter(self, attempt: "Attempt") -> None:
        """Start the attempt now or when a place becomes free."""
        self.room -= 1
        if self.free > 0:
            self.free -= 1
            attempt.start()
        else:
            self.queue.append(attempt)

    def leave(self) -> None:
        """Give the place to the next in the queue."""
        self.room += 1
        while self.queue:
            attempt = self.queue.popleft()
            if not attempt.over:
                attempt.start()
                return
            self.room += 1
        self.free += 1


class Attempt(msgspec.Struct, eq=False):
    """One attempt, waiting for a slot or under way. Reports its verdict exactly once, or never when cancelled.

    It is the `ActivityContext` of the function that it calls.
    """

    _owner: "Attempts"
    _activity: Activity[..., Any]
    _slots: Slots
    _job: Job
    _done: Done
    _loop: asyncio.AbstractEventLoop
    task: asyncio.Task[None] | None = None
    _timers: list[asyncio.TimerHandle] = []
    _last_beat: float = 0.0
    _began: float = 0.0
    _details: bytes | None = None
    over: bool = False
    cancelled: bool = False

    @property
    def info(self) -> ActivityInfo:
        """What the attempt knows about itself."""
        return self._job.info(self._owner.installation)

    @property
    def activity_name(self) -> str:
        """What is attempted."""
        return self._job.name

    @property
    def title(self) -> str:
        """What the task is called in which the attempt waits, or the thread that makes it."""
        return f"{TITLE}{self._job.workflow_id}/{self._job.seq} {self._job.name}"

    def start(self) -> None:
        """Begin; called with a slot in hand."""
        job = self._job
        options = job.options
        self._began = monotonic()
        if options.timeout is not None:
            message = f"attempt {job.attempt} of {job.name} did not end within its timeout of {options.timeout:g} s"
            self._timers.append(self._loop.call_later(options.timeout, self._expire, message))
        if options.heartbeat_timeout is not None:
            self._last_beat = self._loop.time()
            self._watch_heartbeat(options.heartbeat_timeout)
        self._owner.carriers.begin(self)

    def cancel(self) -> None:
        """Stop without a verdict. A thread is told and left to end by itself."""
        if self._began and not self.over:
            self._owner.counts[self._job.name].cancelled += 1
        self._finish()
        self._interrupt()

    def _interrupt(self) -> None:
        task = self.task
        if task is not None:
            task.cancel()
            self._owner.cancelled.add(task)
            task.add_done_callback(self._owner.cancelled.discard)

    def make(self) -> Coroutine[Any, Any, None]:
        """Call the function, here or in a thread, unless it is too late."""
        return self._run_async() if self._activity.is_async else self._run_in_thread()

    async def _run_async(self) -> None:
        try:
            if self.over or not self._owner.may_begin():
                return
            args, kwargs = self._activity.signature.decode_call(self._job.input)
            self._report_result(await self._activity.function(*args, **kwargs))
        except (KeyboardInterrupt, GeneratorExit):
            raise  # it is the process that ends
        except BaseException as error:  # noqa: BLE001  # whatever else an activity raises is its failure
            self._report_error(error)  # unless it was cancelled here: then there is a verdict, or nobody wants one
        finally:
            self._slots.leave()
            self._owner.on_free()

    async def _run_in_thread(self) -> None:
        if self.over:
            self._leave_thread()
            return
        try:
            args, kwargs = self._activity.signature.decode_call(self._job.input)
        except PayloadError as error:
            self._report_error(error)
            self._leave_thread()
            return
        call = self._owner.pool.submit(contextvars.copy_context().run, self._call, args, kwargs)
        call.add_done_callback(lambda _: self._loop.is_closed() or self._loop.call_soon_threadsafe(self._leave_thread))
        try:
            result = await asyncio.shield(asyncio.wrap_future(call))
        except asyncio.CancelledError:
            return  # the verdict is in, or nobody wants one; the thread ends by itself
        if type(result) is _Raised:
            self._report_error(result.error)
        elif result is not _NOT_BEGUN:
            self._report_result(result)

    def _call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        thread = threading.current_thread()
        name, thread.name = thread.name, self.title  # whoever looks for what keeps the process from ending finds it
        try:
            return self._activity.function(*args, **kwargs) if self._owner.may_begin() else _NOT_BEGUN
        except BaseException as error:  # noqa: BLE001  # whatever an activity raises is its failure
            return _Raised(error)
        finally:
            thread.name = name

    def _leave_thread(self) -> None:
        self._slots.leave()
        self._owner.on_free()

    def _report_result(self, value: Any) -> None:
        try:
            result = encode(value, self._activity.signature.words_of_result)
            if len(result) > self._owner.payload_limit:
                check_size(result, self._activity.signature.words_of_result, self._owner.payload_limit)
        except PayloadError as error:
            self._report_error(error)
        else:
            self._report(ActivityCompleted(self._job.seq, result, self._job.attempt))

    def _report_error(self, error: BaseException) -> None:
        if self.over:
            return
        job, verdict = self._job, judge(self._job, error, self._details)
        again = f"another follows in {verdict.delay:.3g} s" if isinstance(verdict, Retry) else "no other follows"
        what = f"attempt {job.attempt} of activity {job.name} of {job.workflow_id} failed, {again}"
        known = {"workflow_id": job.workflow_id, "run_id": job.run_id, "activity": job.name, "attempt": job.attempt}
        failure = verdict.failure
        text = f"{failure.type}: {failure.message}\n{failure.traceback}".rstrip()
        logger.warning("%s: %s", what, text, extra=known)
        self._report(verdict)

    def _report(self, verdict: Verdict) -> None:
        if not self.over:
            self._finish()
            counts = self._owner.counts[self._job.name]
            if type(verdict) is ActivityCompleted:
                counts.completed += 1
            else:
                counts.failed += 1
            counts.seconds.observe(monotonic() - self._began)
            self._done(self._job, verdict)

    def _expire(self, message: str) -> None:
        self._report_error(TimeoutError(message))
        self._interrupt()

    def _finish(self) -> None:
        self.over = self.cancelled = True
        for handle in self._timers:
            handle.cancel()
        self._owner.under_way.pop((self._job.run_id, self._job.seq), None)

    def beat(self, details: Any) -> None:
        """Take note of a heartbeat, from any thread: assignments are atomic, and only the last one counts.

        Raises `PayloadError` when the details cannot be recorded.
        """
        self._last_beat = self._loop.time()
        if details is not None:
            what = f"what a heartbeat of activity {self._job.name} says"
            raw = encode(details, what)
            check_size(raw, what, self._owner.payload_limit)
            self._details = bytes(raw)
            if not self.over:
                self._owner.on_heartbeat(self._job.run_id, self._job.seq, self._details)

    def _watch_heartbeat(self, allowed: float) -> None:
        left = self._last_beat + allowed - self._loop.time()
        if left <= 0:
            name, attempt = self._job.name, self._job.attempt
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
        self.slots = {True: Slots(limits.activities), False: Slots(limits.threads)}
        """By whether the activity is async: on the event loop, or in threads."""
        self.slots_of = {name: self.slots[activity.is_async] for name, activity in activities.items()}
        self._used = tuple({id(slots): slots for slots in self.slots_of.values()}.values())
        self.payload_limit = limits.payload
        self.installation = ""
        """Known with the lease."""
        self.on_free: Callable[[], None] = lambda: None
        self.may_begin: Callable[[], bool] = lambda: True
        self.on_heartbeat: Callable[[int, int, bytes], None] = lambda *_: None
        self.carriers = Carriers()
        self._loop = asyncio.get_running_loop()
        self.under_way: dict[tuple[int, int], Attempt] = {}
        """By run and step, also those that wait for a slot."""
        self.cancelled: set[asyncio.Task[None]] = set()
        """What was told to end and has not ended."""

    def free(self) -> tuple[int, tuple[str, ...]]:
        """Return how many attempts could start now, and the activities of which none could.

        Any others of those that are known here are meant: one by one, for nobody knows which it will be.
        """
        free = [slots.free - len(slots.queue) for slots in self._used]
        if all(places > 0 for places in free):
            return min(free, default=0), ()
        full = [slots for slots, places in zip(self._used, free, strict=True) if places <= 0]
        names = tuple(name for name, slots in self.slots_of.items() if slots in full)
        return min((places for places in free if places > 0), default=0), names

    def standing(self) -> dict[str, SlotCounts]:
        """Return how many attempts of each kind there may be, are and wait."""
        kinds = {"async": self.slots[True], "thread": self.slots[False]}
        return {
            kind: SlotCounts(slots.places, slots.places - slots.free, len(slots.queue)) for kind, slots in kinds.items()
        }

    def submit(self, job: Job, done: Done) -> None:
        """Make the attempt as soon as a slot is free, then call ``done`` once."""
        slots = self.slots_of[job.name]
        attempt = Attempt(self, self.activities[job.name], slots, job, done, self._loop)
        self.under_way[job.run_id, job.seq] = attempt
        slots.enter(attempt)

    def cancel(self, run_id: int, seq: int) -> None:
        """Stop an attempt, if it is being made here; its ``done`` is not called any more."""
        attempt = self.under_way.get((run_id, seq))
        if attempt is not None:
            attempt.cancel()

    async def stop(self) -> None:
        """Cancel everything and wait for what runs on the event loop; threads are told, and end by themselves.

        What does not end is left: an activity that ignores its cancellation must not keep the worker.
        """
        for attempt in list(self.under_way.values()):
            attempt.cancel()
        if self.cancelled:
            _, stubborn = await asyncio.wait(self.cancelled, timeout=CLEANUP)
            if stubborn:
                names = ", ".join(sorted(task.get_name() for task in stubborn))
                message = "still there %g s after they were cancelled, and left to themselves: %s"
                logger.error(message, CLEANUP, names)
            for task in stubborn:
                task.cancel()  # the first one may have been lost on its way, see `perdure.ending`
        self.pool.shutdown(wait=False, cancel_futures=True)
