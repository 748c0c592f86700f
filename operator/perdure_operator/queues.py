"""Which queues are served: what runs wait for when no worker is there, and when that changes.

What lives here: `Queues`, the loop that asks the database. What must not: what a status says about it. `main` runs it
during a term; `Database.is_served` answers from what it found last.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from perdure.client import FullStore
from perdure.errors import PerdureError

from .database import Database

logger = logging.getLogger("perdure.operator")

LOOK = 1.0


class Queues:
    """Asks now and then which workers there are, and has every open status written anew when that has changed."""

    def __init__(self, database: Database, refresh: Callable[[FullStore], Awaitable[None]]) -> None:
        self._database = database
        self._refresh = refresh

    async def run(self) -> None:
        """Work until cancelled. The comparison at the beginning of a term comes after the first look."""
        while True:
            try:
                store = await self._database.store()
                before, now = self._database.pollers, await store.pollers()
                self._database.pollers = now
                if before is not None and before != now:
                    await self._refresh(store)
            except PerdureError as error:
                self._database.failed(error)
                logger.warning("which queues are served is not known for now: %s", error)
            await asyncio.sleep(LOOK)
