"""Objects that have outlived their run by as long as they were told to are deleted.

What lives here: `Expiry`. What must not: what a time to live is (`objects`), or anything about the run: it stays in the
database, and its object is not deleted before the database says that it has closed. `main` runs it during a term.

A deletion names the UID and the version that were seen, so that it can hit neither a new object of the same name nor
one whose time to live was changed meanwhile. It is begun only while the Lease is ours, as every write.
"""

import asyncio
import logging
import time
from collections.abc import Sequence

from perdure.errors import PerdureError

from .cluster import ClusterError
from .objects import Known
from .outbox import TokenBucket
from .parts import Parts

logger = logging.getLogger("perdure.operator")

LOOK = 1.0
AFTER_TROUBLE = 10.0
AFTER_REFUSAL = 60.0
"""Seconds until an object is tried again that may not be deleted, by an admission policy or for want of a right."""
BATCH = 100


class Expiry:
    """Deletes objects whose time to live is over, at the pace of status writes."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._bucket = TokenBucket(parts.settings.status_rate, parts.settings.status_burst)
        self._spared: dict[str, float] = {}

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            now, pause = time.time(), LOOK
            self._spared = {uid: until for uid, until in self._spared.items() if until > now}
            due = [
                known
                for known in self._parts.objects
                if known.expires_at is not None and known.expires_at <= now and known.uid not in self._spared
            ]
            try:
                for start in range(0, len(due), BATCH):
                    await self._delete(due[start : start + BATCH])
            except PerdureError as error:
                self._parts.database.failed(error)
                logger.warning("%d objects whose time is over cannot be deleted yet: %s", len(due), error)
                pause = AFTER_TROUBLE
            await asyncio.sleep(pause)

    async def _delete(self, batch: Sequence[Known]) -> None:
        store = await self._parts.database.store()
        runs = {run.key: run for run in await store.by_key([known.uid for known in batch])}
        for known in batch:
            run = runs.get(known.uid)
            if run is not None and not run.state.closed:
                continue  # its status is not what it should be, and is mended
            await asyncio.sleep(self._bucket.delay(time.monotonic()))
            if self._parts.election.remaining() <= 0:
                return
            self._bucket.spend()
            try:
                deleted = await self._parts.cluster.delete(known.namespace, known.name, known.uid, known.version)
            except ClusterError as error:
                if error.code == 0:
                    raise
                self._spared[known.uid] = time.time() + AFTER_REFUSAL
                logger.warning("an object whose time is over cannot be deleted yet: %s", error)
                continue
            if deleted:
                logger.info("%s/%s has outlived its run for long enough and is deleted", known.namespace, known.name)
                self._parts.controller.see_gone(known.uid, known.namespace, known.name)
            else:
                await self._look(known)

    async def _look(self, known: Known) -> None:
        """Learn what has become of an object that is not as it was known."""
        body = await self._parts.cluster.read(known.namespace, known.name, known.uid)
        if body is None:
            self._parts.controller.see_gone(known.uid, known.namespace, known.name)
        else:
            self._parts.controller.see(body)
