"""The bare core: what a deterministic loop with group commit costs when there is nothing else.

What lives here: an asyncio loop for each run, activities as tasks of the process, one history row a turn, a fence and
group commit. What must not: retries, timeouts, metrics, messages, takeover, cancellation; the difference to Perdure
is the price of those.
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVarTuple, Unpack

import msgspec
import psycopg

from benchmarks.floor import INSERT, Fenced, parameters

Turn = tuple[int, int, bytes]
Ts = TypeVarTuple("Ts")


class CoreLoop(asyncio.AbstractEventLoop):
    """First in, first out; no selector and no clock."""

    def __init__(self) -> None:
        self.ready: deque[asyncio.Handle] = deque()

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Queue a callback."""
        handle = asyncio.Handle(callback, args, self, context)
        self.ready.append(handle)
        return handle

    def get_debug(self) -> bool:
        """Never."""
        return False

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future of this run."""
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task[Any]:
        """Return a task of this run."""
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Let nothing pass unseen."""
        raise RuntimeError(context["message"])

    def run_ready(self) -> None:
        """Run until every task waits, as the running loop."""
        outer = events._get_running_loop()  # noqa: SLF001  # the swap is what an engine is
        task = asyncio.current_task(outer) if outer is not None else None
        if task is not None and outer is not None:
            asyncio.tasks._leave_task(outer, task)  # noqa: SLF001
        events._set_running_loop(self)  # noqa: SLF001
        try:
            while self.ready:
                self.ready.popleft()._run()  # noqa: SLF001
        finally:
            events._set_running_loop(outer)  # noqa: SLF001
            if task is not None and outer is not None:
                asyncio.tasks._enter_task(outer, task)  # noqa: SLF001


current: contextvars.ContextVar[CoreRun] = contextvars.ContextVar("current")


class CoreRun:
    """One run: turns go to the writer, and what a turn asked for starts when it is durable."""

    def __init__(self, number: int, main: Coroutine[Any, Any, int], writer: Writer) -> None:
        self.number = number
        self.seq = 0
        self.loop = CoreLoop()  # type: ignore[abstract]  # what a bare core has no use for
        self.done = asyncio.get_running_loop().create_future()
        self._writer = writer
        self._in_flight = False
        self._events: list[dict[str, Any]] = [{"type": "WorkflowExecutionStarted"}]
        self._wanted: list[tuple[Callable[[int], Coroutine[Any, Any, int]], int, asyncio.Future[Any]]] = []
        context = contextvars.copy_context()
        context.run(current.set, self)
        self._main = self.loop.create_task(main, context=context)
        self.turn()

    def call(self, activity: Callable[[int], Coroutine[Any, Any, int]], value: int) -> asyncio.Future[Any]:
        """Ask for an activity."""
        future = self.loop.create_future()
        self._events.append({"type": "ActivityScheduled", "name": activity.__name__, "input": [value]})
        self._wanted.append((activity, value, future))
        return future

    def turn(self) -> None:
        """Run the code until it waits, and hand the turn to the writer."""
        self._in_flight = True
        self.loop.run_ready()
        if self._main.done():
            self._events.append({"type": "WorkflowExecutionCompleted", "result": self._main.result()})
        self._writer.submit((self.number, self.seq, msgspec.json.encode(self._events)), self._durable)
        self.seq += 1
        self._events = []

    def _durable(self) -> None:
        self._in_flight = False
        if self._main.done():
            self.done.set_result(self._main.result())
            return
        wanted, self._wanted = self._wanted, []
        if self._events:
            self.turn()
        for activity, value, future in wanted:
            task = asyncio.get_running_loop().create_task(activity(value))
            task.add_done_callback(lambda ended, to=future: self._ended(to, ended.result()))  # type: ignore[misc]

    def _ended(self, future: asyncio.Future[Any], result: int) -> None:
        self._events.append({"type": "ActivityCompleted", "result": result})
        future.set_result(result)
        if not self._in_flight:
            self.turn()


class Writer:
    """Group commit: what is ready while a write is in flight goes out with the next."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self._waiting: deque[tuple[Turn, Callable[[], None]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self.flushes = 0

    def submit(self, turn: Turn, durable: Callable[[], None]) -> None:
        """Write a turn, then call back."""
        self._waiting.append((turn, durable))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._write_all())

    async def _write_all(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(500, len(self._waiting)))]
            async with psycopg.AsyncRawCursor(self._connection) as cursor:
                await cursor.execute(INSERT, parameters([turn for turn, _ in batch]), binary=True)
                if await cursor.fetchone() is None:
                    raise Fenced
            self.flushes += 1
            for _, durable in batch:
                durable()
        self._task = None


async def nothing(value: int) -> int:
    """The activity."""
    return value


async def chain(length: int) -> int:
    """The workflow."""
    run, total = current.get(), 0
    for number in range(length):
        total += await run.call(nothing, number)
    return total


async def fan_out(width: int) -> int:
    """The workflow that asks for everything at once."""
    run = current.get()
    return sum(await asyncio.gather(*(run.call(nothing, number) for number in range(width))))
