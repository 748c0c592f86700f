"""What clients ask for, written many at a time: all that comes while one write is in flight goes out with the next.

What lives here: `Gathering`, the queue and the loop that writes it. What must not: what is asked for (`births`,
`deliveries`). There is no timer: what is alone goes out at once.
"""

import asyncio
import struct
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import psycopg

from perdure.ending import end
from perdure.errors import PayloadError, StoreError

BATCH = 500
BATCH_BYTES = 1_000_000

R = TypeVar("R")


@dataclass(slots=True, kw_only=True)
class Ask(ABC, Generic[R]):
    """Something to write, and somebody who waits for the answer."""

    answer: asyncio.Future[R]

    @property
    @abstractmethod
    def size(self) -> int:
        """About how many bytes it adds to a statement."""

    @property
    @abstractmethod
    def refusal(self) -> str:
        """What to say when the database does not take it, before the reason."""

    @property
    def names(self) -> Sequence[Hashable]:
        """What only one of a statement may have."""
        return ()

    @property
    def settled(self) -> bool:
        """Whether there is nothing left to tell."""
        return self.answer.done()

    def settle(self, answer: R) -> None:
        """Answer, if somebody still waits."""
        if not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, error: Exception | None) -> None:
        """Answer with an error; None: the store is closing."""
        if error is None:
            self.answer.cancel()
        elif not self.answer.done():
            self.answer.set_exception(error)


A = TypeVar("A", bound=Ask[Any])


class Gathering(Generic[A]):
    """Hands what is added to ``write``, in order, one batch at a time; ``write`` settles it.

    When a batch cannot be packed, or the database refuses it, each of it is written alone: only what is wrong fails,
    with `PayloadError`.
    """

    def __init__(self, name: str, write: Callable[[Sequence[A]], Awaitable[None]]) -> None:
        self._name = name
        self._write = write
        self._waiting: deque[A] = deque()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    def add(self, ask: A) -> None:
        """Write it soon."""
        self._waiting.append(ask)
        if self._task is None:
            # A task begins with the next round of the event loop: whoever asks in this one comes along.
            self._task = self._loop.create_task(self._write_all(), name=self._name)

    async def close(self) -> None:
        """Let go of what is in flight."""
        await end([self._task])

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                await self._settle(self._next())
        finally:
            self._task = None
            while self._waiting:
                self._waiting.popleft().fail(None)

    async def _settle(self, batch: Sequence[A]) -> None:
        error: Exception | None = None
        try:
            await self._write(batch)
        except StoreError as unavailable:
            error = unavailable  # for all of them
        except Exception as raised:  # noqa: BLE001  # it belongs to those who asked
            if len(batch) > 1:
                for ask in batch:
                    if not ask.settled:
                        await self._settle([ask])
            elif isinstance(raised, psycopg.Error | struct.error):
                error = PayloadError(f"{batch[0].refusal}: {' '.join(str(raised).split())}")
            else:
                error = raised
        finally:
            for ask in batch:
                if not ask.settled:
                    ask.fail(error)

    def _next(self) -> list[A]:
        """Take what one statement can carry."""
        if len(self._waiting) == 1:
            return [self._waiting.popleft()]
        batch: list[A] = []
        size = 0
        names: set[Hashable] = set()
        while self._waiting and len(batch) < BATCH:
            ask = self._waiting[0]
            size += ask.size
            own = ask.names
            if batch and (size > BATCH_BYTES or not names.isdisjoint(own)):
                break
            batch.append(self._waiting.popleft())
            names.update(own)
        return batch
