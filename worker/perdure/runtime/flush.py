"""Group commit: every turn that is ready while a write is in flight goes out with the next one.

What lives here: the queue of commits and the one loop that writes it. What must
not: knowledge of what a commit means. Executions submit, and are called back
with the answer. There is no timer: when nothing is in flight, a commit goes out
as soon as the event loop has run everything that was ready beside it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from perdure.errors import LeaseLostError, PayloadError, StoreError
from perdure.model.runs import Commit, Committed, Lease
from perdure.store.base import CommitRefusedError, Store

logger = logging.getLogger("perdure.worker")

Answer = Committed | PayloadError

BATCH = 500
"""Most commits in one call of the store; the store cuts by bytes."""


class Flusher:
    """Writes the commits of all runs of this worker."""

    def __init__(self, store: Store, lease: Lease, on_lost: Callable[[], None]) -> None:
        self._store = store
        self._lease = lease
        self._on_lost = on_lost
        self._waiting: deque[tuple[Commit, Callable[[Answer], None]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._scheduled = False
        self._stopped = False
        self._idle = asyncio.Event()
        self._idle.set()

    def submit(self, commit: Commit, answered: Callable[[Answer], None]) -> None:
        """Write ``commit`` with the next flush, then call ``answered``; never called when the lease is lost."""
        if self._stopped:
            return
        self._waiting.append((commit, answered))
        self._idle.clear()
        if not self._scheduled and self._task is None:
            self._scheduled = True
            self._loop.call_soon(self._start)

    async def drain(self) -> None:
        """Wait until nothing is waiting or in flight."""
        await self._idle.wait()

    async def stop(self) -> None:
        """Forget what waits and let go of what is in flight."""
        self._stopped = True
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._idle.set()

    def _start(self) -> None:
        self._scheduled = False
        if not self._stopped and self._task is None:
            self._task = self._loop.create_task(self._write_all(), name="perdure-flush")

    async def _write_all(self) -> None:
        try:
            while self._waiting and not self._stopped:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                await self._write(batch)
        finally:
            self._task = None
            if not self._waiting:
                self._idle.set()

    async def _write(self, batch: list[tuple[Commit, Callable[[Answer], None]]]) -> None:
        commits = [commit for commit, _ in batch]
        answers: list[Answer]
        while True:
            try:
                answers = list(await self._store.flush(self._lease, commits))
                break
            except LeaseLostError:
                self._stopped = True
                self._waiting.clear()
                self._on_lost()
                return
            except StoreError as error:
                # Repeating is safe, and the lease decides how long it makes sense: when it is lost, stop() ends this.
                logger.warning("%d commits could not be written, trying again: %s", len(commits), error)
                await asyncio.sleep(0.5)
            except CommitRefusedError as error:
                answers = [error.refused.get(place) or answer for place, answer in enumerate(error.answers)]  # type: ignore[misc]  # every place has one of the two
                break
        for (_, answered), answer in zip(batch, answers, strict=True):
            answered(answer)
