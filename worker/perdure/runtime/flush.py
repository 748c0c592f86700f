"""Group commit: every turn that is ready while a write is in flight goes out with the next one.

What lives here: the queue of commits and the one loop that writes it. What must
not: knowledge of what a commit means. Executions submit, and are called back
with the answer. There is no timer: when nothing is in flight, commits go out as
soon as two thirds of the turns that are ready have been taken.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from perdure.errors import LeaseLostError, PayloadError, StoreError
from perdure.model.runs import Commit, Committed, Lease
from perdure.store.base import CommitRefusedError, Store
from perdure.telemetry.tally import Tally

from .turns import TurnQueue

logger = logging.getLogger("perdure.worker")

Answer = Committed | PayloadError

BATCH = 500
"""Most commits in one call of the store; the store cuts by bytes."""


class Flusher:
    """Writes the commits of all runs of this worker, in step with the ``turns`` that they come from."""

    def __init__(self, store: Store, lease: Lease, turns: TurnQueue, tally: Tally, on_lost: Callable[[], None]) -> None:
        self._store = store
        self._tally = tally
        self._lease = lease
        self._turns = turns
        turns.on_pause = self.write_if_enough
        self._on_lost = on_lost
        self._waiting: deque[tuple[Commit, Callable[[Answer], None]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def submit(self, commit: Commit, answered: Callable[[Answer], None]) -> None:
        """Write ``commit`` with the next flush, then call ``answered``; never called when the lease is lost."""
        if self._stopped:
            return
        self._waiting.append((commit, answered))
        self.write_if_enough()

    def write_if_enough(self) -> None:
        """Begin to write, unless a write is in flight or more is about to come. Called again as turns are taken."""
        if self._waiting and self._task is None and not self._stopped and self._enough():
            self._task = self._loop.create_task(self._write_all(), name="perdure-flush")

    async def stop(self) -> None:
        """Forget what waits and let go of what is in flight."""
        self._stopped = True
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _enough(self) -> bool:
        """Whether to write now: two thirds of the turns at hand are taken, and the others compute during the write."""
        return len(self._waiting) >= 2 * len(self._turns)

    async def _write_all(self) -> None:
        try:
            while self._waiting and self._enough() and not self._stopped:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                await self._write(batch)
                if self._waiting:
                    # What the answers have set in motion counts too: activities that end at once are turns in a moment.
                    await asyncio.sleep(0)
        except Exception:
            logger.exception("a write failed in a way that nobody foresaw; the worker starts afresh")
            self._lose()
        finally:
            self._task = None

    def _lose(self) -> None:
        self._stopped = True
        self._waiting.clear()
        self._on_lost()

    async def _write(self, batch: list[tuple[Commit, Callable[[Answer], None]]]) -> None:
        commits = [commit for commit, _ in batch]
        answers: list[Answer]
        began = self._loop.time()
        while True:
            try:
                answers = list(await self._store.flush(self._lease, commits))
                break
            except LeaseLostError:
                self._lose()
                return
            except StoreError as error:
                # Repeating is safe, and the lease decides how long it makes sense: when it is lost, stop() ends this.
                logger.warning("%d commits could not be written, trying again: %s", len(commits), error)
                self._tally.store_errors += 1
                await asyncio.sleep(0.5)
            except CommitRefusedError as error:
                answers = [error.refused.get(place) or answer for place, answer in enumerate(error.answers)]  # type: ignore[misc]  # every place has one of the two
                break
        self._tally.flush.observe(self._loop.time() - began)
        self._tally.turns += len(commits) - [commit.turn for commit in commits].count(None)
        for (_, answered), answer in zip(batch, answers, strict=True):
            answered(answer)
