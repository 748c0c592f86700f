"""Hearing of news in a process: one ear at the store, and those who want to be woken.

What lives here: `Hints`. What must not: what anybody does when woken. The client and the operator own one each.
"""

import asyncio
import logging
from collections.abc import Callable

from perdure.ending import end
from perdure.errors import StoreError
from perdure.model.hints import Audience, Hint
from perdure.store.base import Store

logger = logging.getLogger("perdure.client")


class Hints:
    """Who wants to be woken in this process; the store is listened to as long as somebody does."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._callbacks: set[Callable[[Hint], None]] = set()
        self._task: asyncio.Task[None] | None = None
        self.deaf = False
        """Whether hints of other processes cannot come just now."""

    def add(self, callback: Callable[[Hint], None], audience: Audience) -> None:
        """Call back on every hint for this audience from now on, and on others that come along."""
        if callback in self._callbacks:
            return
        self._store.hear(audience)
        self._callbacks.add(callback)
        if self._task is None:
            self._task = asyncio.create_task(self._listen(), name="perdure-listen")

    def discard(self, callback: Callable[[Hint], None]) -> None:
        """Stop calling back."""
        self._callbacks.discard(callback)

    def dispatch(self, hint: Hint) -> None:
        """Wake those in this process."""
        for callback in list(self._callbacks):
            callback(hint)

    async def stop(self) -> None:
        """Stop listening."""
        await end([self._task])

    async def _listen(self) -> None:
        while True:
            self.deaf = False
            try:
                async for hint in self._store.listen():
                    self.dispatch(hint)
            except StoreError as error:
                logger.info("cannot listen for hints, polling instead: %s", error)
            except Exception:
                logger.exception("hints were taken in a way that nobody foresaw; polling instead")
            self.deaf = True
            await asyncio.sleep(10)
