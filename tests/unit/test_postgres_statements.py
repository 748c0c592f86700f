"""The price of each verb on PostgreSQL, counted in statements."""

from __future__ import annotations

import asyncio

import pytest

from perdure.model.events import Failure, SignalReceived
from perdure.model.runs import Committed, NewTask, Park, RunId, RunState, TaskDone, TaskRetry
from perdure.model.workers import Lease
from perdure.store.base import CommitRefusedError
from tests.support.stores import (
    NAMESPACE,
    PostgresStage,
    behaviour,
    close,
    commit,
    completed_activity,
    new_run,
    signal,
    turn,
)
from tests.support.takers import begun


class Bill:
    """Counts the statements of a part of a test; whom to NOTIFY, and doing it, is off the path and does not count."""

    def __init__(self, stage: PostgresStage) -> None:
        self._statements = stage.store.statements
        self._statements.clear()

    def __eq__(self, other: object) -> bool:
        return {name: count for name, count in self._statements.items() if name not in ("fleets", "notify")} == other

    def __repr__(self) -> str:
        return repr(dict(self._statements))

    __hash__ = None  # type: ignore[assignment]  # it changes all the time


async def owned_runs(stage: PostgresStage, lease: Lease, count: int) -> list[RunId]:
    for number in range(count):
        await stage.start(f"order-{number}")
    return [run.info.run_id for run in await stage.store.claim(lease, count)]


@behaviour
async def test_each_verb_of_a_client_is_one_statement(stage: PostgresStage) -> None:
    bill = Bill(stage)
    await stage.start()
    assert bill == {"start_one": 1}
    await stage.start()
    assert bill == {"start_one": 2}
    await asyncio.gather(stage.start("order-2"), stage.start("order-3"))
    assert bill == {"start_one": 2, "start": 1}
    bill = Bill(stage)
    await stage.store.deliver(NAMESPACE, "order-1", signal("a"))
    assert bill == {"deliver": 1}
    await stage.store.deliver(NAMESPACE, "nobody", signal("a"))
    assert bill == {"deliver": 2}
    bill = Bill(stage)
    await stage.store.resume(NAMESPACE, "order-1")
    await stage.store.terminate(NAMESPACE, "order-1", "enough")
    assert bill == {"resume": 1, "terminate": 1}


@behaviour
async def test_a_run_that_begins_where_it_is_started_is_one_statement(stage: PostgresStage) -> None:
    taker = begun(await stage.worker())
    bill = Bill(stage)
    assert (await stage.store.start(new_run("order-1"), taker)).taken
    assert bill == {"start_own": 1}
    assert not (await stage.store.start(new_run("order-1"), taker)).created
    assert bill == {"start_own": 2, "start": 1}, "the long one finds out why not"


@behaviour
async def test_a_claim_of_fifty_runs_is_one_statement(stage: PostgresStage) -> None:
    for number in range(50):
        await stage.start(f"order-{number}")
        await stage.store.deliver(NAMESPACE, f"order-{number}", signal("a"))
    lease = await stage.worker()
    bill = Bill(stage)
    claimed = await stage.store.claim(lease, 50)
    assert len(claimed) == 50
    assert all(len(run.history) == len(run.inbox) == 1 for run in claimed)
    assert bill == {"claim": 1}
    assert await stage.store.claim(lease, 50) == []
    assert bill == {"claim": 2}


@behaviour
async def test_a_flush_of_a_hundred_runs_is_one_statement(stage: PostgresStage) -> None:
    lease = await stage.worker()
    runs = await owned_runs(stage, lease, 100)
    bill = Bill(stage)
    await stage.store.flush(lease, [commit(run_id, turn(1)) for run_id in runs])
    assert bill == {"flush_turns": 1}
    task = NewTask(seq=2, queue="default", name="render", input=b"[]", options=b"{}")
    endings = [close() if run_id % 2 else Park(mail=0, wake_at=None) for run_id in runs]
    await stage.store.flush(
        lease, [commit(run_id, turn(2), ending, tasks=(task,)) for run_id, ending in zip(runs, endings, strict=True)]
    )
    assert bill == {"flush_turns": 1, "flush": 1}


@behaviour
async def test_a_turn_that_is_written_alone_has_a_statement_of_its_own_and_so_has_the_last(
    stage: PostgresStage,
) -> None:
    lease = await stage.worker()
    (run_id,) = await owned_runs(stage, lease, 1)
    bill = Bill(stage)
    assert await stage.flush(lease, run_id, turn(1)) == Committed(recorded=True, ended=False)
    assert bill == {"turn_one": 1}
    assert await stage.flush(lease, run_id, turn(2), close()) == Committed(recorded=True, ended=True)
    assert bill == {"turn_one": 1, "close_one": 1}


@behaviour
async def test_a_flush_is_cut_at_500_commits_and_at_a_megabyte(stage: PostgresStage) -> None:
    lease = await stage.worker()
    (run_id,) = await owned_runs(stage, lease, 1)
    nobody = [commit(RunId(10**6 + number), turn(1)) for number in range(501)]
    bill = Bill(stage)
    await stage.store.flush(lease, nobody)
    # The long statement finds out why none is recorded.
    assert bill == {"flush_turns": 1, "turn_one": 1, "flush": 2, "unrecorded": 2}
    large = completed_activity(1, '"' + "x" * 30_000 + '"')
    bill = Bill(stage)
    await stage.store.flush(lease, [commit(run_id, turn(1, *[large] * 20)), nobody[0], *[commit(RunId(10**7))]])
    assert bill == {"flush": 1, "unrecorded": 1}
    bill = Bill(stage)
    await stage.store.flush(lease, [commit(RunId(10**6 + number), turn(1, *[large] * 20)) for number in range(3)])
    assert bill == {"turn_one": 3, "flush": 3, "unrecorded": 3}


