"""Histories, messages and outcomes that only a newer release can read: the run is held, readers see the rest."""

from typing import Any

import psycopg
import pytest

from perdure import Client, Worker, activity, workflow
from perdure.client import WorkflowHandle
from perdure.errors import PayloadError
from perdure.model.codec import JSON, encode_turn
from perdure.model.events import ActivityScheduled, TurnHeader, Unreadable
from perdure.model.runs import Ended, RunId, RunState, RunSummary
from perdure.store.base import RunFilter
from perdure.store.memory import MemoryStore
from perdure.store.memory_rows import InboxRow
from tests.support.stores import raw
from tests.support.world import World, described, eventually, run_async, types


@activity.define
async def echo(text: str) -> str:
    return text


@workflow.define
async def steps() -> str:
    first = await echo("a")
    return first + await echo("b")


TIME = 4_000_000_000_000_000
ORDINARY = [ActivityScheduled(1, "echo", raw('["a"]'))]
NEWER = {
    "a codec": b"\x02\x28\xb5\x2f\xfd",
    "an event": JSON + b'[%d, [["as", 1, "echo", ["a"]], ["zz", 2, "teleported"]], null, null, null, "pod-9"]' % TIME,
    "a form of turns": JSON + b'{"turn": 2}',
    "a logic flag": encode_turn(TurnHeader(time=TIME, flags=1 << 20, worker="pod-9"), ORDINARY),
}


async def write(world: World, client: Client, table: str, run_id: RunId, number: int, data: bytes) -> None:
    """Write a row as another release would, beside the store."""
    store = client.store
    if isinstance(store, MemoryStore):
        run = store.runs[run_id]
        match table:
            case "history":
                run.history[number] = data
            case "inbox":
                run.inbox[number], run.mail = InboxRow(data, run.owner), number
            case _:
                run.outcome = data
        return
    async with await psycopg.AsyncConnection.connect(world.url, autocommit=True) as connection:
        match table:
            case "history":
                await connection.execute(
                    "INSERT INTO perdure.history VALUES (%(r)s, %(n)s, %(d)s) "
                    "ON CONFLICT (run_id, seq) DO UPDATE SET events = %(d)s",
                    {"r": run_id, "n": number, "d": data},
                )
            case "inbox":
                await connection.execute(
                    "WITH told AS (UPDATE perdure.run SET mail = %(n)s WHERE id = %(r)s RETURNING id, owner) "
                    "INSERT INTO perdure.inbox SELECT id, %(n)s, owner, %(d)s FROM told",
                    {"r": run_id, "n": number, "d": data},
                )
            case _:
                await connection.execute("UPDATE perdure.run SET outcome = %s WHERE id = %s", (data, run_id))


async def looked_at(client: Client, instance: str, key: str) -> RunSummary:
    """Look at a run in every way that there is, and return what one of them shows."""
    store = client.store
    summary = await store.describe("default", instance)
    assert summary is not None
    assert summary in await store.list_runs("default", RunFilter())
    assert await store.by_key([key]) == [summary]
    ended = {} if summary.outcome is None else {summary.run_id: Ended(instance, summary.outcome)}
    assert await store.ended([summary.run_id]) == ended
    assert summary in [change.run for change in await store.status_changes(100)]
    return summary


@pytest.mark.parametrize("what", NEWER)
def test_a_run_that_a_newer_release_wrote_is_held_and_shown_and_the_others_go_on(world: World, what: str) -> None:
    @run_async
    async def newer() -> None:
        client = await world.client()
        run_id = await client.start_new(described(client, "steps", "newer", key="uid-1"))
        await write(world, client, "history", run_id, 1, NEWER[what])
        async with Worker(client, workflows=[steps], activities=[echo], build_id="one"):
            assert await (await client.start(steps)).result() == "ab"

            async def held() -> bool:
                return (await looked_at(client, "newer", "uid-1")).state is RunState.HELD

            await eventually(held)
            assert await (await client.start(steps)).result() == "ab", "the worker lives on"
        summary = await looked_at(client, "newer", "uid-1")
        assert summary.hold_reason == "UnreadableHistory"
        assert "Upgrade this worker; a worker of the newer release takes the run by itself" in summary.hold_message
        history = await client.handle("newer").history()
        assert types(history)[0] == "WorkflowExecutionStarted"
        match what:
            case "an event":
                assert types(history)[1:] == ["ActivityScheduled", "Unreadable"]
                assert isinstance(history[2].event, Unreadable)
                assert "teleported" in history[2].event.reason
                assert history[2].worker == "pod-9"
            case "a logic flag":
                assert types(history)[1:] == ["ActivityScheduled"]
            case _:
                assert types(history)[1:] == ["Unreadable"]
                assert history[1].time == history[0].time

        # The other release is another build; what it can read is played by a history that this one can read.
        await write(world, client, "history", run_id, 1, encode_turn(TurnHeader(time=TIME), ORDINARY))
        async with Worker(client, workflows=[steps], activities=[echo], build_id="two"):
            assert await client.handle("newer").result() == "ab"
        await world.close()

    newer()


