"""How long a write takes beside what this process computes for the runs that it writes.

What lives here: `Pace`. What must not: clocks; times are arguments. `flush` keeps one, to decide whether groups of runs
are worth their writes.
"""

from typing import Final

ENOUGH: Final = 8
"""Writes after which the numbers mean something."""
WEIGHT: Final = 0.125
"""Of the newest write in the averages."""


class Pace:
    """Averages over the last writes, each weighing less the older it is."""

    def __init__(self) -> None:
        self._writes = 0
        self._write = 0.0
        self._turn = 0.0

    def wrote(self, commits: int, seconds: float, computed: float) -> None:
        """Take note of a write, and of the seconds of the processor that this thread used since the write before."""
        weight = max(WEIGHT, 1 / (self._writes + 1))
        self._writes += 1
        self._write += weight * (seconds - self._write)
        self._turn += weight * (computed / commits - self._turn)

    def outlasts(self, moving: int) -> bool:
        """Whether a write takes longer than the turns of so many runs."""
        return self._writes >= ENOUGH and self._write > moving * self._turn
