"""Waiting for a hint or for the next look, whichever comes first."""

import asyncio


async def hinted(event: asyncio.Event, longest: float) -> None:
    """Return when ``event`` is set, or after ``longest`` seconds: hints may be lost, polling is the floor.

    Not ``asyncio.wait_for``: on Python 3.11 it swallows a cancellation that arrives together with the event.
    """
    try:
        async with asyncio.timeout(longest):
            await event.wait()
    except TimeoutError:
        pass
