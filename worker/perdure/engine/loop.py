"""The deterministic asyncio event loop: one for each run, with no selector and no wall clock.

What lives here: `RunLoop`, its handles, and the swap of the running loop around
a turn. What must not: history, commands, policies; the run gives those through
`Host`. Only `run.Run` creates loops.

Order is the whole point. Callbacks run first in, first out; time stands still
within a turn; ``call_later`` and ``call_at`` are durable timers. Tasks and
futures hash by the order of their creation, so that even a ``set`` of them (as
in `asyncio.wait`) iterates in the same order on replay.
"""

import asyncio
import contextlib
import contextvars
import gc
import sys
import threading
from asyncio import events as asyncio_events
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any, NoReturn, Protocol, Self, TypeVar

import msgspec

from perdure.errors import EngineFault, RunEvicted
from perdure.model.policies import MICROSECONDS

from . import generators

T = TypeVar("T")

LATEST = (253_402_300_799 - 2 * 86_400) * MICROSECONDS  # the year 9999 in every time zone: datetime knows no later one
HASH_STEP = 0x9E3779B97F4A7C15  # spreads consecutive numbers over a hash table
HASHES = 0xFFFF_FFFF_FFFF


class Handle(msgspec.Struct, eq=False):
    """A callback that waits for its turn in the ready queue; quacks like `asyncio.Handle`."""

    callback: Callable[..., Any]
    args: tuple[Any, ...]
    context: contextvars.Context
    dropped: bool = False

    def cancel(self) -> None:
        """Never run the callback."""
        self.dropped = True

    def cancelled(self) -> bool:
        """Whether the callback will never run."""
        return self.dropped


class TimerHandle(Handle, eq=False, kw_only=True):
    """A callback for later. Cancelling it before it fires is a command of its own."""

    seq: int
    fire_at: int
    cancel_timer: Callable[[int], None]
    fired: bool = False

    def cancel(self) -> None:
        """Cancel the durable timer, unless it has fired."""
        if not self.dropped:
            self.dropped = True
            if not self.fired:
                self.cancel_timer(self.seq)

    def when(self) -> float:
        """Return the loop time at which the timer is due."""
        return self.fire_at / MICROSECONDS


class RunFuture(asyncio.Future[T]):
    """A future with a hash that is the same on every replay. Whoever makes one gives it its ``ordinal``."""

    __slots__ = ("ordinal",)

    ordinal: int

    def __hash__(self) -> int:
        return self.ordinal


class RunTask(asyncio.Task[T]):
    """A task with a hash that is the same on every replay."""

    __slots__ = ("_ordinal",)

    def __init__(self, coroutine: Coroutine[Any, Any, T], *, loop: "RunLoop", **kwargs: Any) -> None:
        self._ordinal = loop.hash = (loop.hash + HASH_STEP) & HASHES
        super().__init__(coroutine, loop=loop, **kwargs)

    def __hash__(self) -> int:
        return self._ordinal


class Host(Protocol):
    """What a loop needs from its run."""

    def start_timer(
        self, fire_at: int, callback: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context
    ) -> TimerHandle:
        """Emit the command that starts a timer."""

    def violation(self, message: str) -> NoReturn:
        """Hold the run: its code touched the outside world."""

    def broken_callback(self, error: BaseException) -> None:
        """Take note that a callback (not a task) raised."""

    fault: EngineFault | None
    """Why the turn cannot be recorded, if it cannot."""

    @property
    def stopped(self) -> bool:
        """Whether the turn must not go on; never without a `fault`."""


class Alarm(Protocol):
    """What a watcher in another thread leaves at the loop of a turn that does not end."""

    def settle(self) -> None:
        """Return when the watcher can raise nothing in this thread any more; `RunEvicted` may come out of it once."""


_still: "dict[asyncio.AbstractEventLoop, Stillness]" = {}
"""By the event loop around it: for other threads."""


class _Here(threading.local):
    """What this thread is in the middle of. To ask asyncio for its running loop is a system call each time."""

    still: "Stillness | None" = None


_here = _Here()


