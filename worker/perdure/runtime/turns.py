"""When turns are taken, and what each one is recorded with.

What lives here: the queue of runs that are ready for a turn, how much of what came a turn takes, and the header. What
must not: the turn. `tenure` owns one queue; `execution` and `beginning` call.
"""

import asyncio
import contextvars
import logging
import sys
from collections import deque
from collections.abc import Callable, Sequence

from perdure.engine.flags import CURRENT
from perdure.engine.loop import Stillness
from perdure.model.codec import payload_size
from perdure.model.events import Incoming, Microseconds, TurnHeader

logger = logging.getLogger("perdure.worker")

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
SLICE = 24
"""Turns between two looks of the event loop at its connections, so that a write comes and goes while others compute."""

FEW = 8
MOST_INCOMING = 16 * 1024 * 1024
"""Bytes of payloads after which a turn takes no more of what came, looked at only when more than a few things came."""

_FLAGS = int(CURRENT)


def header(worker: str, build: str, time: Microseconds) -> TurnHeader:
    """Return the header of a turn that this worker takes now."""
    return TurnHeader(time=time, build=build, python=PYTHON, flags=_FLAGS, worker=worker)


def take(incoming: deque[Incoming]) -> Sequence[Incoming]:
    """Take what came out of ``incoming``, or as much of it as one turn may record."""
    taken: list[Incoming] = []
    if len(incoming) <= FEW:
        taken += incoming
        incoming.clear()
        return taken
    size = 0
    while incoming and size < MOST_INCOMING:
        taken.append(incoming.popleft())
        size += payload_size(taken[-1])
    return taken


class TurnQueue:
    """Runs that are ready for a turn, first come, first served. ``on_pause`` is called after every few turns."""

    def __init__(self) -> None:
        self.on_pause: Callable[[], None] = lambda: None
        self.busy = False
        """Whether turns are being taken just now, so that `on_pause` follows."""
        self._ready: deque[Callable[[], None]] = deque()
        self._context = contextvars.copy_context()
        """Not that of an attempt that asks for a turn: others would inherit it, and it would live on."""
        self.loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._ready)

    def add(self, take_turn: Callable[[], None]) -> None:
        """Call ``take_turn`` soon."""
        if not self._ready:
            self.loop.call_soon(self._take_some, context=self._context)
        self._ready.append(take_turn)

    def _take_some(self) -> None:
        self.busy = True
        try:
            with Stillness():
                for _ in range(min(SLICE, len(self._ready))):
                    take_turn = self._ready[0]
                    try:
                        take_turn()
                    except Exception:
                        logger.exception("a run could not take its turn")
                    finally:
                        self._ready.popleft()
        finally:  # whatever happens to one of them, the others go on
            self.busy = False
            if self._ready:
                self.loop.call_soon(self._take_some, context=self._context)
            self.on_pause()
