"""Hints on PostgreSQL wake few of many workers, and the right ones."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

from perdure.model.hints import MANY, Audience, Hint
from perdure.model.workers import Lease
from perdure.store.postgres import PostgresStore
from perdure.store.postgres.fleets import FEW, FRESH, SHARE
from tests.support.stores import NAMESPACE, PostgresStage, behaviour, eventually, new_run, signal, worker_info

END = "the end"
"""A queue that nobody serves, so that everybody is told of it."""


class Crowd:
    """Workers in processes of their own, and a process that has none: who hears of what it does."""

    def __init__(self, stage: PostgresStage, sender: PostgresStore) -> None:
        self.sender = sender
        self.stores: dict[Lease, PostgresStore] = {}
        self._heard: dict[Lease, list[Hint]] = {}
        self._stage = stage
        self._listeners: list[asyncio.Task[None]] = []

    async def join(self, count: int, **changes: Any) -> list[Lease]:
        """Let workers come, and wait until they listen and the sender knows them."""
        joined = [await self._join(f"worker-{number}", **changes) for number in range(count)]

        async def listen() -> bool:
            return all(any(lease.worker in hint.workers for hint in self._heard[lease]) for lease in joined)

        await eventually(listen)
        fleets, asked = self.sender._hints._fleets, self.sender.statements["fleets"]
        fleets._known_at = -FRESH
        self.sender.hint(Hint(queues=frozenset({END})))

        async def known() -> bool:
            return self.sender.statements["fleets"] > asked and fleets._task is None

        await eventually(known)
        fleets._known_at = math.inf  # however long a pause of the machine is
        await self.woken()
        return joined

    async def _join(self, name: str, **changes: Any) -> Lease:
        store = await self._stage.another()
        store.hear(Audience.WORKERS)
        lease = await store.register(worker_info(name, **changes))
        self.stores[lease], self._heard[lease] = store, []
        self._listeners.append(asyncio.create_task(self._listen(lease)))
        return lease

    async def _listen(self, lease: Lease) -> None:
        async for hint in self.stores[lease].listen():
            self._heard[lease].append(hint)

    async def woken(self) -> list[Lease]:
        """Return who has heard of something since the last call; all that was sent before has arrived."""
        await self._rested()
        self.sender.hint(Hint(queues=frozenset({END}), count=MANY))

        async def ended() -> bool:
            return all(heard and END in heard[-1].queues for heard in self._heard.values())

        await eventually(ended)
        await self._rested()
        woken = [lease for lease, heard in self._heard.items() if any(END not in hint.queues for hint in heard)]
        for heard in self._heard.values():
            heard.clear()
        return woken

    async def _rested(self) -> None:
        """Wait until the sender would send a hint at once."""

        async def rested() -> bool:
            hints = self.sender._hints
            return hints._task is None and monotonic() >= hints._free_at

        await eventually(rested)

    async def stop(self) -> None:
        for listener in self._listeners:
            listener.cancel()
        await asyncio.gather(*self._listeners, return_exceptions=True)


@asynccontextmanager
async def crowd(stage: PostgresStage) -> AsyncIterator[Crowd]:
    found = Crowd(stage, await stage.another())
    try:
        yield found
    finally:
        await found.stop()


@behaviour
async def test_a_start_wakes_a_few_of_many_workers_and_not_always_the_same(stage: PostgresStage) -> None:
    async with crowd(stage) as on:
        await on.join(8)
        woken: Counter[Lease] = Counter()
        for number in range(20):
            await on.sender.start(new_run(f"order-{number}"))
            some = await on.woken()
            assert len(some) == FEW
            woken.update(some)
        assert len(woken) > FEW


@behaviour
async def test_the_more_there_is_to_do_the_more_workers_are_woken(stage: PostgresStage) -> None:
    async with crowd(stage) as on:
        everybody = await on.join(8)
        on.sender.hint(Hint(queues=frozenset({"default"}), count=4 * SHARE))
        assert len(await on.woken()) == 4
        on.sender.hint(Hint(tasks=frozenset({"default"}), count=MANY))
        assert await on.woken() == everybody


@behaviour
async def test_of_workers_with_other_code_or_other_queues_a_few_each_are_woken(stage: PostgresStage) -> None:
    async with crowd(stage) as on:
        old = await on.join(4)
        new = await on.join(4, build="build-2")
        await on.join(4, queues=("other",))
        await on.sender.start(new_run("order-1"))
        woken = set(await on.woken())
        assert (len(woken & set(old)), len(woken & set(new)), len(woken)) == (FEW, FEW, 2 * FEW)


@behaviour
async def test_a_queue_that_nobody_is_known_to_serve_wakes_everybody(stage: PostgresStage) -> None:
    """Its worker may have come a moment ago."""
    async with crowd(stage) as on:
        everybody = await on.join(4)
        await on.sender.start(new_run("order-1", queue="other"))
        assert await on.woken() == everybody


@behaviour
async def test_mail_wakes_the_owner_of_the_run_and_nobody_else(stage: PostgresStage) -> None:
    async with crowd(stage) as on:
        owner = (await on.join(4))[2]
        await on.sender.start(new_run("order-1"))
        await on.stores[owner].claim(owner, 1)
        await on.woken()
        await on.sender.deliver(NAMESPACE, "order-1", signal("a"))
        assert await on.woken() == [owner]


@behaviour
async def test_workers_of_this_process_are_told_without_the_database(stage: PostgresStage) -> None:
    async with crowd(stage) as on:
        others = await on.join(FEW)
        own = await on.sender.register(worker_info("own"))
        await on.sender.start(new_run("order-1"))
        await on.sender.claim(own, 1)
        assert await on.woken() == others
        on.sender.statements.clear()
        await on.sender.deliver(NAMESPACE, "order-1", signal("a"))
        assert (await on.woken(), on.sender.statements["notify"]) == ([], 1), "the notification is the end of the look"


@behaviour
async def test_nobody_listens_for_workers_of_this_process_that_are_no_more(stage: PostgresStage) -> None:
    """A process that loses its lease again and again would listen to more channels each time."""
    async with crowd(stage) as on:
        (first,) = await on.join(1)
        store, said = (
            on.stores[first],
            "datname = current_database() AND query LIKE 'UNLISTEN perdure_worker_%%'",
        )
        for _ in range(2):
            latest = await store.register(worker_info("again"))
        await stage.execute("DELETE FROM perdure.worker WHERE id <> %s", latest.worker)
        store._hints._fleets._known_at = -FRESH
        store.hint(Hint(queues=frozenset({"default"})))
        ((query,),) = await eventually(lambda: stage.execute(f"SELECT query FROM pg_stat_activity WHERE {said}"))
        assert query.count("UNLISTEN") == 2
        assert f"_{latest.worker};" not in f"{query};"
        assert store._hints._fleets.own == {latest.worker}
        on._heard[first].clear()
        on.sender.hint(Hint(workers=frozenset({latest.worker})))

        async def told() -> bool:
            return any(latest.worker in hint.workers for hint in on._heard[first])

        await eventually(told)


@behaviour
async def test_who_sends_hints_looks_for_workers_now_and_then(stage: PostgresStage) -> None:
    began_at = monotonic()
    for number in range(100):
        await stage.start(f"order-{number}")
    assert 1 <= stage.store.statements["fleets"] <= 1 + (monotonic() - began_at) / (FRESH / 2)


@behaviour
async def test_a_worker_that_comes_while_others_listen_looks_as_soon_as_it_hears(stage: PostgresStage) -> None:
    """Before that it may have been sent what it did not hear."""
    async with crowd(stage) as on:
        (first,) = await on.join(1)
        store = on.stores[first]
        second = await store.register(worker_info("second"))

        async def told() -> bool:
            return any(second.worker in hint.workers and "default" in hint.queues for hint in on._heard[first])

        await eventually(told)
