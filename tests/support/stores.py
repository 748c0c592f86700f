"""Stages on which the stores are held to their rules, and short words for what the rules speak of.

What lives here: `Stage`, once over memory and once over a real PostgreSQL, and builders of turns and messages. Time
passes on a stage when a test says so: the memory store gets another clock, and on PostgreSQL everything that is stored
moves into the past instead.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, Protocol, TypeVar

import msgspec
import psycopg

from perdure.model.events import (
    ActivityCompleted,
    ActivityScheduled,
    Event,
    SignalReceived,
    Turn,
    TurnHeader,
    WorkflowExecutionCompleted,
    WorkflowExecutionStarted,
)
from perdure.model.runs import (
    ClaimedRun,
    Close,
    Commit,
    Committed,
    Ending,
    InboxItem,
    NewRun,
    RunId,
    RunInfo,
    RunState,
    RunSummary,
    Started,
)
from perdure.model.workers import Lease, WorkerInfo
from perdure.store.base import ReadStore, Store
from perdure.store.memory import MemoryStore
from perdure.store.postgres import PostgresStore

LIMIT = 60.0
"""Seconds after which a test that hangs is stopped."""
NAMESPACE = "tenant"
QUEUE = "default"
LATER = 4_000_000_000_000_000
"""A time that no test lives to see, in microseconds."""


class FullStore(Store, ReadStore, Protocol):
    """A store that can be read and written."""


class Stage(ABC):
    """A store with nothing in it. Its clients and workers live in one namespace unless told otherwise."""

    store: FullStore

    @abstractmethod
    async def another(self) -> FullStore:
        """Return a store on the same data, as another process would have."""

    @abstractmethod
    async def pass_time(self, seconds: float) -> None:
        """Let so much time pass for everything that is stored."""

    @abstractmethod
    async def open(self) -> None:
        """Connect, on the event loop of the test."""

    @abstractmethod
    async def close(self) -> None:
        """Close everything that was opened."""

    async def start(self, instance: str = "order-1", **changes: Any) -> Started:
        """Start an instance of the workflow ``order``."""
        return await self.store.start(new_run(instance, **changes))

    async def worker(self, name: str = "one", **changes: Any) -> Lease:
        """Register a worker."""
        return await self.store.register(worker_info(name, **changes))

    async def owned(self, lease: Lease, instance: str = "order-1", **changes: Any) -> RunId:
        """Start an instance and let the worker claim it."""
        started = await self.start(instance, **changes)
        claimed = await self.store.claim(lease, 10)
        assert started.run_id in [run.info.run_id for run in claimed]
        return started.run_id

    async def flush(self, lease: Lease, run_id: RunId, *parts: Turn | Ending, **changes: Any) -> Committed:
        """Flush one commit made of a turn, an ending, or both."""
        (answer,) = await self.store.flush(lease, [commit(run_id, *parts, **changes)])
        return answer

    async def claim_one(self, lease: Lease) -> ClaimedRun:
        """Claim the only run that there is to claim."""
        (claimed,) = await self.store.claim(lease, 10)
        return claimed

    async def summary(self, instance: str = "order-1") -> RunSummary:
        """Describe an instance that exists."""
        found = await self.store.describe(NAMESPACE, instance)
        assert found is not None
        return found

    async def types(self, run_id: RunId) -> list[str]:
        """Return the event types of a history."""
        return [event.type for event in await self.store.history(run_id)]


class MemoryStage(Stage):
    """A stage in memory."""

    store: MemoryStore

    def __init__(self) -> None:
        self._offset = 0

    async def open(self) -> None:
        self.store = MemoryStore(lambda: time.time_ns() // 1000 + self._offset)

    async def another(self) -> FullStore:
        return self.store

    async def pass_time(self, seconds: float) -> None:
        self._offset += round(seconds * 1_000_000)

    async def close(self) -> None:
        await self.store.close()


class PostgresStage(Stage):
    """A stage on a migrated database."""

    store: PostgresStore

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._opened: list[PostgresStore] = []

    async def open(self) -> None:
        self.store = await self.another()

    async def another(self) -> PostgresStore:
        store = await PostgresStore.connect(self.dsn)
        self._opened.append(store)
        return store

    async def pass_time(self, seconds: float) -> None:
        past = f"interval '{round(seconds * 1_000_000)} microseconds'"
        await self.execute(f"UPDATE perdure.worker SET expires_at = expires_at - {past}")
        await self.execute(f"UPDATE perdure.run SET wake_at = wake_at - {past} WHERE wake_at IS NOT NULL")
        await self.execute(f"UPDATE perdure.run SET deadline = deadline - {past} WHERE deadline IS NOT NULL")
        await self.execute(f"UPDATE perdure.task SET available_at = available_at - {past}")

    async def close(self) -> None:
        for store in self._opened:
            await store.close()

    async def execute(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement beside the store and return its rows."""
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as connection:
            cursor = await connection.execute(statement.encode(), parameters)
            return await cursor.fetchall() if cursor.description else []


