"""Recording: a turn is written once, by the owner, with everything that belongs to it or not at all."""

from __future__ import annotations

import asyncio

import pytest

from perdure.errors import LeaseLostError, PayloadError
from perdure.model.events import ActivityCompleted, Failure, WorkflowExecutionCompleted, WorkflowExecutionFailed
from perdure.model.runs import Close, Commit, Committed, Hold, NewTask, Park, Release, RunId, RunState, Visible
from perdure.model.workers import Lease
from perdure.store.base import CommitRefusedError
from tests.support.stores import (
    NAMESPACE,
    Stage,
    behaviour,
    close,
    commit,
    completed,
    completed_activity,
    names,
    raw,
    scheduled,
    signal,
    turn,
)

YES = Committed(recorded=True, ended=True)
ONLY_RECORDED = Committed(recorded=True, ended=False)
NO = Committed(recorded=False, ended=False)


async def owned_runs(stage: Stage, lease: Lease, count: int) -> list[RunId]:
    for number in range(count):
        await stage.start(f"order-{number}")
    return [run.info.run_id for run in await stage.store.claim(lease, count)]


@behaviour
async def test_a_turn_can_be_read_back_as_it_was_written(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    event = scheduled(1, payload='[{"text":"\\u0000 and \\ud83d\\ude00"}]')
    written = turn(1, event, build="build-1", python="3.11", flags=1)
    assert await stage.flush(lease, run_id, written, Release()) == YES
    read = (await stage.claim_one(lease)).history[1]
    assert (read.seq, read.header, read.events) == (1, written.header, (event,))


@behaviour
async def test_many_runs_are_flushed_together_and_answered_in_order(stage: Stage) -> None:
    lease = await stage.worker()
    runs = await owned_runs(stage, lease, 4)
    await stage.store.deliver(NAMESPACE, "order-1", signal("a"))
    answers = await stage.store.flush(
        lease,
        [
            commit(runs[3], turn(1), close()),
            commit(runs[1], turn(1), Park(mail=0, wake_at=None)),
            commit(RunId(10**6), turn(1)),
            commit(runs[0], turn(1)),
            commit(runs[2], Release()),
        ],
    )
    assert answers == [YES, ONLY_RECORDED, NO, ONLY_RECORDED, YES]
    states = [(await stage.summary(f"order-{number}")).state for number in range(4)]
    assert states == [RunState.OWNED, RunState.OWNED, RunState.READY, RunState.COMPLETED]


@behaviour
async def test_nothing_to_flush_is_fine(stage: Stage) -> None:
    assert await stage.store.flush(await stage.worker(), []) == []


@behaviour
async def test_more_commits_than_one_statement_takes_are_all_carried_out(stage: Stage) -> None:
    lease = await stage.worker()
    runs = await owned_runs(stage, lease, 3)
    large = scheduled(1, payload='"' + "x" * 30_000 + '"')
    commits = [commit(run_id, turn(seq, *[large] * 15)) for seq in (1, 2, 3) for run_id in runs]
    assert await stage.store.flush(lease, commits) == [ONLY_RECORDED] * 9
    assert len(await stage.store.history(runs[0])) == 1 + 3 * 15


@behaviour
async def test_two_turns_of_one_run_in_one_call_are_written_in_order(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    answers = await stage.store.flush(lease, [commit(run_id, turn(1)), commit(run_id, turn(2), close())])
    assert answers == [ONLY_RECORDED, YES]


@behaviour
async def test_a_flush_repeated_after_a_lost_answer_says_the_same(stage: Stage) -> None:
    lease = await stage.worker()
    first, second, third, fourth = await owned_runs(stage, lease, 4)
    await stage.store.deliver(NAMESPACE, "order-2", signal("a"))
    task = NewTask(seq=1, queue="gpu", name="render", input=b"[]", options=b"{}")
    commits = [
        commit(first, turn(1), tasks=(task,)),
        commit(second, turn(1), close()),
        commit(third, turn(1), Park(mail=0, wake_at=None)),
        commit(fourth, turn(1), Park(mail=0, wake_at=None)),
    ]
    answers = await stage.store.flush(lease, commits)
    assert answers == [ONLY_RECORDED, YES, ONLY_RECORDED, YES]
    assert await stage.store.flush(lease, commits) == answers
    for run_id in (first, second, third, fourth):
        assert len({event.turn for event in await stage.store.history(run_id)}) == 2


@behaviour
async def test_a_repeated_flush_without_turns_says_the_same(stage: Stage) -> None:
    lease = await stage.worker()
    runs = await owned_runs(stage, lease, 4)
    event = WorkflowExecutionFailed(Failure("ValueError", "no"))
    commits = [
        commit(runs[0], Release()),
        commit(runs[1], Park(mail=0, wake_at=None)),
        commit(runs[2], Hold(reason="NonDeterminism", message="it differs")),
        commit(runs[3], Close(state=RunState.FAILED, outcome=event)),
    ]
    assert await stage.store.flush(lease, commits) == [YES] * 4
    assert await stage.store.flush(lease, commits) == [YES] * 4
    assert await stage.store.flush(lease, [commit(run_id, close()) for run_id in runs]) == [NO] * 4


@behaviour
async def test_a_repeated_flush_is_ours_although_another_worker_has_the_run_now(stage: Stage) -> None:
    lease, other = await stage.worker(), await stage.worker("two")
    run_id = await stage.owned(lease)
    parking = turn(1), Park(mail=0, wake_at=1)
    assert await stage.flush(lease, run_id, *parking) == YES
    await stage.claim_one(other)
    assert await stage.flush(lease, run_id, *parking) == YES
    assert (await stage.summary()).worker == "two"


@behaviour
async def test_a_foreign_turn_in_the_same_place_takes_nothing_of_the_commit(stage: Stage) -> None:
    lease, other = await stage.worker(), await stage.worker("two")
    run_id = await stage.owned(lease)
    await stage.flush(lease, run_id, turn(1, scheduled(1, "theirs")), Release())
    await stage.claim_one(other)
    await stage.store.deliver(NAMESPACE, "order-1", signal("a"))
    task = NewTask(seq=1, queue="default", name="render", input=b"[]", options=b"{}")
    ours = commit(
        run_id,
        turn(1, scheduled(1, "ours")),
        close(),
        consumed=1,
        tasks=(task,),
        visible=Visible(text="done"),
    )
    assert await stage.store.flush(other, [ours]) == [NO]
    summary = await stage.summary()
    assert (summary.state, summary.worker, summary.status_text) == (RunState.OWNED, "two", "")
    assert names(await stage.store.inbox(other)) == [(1, "a")]
    assert await stage.store.claim_tasks(other, 5) == []
    assert len(await stage.store.history(run_id)) == 2


@behaviour
async def test_a_foreign_turn_that_differs_in_a_large_payload_only_is_not_ours(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    one, two = (turn(1, completed_activity(1, '"' + letter * 50_000 + '"')) for letter in "ab")
    assert await stage.flush(lease, run_id, one) == ONLY_RECORDED
    assert await stage.flush(lease, run_id, one) == ONLY_RECORDED
    assert await stage.flush(lease, run_id, two) == NO


@behaviour
async def test_a_worker_records_nothing_for_a_run_that_it_does_not_own(stage: Stage) -> None:
    lease, other = await stage.worker(), await stage.worker("two")
    run_id = await stage.owned(lease)
    for parts in ((turn(1),), (turn(1), close()), (Hold(reason="Mine", message=""),), (Release(),)):
        assert await stage.flush(other, run_id, *parts) == NO
    assert await stage.flush(other, run_id, visible=Visible(text="mine")) == NO
    assert len(await stage.store.history(run_id)) == 1
    assert await stage.flush(lease, run_id, turn(1)) == ONLY_RECORDED


@behaviour
async def test_one_bad_commit_fails_alone(stage: Stage) -> None:
    lease = await stage.worker()
    runs = await owned_runs(stage, lease, 9)
    commits = [commit(run_id, turn(1), close()) for run_id in runs]
    commits[4] = commit(runs[4], turn(1), visible=Visible(text="a NUL: \0"))
    commits[6] = commit(runs[6], turn(1, scheduled(1, "half \ud800")))
    commits[7] = commit(runs[7], turn(1), Hold(reason="Broken", message="half: \ud800"))
    with pytest.raises(CommitRefusedError) as caught:
        await stage.store.flush(lease, commits)
    assert set(caught.value.refused) == {4, 6, 7}
    assert all(isinstance(error, PayloadError) for error in caught.value.refused.values())
    assert caught.value.answers == [None if number in {4, 6, 7} else YES for number in range(9)]
    for number, run_id in enumerate(runs):
        assert len(await stage.store.history(run_id)) == (1 if number in {4, 6, 7} else 2)
    repaired = await stage.flush(lease, runs[4], turn(1), visible=Visible(text="no NUL"))
    assert repaired == ONLY_RECORDED


@behaviour
async def test_a_single_bad_commit_says_what_is_wrong(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    with pytest.raises(PayloadError, match=r"NUL|0x00"):
        await stage.flush(lease, run_id, Park(mail=0, wake_at=None, waiting_for="\0"))
    assert (await stage.summary()).state is RunState.OWNED


@behaviour
async def test_large_payloads_come_back_where_they_were(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    large = [f'"{letter * 40_000}"' for letter in "abc"]
    events = (
        completed_activity(1, large[0]),
        completed_activity(2, '"small"'),
        scheduled(3, payload=large[1]),
        completed_activity(4, large[2]),
    )
    await stage.flush(lease, run_id, turn(1, *events))
    await stage.flush(lease, run_id, turn(2, completed_activity(5, large[0])), Release())
    claimed = await stage.claim_one(lease)
    assert claimed.history[1].events == events
    assert claimed.history[2].events == (completed_activity(5, large[0]),)
    read = [event.event for event in await stage.store.history(run_id)][1:]
    assert read == [*events, completed_activity(5, large[0])]
    assert all(isinstance(event, ActivityCompleted) and event.external == 0 for event in read[3:])


@behaviour
async def test_a_large_result_is_the_outcome(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    event = completed('"' + "r" * 100_000 + '"')
    assert await stage.flush(lease, run_id, turn(1, event), close(event)) == YES
    outcome = (await stage.summary()).outcome
    assert isinstance(outcome, WorkflowExecutionCompleted)
    assert outcome == event


@behaviour
async def test_what_the_author_shows_is_visible_at_once(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await stage.flush(lease, run_id, turn(1), visible=Visible(text="packing", progress="1/3"))
    summary = await stage.summary()
    assert (summary.status_text, summary.progress) == ("packing", "1/3")
    await stage.store.deliver(NAMESPACE, "order-1", signal("a"))
    refused = await stage.flush(lease, run_id, Park(mail=0, wake_at=None), visible=Visible(text="waiting"))
    assert refused == ONLY_RECORDED
    assert (await stage.summary()).status_text == "waiting"


@behaviour
async def test_a_closed_run_is_closed_for_good(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    event = completed('{"total":12}')
    await stage.flush(lease, run_id, turn(1, event), close(event))
    summary = await stage.summary()
    assert (summary.phase, summary.outcome, summary.worker) == ("Succeeded", event, None)
    assert summary.closed_at is not None
    assert await stage.flush(lease, run_id, turn(2)) == NO
    assert await stage.store.claim(lease, 10) == []
    assert await stage.store.recover(lease) == 0


@behaviour
async def test_a_commit_that_only_consumes_or_drops_needs_no_turn(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    task = NewTask(seq=1, queue="default", name="render", input=b"[]", options=b"{}")
    await stage.flush(lease, run_id, turn(1), tasks=(task,))
    await stage.store.deliver(NAMESPACE, "order-1", signal("duplicate"))
    assert await stage.flush(lease, run_id, consumed=1, dropped_tasks=(1,)) == ONLY_RECORDED
    assert await stage.store.inbox(lease) == []
    assert await stage.store.claim_tasks(lease, 5) == []


@behaviour
async def test_a_reaped_worker_and_its_flush_never_both_win(stage: Stage) -> None:
    """A flush races the reaper: either it was recorded and the next owner sees it, or the lease is lost."""
    flusher, reaper = await stage.another(), await stage.another()
    for round_number in range(10):
        dying = await stage.worker(f"dying-{round_number}")
        instance = f"order-{round_number}"
        run_id = await stage.owned(dying, instance)
        heir = await stage.worker(f"heir-{round_number}")

        async def write(dying: Lease = dying, run_id: RunId = run_id) -> int:
            for seq in range(1, 1000):
                try:
                    assert await flusher.flush(dying, [Commit(run_id=run_id, turn=turn(seq))]) == [ONLY_RECORDED]
                except LeaseLostError:
                    return seq
                await asyncio.sleep(0)
            raise AssertionError("the lease was never lost")

        async def take_over(name: str = f"dying-{round_number}", pause: int = round_number) -> None:
            for _ in range(5 * pause):
                await asyncio.sleep(0)
            assert (await reaper.expire(NAMESPACE, name)).workers == 1

        lost_at, _ = await asyncio.gather(write(), take_over())
        (claimed,) = await reaper.claim(heir, 10)
        assert [found.seq for found in claimed.history] == list(range(lost_at))
        await reaper.resign(heir)
        await stage.store.terminate(NAMESPACE, instance, "next round")


def test_raw_payloads_are_compared_by_their_bytes() -> None:
    assert completed_activity(1, '"a"') == completed_activity(1, '"a"')
    assert raw("1") != raw("2")
