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
import time
from collections.abc import Collection, Sequence

from perdure.client import FullStore
from perdure.errors import PerdureError
from perdure.listening import Hints
from perdure.manifest import is_uid
from perdure.model.hints import Audience
from perdure.model.runs import RunSummary
from perdure.store.base import StatusChange

from .cluster import ClusterError
from .objects import Known
from .parts import Parts
from .status import project

logger = logging.getLogger("perdure.operator")

PAGE = 200
"""Changes that are read at once."""
POLL = 1.0
PACE = 0.05
"""Seconds between two looks at the changes: at most POLL when nobody hints, at least PACE when everybody does."""
AGAIN = 10.0
"""Seconds until changes that fill more than a page are read from the first one again: a change may become visible after
others with higher numbers, and one that could not be dealt with may be by then."""


class Sync:
    """Writes what changes in the database on the objects."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._news = parts.writer.on_settled
        self._done: set[int] = set()
        self._handed: set[int] = set()
        self._early: dict[str, tuple[RunSummary, list[int]]] = {}
        self._after = 0
        self._began = 0.0

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
                        hints.add(lambda hint: self._news.set() if hint.changed else None, Audience.OPERATORS)
                    await self._acknowledge(store)
                    await self._read(store)
                except PerdureError as error:
                    self._parts.database.failed(error)
                    logger.warning("status changes cannot be read: %s", error)
                    await asyncio.sleep(POLL)
                except Exception:  # whatever it is, the operator goes on with all the rest
                    logger.exception("status changes cannot be dealt with, in a way that nobody foresaw")
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
            self._handed -= self._done
            self._done.clear()

    async def _read(self, store: FullStore) -> None:
        """Hand a page of changes to the writer.

        It goes on behind the page before, without waiting until that is written: of a run that has ended meanwhile only
        the end is worth a write, and what cannot be dealt with now must not stand in the way of everything behind it.
        """
        if self._after == 0:
            self._began = time.monotonic()
        page = await store.status_changes(PAGE, self._after)
        self._parts.database.answered()
        latest, self._early = self._early, {}
        for change in page:
            run = change.run
            if run.key is None or not is_uid(run.key):
                self._done.add(change.number)
            elif change.number not in self._handed and self._parts.serves(run.namespace):
                latest[run.key] = (run, [*(latest[run.key][1] if run.key in latest else ()), change.number])
        for uid, (run, numbers) in latest.items():
            await self._tell(uid, run, numbers)
        self._turn_page(page)
        if self._done:
            self._news.set()

    def _turn_page(self, page: Sequence[StatusChange]) -> None:
        if len(self._early) >= PAGE:
            return
        is_full = len(page) == PAGE
        if is_full or (self._after and time.monotonic() - self._began < AGAIN):
            self._after = page[-1].number if page else self._after
        else:
            self._after = 0
        if is_full:
            self._news.set()

    async def _tell(self, uid: str, run: RunSummary, numbers: Collection[int]) -> None:
        if run.state.closed:
            self._parts.controller.name_is_free(run.namespace, run.id)
        try:
            known = self._parts.objects.get(uid) or await self._find(uid, run)
        except ClusterError as error:
            logger.warning("the object of run %d cannot be read: %s", run.run_id, error)
            self._handed.difference_update(numbers)
            return
        if known is None:
            self._done.update(numbers)
            return
        self._handed.update(numbers)
        if known.generation > 0:
            served = self._parts.database.is_served(run)
            self._parts.writer.put(uid, project(run, known.generation, known.refusal, served=served), numbers)
        else:
            # The controller has yet to look at the object.
            self._early[uid] = (run, list(numbers))
            asyncio.get_running_loop().call_later(POLL / 10, self._news.set)

    async def _find(self, uid: str, run: RunSummary) -> Known | None:
        body = await self._parts.cluster.read(run.namespace, run.id, uid)
        if body is not None:
            self._parts.controller.see(body)
        return self._parts.objects.get(uid)
