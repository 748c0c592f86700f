"""What attempts say is written even if their worker ends at that very moment."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from perdure.model.runs import Heartbeat, RunId, WorkerId
from perdure.model.workers import Lease
from perdure.runtime.heartbeats import Heartbeats
from perdure.store.memory import MemoryStore
from tests.support.world import run_async

LEASE = Lease(WorkerId(1), 1, "default", "here")


class Slow(MemoryStore):
    """Writes heartbeats when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.written: list[Heartbeat] = []

    async def heartbeat(self, lease: Lease, beats: Sequence[Heartbeat]) -> None:
        assert lease == LEASE
        self.begun.set()
        await self.gate.wait()
        self.written += beats


@run_async
async def test_what_a_write_was_cut_off_with_is_written_by_the_next_one() -> None:
    store = Slow()
    heartbeats = Heartbeats(store, LEASE)
    sending = asyncio.create_task(heartbeats.keep_sending())
    heartbeats.note(7, 1, b"1")
    heartbeats.note(7, 2, b"2")
    await store.begun.wait()
    heartbeats.note(7, 2, b"3")
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    store.gate.set()
    await heartbeats.send()
    assert store.written == [Heartbeat(RunId(7), 1, b"1"), Heartbeat(RunId(7), 2, b"3")]
