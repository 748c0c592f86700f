"""What clients ask for, written many at a time: all that comes while one write is in flight goes out with the next.

What lives here: `Gathering`, the queue and the loop that writes it. What must not: what is asked for (`births`,
`deliveries`). There is no timer: what is alone goes out at once.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, Protocol, TypeVar

BATCH = 500
BATCH_BYTES = 1_000_000


class Ask(Protocol):
    """Something to write, and somebody who waits for the answer."""

    @property
    def size(self) -> int:
        """About how many bytes it adds to a statement."""

    @property
    def names(self) -> frozenset[Hashable]:
        """What only one of a statement may have."""

    @property
    def settled(self) -> bool:
        """Whether there is nothing left to tell."""

    def fail(self, error: Exception | None) -> None:
        """Answer with an error; None: the store is closing."""


A = TypeVar("A", bound=Ask)


class Gathering(Generic[A]):
    """Hands what is added to ``write``, in order, one batch at a time; ``write`` settles it."""

    def __init__(self, name: str, write: Callable[[Sequence[A]], Awaitable[None]]) -> None:
        self._name = name
        self._write = write
        self._waiting: deque[A] = deque()
        self._task: asyncio.Task[None] | None = None

    def add(self, ask: A) -> None:
        """Write it soon."""
        self._waiting.append(ask)
        if self._task is None:
            # A task begins with the next round of the event loop: whoever asks in this one comes along.
            self._task = asyncio.create_task(self._write_all(), name=self._name)

    async def close(self) -> None:
        """Let go of what is in flight."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                batch = self._next()
                error: Exception | None = None
                try:
                    await self._write(batch)
                except Exception as raised:  # noqa: BLE001  # it belongs to those who asked
                    error = raised
                finally:
                    for ask in batch:
                        if not ask.settled:
                            ask.fail(error)
        finally:
            self._task = None
            while self._waiting:
                self._waiting.popleft().fail(None)

    def _next(self) -> list[A]:
        """Take what one statement can carry."""
        batch: list[A] = []
        size = 0
        names: set[Hashable] = set()
        while self._waiting and len(batch) < BATCH:
            ask = self._waiting[0]
            if batch and (size + ask.size > BATCH_BYTES or ask.names & names):
                break
            batch.append(self._waiting.popleft())
            size += ask.size
            names |= ask.names
        return batch
