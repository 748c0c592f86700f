"""Objects and runs side by side: what events and status changes have missed is found and mended.

What lives here: `Comparison`: the first listing of a term, and the comparison soon after it and every minute from then
on. What must not: decisions about runs. `main` runs it during a term.

Missed are, above all, deletions: those of the time when no operator was there, and those within a gap of the watch, of
which nobody tells. Two orders make the comparison safe. The keys of open runs are read before the objects are listed,
and an object is older than its run: a key without an object in the list had its object deleted. And before a run is
cancelled, its object is asked for once more by name.
"""

import asyncio
import logging

from perdure.client import FullStore
from perdure.errors import PerdureError, StoreError
from perdure.manifest import is_uid

from .cluster import Cluster, ClusterError, Seen
from .controller import Controller
from .database import Database
from .objects import Known, Objects
from .settings import Settings
from .status import project
from .writer import StatusWriter

logger = logging.getLogger("perdure.operator")

CHUNK = 500
SOON = 5.0
"""Seconds from the first listing to the first comparison: the watch has begun by then."""
GRACE = 2.0
"""Seconds that the controller has to work off a page before the next one comes, so that not all specs are in memory at
once; and seconds after which an object that differs from what is known is not one whose event is merely on its way."""


class Comparison:
    """Finds orphans, ghosts, objects without a run and statuses that are not what they should be."""

    def __init__(
        self,
        cluster: Cluster,
        database: Database,
        objects: Objects,
        controller: Controller,
        writer: StatusWriter,
        settings: Settings,
    ) -> None:
        self._cluster = cluster
        self._database = database
        self._objects = objects
        self._controller = controller
        self._writer = writer
        self._namespaces = settings.namespaces
        self._interval = settings.resync

    async def list(self) -> None:
        """See every object once, so that the operator knows what there is before it deals with anything."""
        pause = 0.5
        while True:
            try:
                count = 0
                async for body in self._cluster.objects(self._namespaces):
                    self._controller.see(body)
                    count += 1
                    if count % CHUNK == 0:
                        await self._controller.catch_up(GRACE)
                return
            except ClusterError as error:
                logger.warning("the objects cannot be listed; trying again: %s", error)
            await asyncio.sleep(pause)
            pause = min(10.0, pause * 2)

    async def run(self) -> None:
        """Compare now and then until cancelled. The orphans of the time without an operator are found at once."""
        pause = min(SOON, self._interval)
        while True:
            try:
                await self.compare()
            except PerdureError as error:
                logger.warning("objects and runs cannot be compared; trying again: %s", error)
                if isinstance(error, StoreError):
                    self._database.failed(error)
                pause = min(SOON, self._interval)
            await asyncio.sleep(pause)
            pause = self._interval

    async def compare(self) -> None:
        """Compare once."""
        store = await self._database.store()
        keys = await store.open_keys()
        self._controller.abandoned.keep(keys)
        known_before = list(self._objects)
        listing = await self._cluster.listing(self._namespaces)
        runs = {uid: place for uid, place in keys.items() if is_uid(uid) and self._is_watched(place[0])}
        ghosts = {known.uid: (known.namespace, known.name) for known in known_before}
        for uid, (namespace, name) in {**ghosts, **runs}.items():
            if uid not in listing and await self._cluster.read(namespace, name, uid) is None:
                self._controller.see_gone(uid, namespace, name)
        await self._look_at(listing)
        await self.refresh(store)

    def _is_watched(self, namespace: str) -> bool:
        return self._namespaces is None or namespace in self._namespaces

    async def _look_at(self, listing: dict[str, Seen]) -> None:
        """See the objects that were missed or are not as they are known."""
        suspects = [seen for seen in listing.values() if self._differs(seen)]
        if not suspects:
            return
        await asyncio.sleep(GRACE)
        for seen in suspects:
            if self._differs(seen):
                body = await self._cluster.read(seen.namespace, seen.name, seen.uid)
                if body is not None:
                    self._controller.see(body)

    def _differs(self, seen: Seen) -> bool:
        known = self._objects.get(seen.uid)
        return known is None or (seen.version > known.version)

    async def refresh(self, store: FullStore) -> None:
        """Put the status of every open run once more; the writer leaves out those that are on their objects."""
        going_on = [known for known in self._objects if known.generation and not known.finished]
        for start in range(0, len(going_on), CHUNK):
            chunk = going_on[start : start + CHUNK]
            runs = {run.key: run for run in await store.by_key([known.uid for known in chunk])}
            for known in chunk:
                run = runs.get(known.uid)
                if run is not None:
                    served = self._database.is_served(run)
                    self._writer.put(known.uid, project(run, known.generation, known.refusal, served=served))
                elif known.refusal is None:
                    await self._start_over(known)

    async def _start_over(self, known: Known) -> None:
        """Deal anew with an object whose run is not in the database any more, as after a restore."""
        body = await self._cluster.read(known.namespace, known.name, known.uid)
        if body is not None:
            known.generation = 0
            self._controller.see(body)
