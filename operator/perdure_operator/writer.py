"""The one way by which statuses reach the API server.

What lives here: `StatusWriter`, which sends what `outbox` says is due and deals with the answers. What must not: what a
status says. `controller` and `sync` hand statuses in; `sync` collects the numbers of the changes that are settled.

A write names the UID and the version of the object that it is meant for, so it can neither land on a new object of the
same name nor undo what another operator wrote. It starts only while `Mandate.remaining` says that it will end before
the Lease can expire.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from .cluster import Cluster, ClusterError, Gone, Mismatch, Written
from .objects import Known, Objects
from .outbox import Letter, Outbox, TokenBucket
from .settings import Settings
from .status import Status, canonical, render

logger = logging.getLogger("perdure.operator")

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 30.0


class Mandate(Protocol):
    """The right to write."""

    def remaining(self) -> float:
        """Return for how many seconds a write may still be begun."""


class StatusWriter:
    """Writes statuses: the last one of each object, paced, rate-limited, over a few connections."""

    def __init__(self, cluster: Cluster, objects: Objects, mandate: Mandate, settings: Settings) -> None:
        self._cluster = cluster
        self._objects = objects
        self._mandate = mandate
        self._timeout = settings.lease * 0.3
        self._outbox = Outbox(settings.hold_back)
        self._bucket = TokenBucket(settings.status_rate, settings.status_burst)
        self._places = asyncio.Semaphore(settings.connections)
        self._wake = asyncio.Event()
        self._settled: set[int] = set()
        self._outage = 0
        self._paused_until = 0.0
        self._trouble = ""
        self._answered = 0
        self.on_settled = asyncio.Event()
        self.on_written: Callable[[Known, Mapping[str, Any], Mapping[str, Any]], None] = lambda *_: None
        """Told of each status that was written, with the one before it."""

    @property
    def struggling(self) -> int:
        """How many statuses were refused and wait for another try."""
        return self._outbox.struggling

    @property
    def waiting(self) -> int:
        """How many statuses wait to be written or are being written."""
        return len(self._outbox)

    @property
    def trouble(self) -> str:
        """Why statuses cannot be written, as far as some wait for it, and not for a reason of their own."""
        return self._trouble if self.struggling else ""

    def put(self, uid: str, status: Status, numbers: Iterable[int] = ()) -> None:
        """Write this status of the object unless a newer one comes first; settle the numbers when that is done."""
        known = self._objects.get(uid)
        if known is None:
            self._settle(numbers)
            return
        if known.final and status.fields.get("phase") != known.status().get("phase"):
            # The database was restored from before the end. What came of the run is known, and stays on the object.
            self._settle(numbers)
            return
        self._outbox.put(uid, status, numbers, time.monotonic(), known.written_at)
        self._wake.set()

    def forget(self, uid: str) -> None:
        """Drop what waits for an object that is gone."""
        self._settle(self._outbox.drop(uid))

    def settled(self) -> list[int]:
        """Return the numbers whose statuses are on their objects, or have none to be on; each only once."""
        settled, self._settled = self._settled, set()
        return sorted(settled)

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                await self._places.acquire()
                letter, pause = self._next()
                if letter is not None:
                    group.create_task(self._deliver(letter))
                    continue
                self._places.release()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()

    def _next(self) -> tuple[Letter | None, float | None]:
        """Return the next letter that changes something, or how long there is nothing to do."""
        now = time.monotonic()
        if self._mandate.remaining() <= 0:
            return None, 0.2
        pause = max(self._paused_until - now, self._bucket.delay(now))
        if pause > 0:
            return None, pause
        while (letter := self._outbox.take(now)) is not None:
            known = self._objects.get(letter.uid)
            if known is not None and canonical(self._rendered(known, letter)) != known.recorded:
                self._bucket.spend()
                return letter, None
            self._done(letter)
        due = self._outbox.next_due()
        return None, None if due is None else max(0.0, due - now)

    async def _deliver(self, letter: Letter) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                delivered = await self._write(letter)
        except TimeoutError:
            self._try_again(letter, ClusterError(0, f"the API server did not answer within {self._timeout:g} s"))
        except ClusterError as error:
            self._try_again(letter, error)
        except Exception as error:  # one object that the operator cannot deal with must not stop the others
            logger.exception("writing the status of %s failed", letter.uid)
            self._try_again(letter, ClusterError(-1, repr(error)))
        else:
            self._outage = 0
            self._answered += 1
            self._trouble = ""
            if delivered:
                self._done(letter)
            else:
                self._outbox.put_back(letter, 0.0)
        finally:
            self._places.release()
            self._wake.set()

    async def _write(self, letter: Letter) -> bool:
        """Write once; False if the object was not as expected and it should be tried on what it is now."""
        known = self._objects.get(letter.uid)
        if known is None:
            return True
        status = self._rendered(known, letter)
        known.sent = canonical(status)
        version, before = known.version, known.status()
        answer = await self._cluster.write_status(
            known.namespace, known.name, known.uid, version=version, status=status
        )
        match answer:
            case Written(status=recorded, version=newer):
                known.record(recorded, newer)
                known.final = known.finished
                known.written_at = time.monotonic()
                self.on_written(known, before, recorded)
                return True
            case Gone():
                self._objects.remove(letter.uid)
                return True
            case Mismatch():
                return await self._look(known, version)

    async def _look(self, known: Known, version: int) -> bool:
        """Find out why a patch was refused; True if there is nothing to be done about it."""
        body = await self._cluster.read(known.namespace, known.name, known.uid)
        if body is None:
            self._objects.remove(known.uid)
            return True
        self._objects.see(body)
        if known.version == version:
            logger.error(
                "the API server refuses the status of %s/%s; apply the CustomResourceDefinitions of this release",
                known.namespace,
                known.name,
            )
            return True
        return False

    def _rendered(self, known: Known, letter: Letter) -> dict[str, object]:
        return render(letter.status, known.status(), datetime.now(UTC))

    def _try_again(self, letter: Letter, error: ClusterError) -> None:
        """Put a letter back: everything waits when the API server cannot be reached, else this object alone."""
        now = time.monotonic()
        if letter.attempts == 0:
            letter.before = self._answered
        if error.code == 0 or letter.before == self._answered:
            self._trouble = str(error)
        if error.code == 0:
            self._outage += 1
            self._paused_until = now + _backoff(self._outage)
        pause = max(_backoff(letter.attempts + 1), error.retry_after or 0.0)
        if letter.attempts == 0:
            logger.warning("a status could not be written and is tried again: %s", error)
        self._outbox.put_back(letter, now + pause)

    def _done(self, letter: Letter) -> None:
        self._outbox.written(letter)
        self._settle(letter.numbers)

    def _settle(self, numbers: Iterable[int]) -> None:
        self._settled.update(numbers)
        if self._settled:
            self.on_settled.set()


def _backoff(attempt: int) -> float:
    """Return a random pause that grows with the attempts, so that operators and objects do not march in step."""
    return random.uniform(0.5, 1.0) * min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt, 16))
