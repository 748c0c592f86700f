"""The database's clock, as this process knows it between two heartbeats.

What lives here: an offset on the monotonic clock. What must not: the wall clock
of the machine, which decides nothing. The lease thread sets it, turns read it.
"""

import time

from perdure.model.events import Microseconds

# As they are before `guard` wraps them: these are asked several times a turn, outside of it.
monotonic = time.monotonic
monotonic_ns = time.monotonic_ns

DRIFT = 1_000
"""Two clocks part by one microsecond in this many, at most."""


class StoreClock:
    """Tells the store's time in microseconds.

    What a reading is worth is half the time that it took. One that was held up on its way could shift the clock by
    seconds and make timers fire early, so it counts only when it is better than the one before has become by now.
    """

    def __init__(self) -> None:
        self._offset = 0
        self._error: float = float("inf")
        self._set_at = 0

    def set(self, now: Microseconds, asked_at: int, answered_at: int) -> None:
        """Take the store's time from an answer; both moments are `time.monotonic_ns` readings around the call."""
        offset = now - (asked_at + answered_at) // 2_000
        error = (answered_at - asked_at) / 2_000
        kept = self._error + (answered_at - self._set_at) / 1_000 / DRIFT
        # Readings that exclude each other mean that the store's clock was set, or that it is another server.
        if error <= kept or abs(offset - self._offset) > error + kept:
            self._offset, self._error, self._set_at = offset, error, answered_at

    def now(self) -> Microseconds:
        """Return the store's time."""
        return monotonic_ns() // 1_000 + self._offset