@behaviour
async def test_of_a_long_backlog_only_the_ends_are_looked_at_for_what_nobody_knows(stage: PostgresStage) -> None:
    await stage.worker("alive", workflows=("other",))
    lease = await stage.worker()
    await stage.execute(
        "INSERT INTO perdure.run (id, namespace, instance, workflow, queue) "
        f"SELECT nextval('perdure.run_id'), '{NAMESPACE}', 'i-' || n, "
        "CASE WHEN n IN (1, 1500, 3000) THEN 'strange' ELSE 'other' END, 'default' FROM generate_series(1, 3000) n"
    )
    assert await stage.store.hold_unknown(lease) == 2
    assert [(await stage.summary(f"i-{n}")).state for n in (1, 1500, 3000)] == [
        RunState.HELD,
        RunState.READY,
        RunState.HELD,
    ]
    await stage.execute("DELETE FROM perdure.run WHERE workflow = 'other' AND instance < 'i-2'")
    assert await stage.store.hold_unknown(lease) == 1


@behaviour
async def test_nothing_to_flush_costs_nothing(stage: PostgresStage) -> None:
    lease = await stage.worker()
    bill = Bill(stage)
    await stage.store.flush(lease, [])
    await stage.store.finish_tasks(lease, [])
    assert bill == {}


@behaviour
async def test_a_bad_commit_among_many_is_found_by_halves(stage: PostgresStage) -> None:
    lease = await stage.worker()
    runs = await owned_runs(stage, lease, 64)
    commits = [commit(run_id, turn(1)) for run_id in runs]
    commits[20] = commit(runs[20], turn(1), Park(mail=0, wake_at=None, waiting_for="a NUL: \0"))
    bill = Bill(stage)
    with pytest.raises(CommitRefusedError):
        await stage.store.flush(lease, commits)
    assert bill == {"flush": 7, "flush_turns": 5, "turn_one": 1}


@behaviour
async def test_workers_pay_one_statement_for_everything_else_they_do(stage: PostgresStage) -> None:
    bill = Bill(stage)
    lease = await stage.worker()
    assert bill == {"register": 1}
    run_id = await stage.owned(lease)
    tasks = tuple(NewTask(seq=seq, queue="default", name="render", input=b"[]", options=b"{}") for seq in range(1, 41))
    await stage.flush(lease, run_id, turn(1), tasks=tasks)
    bill = Bill(stage)
    await asyncio.to_thread(stage.store.renew, lease)
    assert bill == {"renew": 1}
    claimed = await stage.store.claim_tasks(lease, 40)
    assert bill == {"renew": 1, "claim_tasks": 1}
    bill = Bill(stage)
    done = [TaskDone(run_id=run_id, seq=task.seq, event=completed_activity(task.seq)) for task in claimed]
    await stage.store.finish_tasks(lease, [*done[:39], retry(run_id, 40)])
    assert bill == {"finish_tasks": 1}
    assert len(await stage.store.inbox(lease)) == 39
    assert await stage.store.recover(lease) == 0
    assert bill == {"finish_tasks": 1, "inbox": 1, "recover": 1}
    bill = Bill(stage)
    await stage.store.resign(lease)
    assert bill == {"expel": 1}


def retry(run_id: RunId, seq: int) -> TaskRetry:
    return TaskRetry(run_id=run_id, seq=seq, attempt=2, failure=Failure("ValueError", "no"), delay=1.0)


@behaviour
async def test_looking_for_work_in_vain_writes_nothing(stage: PostgresStage) -> None:
    lease = await stage.worker()
    await stage.store.claim(lease, 10)

    async def written() -> object:
        return await stage.execute("SELECT pg_current_wal_insert_lsn()::text")

    before = await written()
    for _ in range(5):
        await stage.store.claim(lease, 10)
        await stage.store.claim_tasks(lease, 10)
        await stage.store.inbox(lease)
    assert await written() == before


@behaviour
async def test_an_ordinary_turn_changes_no_row_of_its_run(stage: PostgresStage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    version = "SELECT xmin::text, xmax::text FROM perdure.run WHERE id = %s"
    before = await stage.execute(version, run_id)
    await stage.flush(lease, run_id, turn(1))
    assert await stage.execute(version, run_id) == before


@behaviour
async def test_messages_that_come_together_are_one_statement(stage: PostgresStage) -> None:
    for number in range(3):
        await stage.start(f"order-{number}")
    targets = [f"order-{number % 4}" for number in range(40)]  # order-3 does not exist
    bill = Bill(stage)
    sent = (stage.store.deliver(NAMESPACE, target, signal(f"s{n}")) for n, target in enumerate(targets))
    answers = await asyncio.gather(*sent)
    assert bill == {"deliver": 1}
    assert [answer is None for answer in answers] == [target == "order-3" for target in targets]
    claimed = await stage.store.claim(await stage.worker(), 10)
    for run in claimed:
        names = [item.event.name for item in run.inbox if isinstance(item.event, SignalReceived)]
        assert names == [f"s{n}" for n, target in enumerate(targets) if target == run.info.id]
        assert [item.number for item in run.inbox] == list(range(1, 11))
