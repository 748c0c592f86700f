"""Hints on PostgreSQL: few notifications, on their own or with the statement that they follow from."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import psycopg
import pytest

from perdure.errors import SchemaVersionError, StoreUnavailableError
from perdure.model.events import Failure
from perdure.model.hints import NOTHING, Audience, Hint
from perdure.model.runs import ClaimAnswer, NewRun, NewTask, RunId, TaskRetry
from perdure.store.postgres import PostgresStore
from perdure.store.postgres.sealing import Seal
from tests.support.stores import (
    PostgresStage,
    announced,
    behaviour,
    close,
    commit,
    eventually,
    new_run,
    turn,
    worker_info,
)
from tests.support.wire import Wire


async def heard_by(listener: PostgresStore, stage: PostgresStage) -> AsyncIterator[Hint]:
    """Return what a worker's process hears from now on; hints for the queue ``before`` may still come."""
    listener.hear(Audience.WORKERS)
    hints = aiter(listener.listen())
    first = asyncio.ensure_future(anext(hints))
    while not first.done():
        stage.store.hint(Hint(queues=frozenset({"before"})))
        await asyncio.sleep(0.02)
    assert await first == Hint(queues=frozenset({"before"}))
    return hints


@behaviour
async def test_a_listener_that_loses_its_connection_says_so(stage: PostgresStage) -> None:
    async with Wire(stage.dsn) as wire:
        store = await PostgresStore.connect(wire.dsn())
        hints = await heard_by(store, stage)
        await wire.cut()
        with pytest.raises(StoreUnavailableError):
            await drain(hints)
        await store.close()


async def drain(hints: AsyncIterator[Hint]) -> None:
    """Listen until it ends."""
    async for _ in hints:
        pass


@behaviour
async def test_hints_are_gathered_into_few_notifications(stage: PostgresStage) -> None:
    other = await stage.another()
    other.hear(Audience.WORKERS)
    heard: set[str] = set()

    async def listen() -> None:
        async for hint in other.listen():
            heard.update(hint.queues)

    async def heard_all() -> bool:
        return len(heard) == 301

    listener = asyncio.create_task(listen())
    try:
        while "start" not in heard:
            stage.store.hint(Hint(queues=frozenset({"start"})))
            await asyncio.sleep(0.02)
        stage.store.statements.clear()
        for number in range(300):
            stage.store.hint(Hint(queues=frozenset({f"queue-{number}"})))
        await eventually(heard_all)
        assert stage.store.statements["notify"] <= 2
    finally:
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)


@behaviour
async def test_a_task_that_is_given_back_is_told_to_others_unless_it_has_to_wait(stage: PostgresStage) -> None:
    hints = await heard_by(await stage.another(), stage)
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    queues = {1: "now", 2: "later"}
    tasks = [NewTask(seq=seq, queue=queues[seq], name="render", input=b"[]", options=b"{}") for seq in queues]
    await stage.flush(lease, run_id, turn(1), tasks=tasks)
    other = await stage.worker("other", queues=("now", "later"))
    assert len(await stage.store.claim_tasks(other, 10)) == 2
    stage.store.hint(Hint(queues=frozenset({"between"})))
    while (await anext(hints)).queues != frozenset({"between"}):
        pass
    failure = Failure("UnknownActivity", "not here")
    delays = {1: 0.0, 2: 30.0}
    retries = [TaskRetry(run_id=run_id, seq=seq, attempt=1, failure=failure, delay=delays[seq]) for seq in delays]
    await stage.store.finish_tasks(other, retries)
    assert (await anext(hints)).tasks == frozenset({"now"})


@behaviour
async def test_what_is_written_alone_carries_its_hint_itself(stage: PostgresStage) -> None:
    starter, ender, listener = await stage.another(), await stage.another(), await stage.another()
    for audience in Audience:
        listener.hear(audience)
    heard: list[Hint] = []

    async def listen() -> None:
        async for hint in listener.listen():
            heard.append(hint)  # noqa: PERF401  # others look meanwhile

    async def until(hint: Hint) -> None:
        async def known() -> bool:
            return hint in heard

        await eventually(known)

    listening = asyncio.create_task(listen())
    try:
        while not heard:
            stage.store.hint(Hint(changed=True))
            await asyncio.sleep(0.02)
        started = await starter.start(new_run("order-1"))
        announced_run = await announced(stage.store, started.run_id)
        await until(Hint(queues=frozenset({"default"}), announced=(announced_run,)))
        lease = await ender.register(worker_info("a"))
        await ender.claim(lease, 1)
        await ender.flush(lease, [commit(started.run_id, turn(1), close())])
        await until(Hint(closed=frozenset({started.run_id})))
        assert starter.statements["notify"] + ender.statements["notify"] == 0
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


