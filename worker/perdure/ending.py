"""Ending tasks that may not hear of it the first time.

What lives here: one function. What must not: knowledge of what the tasks do. Every floor above that has tasks calls it.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN = 6.0
"""Seconds after which a task that was cancelled and goes on is cancelled again: it may be telling the server, which it
gives five."""


async def end(tasks: Iterable[asyncio.Task[Any] | None]) -> None:
    """Cancel the tasks until they have ended.

    A cancellation may be lost on its way: on Python 3.11 ``asyncio.wait_for``, in whatever library, swallows one that
    arrives together with what it waits for. A loop would go on for ever, and whoever ends it wait for it as long.
    """
    pending = {task for task in tasks if task is not None and not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN)
