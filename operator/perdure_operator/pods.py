"""Worker pods that vanish: their leases are taken away at once, so that others take over in about a second.

What lives here: `VanishedWorkers`. What must not: kopf. `handlers` tells of pods; without that, or when the database
does not answer, the lease ends by itself. A worker that is still there after all finds its lease gone and registers
anew.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from perdure.errors import StoreError

from .database import Database

logger = logging.getLogger("perdure.operator")

LABEL = "perdure.dev/component=worker"


class VanishedWorkers:
    """Expires the leases of workers whose pods are gone. A worker's name is its pod's."""

    def __init__(self, database: Database, took_from: Callable[[str, str], None]) -> None:
        """Begin with nobody gone; ``took_from`` is told the key of each run that has lost its worker, and which."""
        self._database = database
        self._took_from = took_from
        self._gone: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    def see(self, pod: Mapping[str, Any], *, deleted: bool) -> None:
        """Take a pod as the API server has it."""
        phase = (pod.get("status") or {}).get("phase")
        if deleted or phase in ("Succeeded", "Failed"):
            self._gone.put_nowait((pod["metadata"]["namespace"], pod["metadata"]["name"]))

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            namespace, name = await self._gone.get()
            try:
                store = await self._database.store()
                expired = await store.expire(namespace, name)
                if expired.workers:
                    logger.info("the pod of worker %s/%s is gone; its runs are taken over", namespace, name)
                for key in expired.keys:
                    self._took_from(key, name)
            except StoreError as error:
                logger.warning("the lease of worker %s/%s ends by itself: %s", namespace, name, error)