class Stillness:
    """Around a turn, or several: nothing happens on the side, and no task of the event loop around it is current.

    The garbage collector comes when it likes and runs the ``finally`` blocks of what it finds; async generators of a
    workflow are the business of their run, not of the event loop around it.
    """

    turn: "RunLoop | None" = None
    """The loop whose callbacks are running, if some are; a watcher may raise `RunEvicted` in them."""

    def __enter__(self) -> Self:
        """Switch both off, and step out of the task."""
        self._hooks = sys.get_asyncgen_hooks()
        self._collecting = gc.isenabled()
        self.loop = asyncio_events._get_running_loop()  # noqa: SLF001  # documented for event loop implementers
        self._task = asyncio.current_task(self.loop) if self.loop is not None else None
        sys.set_asyncgen_hooks(_iterated, _abandoned)
        gc.disable()
        if self.loop is not None and self._task is not None:
            asyncio.tasks._leave_task(self.loop, self._task)  # noqa: SLF001
        if self.loop is not None:
            _still[self.loop] = self
        _here.still = self
        return self

    def __exit__(self, *_: object) -> None:
        """Leave all as it was."""
        _here.still = None
        if self.loop is not None:
            del _still[self.loop]
        if self.loop is not None and self._task is not None:
            asyncio.tasks._enter_task(self.loop, self._task)  # noqa: SLF001
        if self._collecting:
            gc.enable()
        sys.set_asyncgen_hooks(*self._hooks)


