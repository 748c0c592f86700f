"""From runs to objects: status changes of the database become statuses.

What lives here: `Sync`, the loop that reads changes, hands statuses to the writer and acknowledges. What must not:
kopf, decisions about runs, the comparison of everything (`comparison`). `main` runs it during a term.

A status change is acknowledged after its status was written, or when there is no object left to write it on; whoever
leads next gets the others again. It carries the run as it is when it is read, so coalescing loses nothing.

Only keys that are Kubernetes UIDs are the operator's. Others, such as those of ``perdure apply``, belong to runs that
no object stands for: their changes are acknowledged because nobody waits for them.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable

from perdure.client import FullStore, Hints
from perdure.errors import PerdureError, StoreError
from perdure.manifest import is_uid
from perdure.model.runs import RunSummary

from .cluster import ClusterError
from .objects import Known
from .parts import Parts
from .status import project

logger = logging.getLogger("perdure.operator")

PAGE = 200
MOST = 20_000
POLL = 1.0
PACE = 0.05
"""Seconds between two looks at the changes: at most POLL when nobody hints, at least PACE when everybody does."""


class Sync:
    """Writes what changes in the database on the objects."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._namespaces = parts.settings.namespaces
        self._news = parts.writer.on_settled
        self._done: set[int] = set()
        self._foreign = 0

    async def run(self) -> None:
        """Work until cancelled."""
        hints: Hints | None = None
        try:
            while True:
                self._news.clear()
                try:
                    store = await self._parts.database.store()
                    if hints is None:
                        hints = Hints(store)
                        hints.add(lambda hint: self._news.set() if hint.changed else None)
                    await self._acknowledge(store)
                    await self._read(store)
                except PerdureError as error:
                    if isinstance(error, StoreError):
                        self._parts.database.failed(error)
                    logger.warning("status changes cannot be read: %s", error)
                    await asyncio.sleep(POLL)
                await asyncio.sleep(PACE)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        await self._news.wait()
        finally:
            if hints is not None:
                await hints.stop()

    async def _acknowledge(self, store: FullStore) -> None:
        self._done.update(self._parts.writer.settled())
        if self._done:
            await store.acknowledge(sorted(self._done))
            self._done.clear()

    async def _read(self, store: FullStore) -> None:
        """Hand the oldest changes to the writer, those that it has already again: their runs may have gone on.

        The page is small, since a summary may carry a large result, and grows by what cannot be dealt with now, since
        that must not stand in the way of everything behind it.
        """
        limit = min(MOST, PAGE + self._foreign + self._parts.writer.struggling)
        latest: dict[str, tuple[RunSummary, list[int]]] = {}
        self._foreign = 0
        for change in await store.status_changes(limit):
            run = change.run
            if run.key is None or not is_uid(run.key):
                self._done.add(change.number)
            elif self._namespaces is not None and run.namespace not in self._namespaces:
                self._foreign += 1  # another operator's
            else:
                latest[run.key] = (run, [*(latest[run.key][1] if run.key in latest else ()), change.number])
        self._parts.database.answered()
        for uid, (run, numbers) in latest.items():
            await self._tell(uid, run, numbers)
        if self._done:
            self._news.set()

    async def _tell(self, uid: str, run: RunSummary, numbers: Iterable[int]) -> None:
        if run.state.closed:
            self._parts.controller.name_is_free(run.namespace, run.id)
        try:
            known = self._parts.objects.get(uid) or await self._find(uid, run)
        except ClusterError as error:
            logger.warning("the object of run %d cannot be read: %s", run.run_id, error)
            return
        if known is None:
            self._done.update(numbers)
        elif known.generation > 0:
            served = self._parts.database.is_served(run)
            self._parts.writer.put(uid, project(run, known.generation, known.refusal, served=served), numbers)
        else:
            # The controller has yet to look at the object; the change stays where it is until the next reading.
            asyncio.get_running_loop().call_later(POLL / 10, self._news.set)

    async def _find(self, uid: str, run: RunSummary) -> Known | None:
        body = await self._parts.cluster.read(run.namespace, run.id, uid)
        if body is not None:
            self._parts.controller.see(body)
        return self._parts.objects.get(uid)
