"""What a worker counts: plain numbers, added to where the work is done and read by whoever shows them.

What lives here: `Tally` and the sum of several. What must not: names and formats of those who read it (`prometheus`),
locks, anything that takes time: the hottest line here is reached once an activity. `runtime` adds; `cli` reads.

A number is changed by the event loop alone. A reader in another thread copies the whole with `Tally.copy`, which the
interpreter does in one go. The keys of every mapping are names in the code of the worker or of Perdure, so that there
are never more of them than somebody wrote down.
"""

from bisect import bisect_left
from collections.abc import Iterable
from functools import reduce
from typing import Any

import msgspec

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)
"""Upper bounds of the buckets of every `Histogram`, in seconds; the last bucket has none."""
FASTEST = BOUNDS[0]


class Histogram(msgspec.Struct):
    """How long something took: how often it fell into each bucket, and the sum."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[0 if seconds <= FASTEST else bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds


class AttemptCounts(msgspec.Struct):
    """The attempts of one activity that ended, by how they did."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    seconds: Histogram = msgspec.field(default_factory=Histogram)


class Slots(msgspec.Struct):
    """Places for attempts of one kind: how many there are, are taken, and are waited for."""

    places: int = 0
    running: int = 0
    waiting: int = 0


class Now(msgspec.Struct):
    """How things stand at this moment. ``ready`` has the processes that take work, by the build of their code."""

    ready: dict[str, int] = {}
    runs: int = 0
    slots: dict[str, Slots] = {}


class Tally(msgspec.Struct):
    """Everything that one worker process has counted since it started, and `Now`."""

    turns: int = 0
    flush: Histogram = msgspec.field(default_factory=Histogram)
    claims: int = 0
    recovered: int = 0
    leases_lost: int = 0
    store_errors: int = 0
    attempts: dict[str, AttemptCounts] = {}
    closed: dict[str, dict[str, int]] = {}
    """By workflow, then by outcome."""
    held: dict[str, int] = {}
    """By reason."""
    now: Now = msgspec.field(default_factory=Now)

    def copy(self) -> "Tally":
        """Return these numbers as they are now; safe in any thread."""
        return msgspec.msgpack.decode(msgspec.msgpack.encode(self), type=Tally)

    def past(self) -> "Tally":
        """Return what is left of them when the process has ended: how things stood does not count any more."""
        return msgspec.structs.replace(self, now=Now())


def total(tallies: Iterable[Tally]) -> Tally:
    """Return the sum of several processes."""
    return reduce(_sum, tallies, Tally())


def _sum(one: Any, other: Any) -> Any:
    if isinstance(one, msgspec.Struct):
        return type(one)(*(_sum(getattr(one, name), getattr(other, name)) for name in one.__struct_fields__))
    if isinstance(one, dict):
        both = one.keys() & other.keys()
        return {**one, **other, **{key: _sum(one[key], other[key]) for key in both}}
    if isinstance(one, list):
        return [left + right for left, right in zip(one, other, strict=True)]
    return one + other
