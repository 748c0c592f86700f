"""The async generators of a run: closed when nobody can go on with them, as in asyncio, but only in turns of the run.

What lives here: whose they are, which are left, and closing them. What must not: when a turn goes on. `loop` hears from
Python of each one that begins or is abandoned; `run` ends those that are left.

The reference that goes last usually goes within a turn, and the generator is closed in that turn. One in a circle of
references is found by the garbage collector, which no replay can repeat: it is kept, and closed at the end of the run.
"""

import asyncio
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

Generator = AsyncGenerator[Any, Any]
Starter = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]

_PRUNE_AT = 64


class Generators:
    """Those of one run that have begun and may not have ended."""

    __slots__ = ("__weakref__", "_closing", "_known", "_prune_at")

    def __init__(self) -> None:
        self._known: dict[int, weakref.ref[Generator] | Generator] = {}
        """By their ids, in the order in which they began. The reference is weak until the collector has come."""
        self._closing: list[asyncio.Task[None]] = []
        self._prune_at = _PRUNE_AT

    def add(self, generator: Generator) -> None:
        """Take note of one that begins."""
        if len(self._known) >= self._prune_at:
            for number, known in list(self._known.items()):
                if isinstance(known, weakref.ref) and known() is None:
                    self._forget(number)
            self._prune_at = max(_PRUNE_AT, 2 * len(self._known))
        self._known[id(generator)] = weakref.ref(generator)
        _homes[id(generator)] = self

    def keep(self, generator: Generator) -> None:
        """Hold on to one that was found outside of a turn."""
        self._known[id(generator)] = generator

    def close(self, generator: Generator, start: Starter) -> None:
        """Close one in a task of its own."""
        self._forget(id(generator))
        self._closing.append(start(generator.aclose()))

    async def end(self, start: Starter) -> None:
        """Close those that are left, oldest first, and wait for all that are being closed."""
        for known in list(self._known.values()):
            generator = known() if isinstance(known, weakref.ref) else known
            if generator is not None:
                self.close(generator, start)
        while self._closing:  # what one of them leaves behind is closed as well
            closing, self._closing = self._closing, []
            await asyncio.gather(*closing, return_exceptions=True)

    def clear(self) -> None:
        """Forget all of them; what is left of them is dropped without running."""
        for number in list(self._known):
            self._forget(number)
        self._closing.clear()

    def _forget(self, number: int) -> None:
        del self._known[number]
        if _homes.get(number) is self:  # not of a later one that has come to lie in the same place
            del _homes[number]


_homes: weakref.WeakValueDictionary[int, Generators] = weakref.WeakValueDictionary()


def home(generator: Generator) -> Generators | None:
    """Return where a generator belongs."""
    return _homes.get(id(generator))
