"""Which event loop a measured program runs on, the same choice for all of them."""

import asyncio
import importlib
from typing import Any


def runner(*, uvloop: bool) -> asyncio.Runner:
    """Return a runner on asyncio's own event loop, or on uvloop's."""
    if not uvloop:
        return asyncio.Runner()
    library: Any = importlib.import_module("uvloop")
    return asyncio.Runner(loop_factory=library.new_event_loop)