@run_async
async def test_a_message_that_a_newer_release_sent_holds_the_run_only(world: World) -> None:
    client = await world.client()
    done = workflow.signal("done", bool)

    @workflow.define
    async def waits() -> bool:
        return await done.receive()

    async with Worker(client, workflows=[waits]):
        handle, other = await client.start(waits, id="newer"), await client.start(waits, id="other")
        assert handle.run_id is not None
        await write(world, client, "inbox", handle.run_id, 1, JSON + b'["zz", "teleport"]')

        async def held() -> bool:
            return (await handle.describe()).hold_reason == "UnreadableHistory"

        await eventually(held)
        assert "a message in its inbox cannot be read" in (await handle.describe()).hold_message
        await other.signal(done, True)
        assert await other.result() is True
        await handle.terminate()
    await world.close()


@run_async
async def test_an_outcome_that_a_newer_release_wrote_is_shown_and_is_an_error_for_who_waits(world: World) -> None:
    client, other = await world.client(), await world.client()
    run_id = await client.start_new(described(client, "steps", "newer", key="uid-1"))
    async with Worker(client, workflows=[steps], activities=[echo]):
        assert await client.handle("newer").result() == "ab"
    await write(world, client, "outcome", run_id, 0, b"\x02sealed")
    summary = await looked_at(other, "newer", "uid-1")
    assert summary.phase == "Succeeded"
    assert isinstance(summary.outcome, Unreadable)
    with pytest.raises(PayloadError, match="newer is closed, but its outcome is written with codec 2"):
        await other.handle("newer").result()
    await world.close()


@run_async
async def test_a_run_with_an_unreadable_history_can_be_terminated(world: World) -> None:
    client = await world.client()
    handle = await client.start("steps", id="newer")
    assert handle.run_id is not None
    await write(world, client, "history", handle.run_id, 1, NEWER["a codec"])
    await handle.terminate("enough")
    assert types(await handle.history()) == ["WorkflowExecutionStarted", "Unreadable", "WorkflowExecutionTerminated"]
    await world.close()


@run_async
async def test_a_run_of_more_than_a_worker_can_load_is_held_and_the_others_go_on(migrated: str) -> None:
    world = World(migrated)
    client = await world.client()
    large = await client.start("steps", id="large")
    flooded = await client.start("steps", id="flooded")
    async with await psycopg.AsyncConnection.connect(migrated, autocommit=True) as connection:
        await connection.execute(
            "INSERT INTO perdure.payload SELECT %s, 0, i, convert_to(repeat('x', 100000000), 'UTF8') "
            "FROM generate_series(1, 11) i",
            [large.run_id],
        )
        await connection.execute(
            "INSERT INTO perdure.inbox SELECT %s, i, NULL, convert_to(repeat('x', 100000000), 'UTF8') "
            "FROM generate_series(1, 6) i",
            [flooded.run_id],
        )
        await connection.execute("UPDATE perdure.run SET mail = 6 WHERE id = %s", [flooded.run_id])
    async with Worker(client, workflows=[steps], activities=[echo]):
        assert await (await client.start(steps)).result() == "ab"
        for handle in (large, flooded):

            async def held(handle: WorkflowHandle[Any] = handle) -> bool:
                return (await handle.describe()).hold_reason == "RunTooLarge"

            await eventually(held)
            assert "perdure terminate" in (await handle.describe()).hold_message
            await handle.terminate()
    await world.close()