S = TypeVar("S", bound=Stage)


def behaviour(test: Callable[[S], Coroutine[Any, Any, None]]) -> Callable[[S], None]:
    """Run an ``async`` test on its stage, within a limit that only a hanging test reaches."""

    @wraps(test)
    def run(stage: S) -> None:
        async def limited() -> None:
            await stage.open()
            try:
                async with asyncio.timeout(LIMIT):
                    await test(stage)
            finally:
                await stage.close()

        asyncio.run(limited())

    return run


async def eventually(what: Callable[[], Awaitable[Any]], longest: float = 20.0) -> Any:
    """Ask until the answer is true and return it."""
    deadline = time.monotonic() + longest
    while not (answer := await what()):
        assert time.monotonic() < deadline, f"did not come true within {longest:g} s"
        await asyncio.sleep(0.01)
    return answer


def new_run(instance: str, **changes: Any) -> NewRun:
    """Return an instance to start."""
    fields: dict[str, Any] = {
        "id": instance,
        "namespace": NAMESPACE,
        "workflow": "order",
        "queue": QUEUE,
        "input": b"[1]",
        "seed": "seed",
    }
    return NewRun(**(fields | changes))


async def announced(store: FullStore, run_id: RunId, instance: str = "order-1", **changes: Any) -> ClaimedRun:
    """Return a run as the hint of its start announces it, unless ``changes`` say otherwise."""
    summary = await store.describe(NAMESPACE, instance, run_id)
    assert summary is not None
    first = (await store.history(run_id))[0]
    assert isinstance(first.event, WorkflowExecutionStarted)
    created_at = round(first.time.timestamp() * 1_000_000)
    fields: dict[str, Any] = {
        "info": RunInfo(
            id=instance, run_id=run_id, namespace=NAMESPACE, workflow=summary.workflow, queue=summary.queue
        ),
        "history": (Turn(0, TurnHeader(time=created_at), (first.event,)),),
        "inbox": (),
        "tasks": (),
        "mail": 0,
        "created_at": created_at,
        "deadline": None,
    }
    return ClaimedRun(**(fields | changes))


def worker_info(name: str, **changes: Any) -> WorkerInfo:
    """Return a worker that knows the workflow ``order``."""
    fields: dict[str, Any] = {
        "namespace": NAMESPACE,
        "name": name,
        "build": "build-1",
        "queues": (QUEUE,),
        "workflows": ("order",),
        "lease": 60.0,
    }
    return WorkerInfo(**(fields | changes))


def commit(run_id: RunId, *parts: Turn | Ending, **changes: Any) -> Commit:
    """Return a commit made of a turn, an ending, or both."""
    fields: dict[str, Any] = {"run_id": run_id}
    for part in parts:
        fields["turn" if isinstance(part, Turn) else "ending"] = part
    return Commit(**(fields | changes))


def turn(seq: int, *events: Event, **header: Any) -> Turn:
    """Return a turn; without events it schedules an activity."""
    return Turn(seq, TurnHeader(**({"time": 1_000_000 * seq} | header)), events or (scheduled(seq),))


def raw(text: str) -> msgspec.Raw:
    """Return JSON text as a payload."""
    return msgspec.Raw(text.encode())


def scheduled(seq: int, name: str = "charge", payload: str = "[]") -> ActivityScheduled:
    """Return the command of an activity call."""
    return ActivityScheduled(seq, name, raw(payload))


def completed_activity(seq: int, payload: str = "null") -> ActivityCompleted:
    """Return the end of an activity."""
    return ActivityCompleted(seq, raw(payload))


def signal(name: str, payload: str = "null") -> SignalReceived:
    """Return a signal whose id is its name."""
    return SignalReceived(name, raw(payload), id=name)


def completed(result: str = "null") -> WorkflowExecutionCompleted:
    """Return the end of a run."""
    return WorkflowExecutionCompleted(raw(result))


def close(event: WorkflowExecutionCompleted | None = None, mail: int | None = None) -> Close:
    """Return the ending of a run that completed."""
    return Close(state=RunState.COMPLETED, outcome=event or completed(), mail=mail)


def names(items: list[InboxItem] | tuple[InboxItem, ...]) -> list[tuple[int, str]]:
    """Return numbers and names of signals."""
    return [(item.number, getattr(item.event, "name", type(item.event).__name__)) for item in items]
