"""Group commit: every turn that is ready while a write is in flight goes out with the next one.

What lives here: the queue of commits and when it is written. What must not: knowledge of what a commit means.
Executions submit, and are called back with the answer.

There is no timer. Under load the runs fall into two groups: while the turns of one are being written, the other
computes. A write waits until its group is complete, so that groups stay whole, and takes two thirds of all that moves
at most, so that they become equal. It goes out before the group that was written last is told of it, so that the
database has work meanwhile. Where a write takes longer than the turns of all runs, they are one group: with two, each
run would wait for both writes.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from time import thread_time

from perdure.ending import end
from perdure.errors import LeaseLostError, PayloadError, StoreError
from perdure.model.runs import Commit, Committed
from perdure.model.workers import Lease
from perdure.store.base import CommitRefusedError, ServerChangedError, Store
from perdure.telemetry.tally import Tally

from .pace import Pace
from .turns import SLICE, TurnQueue

logger = logging.getLogger("perdure.worker")

Answer = Committed | PayloadError
Answered = Callable[[Answer], None]

BATCH = 500
"""Most commits in one call of the store; the store cuts by bytes."""
CROWD = 24
"""Fewer runs than these move as one group: two would be twice the commits."""
FEW = 8
"""Fewer commits than these do not make a group of their own in a crowd either."""
PATIENCE = 0.01
"""Seconds for which a group may become complete: turns that are replayed take longer than others."""
STALL = 300.0
"""Seconds without an answer after which something is wrong that nobody foresaw: the lease is renewed all the while."""


class Flusher:
    """Writes the commits of all runs of this worker, in step with the ``turns`` that they come from."""

    def __init__(self, store: Store, lease: Lease, turns: TurnQueue, tally: Tally, on_lost: Callable[[], None]) -> None:
        self._store = store
        self._tally = tally
        self._lease = lease
        self._turns = turns
        turns.on_pause = self._go_on
        self.confirm: Callable[[Lease], Awaitable[Lease]]
        """Make sure that another server knows what this worker does; raises `LeaseLostError` when it does not."""
        self._on_lost = on_lost
        self._waiting: deque[tuple[Commit, Answered]] = deque()
        self._in_flight = 0
        self.starting = 0
        """Runs of this worker that took their first turn and whose start is not recorded yet."""
        self._untold: list[tuple[Answered, Answer]] = []
        self.pace = Pace()
        """Whether groups are worth their writes."""
        self._computed = thread_time()
        self._loop = asyncio.get_running_loop()
        self._since = 0.0
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def submit(self, commit: Commit, answered: Callable[[Answer], None]) -> None:
        """Write ``commit`` with the next flush, then call ``answered``; never called when the lease is lost."""
        if self._stopped:
            return
        if not self._waiting and not self._untold:
            self._since = self._loop.time()
        self._waiting.append((commit, answered))
        if not self._turns.busy:
            self._go_on()

    def takes_along(self, starts: int) -> bool:
        """Whether turns are about to be written with which so many starts should go.

        Some wait, or so many are under way that more will; many starts make a group of their own.
        """
        return bool(self._waiting) or starts < FEW <= self._moving - self.starting

    @property
    def stalled(self) -> bool:
        """Whether there is something to write or to tell, and nothing has been written for long."""
        pending = self._task is not None or self._waiting or self._untold
        return bool(pending) and self._loop.time() - self._since >= STALL

    async def stop(self) -> None:
        """Forget what waits and let go of what is in flight."""
        self._forget()
        await end([self._task])

    @property
    def _moving(self) -> int:
        """How many runs wait for their turn, for a write, or for its answer."""
        return len(self._turns) + len(self._waiting) + self.starting + self._in_flight + len(self._untold)

    def _go_on(self) -> None:
        """Write, or tell what was written, if it is time. Called again whenever turns have been taken."""
        if self._task is not None or self._stopped or not self._complete():
            return
        # Starts go along with turns, never without: they make a group of a few turns, and none of no turn.
        small = not self._waiting or len(self._waiting) + self.starting < FEW or not self._crowded(self._moving)
        if self._untold and small:
            self._tell(self._take_untold())
            if self._waiting:
                # What the answers have set in motion counts too: activities that end at once are turns in a moment.
                self._loop.call_soon(self._go_on)
        elif self._waiting:
            self._task = self._loop.create_task(self._write(), name="perdure-flush")

    def _complete(self) -> bool:
        """Whether no more has to come before the next write."""
        if not self._turns or len(self._waiting) + self.starting >= self._group():
            return True
        return self._loop.time() - self._since >= PATIENCE

    def _group(self) -> int:
        moving = self._moving
        return 2 * moving // 3 if self._crowded(moving) else moving

    def _crowded(self, moving: int) -> bool:
        """Whether so many runs move in groups, of which some compute while others are being written."""
        return moving >= CROWD and not self.pace.outlasts(moving)

    def _take_untold(self) -> list[tuple[Answered, Answer]]:
        untold, self._untold = self._untold, []
        return untold

    def _tell(self, untold: list[tuple[Answered, Answer]]) -> None:
        """Tell the answers; those of a crowd in slices, each when what the one before set in motion has begun.

        A run that closes is followed by the start of another: so starts, too, go out in several groups.
        """
        try:
            some = SLICE if self._crowded(len(untold)) else len(untold)
            for answered, answer in untold[:some]:
                if not self._stopped:
                    answered(answer)
            if len(untold) > some:
                self._loop.call_soon(self._tell, untold[some:])
        except Exception:
            logger.exception("an answer was taken in a way that nobody foresaw; the worker starts afresh")
            self._lose()

    def _forget(self) -> None:
        self._stopped = True
        self._waiting.clear()
        self._untold.clear()

    def _lose(self) -> None:
        self._forget()
        self._on_lost()

    async def _write(self) -> None:
        began = self._loop.time()
        batch = [self._waiting.popleft() for _ in range(min(BATCH, self._group(), len(self._waiting)))]
        self._in_flight = len(batch)
        if self._untold:
            self._loop.call_soon(self._tell, self._take_untold())  # as soon as the statement has gone out
        try:
            answers = await self._flush([commit for commit, _ in batch])
        except LeaseLostError:
            self._lose()
        except Exception:
            logger.exception("a write failed in a way that nobody foresaw; the worker starts afresh")
            self._lose()
        else:
            self._untold = [(answered, answer) for (_, answered), answer in zip(batch, answers, strict=True)]
            self._take_time(len(batch), began)
        finally:
            self._in_flight = 0
            self._since = self._loop.time()
            self._task = None
        self._go_on()

    def _take_time(self, commits: int, began: float) -> None:
        before, self._computed = self._computed, thread_time()
        if commits >= FEW:
            self.pace.wrote(commits, self._loop.time() - began, self._computed - before)

    async def _flush(self, commits: Sequence[Commit]) -> Sequence[Answer]:
        began = self._loop.time()
        answers: Sequence[Answer]
        doubtful = False
        while True:
            try:
                if doubtful:
                    self._lease = await self.confirm(self._lease)
                answers = await self._store.flush(self._lease, commits)
                break
            except LeaseLostError:
                raise
            except ServerChangedError:
                doubtful = True
            except StoreError as error:
                # Repeating is safe, and the lease decides how long it makes sense: when it is lost, stop() ends this.
                logger.warning("%d commits could not be written, trying again: %s", len(commits), error)
                self._tally.store_errors += 1
                self._since = self._loop.time()
                await asyncio.sleep(0.5)
            except CommitRefusedError as error:
                answers = [error.refused.get(place) or answer for place, answer in enumerate(error.answers)]  # type: ignore[misc]  # every place has one of the two
                break
        self._tally.flush.observe(self._loop.time() - began)
        self._tally.turns += len(commits) - [commit.turn for commit in commits].count(None)
        return answers
