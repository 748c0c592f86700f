"""Work that a worker was told of and cannot take: others are told.

What lives here: `Relay`. What must not: looking for work; `claiming` and `tasks` do that, and have one each.

A hint wakes few workers. When those have no room, it must not end there while others have nothing to do.
"""

import time
from typing import Final

from perdure.model.hints import Hint
from perdure.store.base import Store

LEAST: Final = 2.5
"""Least seconds between two times that a worker passes on: as often as it would look by itself."""


class Relay:
    """Says ``hint`` to every worker, if it has not just been said."""

    def __init__(self, store: Store, hint: Hint) -> None:
        self._store = store
        self._hint = hint
        self._passed_at = -LEAST

    def pass_on(self) -> None:
        """Let others look for what there is no room for here."""
        now = time.monotonic()
        if now - self._passed_at >= LEAST:
            self._passed_at = now
            self._store.hint(self._hint)
