"""The database's clock, as this process knows it between two heartbeats.

What lives here: an offset on the monotonic clock. What must not: the wall clock
of the machine, which decides nothing. The lease thread sets it, turns read it.
"""

import time

from perdure.model.events import Microseconds

_monotonic_ns = time.monotonic_ns  # as it is before `guard` wraps it: this is asked several times a turn


class StoreClock:
    """Tells the store's time in microseconds."""

    def __init__(self) -> None:
        self._offset = 0

    def set(self, now: Microseconds, asked_at: int, answered_at: int) -> None:
        """Take the store's time from an answer; both moments are `time.monotonic_ns` readings around the call."""
        self._offset = now - (asked_at + answered_at) // 2_000

    def now(self) -> Microseconds:
        """Return the store's time."""
        return _monotonic_ns() // 1_000 + self._offset
