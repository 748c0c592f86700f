"""Which status goes out when: coalescing, pacing and rate, without doing anything.

What lives here: `Outbox` (last status of an object wins; when it is due) and `TokenBucket`. What must not: I/O, clocks;
what time it is comes as an argument. `writer` asks it.

The rules: a status that tells of an ending or of trouble is due at once. One that is passing waits ``hold_back``
seconds if it is the first of its object, because a short run has something better to say by then, and otherwise until
``hold_back`` after the write before.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from perdure_operator.status import Status


@dataclass(slots=True)
class Letter:
    """A status on its way. ``numbers`` are the status changes that it covers, ``attempts`` the failed tries.

    ``before`` is how many others had been dealt with at the first of them.
    """

    uid: str
    status: Status
    since: float
    due: float
    numbers: set[int] = field(default_factory=set)
    attempts: int = 0
    before: int = 0
    not_before: float = 0.0


class Outbox:
    """Statuses that wait to be written, at most one for each object, and those that are being written."""

    def __init__(self, hold_back: float) -> None:
        self._hold_back = hold_back
        self._waiting: dict[str, Letter] = {}
        self._under_way: set[str] = set()
        self._order: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._waiting) + len(self._under_way)

    @property
    def struggling(self) -> int:
        """How many of those that wait were refused before."""
        return sum(1 for letter in self._waiting.values() if letter.attempts)

    def put(self, uid: str, status: Status, numbers: Iterable[int], now: float, written_at: float | None) -> None:
        """Let this status be the next one of its object, whatever waited until now."""
        letter = self._waiting.get(uid)
        if letter is None:
            letter = self._waiting[uid] = Letter(uid, status, since=now, due=now)
        letter.status = status
        letter.numbers.update(numbers)
        due = now
        if status.passing:
            due = (letter.since if written_at is None else written_at) + self._hold_back
        self._schedule(letter, max(due, letter.not_before))

    def put_back(self, letter: Letter, not_before: float) -> None:
        """Take back what could not be written; a status that came meanwhile goes in its place, no earlier than it."""
        self._under_way.discard(letter.uid)
        letter.attempts += 1
        letter.not_before = not_before
        newer = self._waiting.get(letter.uid)
        if newer is not None:
            newer.numbers |= letter.numbers
            newer.attempts, newer.before, newer.not_before = letter.attempts, letter.before, not_before
            letter = newer
        self._waiting[letter.uid] = letter
        self._schedule(letter, not_before)

    def written(self, letter: Letter) -> None:
        """Take note that a letter has gone out or has become pointless."""
        self._under_way.discard(letter.uid)
        newer = self._waiting.get(letter.uid)
        if newer is not None:
            due = newer.since + self._hold_back if newer.status.passing else newer.due
            self._schedule(newer, due)

    def drop(self, uid: str) -> set[int]:
        """Forget what waits for an object that is gone; return the numbers that this settles."""
        letter = self._waiting.pop(uid, None)
        return letter.numbers if letter is not None else set()

    def take(self, now: float) -> Letter | None:
        """Return the letter that is due first, to be given back by `put_back` or `written`; None if none is due."""
        while self._order and self._order[0][0] <= now:
            due, uid = heapq.heappop(self._order)
            letter = self._waiting.get(uid)
            if letter is None or letter.due != due or uid in self._under_way:
                continue  # an entry of before it was put off, or one that `written` schedules anew
            del self._waiting[uid]
            self._under_way.add(uid)
            return letter
        return None

    def next_due(self) -> float | None:
        """Return when to look again; something may turn out not to be due even then."""
        return self._order[0][0] if self._order else None

    def _schedule(self, letter: Letter, due: float) -> None:
        letter.due = due
        heapq.heappush(self._order, (due, letter.uid))


class TokenBucket:
    """Lets ``rate`` a second through in the long run and ``burst`` at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at = 0.0

    def delay(self, now: float) -> float:
        """Return the seconds until there is a token."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
        return max(0.0, (1 - self._tokens) / self._rate)

    def spend(self) -> None:
        """Take the token that `delay` found."""
        self._tokens -= 1