@behaviour
async def test_a_process_is_sent_what_it_wants_to_hear_and_more_as_soon_as_it_asks(stage: PostgresStage) -> None:
    """Every NOTIFY on a channel wakes each process that listens to it, be it of use to it or not."""
    store = await stage.another()
    store.hear(Audience.WORKERS)
    heard: set[Hint] = set()

    async def listen() -> None:
        async for hint in store.listen():
            heard.add(hint)

    async def known(hint: Hint) -> bool:
        stage.store.hint(hint)
        return any(hint.part(audience) == found.part(audience) != NOTHING for found in heard for audience in Audience)

    first, last = Hint(queues=frozenset({"first"})), Hint(queues=frozenset({"last"}))
    end = Hint(closed=frozenset({RunId(7)}))
    listening = asyncio.create_task(listen())
    try:
        await eventually(lambda: known(first))
        stage.store.hint(end)
        stage.store.hint(Hint(changed=True))
        await eventually(lambda: known(last))
        assert not any(hint.closed or hint.changed for hint in heard), "this would have come before the last one"
        store.hear(Audience.CLIENTS)
        await eventually(lambda: known(end))
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


@behaviour
async def test_however_many_runs_have_closed_each_is_named(stage: PostgresStage) -> None:
    listener = await stage.another()
    hints = await heard_by(listener, stage)
    listener.hear(Audience.CLIENTS)
    closed = frozenset(RunId(1 << 40 | number) for number in range(2_000))
    heard: set[RunId] = set()
    asking = asyncio.ensure_future(anext(hints))
    while not closed <= heard:
        stage.store.hint(Hint(closed=closed))
        await asyncio.wait([asking], timeout=0.1)
        while asking.done():
            heard |= (await asking).closed
            asking = asyncio.ensure_future(anext(hints))
            await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


def test_who_stops_to_listen_before_the_server_has_answered_says_nothing(
    stage: PostgresStage, caplog: pytest.LogCaptureFixture
) -> None:
    """A command that has its result at once is gone in this moment."""

    @behaviour
    async def stop_at_once(stage: PostgresStage) -> None:
        stage.store.hear(Audience.CLIENTS)
        listening = asyncio.ensure_future(anext(aiter(stage.store.listen())))
        while not stage.store._hints._ears:  # noqa: ASYNC110  # the answer must not have come yet
            await asyncio.sleep(0)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)

    stop_at_once(stage)
    assert caplog.messages == []


@behaviour
async def test_a_queue_whose_name_fits_no_hint_is_served_all_the_same(stage: PostgresStage) -> None:
    assert (await stage.store.start(new_run("order-1", queue="q" * 9_000))).created


async def heard_of(stage: PostgresStage, new: NewRun) -> tuple[RunId, Hint]:
    """Start a run alone, and return it with the hint that another process hears of it."""
    starter, listener = await stage.another(), await stage.another()
    hints = await heard_by(listener, stage)
    started = await starter.start(new)
    async for hint in hints:
        if "before" not in hint.queues:
            return started.run_id, hint
    raise AssertionError


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"key": "uid-1", "priority": 7},
        {"timeout": 60.0},
        {"id": 'Großmutter\'s "büro" \\ 100 %', "input": '["„Käse“ \\\\ \\" \\u0001"]'.encode()},
        {"input": b"[ 1,\n 2 ]"},
    ],
    ids=["plain", "key", "timeout", "signs", "spaces"],
)
def test_a_run_is_announced_as_it_is_recorded(stage: PostgresStage, changes: dict[str, Any]) -> None:
    @behaviour
    async def test(stage: PostgresStage) -> None:
        new = new_run("order-1", **changes)
        run_id, hint = await heard_of(stage, new)
        lease = await stage.worker()
        (run,) = hint.announced
        assert (hint.queues, run.info.id, run.info.namespace) == (frozenset({"default"}), new.id, new.namespace)
        assert await stage.store.claim_announced(lease, run, turn(1)) is ClaimAnswer.TAKEN
        await stage.store.resign(lease)
        recorded = await stage.claim_one(await stage.worker("two"))
        assert recorded.info == run.info
        assert recorded.info.run_id == run_id
        assert (recorded.deadline, recorded.created_at) == (run.deadline, run.created_at)
        assert recorded.history[0] == run.history[0]

    test(stage)


