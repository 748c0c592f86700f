"""Signals: one first-in, first-out mailbox for each name, buffered until somebody receives.

What lives here: delivery and receiving. What must not: types; the author API
decodes, so that a payload that does not fit is skipped there and stays in history.
"""

import asyncio
from typing import TYPE_CHECKING

import msgspec

from perdure.model.events import SignalReceived

if TYPE_CHECKING:
    from perdure.engine.run import Run


def mailbox(run: "Run", name: str) -> asyncio.Queue[msgspec.Raw]:
    """Return the mailbox of a name; ``asyncio.Queue`` never hands a message to a waiter that was cancelled."""
    box = run.mailboxes.get(name)
    if box is None:
        box = run.mailboxes[name] = asyncio.Queue()
        box._loop = run.loop  # type: ignore[attr-defined]  # noqa: SLF001  # it may be made between turns, and is the run's
    return box


def received(run: "Run", event: SignalReceived) -> bool:
    """Put the message into its mailbox; False when it is there already."""
    if event.id in run.message_ids:
        return False
    if event.id:
        run.message_ids.add(event.id)
    mailbox(run, event.name).put_nowait(event.payload)
    return True
