"""Waiting for runs to close: one watcher for a whole process.

What lives here: the futures of those who wait, and the one loop that asks for
all of them at once. What must not: decoding of results. The client owns one;
a worker beside it reports closed runs from memory, without a statement.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from perdure.ending import end
from perdure.errors import PayloadError, StoreError, WorkflowNotFoundError
from perdure.model.events import ClosedFromOutside, Closing, Unreadable
from perdure.model.hints import Hint
from perdure.model.runs import RunId
from perdure.store.base import ReadStore

logger = logging.getLogger("perdure.client")

Outcome = Closing | ClosedFromOutside

SHORTEST = 0.02
LONGEST = 1.0
"""Seconds between two looks: from the first to the last, doubling while nothing closes."""
SHARE = 0.25
"""The most of its time that the watcher spends on looks which hints ask for: they come in swarms."""


class Watcher:
    """Tells when runs close."""

    def __init__(self, store: ReadStore) -> None:
        self._store = store
        self._waiting: dict[RunId, dict[asyncio.Future[Outcome], str]] = {}
        """Who waits for a run, and of which instance they think that it is."""
        self._near: set[RunId] = set()
        self._told: set[RunId] = set()
        """Runs to look for now: somebody said that they closed, or nobody has looked yet."""
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.loop = asyncio.get_running_loop()

    async def outcome(self, instance: str, run_id: RunId, *, open_at: float | None = None) -> Outcome:
        """Wait until the run of the instance closes and return its last event.

        Raises `WorkflowNotFoundError` when there is no such run (any more); another instance may have its number, where
        a server took over that had not heard of it.
        ``open_at`` is when it was open for sure, in seconds of the event loop: nobody looks until a little later.
        """
        loop = self.loop
        future: asyncio.Future[Outcome] = loop.create_future()
        waiting = self._waiting.setdefault(run_id, {})
        waiting[future] = instance
        if open_at is None or open_at + SHORTEST <= loop.time():
            self._look_for(run_id)
        elif run_id not in self._near:
            loop.call_at(open_at + SHORTEST, self._look_for, run_id)
        try:
            return await future
        finally:
            del waiting[future]
            if not waiting and self._waiting.get(run_id) is waiting:
                del self._waiting[run_id]

    def near(self, run_id: RunId) -> None:
        """Take note that a worker of this process has the run, and will most likely say when it closes."""
        self._near.add(run_id)

    def far(self, run_id: RunId) -> None:
        """Take note that the run has left this process and is still open: only the store can tell."""
        self._near.discard(run_id)
        self._look_for(run_id)

    def closed(self, run_id: RunId, outcome: Outcome) -> None:
        """Take note that a run closed."""
        self._near.discard(run_id)
        for future in self._waiting.pop(run_id, ()):
            if not future.done():
                future.set_result(outcome)

    def awaits(self, run_id: RunId) -> bool:
        """Tell whether somebody here waits for the run."""
        return run_id in self._waiting

    def on_hint(self, hint: Hint) -> None:
        """Look now for the runs that closed somewhere, if somebody waits for them."""
        for run_id in hint.closed:
            self._look_for(run_id)

    async def stop(self) -> None:
        """Stop watching; those who wait are cancelled."""
        await end([self._task])
        for future in [future for waiting in self._waiting.values() for future in waiting]:
            future.cancel()

    def _far(self) -> list[RunId]:
        return [run_id for run_id in self._waiting if run_id not in self._near]

    def _look_for(self, run_id: RunId) -> None:
        if run_id in self._waiting and run_id not in self._near:
            self._told.add(run_id)
            self._news.set()
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._watch(), name="perdure-watcher")

    async def _watch(self) -> None:
        """Look for what hints tell, and for everything now and then: less and less often, while that finds nothing."""
        loop = self.loop
        pause = SHORTEST
        all_at = loop.time() + pause
        while True:
            if not self._far():
                await self._news.wait()
                pause = SHORTEST
                all_at = loop.time() + pause
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(all_at):
                    await self._news.wait()
            self._news.clear()
            began_at = loop.time()
            told, self._told = self._told, set()
            everything = began_at >= all_at
            try:
                found = await self._look([run_id for run_id in self._far() if everything or run_id in told])
            except StoreError as error:
                logger.warning("cannot look for results, trying again: %s", error)
                found, everything = True, True
            if everything:
                pause = SHORTEST if found else min(LONGEST, pause * 2)
                all_at = loop.time() + pause
            took = loop.time() - began_at
            await asyncio.sleep(took / SHARE - took)

    async def _look(self, asked: Sequence[RunId]) -> bool:
        """Settle those that have closed; tell whether there are any."""
        if not asked:
            return False
        ended = await self._store.ended(asked)
        for run_id, closed in ended.items():
            if closed is None or closed.id not in self._waiting.get(run_id, {}).values():
                self._fail(run_id, WorkflowNotFoundError(f"run {run_id} is not in the store any more"))
            elif isinstance(closed.outcome, Unreadable):
                self._fail(run_id, PayloadError(f"{closed.id} is closed, but {closed.outcome.reason}"))
            else:
                self.closed(run_id, closed.outcome)
        return bool(ended)

    def _fail(self, run_id: RunId, error: Exception) -> None:
        for future in self._waiting.pop(run_id, ()):
            if not future.done():
                future.set_exception(error)
