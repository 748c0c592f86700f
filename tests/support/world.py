"""A small world for runtime tests: a store, and clients and workers on it.

What lives here: `World`, in memory or on a real PostgreSQL, and `eventually`.
What must not: mocks.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, ParamSpec

from perdure import Client, Limits, Worker
from perdure.client import FullStore, WorkflowHandle, open_store
from perdure.model.runs import HistoryEvent, NewRun, RunState, RunSummary
from perdure.store.memory import MemoryStore

P = ParamSpec("P")

LIMIT = 60.0
"""Seconds after which a test that hangs is stopped."""


class World:
    """Clients and workers on one store. On PostgreSQL each has connections of its own, as processes would."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._memory = MemoryStore() if url == "memory://" else None
        self._stores: list[FullStore] = []
        self._clients: list[Client] = []

    async def client(self, namespace: str = "default") -> Client:
        """Return an open client."""
        store: FullStore
        if self._memory is not None:
            store = self._memory
        else:
            store = await open_store(self.url)
            self._stores.append(store)
        client = await Client.over(store, namespace=namespace).__aenter__()
        self._clients.append(client)
        return client

    async def close(self) -> None:
        """Close every client and every store that was opened."""
        for client in self._clients:
            await client.__aexit__(None, None, None)
        for store in self._stores:
            await store.close()


def described(client: Client, workflow: str, instance: str, named: bytes = b"{}", key: str | None = None) -> NewRun:
    """Return an instance of a workflow as a manifest describes it: input by name, and an object's key."""
    return NewRun(
        id=instance, namespace=client.namespace, workflow=workflow, queue="default", input=named, seed="seed", key=key
    )


def run_async(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an ``async`` test to its end, within a limit that only a hanging test reaches."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def limited() -> None:
            async with asyncio.timeout(LIMIT):
                await test(*args, **kwargs)

        asyncio.run(limited())

    return run


async def eventually(what: Callable[[], Awaitable[Any]], longest: float = 20.0) -> Any:
    """Ask until the answer is true and return it; fail with the last answer after ``longest`` seconds."""
    deadline = time.monotonic() + longest
    while True:
        answer = await what()
        if answer:
            return answer
        if time.monotonic() > deadline:
            message = f"did not come true within {longest:g} s; the last answer was {answer!r}"
            raise AssertionError(message)
        await asyncio.sleep(0.02)


async def until_held(handle: WorkflowHandle[Any]) -> RunSummary:
    """Wait until the run is held and return how."""

    async def held() -> RunSummary | None:
        summary = await handle.describe()
        return summary if summary.state is RunState.HELD else None

    summary: RunSummary = await eventually(held)
    return summary


def types(history: Sequence[HistoryEvent]) -> list[str]:
    """Return the event types of a history."""
    return [event.type for event in history]


QUICK = Limits(lease=1.5, drain=5.0)
"""A lease that is short enough to wait for its end in a test."""

__all__ = ["LIMIT", "QUICK", "Worker", "World", "eventually", "run_async", "types"]
