"""The store, opened when it can be reached.

What lives here: `Database`. What must not: statements. An operator starts, and stays, whether or not the database is
there; whoever needs the store asks for it each time and gets it or the error that says why not.
"""

import asyncio
import time

from perdure.client import FullStore, open_store
from perdure.errors import PerdureError, StoreError
from perdure.model.runs import RunSummary
from perdure.store.base import Poller


class Database:
    """One store for the whole process, over all namespaces."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._store: FullStore | None = None
        self._opening = asyncio.Lock()
        self.errors = 0
        self.reached_at: float | None = None
        self.trouble = "not connected yet"
        self.pollers: frozenset[Poller] | None = None
        """Who serves which queue, as far as known; `queues` looks."""

    async def store(self) -> FullStore:
        """Return the store; raise `StoreError` when it cannot be opened."""
        async with self._opening:
            if self._store is None:
                try:
                    self._store = await open_store(self._url)
                except StoreError as error:
                    self.failed(error)
                    raise
            return self._store

    async def probe(self) -> None:
        """Find out whether the database answers."""
        try:
            store = await self.store()
            await store.ended([])
        except StoreError as error:
            self.failed(error)
        else:
            self.answered()

    def is_served(self, run: RunSummary | None) -> bool:
        """Tell whether a worker serves the queue of the run, with its build if it is for one; True if unknown."""
        return (
            run is None
            or self.pollers is None
            or any(
                (one.namespace, one.queue) == (run.namespace, run.queue) and run.build in {None, one.build}
                for one in self.pollers
            )
        )

    def answered(self) -> None:
        """Take note that the database did what it was asked."""
        self.reached_at, self.trouble = time.monotonic(), ""

    def failed(self, error: PerdureError) -> None:
        """Take note that it did not, if the error is the database's."""
        if isinstance(error, StoreError):
            self.errors += 1
            self.trouble = str(error)

    async def close(self) -> None:
        """Close the connections."""
        if self._store is not None:
            await self._store.close()