@pytest.mark.parametrize(
    "changes",
    [
        {"input": b'["' + b"x" * 2_000 + b'"]'},
        {"input": b'["' + b"x" * 9_000 + b'"]'},
        {"input": b'["' + b"x" * 50_000 + b'"]'},
        {"build": "build-1"},
        {"suspended": True},
    ],
    ids=["long", "longer", "kept apart", "for one build", "suspended"],
)
def test_a_run_that_is_long_or_not_for_everybody_is_hinted_at_and_not_announced(
    stage: PostgresStage, changes: dict[str, Any]
) -> None:
    @behaviour
    async def test(stage: PostgresStage) -> None:
        _, hint = await heard_of(stage, new_run("order-1", **changes))
        assert hint == Hint(queues=frozenset({"default"}))

    test(stage)


@behaviour
async def test_a_run_that_was_there_already_is_not_announced(stage: PostgresStage) -> None:
    await stage.start("order-1")
    listener = await stage.another()
    listener.hear(Audience.WORKERS)
    heard: list[Hint] = []

    async def listen() -> None:
        async for hint in listener.listen():
            heard.append(hint)  # noqa: PERF401  # others look meanwhile

    async def hinted(queue: str) -> bool:
        stage.store.hint(Hint(queues=frozenset({queue})))
        return any(queue in hint.queues for hint in heard)

    listening = asyncio.create_task(listen())
    try:
        await eventually(lambda: hinted("before"))
        starter = await stage.another()
        assert not (await starter.start(new_run("order-1"))).created
        await eventually(lambda: hinted("after"))
        assert not [hint for hint in heard if hint.announced or "default" in hint.queues]
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


@behaviour
async def test_whoever_may_only_connect_learns_nothing_of_the_input_of_a_run_that_is_announced(
    stage: PostgresStage,
) -> None:
    """LISTEN needs no right to any table."""
    starter = await stage.another()
    async with await psycopg.AsyncConnection.connect(stage.dsn, autocommit=True) as eavesdropper:
        await eavesdropper.execute("LISTEN perdure_workers")
        new = new_run("order-1", input=b'["card 4242"]', seed="a seed", workflow="settle", queue="bank")
        await starter.start(new)
        (notice,) = [found async for found in eavesdropper.notifies(stop_after=1)]
    sealed = msgspec.json.decode(notice.payload)[-1][0]
    told = notice.payload + b64decode(sealed).decode("latin-1")
    assert not [word for word in ("4242", "a seed", "settle", "order-1") if word in told]


@behaviour
async def test_an_announcement_that_cannot_be_opened_is_a_hint_like_any_other(stage: PostgresStage) -> None:
    listener, starter = await stage.another(), await stage.another()
    hints = await heard_by(listener, stage)
    starter._hints.seal = Seal(b"made up")
    await starter.start(new_run("order-1"))
    for announcement in ('["no base 64",1,2,null]', '["",1,2,null]'):
        payload = f'["x",["default"],[],[],false,[],{announcement}]'
        await stage.execute("SELECT pg_notify('perdure_workers', %s)", payload)
    heard: list[Hint] = []
    while len(heard) < 3:
        hint = await anext(hints)
        heard += [hint] if "before" not in hint.queues else []
    assert heard == [Hint(queues=frozenset({"default"}))] * 3


@behaviour
async def test_without_a_key_for_announcements_nobody_connects_and_the_error_says_what_to_do(
    stage: PostgresStage,
) -> None:
    await stage.execute("DELETE FROM perdure.announcement_key")
    with pytest.raises(SchemaVersionError, match=r"announcement_key .* is empty: restore its row"):
        await stage.another()
