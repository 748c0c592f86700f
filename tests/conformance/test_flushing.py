"""What a write does for a commit, alone or in company: stores have shorter ways for commits that are alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any

import pytest

from perdure.errors import LeaseLostError
from perdure.model.runs import Commit, Committed, Heartbeat, NewTask, RunState
from perdure.model.workers import Lease
from tests.support.stores import NAMESPACE, Stage, behaviour, close, commit, names, scheduled, signal, turn

Write = Callable[[Lease, Commit], Awaitable[Committed]]
COMPANIES = pytest.mark.parametrize("company", [0, 2], ids=["alone", "with two others"])
RECORDED = Committed(recorded=True, ended=False)
CLOSED = Committed(recorded=True, ended=True)
REFUSED = Committed(recorded=False, ended=False)
UNREAD = Committed(recorded=False, ended=False, unread=True)


def alone_and_in_company(test: Callable[[Stage, int], Coroutine[Any, Any, None]]) -> Callable[[Stage, int], None]:
    """Run a test once for a commit that is alone and once for one among others."""

    @wraps(test)
    def run(stage: Stage, company: int) -> None:
        @behaviour
        async def with_company(stage: Stage) -> None:
            await test(stage, company)

        with_company(stage)

    marked: Callable[[Stage, int], None] = COMPANIES(run)
    return marked


async def writer(stage: Stage, lease: Lease, company: int) -> Write:
    """Return a way to write a commit beside turns of so many other runs, which are recorded whatever becomes of it."""
    others = [await stage.owned(lease, f"other-{number}") for number in range(company)]
    turns = [0] * company

    async def write(owner: Lease, asked: Commit) -> Committed:
        beside = [commit(other, turn(seq + 1)) for other, seq in zip(others, turns, strict=True)]
        answer, *answers = await stage.store.flush(owner, [asked, *beside])
        turns[:] = [seq + 1 for seq in turns]
        assert answers == [RECORDED] * company
        for other, seq in zip(others, turns, strict=True):
            assert [event.turn for event in await stage.store.history(other)] == list(range(seq + 1))
        return answer

    return write


@alone_and_in_company
async def test_turns_are_recorded_and_the_last_one_closes_the_run(stage: Stage, company: int) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    write = await writer(stage, lease, company)
    assert await write(lease, commit(run_id, turn(1))) == RECORDED
    summary = await stage.summary()
    assert (summary.state, summary.worker, summary.closed_at) == (RunState.OWNED, "one", None)
    ending = close()
    assert await write(lease, commit(run_id, turn(2, ending.outcome), ending)) == CLOSED
    summary = await stage.summary()
    assert (summary.state, summary.worker, summary.outcome) == (RunState.COMPLETED, None, ending.outcome)
    assert summary.closed_at is not None
    assert [event.turn for event in await stage.store.history(run_id)] == [0, 1, 2]


@alone_and_in_company
async def test_what_belongs_to_a_run_goes_when_it_closes(stage: Stage, company: int) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    write = await writer(stage, lease, company)
    task = NewTask(seq=1, queue="default", name="render", input=b"[]", options=b"{}")
    await write(lease, commit(run_id, turn(1, scheduled(1), scheduled(2)), tasks=(task,)))
    await stage.store.heartbeat(lease, [Heartbeat(run_id, 2, b"7")])
    await stage.store.deliver(NAMESPACE, "order-1", signal("late"))
    assert await write(lease, commit(run_id, turn(2), close())) == CLOSED
    assert await stage.store.inbox(lease) == []
    assert await stage.store.claim_tasks(lease, 5) == []


@alone_and_in_company
async def test_a_run_does_not_close_on_mail_that_its_last_turn_did_not_know_of(stage: Stage, company: int) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    write = await writer(stage, lease, company)
    await stage.store.deliver(NAMESPACE, "order-1", signal("late"))
    task = NewTask(seq=1, queue="default", name="print", input=b"[]", options=b"{}")
    for asked in (commit(run_id, turn(1), close(mail=0)), commit(run_id, turn(1), close(mail=0), tasks=(task,))):
        assert await write(lease, asked) == UNREAD
        assert await stage.types(run_id) == ["WorkflowExecutionStarted"]
        assert (await stage.summary()).state is RunState.OWNED
        assert names(await stage.store.inbox(lease)) == [(1, "late")]
    assert await write(lease, commit(run_id, turn(1, signal("late")), close(mail=1))) == CLOSED
    assert await stage.store.deliver(NAMESPACE, "order-1", signal("too late")) is None


@alone_and_in_company
async def test_a_close_that_has_to_be_repeated_is_the_same_close(stage: Stage, company: int) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    write = await writer(stage, lease, company)
    last = commit(run_id, turn(1), close(mail=0))
    assert await write(lease, last) == CLOSED
    assert await stage.store.deliver(NAMESPACE, "order-1", signal("too late")) is None
    assert await write(lease, last) == CLOSED


@alone_and_in_company
async def test_who_follows_objects_hears_of_a_close(stage: Stage, company: int) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease, key="uid-1")
    write = await writer(stage, lease, company)
    before = len(await stage.store.status_changes(10))
    await write(lease, commit(run_id, turn(1)))
    assert len(await stage.store.status_changes(10)) == before
    await write(lease, commit(run_id, turn(2), close()))
    found = await stage.store.status_changes(10)
    assert len(found) == before + 1
    assert (found[-1].run.run_id, found[-1].run.state) == (run_id, RunState.COMPLETED)


@alone_and_in_company
async def test_what_is_written_again_is_found_and_not_recorded_twice(stage: Stage, company: int) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    write = await writer(stage, lease, company)
    for asked, answer in ((commit(run_id, turn(1)), RECORDED), (commit(run_id, turn(2), close()), CLOSED)):
        assert await write(lease, asked) == answer
        assert await write(lease, asked) == answer
    assert [event.turn for event in await stage.store.history(run_id)] == [0, 1, 2]


@alone_and_in_company
async def test_a_run_that_another_one_owns_is_left_as_it_is(stage: Stage, company: int) -> None:
    lease, other = await stage.worker(), await stage.worker("two")
    run_id = await stage.owned(other)
    write = await writer(stage, lease, company)
    assert await write(lease, commit(run_id, turn(1))) == REFUSED
    assert await write(lease, commit(run_id, turn(1), close())) == REFUSED
    assert await stage.types(run_id) == ["WorkflowExecutionStarted"]
    assert (await stage.summary()).worker == "two"


@alone_and_in_company
async def test_without_a_lease_nothing_is_written(stage: Stage, company: int) -> None:
    lease = await stage.worker(lease=10.0)
    run_id = await stage.owned(lease)
    write = await writer(stage, lease, company)
    await stage.pass_time(11)
    for asked in (commit(run_id, turn(1)), commit(run_id, turn(1), close())):
        with pytest.raises(LeaseLostError):
            await write(lease, asked)
    assert await stage.types(run_id) == ["WorkflowExecutionStarted"]
    assert (await stage.summary()).closed_at is None
