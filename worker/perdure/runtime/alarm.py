"""When to look for runs whose time has come.

What lives here: `Alarm`, the moments at which sleeping runs become due. What must not: the runs; a run that sleeps
belongs to nobody, and whoever looks first takes it. `tenure` owns one.
"""

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush

MOST = 10_000
"""Moments that are kept. Who let more runs fall asleep finds those that sleep longest when it looks anyway, which costs
them some seconds; a number for each of a million sleeping runs would cost 32 MB."""


class Alarm:
    """Calls at each moment that it was set to, or a little later, once for all that have come by then."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._moments: list[float] = []
        self._handle: asyncio.TimerHandle | None = None

    @property
    def left(self) -> int:
        """How many moments are to come."""
        return len(self._moments)

    def set(self, delay: float) -> None:
        """Call in ``delay`` seconds, too."""
        moment = self._loop.time() + delay
        heappush(self._moments, moment)
        if len(self._moments) > 2 * MOST:
            self._moments = sorted(self._moments)[:MOST]
        if self._moments[0] == moment:
            self._wind()

    def stop(self) -> None:
        """Forget every moment."""
        self._moments.clear()
        self._wind()

    def _wind(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_at(self._moments[0], self._ring) if self._moments else None

    def _ring(self) -> None:
        now = self._loop.time()
        while self._moments and self._moments[0] <= now:
            heappop(self._moments)
        self._wind()
        self._call()