class RunLoop(asyncio.AbstractEventLoop):
    """The event loop of one run. What is not defined here is refused, see below the class."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.now = 0
        self.guarded = True
        self.alarm: Alarm | None = None
        self.tasks: list[RunTask[Any]] = []  # asyncio itself keeps weak references only
        self._prune_at = 64
        self._ready: deque[Handle] = deque()
        self._stays = False
        self.hash = 0
        """The hash of the last task or future."""
        self.generators: generators.Generators | None = None
        """The async generators that have begun; few runs have any."""
        self._named = 0

    def push(self, handle: Handle) -> None:
        """Append a handle to the ready queue."""
        self._ready.append(handle)

    def run_ready(self) -> None:
        """Run callbacks in order until none is ready or the host stops the turn."""
        still = _here.still
        if still is not None:
            self._run(self._ready, still)
        else:
            with Stillness() as still:
                self._run(self._ready, still)

    def run_once(self) -> bool:
        """Run the callbacks that are ready now, and none that become so meanwhile; return whether there were any."""
        ready, self._ready = self._ready, deque()
        found = bool(ready)
        with contextlib.ExitStack() as stack:
            self._run(ready, _here.still or stack.enter_context(Stillness()))
        return found

    @contextlib.contextmanager
    def staying(self) -> Iterator[None]:
        """Be the running loop for many turns, between which nothing but the engine runs: to say so is a system call."""
        with contextlib.ExitStack() as stack:
            still = _here.still or stack.enter_context(Stillness())
            asyncio_events._set_running_loop(self)  # noqa: SLF001
            self._stays = True
            try:
                yield
            finally:
                self._stays = False
                asyncio_events._set_running_loop(still.loop)  # noqa: SLF001

    def _run(self, ready: deque[Handle], still: Stillness) -> None:
        if not self._stays:
            asyncio_events._set_running_loop(self)  # noqa: SLF001
        around = still.turn
        try:
            still.turn = self
            host = self.host
            while ready:
                handle = ready.popleft()
                if handle.dropped:
                    continue
                try:
                    handle.context.run(handle.callback, *handle.args)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # noqa: BLE001  # whatever it is, the host decides and the worker lives on
                    host.broken_callback(error)
                if host.fault is not None and host.stopped:
                    break
        except RunEvicted:
            pass  # a watcher's, between two callbacks; the host has the fault
        finally:
            still.turn = None
            while self.alarm is not None:
                try:
                    self.alarm.settle()
                except RunEvicted:
                    pass  # delivered at the last moment
            still.turn = around
            if not self._stays:
                asyncio_events._set_running_loop(still.loop)  # noqa: SLF001

    # --- what asyncio calls -------------------------------------------------

    def time(self) -> float:
        """Return the time of the turn in seconds since the epoch; it stands still within a turn."""
        return self.now / MICROSECONDS

    def call_soon(  # type: ignore[override]  # a handle of our own
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        """Run the callback in this turn, after everything that is ready now."""
        handle = Handle(callback, args, contextvars.copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> TimerHandle:
        """Start a durable timer of ``delay`` seconds."""
        fire_at = LATEST if delay * MICROSECONDS > LATEST else self.now + max(0, round(delay * MICROSECONDS))
        context = contextvars.copy_context() if context is None else context
        return self.host.start_timer(min(fire_at, LATEST), callback, args, context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> TimerHandle:
        """Start a durable timer that is due at loop time ``when``."""
        return self.call_later(when - self.now / MICROSECONDS, callback, *args, context=context)

    def create_future(self) -> RunFuture[Any]:
        """Return a future of this run."""
        future: RunFuture[Any] = RunFuture(loop=self)
        future.ordinal = self.hash = (self.hash + HASH_STEP) & HASHES
        return future

    def create_task(  # type: ignore[override]  # an activity call is accepted too: see below
        self, coroutine: Generator[Any, None, T] | Coroutine[Any, Any, T] | asyncio.Future[T], **kwargs: Any
    ) -> RunTask[T]:
        """Return a new task. An activity call is a future already; it is wrapped so that TaskGroup takes it."""
        future = coroutine if isinstance(coroutine, asyncio.Future) else None
        if future is not None:
            coroutine = _await(future)
        if kwargs.get("name") is None:
            self._named += 1
            kwargs["name"] = f"task-{self._named}"
        task: RunTask[T] = RunTask(coroutine, loop=self, **kwargs)  # type: ignore[arg-type]  # asyncio takes generators too
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001  # a run may close with open tasks
        if len(self.tasks) >= self._prune_at:  # amortised: a run with many tasks is not scanned every turn
            self.tasks = self.open_tasks()
            self._prune_at = max(64, 2 * len(self.tasks))
        self.tasks.append(task)
        if future is not None:  # a task that is cancelled before its first step does not come to await it
            task.add_done_callback(lambda task: task.cancelled() and future.cancel())
        return task

    def open_tasks(self) -> list[RunTask[Any]]:
        """Return the tasks that are not done, oldest first."""
        return [task for task in self.tasks if not task.done()]

    get_debug = staticmethod(bool)
    """Never: debug mode would read the clock. Asked for every future and task, hence without a frame of Python."""

    def is_running(self) -> bool:
        """Whether a turn is in progress."""
        return asyncio_events._get_running_loop() is self  # noqa: SLF001

    def is_closed(self) -> bool:
        """Run loops are never closed; they are dropped with their run."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Ignore: asyncio reports unretrieved exceptions here from finalizers, at a moment no replay can repeat."""

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        """Refuse: another thread cannot be part of a turn."""
        del callback, args, context
        self.host.violation("a thread called back into a workflow; do the work in an activity")

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> NoReturn:  # type: ignore[override]
        """Refuse: threads do not replay."""
        del executor, func, args
        self.host.violation("a workflow may not use threads (run_in_executor, to_thread); call an activity")


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refuse(self: RunLoop, *args: Any, **kwargs: Any) -> NoReturn:
        del args, kwargs
        self.host.violation(
            f"a workflow may not use loop.{name}(): its event loop only replays; do input and output in an activity"
        )

    return refuse


for _name in dir(asyncio.AbstractEventLoop):
    if not _name.startswith("_") and _name not in vars(RunLoop):
        setattr(RunLoop, _name, _refuse(_name))


def _iterated(generator: generators.Generator) -> None:
    loop = running()
    if loop is not None:
        if loop.generators is None:
            loop.generators = generators.Generators()
        loop.generators.add(generator)


def _abandoned(generator: generators.Generator) -> None:
    loop, home = running(), generators.home(generator)
    if home is not None and loop is not None and loop.generators is home:
        home.close(generator, loop.create_task)
    elif home is not None:
        home.keep(generator)


async def _await(future: asyncio.Future[T]) -> T:
    return await future


def running() -> RunLoop | None:
    """Return the loop of the turn that this thread is in the middle of, if it is in one."""
    still = _here.still
    return still.turn if still is not None else None


def turning(around: asyncio.AbstractEventLoop) -> RunLoop | None:
    """Return the loop of the turn that goes on in the thread of the event loop ``around``; called from any thread."""
    still = _still.get(around)
    return still.turn if still is not None else None
