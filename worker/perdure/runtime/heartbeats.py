"""What attempts under way have said last, told to the store.

What lives here: `Heartbeats`, which gathers details and writes those that are new, once a second at most. What must
not: the timeout of a silent attempt, which `attempts` has. `tenure` owns one; attempts note, `tasks` sends before a
retry.
"""

import asyncio
import logging
import threading

from perdure.errors import StoreUnavailableError
from perdure.model.runs import Heartbeat, RunId
from perdure.model.workers import Lease
from perdure.store.base import Store

logger = logging.getLogger("perdure.worker")

PAUSE = 1.0
"""Seconds between two writes: an attempt may say something after every line that it reads."""


class Heartbeats:
    """Details that the next attempt of an activity shall find, also when this worker is gone."""

    def __init__(self, store: Store, lease: Lease) -> None:
        self._store = store
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._lock = threading.Lock()
        self._latest: dict[tuple[RunId, int], bytes] = {}

    def note(self, run_id: int, seq: int, details: bytes) -> None:
        """Write these details soon; called from any thread."""
        with self._lock:
            first = not self._latest
            self._latest[RunId(run_id), seq] = details
        if first:
            self._loop.call_soon_threadsafe(self._news.set)

    async def send(self) -> None:
        """Write what was noted since the last time.

        Raises `StoreUnavailableError`. Then, and when it is cancelled, it is noted still.
        """
        with self._lock:
            latest, self._latest = self._latest, {}
        if not latest:
            return
        try:
            beats = [Heartbeat(run_id, seq, details) for (run_id, seq), details in latest.items()]
            await self._store.heartbeat(self._lease, beats)
        except (StoreUnavailableError, asyncio.CancelledError):
            # The end of this worker cuts off a write, too, and sends what was in it once more.
            with self._lock:
                self._latest = latest | self._latest
            raise

    async def keep_sending(self) -> None:
        """Write until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self.send()
            except StoreUnavailableError as error:
                logger.warning("details of heartbeats cannot be written, trying again: %s", error)
                self._news.set()
            await asyncio.sleep(PAUSE)
