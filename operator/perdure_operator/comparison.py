"""Objects and runs side by side: what events and status changes have missed is found and mended.

What lives here: `Comparison`: the first listing of a term, and the comparison soon after it and every minute from then
on. What must not: decisions about runs. `main` runs it during a term.

Missed are, above all, deletions: those of the time when no operator was there, and those within a gap of the watch, of
which nobody tells. Two orders make the comparison safe. The keys of open runs are read before the objects are listed,
and an object is older than its run: a key without an object in the list had its object deleted. And before a run is
cancelled, its object is asked for once more by name.

A namespace that may not be read, as one that was deleted together with the operator's Role in it, is left out whole,
and the others do not wait for it. When that changes, a new term begins: `run` returns.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from perdure.client import FullStore
from perdure.errors import PerdureError
from perdure.manifest import is_uid

from .cluster import PAGE, ClusterError, Seen
from .objects import Known
from .parts import Parts
from .restored import REASONS
from .status import project

logger = logging.getLogger("perdure.operator")

Place = tuple[str, str]
"""Namespace and name."""

CHUNK = 500
FORBIDDEN = 403
SOON = 5.0
"""Seconds from the first listing to the first comparison: the watch has begun by then."""
GRACE = 2.0
"""Seconds that the controller has to work off a page before the next one comes, so that not all specs are in memory at
once; and seconds after which an object that differs from what is known is not one whose event is merely on its way."""


class Comparison:
    """Finds orphans, ghosts, objects without a run and statuses that are not what they should be."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._namespaces: Sequence[str | None] = parts.settings.namespaces or (None,)
        self._interval = parts.settings.resync
        self._strangers: set[str] = set()
        self.compared_at: float | None = None

    async def list(self) -> tuple[tuple[str, ...] | None, bool]:
        """See every object once, so that the operator knows what there is before it deals with anything.

        Returns the namespaces that can be read, None for all, and whether pods can be watched there.
        """
        pause = 0.5
        while True:
            try:
                left_out = self._parts.objects.left_out = await self._read_each(self._see_all)
                readable = tuple(each for each in self._namespaces if each and each not in left_out) or None
                return readable, await self._parts.cluster.may_watch_pods(readable)
            except ClusterError as error:
                logger.warning("the objects cannot be listed; trying again: %s", error)
            await asyncio.sleep(pause)
            pause = min(10.0, pause * 2)

    async def _see_all(self, namespace: str | None) -> None:
        count = 0
        async for body in self._parts.cluster.objects(namespace):
            self._parts.controller.see(body)
            count += 1
            if count % PAGE == 0:
                await self._parts.controller.catch_up(GRACE)

    async def _read_each(self, read: Callable[[str | None], Awaitable[None]]) -> frozenset[str]:
        """Read every namespace; return those that may not be read, and raise when that is all."""
        refused: dict[str, ClusterError] = {}
        for namespace in self._namespaces:
            try:
                await read(namespace)
            except ClusterError as error:
                if error.code != FORBIDDEN or namespace is None or len(refused) + 1 == len(self._namespaces):
                    raise
                refused[namespace] = error
        for namespace in refused.keys() - self._parts.objects.left_out:
            logger.warning("namespace %s is not served until it can be read: %s", namespace, refused[namespace])
        return frozenset(refused)

    async def run(self) -> None:
        """Compare now and then until other namespaces can be read than were listed.

        The orphans of the time without an operator are found at once.
        """
        pause = min(SOON, self._interval)
        while True:
            try:
                if not await self.compare():
                    return
            except PerdureError as error:
                logger.warning("objects and runs cannot be compared; trying again: %s", error)
                self._parts.database.failed(error)
                pause = min(SOON, self._interval)
            await asyncio.sleep(pause)
            pause = self._interval

    async def compare(self) -> bool:
        """Compare once; return whether the namespaces that can be read are those that were listed."""
        store = await self._parts.database.store()
        keys = await store.open_keys()
        self._parts.controller.abandoned.keep(keys)
        known_before = list(self._parts.objects)
        listing: dict[str, Seen] = {}

        async def take(namespace: str | None) -> None:
            listing.update(await self._parts.cluster.listing(namespace))

        if await self._read_each(take) != self._parts.objects.left_out:
            return False
        runs = {uid: place for uid, place in keys.items() if is_uid(uid) and self._parts.serves(place[0])}
        await self._close_finished(store, [known for known in known_before if known.final and known.uid in keys])
        runs = await self._without_strangers(store, runs, listing)
        ghosts = {known.uid: (known.namespace, known.name) for known in known_before}
        for uid, (namespace, name) in {**ghosts, **runs}.items():
            if uid not in listing and await self._parts.cluster.read(namespace, name, uid) is None:
                self._parts.controller.see_gone(uid, namespace, name)
        await self._look_at(listing)
        await self.refresh(store)
        self.compared_at = time.time()
        return True

    async def _close_finished(self, store: FullStore, finished: Sequence[Known]) -> None:
        """Close runs that have ended already, as their objects say: the database was restored from before that.

        Whatever such a run would do now it has done before.
        """
        runs = await store.by_key([known.uid for known in finished]) if finished else []
        for run in runs:
            if not run.state.closed:
                reason = "it has ended already, as its object says; the database was restored from before that"
                await store.terminate(run.namespace, run.id, reason, run.run_id)
                logger.warning("run %d of %s/%s is closed: %s", run.run_id, run.namespace, run.id, reason)

    async def _without_strangers(
        self, store: FullStore, runs: dict[str, Place], listing: Mapping[str, Seen]
    ) -> dict[str, Place]:
        """Leave out runs whose objects this cluster cannot know: they were not deleted, they are to be restored."""
        missing = [uid for uid in runs if uid not in listing and uid not in self._strangers]
        for start in range(0, len(missing), CHUNK):
            for run in await store.by_key(missing[start : start + CHUNK]):
                if run.key is None or run.key in self._parts.objects or self._parts.election.witnessed(run.created_at):
                    continue
                self._strangers.add(run.key)
                if run.created_at >= self._parts.election.created:
                    self._parts.controller.abandoned.add(run.key)  # the next leader cannot tell that it is one
        strangers = self._strangers & runs.keys()
        if strangers != self._strangers or missing:
            logger.warning("%d open runs have no object, and the cluster no memory of one", len(strangers))
        self._strangers = strangers
        return {uid: place for uid, place in runs.items() if uid not in strangers}

    async def _look_at(self, listing: dict[str, Seen]) -> None:
        """See the objects that were missed or are not as they are known."""
        suspects = [seen for seen in listing.values() if self._differs(seen)]
        if not suspects:
            return
        await asyncio.sleep(GRACE)
        for seen in suspects:
            if self._differs(seen):
                body = await self._parts.cluster.read(seen.namespace, seen.name, seen.uid)
                if body is not None:
                    self._parts.controller.see(body)

    def _differs(self, seen: Seen) -> bool:
        known = self._parts.objects.get(seen.uid)
        return known is None or (seen.version > known.version)

    async def refresh(self, store: FullStore) -> None:
        """Put the status of every open run once more; the writer leaves out those that are on their objects."""
        going_on = [known for known in self._parts.objects if known.generation and not known.finished]
        for start in range(0, len(going_on), CHUNK):
            chunk = going_on[start : start + CHUNK]
            runs = {run.key: run for run in await store.by_key([known.uid for known in chunk])}
            for known in chunk:
                run = runs.get(known.uid)
                if run is not None and known.refusal is not None and known.refusal.reason in REASONS:
                    await self._start_over(known)
                elif run is not None:
                    served = self._parts.database.is_served(run)
                    self._parts.writer.put(known.uid, project(run, known.generation, known.refusal, served=served))
                elif known.refusal is None:
                    await self._start_over(known)

    async def _start_over(self, known: Known) -> None:
        """Deal anew with an object whose run is not in the database any more, as after a restore."""
        body = await self._parts.cluster.read(known.namespace, known.name, known.uid)
        if body is not None:
            known.generation = 0
            self._parts.controller.see(body)
