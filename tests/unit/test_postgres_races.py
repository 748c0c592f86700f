"""The races that the statements are written for, stopped in the middle by locks instead of hoped for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest

from perdure.model import codec
from perdure.model.runs import Close, Committed, Heartbeat, NewTask, Park, Release, RunState, TaskDone, Visible
from tests.support.gate import GatedStage, gated_stage
from tests.support.stores import (
    NAMESPACE,
    behaviour,
    close,
    commit,
    completed_activity,
    names,
    signal,
    turn,
)

RENDER = NewTask(seq=1, queue="default", name="render", input=b"[]", options=b"{}")


@pytest.fixture
def stage(database: str) -> Iterator[GatedStage]:
    """Lend a stage with a gate."""
    with gated_stage(database) as gated:
        yield gated


@behaviour
async def test_a_claim_with_an_old_snapshot_reads_again(stage: GatedStage) -> None:
    gated = await stage.gated()
    slow, quick = await stage.worker("slow"), await stage.worker("quick")
    run_id = (await stage.start()).run_id
    async with stage.gate():
        claim = asyncio.create_task(gated.claim(slow, 5))
        await stage.stopped()
        await stage.claim_one(quick)
        await stage.store.deliver(NAMESPACE, "order-1", signal("a"))
        await stage.flush(quick, run_id, turn(1), consumed=1)
        await stage.flush(quick, run_id, turn(2), Release())
        await stage.store.deliver(NAMESPACE, "order-1", signal("b"))
    (claimed,) = await claim
    assert [found.seq for found in claimed.history] == [0, 1, 2]
    assert (names(claimed.inbox), claimed.mail) == ([(2, "b")], 2)
    assert gated.statements["claim"] == 2
    assert (await stage.flush(slow, run_id, turn(3), close())).recorded


@behaviour
async def test_a_claim_reads_again_when_only_a_message_came_between(stage: GatedStage) -> None:
    gated = await stage.gated()
    lease = await stage.worker()
    await stage.start()
    async with stage.gate():
        claim = asyncio.create_task(gated.claim(lease, 5))
        await stage.stopped()
        await stage.store.deliver(NAMESPACE, "order-1", signal("a"))
    (claimed,) = await claim
    assert (names(claimed.inbox), claimed.mail) == ([(1, "a")], 1)


@behaviour
async def test_a_claim_does_not_take_what_somebody_else_took_meanwhile(stage: GatedStage) -> None:
    gated = await stage.gated()
    slow, quick = await stage.worker("slow"), await stage.worker("quick")
    await stage.start()
    async with stage.gate():
        claim = asyncio.create_task(gated.claim(slow, 5))
        await stage.stopped()
        await stage.claim_one(quick)
    assert await claim == []
    assert (await stage.summary()).worker == "quick"


@behaviour
async def test_recovering_with_an_old_snapshot_takes_nothing_from_a_newer_worker(stage: GatedStage) -> None:
    gated = await stage.gated()
    dead, slow = await stage.worker("dead"), await stage.worker("slow")
    run_id = await stage.owned(dead)
    await stage.execute("DELETE FROM perdure.worker WHERE name = 'dead'")
    async with stage.gate():
        recovery = asyncio.create_task(gated.recover(slow))
        await stage.stopped()
        newer = await stage.worker("newer")
        assert await stage.store.recover(newer) == 1
        await stage.claim_one(newer)
    assert await recovery == 0
    assert (await stage.summary()).worker == "newer"
    assert (await stage.flush(newer, run_id, turn(1))).recorded


@behaviour
async def test_a_worker_is_not_reaped_while_its_flush_is_in_flight(stage: GatedStage) -> None:
    dying, heir = await stage.worker("dying", lease=10.0), await stage.worker("heir", lease=1000.0)
    run_id = await stage.owned(dying)
    reaper = await stage.another()
    async with stage.aside() as beside:
        await beside.execute("INSERT INTO perdure.history VALUES (%s, 1, '')", [run_id])
        flush = asyncio.create_task(stage.flush(dying, run_id, turn(1)))
        await stage.stopped()
        await stage.pass_time(11)
        assert not (await asyncio.to_thread(reaper.renew, heir)).reaped, "it must wait for the flush, without waiting"
        await beside.rollback()
    assert (await flush).recorded
    assert (await asyncio.to_thread(reaper.renew, heir)).reaped
    assert await reaper.recover(heir) == 1
    (claimed,) = await reaper.claim(heir, 5)
    assert [found.seq for found in claimed.history] == [0, 1]


@behaviour
async def test_removing_a_worker_waits_for_its_flush(stage: GatedStage) -> None:
    dying, heir = await stage.worker("dying"), await stage.worker("heir")
    run_id = await stage.owned(dying)
    other = await stage.another()
    async with stage.aside() as beside:
        await beside.execute("INSERT INTO perdure.history VALUES (%s, 1, '')", [run_id])
        flush = asyncio.create_task(stage.flush(dying, run_id, turn(1)))
        await stage.stopped()
        expulsion = asyncio.create_task(other.expire(NAMESPACE, "dying"))
        await stage.stopped(2)
        await beside.rollback()
    assert (await flush).recorded
    assert (await expulsion).workers == 1
    (claimed,) = await other.claim(heir, 5)
    assert [found.seq for found in claimed.history] == [0, 1]


@behaviour
async def test_a_park_that_waited_for_a_delivery_is_refused(stage: GatedStage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    async with stage.aside() as beside:
        await beside.execute("UPDATE perdure.run SET mail = mail + 1 WHERE id = %s", [run_id])
        await beside.execute("INSERT INTO perdure.inbox VALUES (%s, 1, %s, %s)", [run_id, lease.worker, b"\1{}"])
        park = asyncio.create_task(stage.flush(lease, run_id, turn(1), Park(mail=0, wake_at=None)))
        await stage.stopped()
        await beside.commit()
    answer = await park
    assert (answer.recorded, answer.ended) == (True, False)
    assert (await stage.summary()).state is RunState.OWNED


@behaviour
async def test_a_delivery_that_waited_for_a_park_wakes_the_run(stage: GatedStage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    async with stage.aside() as beside:
        await beside.execute("UPDATE perdure.run SET state = 2, owner = NULL WHERE id = %s", [run_id])
        delivery = asyncio.create_task(stage.store.deliver(NAMESPACE, "order-1", signal("a")))
        await stage.stopped()
        await beside.commit()
    assert await delivery == run_id
    assert names((await stage.claim_one(lease)).inbox) == [(1, "a")]


@behaviour
async def test_a_delivery_that_waited_for_the_end_of_the_run_is_told_so(stage: GatedStage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    async with stage.aside() as beside:
        ending = "UPDATE perdure.run SET state = 10, closed_at = now(), owner = NULL WHERE id = %s"
        await beside.execute(ending, [run_id])
        delivery = asyncio.create_task(stage.store.deliver(NAMESPACE, "order-1", signal("a")))
        await stage.stopped()
        await beside.commit()
    assert await delivery is None
    assert await stage.execute("SELECT * FROM perdure.inbox") == []


@behaviour
async def test_a_termination_that_waited_for_a_claim_tells_the_new_owner(stage: GatedStage) -> None:
    lease = await stage.worker()
    run_id = (await stage.start()).run_id
    async with stage.aside() as beside:
        claim = "UPDATE perdure.run SET state = 1, owner = %s, claims = claims + 1 WHERE id = %s"
        await beside.execute(claim, [lease.worker, run_id])
        termination = asyncio.create_task(stage.store.terminate(NAMESPACE, "order-1", "enough"))
        await stage.stopped()
        await beside.commit()
    assert await termination == run_id
    (item,) = await stage.store.inbox(lease)
    assert type(item.event).__name__ == "WorkflowExecutionTerminated"


@pytest.mark.parametrize("owned", [False, True])
def test_a_termination_that_waited_for_a_message_leaves_nothing_to_read_but_its_own(
    stage: GatedStage, owned: bool
) -> None:
    @behaviour
    async def terminate_late(stage: GatedStage) -> None:
        lease = await stage.worker()
        run_id = await stage.owned(lease) if owned else (await stage.start()).run_id
        await stage.store.deliver(NAMESPACE, "order-1", signal("before"))
        async with stage.aside() as beside:
            # What a delivery does that has not been committed yet.
            await beside.execute("UPDATE perdure.run SET mail = mail + 2 WHERE id = %s", [run_id])
            for number in (2, 3):
                row = [run_id, number, lease.worker if owned else None, codec.encode_message(signal("between"))]
                await beside.execute("INSERT INTO perdure.inbox VALUES (%s, %s, %s, %s)", row)
            termination = asyncio.create_task(stage.store.terminate(NAMESPACE, "order-1", "enough"))
            await stage.stopped()
            await beside.commit()
        assert await termination == run_id
        left = await stage.execute("SELECT number FROM perdure.inbox")
        assert left == ([(4,)] if owned else [])
        told = [type(item.event).__name__ for item in await stage.store.inbox(lease)]
        assert told == (["WorkflowExecutionTerminated"] if owned else [])
        await stage.store.inbox(lease)
        assert await stage.execute("SELECT number FROM perdure.inbox") == []

    terminate_late(stage)


@behaviour
async def test_a_termination_goes_behind_a_turn_that_was_being_written(stage: GatedStage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    async with stage.aside() as beside:
        copy = "INSERT INTO perdure.history SELECT run_id, 1, events FROM perdure.history WHERE run_id = %s"
        await beside.execute(copy, [run_id])
        termination = asyncio.create_task(stage.store.terminate(NAMESPACE, "order-1", "enough"))
        await stage.stopped()
        await beside.commit()
    assert await termination == run_id
    assert [event.turn for event in await stage.store.history(run_id)] == [0, 1, 2]
    assert stage.store.statements["terminate"] == 2


@behaviour
async def test_a_flush_beside_a_termination_is_repeated_and_then_refused(stage: GatedStage) -> None:
    lease = await stage.worker()
    run_id, other = await stage.owned(lease), await stage.owned(lease, "order-2")
    async with stage.aside() as beside:
        await beside.execute("INSERT INTO perdure.history VALUES (%s, 1, 'x')", [run_id])
        flush = asyncio.create_task(stage.store.flush(lease, [commit(run_id, turn(1)), commit(other, turn(1))]))
        await stage.stopped()
        await beside.commit()
    assert [answer.recorded for answer in await flush] == [False, True]
    assert (stage.store.statements["flush_turns"], stage.store.statements["flush"]) == (1, 1)


@pytest.mark.parametrize(("statement", "endings"), [("turn_one", ()), ("close_one", (close(),))])
def test_a_turn_written_alone_beside_a_termination_is_refused(
    stage: GatedStage, statement: str, endings: tuple[Close, ...]
) -> None:
    @behaviour
    async def refuse(stage: GatedStage) -> None:
        lease = await stage.worker()
        run_id = await stage.owned(lease)
        async with stage.aside() as beside:
            await beside.execute("INSERT INTO perdure.history VALUES (%s, 1, 'x')", [run_id])
            flush = asyncio.create_task(stage.flush(lease, run_id, turn(1), *endings))
            await stage.stopped()
            await beside.commit()
        assert await flush == Committed(recorded=False, ended=False)
        assert (stage.store.statements[statement], stage.store.statements["flush"]) == (1, 1)
        assert (await stage.summary()).state is RunState.OWNED

    refuse(stage)


@behaviour
async def test_the_end_of_a_task_locks_its_run_first(stage: GatedStage) -> None:
    """As every flush does: in another order the two could wait for each other."""
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await stage.flush(lease, run_id, turn(1), tasks=(RENDER,))
    await stage.store.claim_tasks(lease, 5)
    async with stage.aside() as beside:
        await beside.execute("SELECT FROM perdure.run WHERE id = %s FOR UPDATE", [run_id])
        done = TaskDone(run_id=run_id, seq=1, event=completed_activity(1))
        finish = asyncio.create_task(stage.store.finish_tasks(lease, [done]))
        await stage.stopped()
        await beside.execute("SELECT FROM perdure.task WHERE run_id = %s FOR UPDATE NOWAIT", [run_id])
        await beside.commit()
    await finish
    assert len(await stage.store.inbox(lease)) == 1


@behaviour
async def test_a_deadlock_is_repeated(stage: GatedStage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    async with stage.aside() as beside:
        await beside.execute("SELECT FROM perdure.run WHERE id = %s FOR UPDATE", [run_id])
        flush = asyncio.create_task(stage.flush(lease, run_id, turn(1), close()))
        await stage.stopped()
        removal = beside.execute("DELETE FROM perdure.worker WHERE id = %s", [lease.worker])
        (ended,) = await asyncio.gather(removal, return_exceptions=True)
        # The server ends one of the two; either way the flush is recorded once the way is free.
        await beside.rollback()
    assert (await flush).recorded
    assert isinstance(ended, psycopg.errors.DeadlockDetected) or stage.store.statements["close_one"] == 2


@pytest.mark.parametrize(
    ("statement", "visible", "company"),
    [("close_one", None, 0), ("flush_turns", None, 1), ("flush", Visible(text="nearly done"), 0)],
)
def test_details_that_are_written_while_a_run_is_being_closed_go_with_it(
    stage: GatedStage, statement: str, visible: Visible | None, company: int
) -> None:
    @behaviour
    async def close_late(stage: GatedStage) -> None:
        gated = await stage.gated()
        lease = await stage.worker()
        run_id = await stage.owned(lease)
        commits = [commit(run_id, turn(1), close(), visible=visible)]
        commits += [commit(await stage.owned(lease, f"other-{number}"), turn(1)) for number in range(company)]
        async with stage.gate():
            closing = asyncio.create_task(gated.flush(lease, commits))
            await stage.stopped()
            await stage.store.heartbeat(lease, [Heartbeat(run_id, 1, b"7")])
            assert await stage.execute("SELECT count(*) FROM perdure.heartbeat") == [(1,)]
        assert [answer.ended for answer in await closing] == [True] + [False] * company
        assert gated.statements[statement] == 1
        assert await stage.execute("SELECT count(*) FROM perdure.heartbeat") == [(0,)]

    close_late(stage)
