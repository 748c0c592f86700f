"""Ownership: leases and fences, who gets which run, and what becomes of runs whose owner vanished."""

from __future__ import annotations

import asyncio
import re

import msgspec
import pytest

from perdure.errors import LeaseLostError
from perdure.model.runs import Hold, NewTask, Park, Release, RunState
from perdure.model.workers import Expired, Lease
from perdure.store.base import UNKNOWN_WORKFLOW
from tests.support.stores import (
    NAMESPACE,
    FullStore,
    Stage,
    behaviour,
    close,
    commit,
    new_run,
    signal,
    turn,
    worker_info,
)


async def renewed(store: FullStore, lease: Lease) -> bool:
    """Renew as the lease thread does; tell whether another worker was reaped."""
    return (await asyncio.to_thread(store.renew, lease)).reaped


@behaviour
async def test_a_claim_brings_the_run_with_all_that_belongs_to_it(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    task = NewTask(seq=7, queue="gpu", name="render", input=b"[]", options=b"{}")
    await stage.flush(lease, run_id, turn(1, build="build-1"), tasks=(task,))
    await stage.flush(lease, run_id, turn(2), Release())
    await stage.store.deliver(NAMESPACE, "order-1", signal("a"))
    other = await stage.worker("two")
    claimed = await stage.claim_one(other)
    assert (claimed.info.id, claimed.info.run_id, claimed.info.namespace) == ("order-1", run_id, NAMESPACE)
    assert (claimed.info.workflow, claimed.info.queue) == ("order", "default")
    assert [found.seq for found in claimed.history] == [0, 1, 2]
    assert claimed.history[1].header.build == "build-1"
    assert (claimed.tasks, claimed.mail, len(claimed.inbox)) == ((7,), 1, 1)
    summary = await stage.summary()
    assert (summary.state, summary.worker, summary.phase) == (RunState.OWNED, "two", "Running")


@behaviour
async def test_the_first_claim_says_when_the_run_began(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    started_at = (await stage.summary()).started_at
    assert started_at is not None
    await stage.flush(lease, run_id, Release())
    await stage.claim_one(lease)
    assert (await stage.summary()).started_at == started_at


@behaviour
async def test_runs_are_claimed_by_priority_then_age(stage: Stage) -> None:
    for instance, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5), ("e", -1)):
        await stage.start(instance, priority=priority)
    lease = await stage.worker()
    order = [run.info.id for limit in (3, 10) for run in await stage.store.claim(lease, limit)]
    assert order == ["b", "d", "a", "c", "e"]


@behaviour
async def test_a_worker_gets_runs_of_its_queues_and_its_namespace_only(stage: Stage) -> None:
    await stage.start("mine", queue="blue")
    await stage.start("mine-too", queue="green")
    await stage.start("other-queue", queue="red")
    await stage.start("other-namespace", queue="blue", namespace="neighbour")
    lease = await stage.worker(queues=("blue", "green", "blue"))
    assert [run.info.id for run in await stage.store.claim(lease, 10)] == ["mine", "mine-too"]


@behaviour
async def test_a_parked_run_is_claimed_when_its_time_has_come(stage: Stage) -> None:
    lease = await stage.worker(lease=10_000.0)
    run_id = await stage.owned(lease)
    now = (await asyncio.to_thread(stage.store.renew, lease)).now
    await stage.flush(lease, run_id, turn(1), Park(mail=0, wake_at=now + 100_000_000))
    assert await stage.store.claim(lease, 10) == []
    await stage.pass_time(101)
    claimed = await stage.claim_one(lease)
    assert (claimed.info.run_id, len(claimed.history)) == (run_id, 2)
    assert (await stage.summary()).wake_at is None


@behaviour
async def test_a_backlog_of_new_runs_does_not_keep_a_timer_waiting(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease, "sleeper")
    await stage.flush(lease, run_id, Park(mail=0, wake_at=1))
    for number in range(3):
        await stage.start(f"new-{number}", priority=9)
    assert "sleeper" in [run.info.id for run in await stage.store.claim(lease, 2)]


@behaviour
async def test_two_claimers_never_get_the_same_run(stage: Stage) -> None:
    runs = 60
    for number in range(runs):
        await stage.start(f"order-{number}")
    stores = [await stage.another() for _ in range(4)]
    leases = [await stage.worker(f"worker-{number}") for number in range(4)]

    async def claim_all(store: FullStore, lease: Lease) -> list[int]:
        mine: list[int] = []
        while claimed := await store.claim(lease, 7):
            mine += [run.info.run_id for run in claimed]
        return mine

    taken = await asyncio.gather(*(claim_all(store, lease) for store, lease in zip(stores, leases, strict=True)))
    rest = await stage.store.claim(leases[0], runs)  # those that somebody else had locked at the wrong moment
    everything = [run_id for mine in taken for run_id in mine] + [run.info.run_id for run in rest]
    assert len(everything) == len(set(everything)) == runs


@behaviour
async def test_a_run_that_was_released_or_parked_never_lacks_history_when_it_is_claimed(stage: Stage) -> None:
    """Runs go from owner to owner as fast as they can; each claim must bring every turn recorded before it."""
    runs = 6
    for number in range(runs):
        await stage.start(f"order-{number}")
    stores = [await stage.another() for _ in range(3)]
    recorded: dict[int, int] = {}

    async def pass_on(store: FullStore, name: str) -> None:
        lease = await stage.worker(name)
        for round_number in range(40):
            claimed = await store.claim(lease, 2)
            commits = []
            for run in claimed:
                assert [found.seq for found in run.history] == list(range(recorded.get(run.info.run_id, 1)))
                ending = Release() if round_number % 3 else Park(mail=run.mail, wake_at=1)
                commits.append(commit(run.info.run_id, turn(len(run.history)), ending))
                recorded[run.info.run_id] = len(run.history) + 1
            answers = await store.flush(lease, commits)
            assert all(answer.recorded and answer.ended for answer in answers)
            await asyncio.sleep(0)

    await asyncio.gather(*(pass_on(store, f"worker-{number}") for number, store in enumerate(stores)))
    assert sum(recorded.values()) > runs


@behaviour
async def test_a_lease_is_renewed_from_another_thread_and_tells_the_time(stage: Stage) -> None:
    lease = await stage.worker(lease=10.0)
    first = await asyncio.to_thread(stage.store.renew, lease)
    await stage.pass_time(6)
    await asyncio.to_thread(stage.store.renew, lease)
    await stage.pass_time(6)
    last = await asyncio.to_thread(stage.store.renew, lease)
    assert last.now > first.now
    assert not last.reaped


@behaviour
async def test_an_expired_lease_writes_nothing_although_nobody_reaped_it(stage: Stage) -> None:
    lease = await stage.worker(lease=10.0)
    run_id = await stage.owned(lease)
    task = NewTask(seq=1, queue="default", name="render", input=b"[]", options=b"{}")
    await stage.flush(lease, run_id, turn(1), tasks=(task,))
    await stage.pass_time(11)
    with pytest.raises(LeaseLostError):
        await stage.flush(lease, run_id, turn(2), close())
    with pytest.raises(LeaseLostError):
        await stage.store.claim(lease, 1)
    with pytest.raises(LeaseLostError):
        await stage.store.inbox(lease)
    with pytest.raises(LeaseLostError):
        await stage.store.claim_tasks(lease, 1)
    with pytest.raises(LeaseLostError):
        await stage.store.recover(lease)
    with pytest.raises(LeaseLostError):
        await asyncio.to_thread(stage.store.renew, lease)
    assert await stage.types(run_id) == ["WorkflowExecutionStarted", "ActivityScheduled"]
    assert await stage.store.workers(NAMESPACE) == []


@behaviour
async def test_an_epoch_that_was_not_given_out_is_no_lease(stage: Stage) -> None:
    lease = await stage.worker()
    forged = msgspec.structs.replace(lease, epoch=lease.epoch ^ 1)
    with pytest.raises(LeaseLostError):
        await stage.store.claim(forged, 1)
    await stage.store.resign(forged)
    assert await stage.store.claim(lease, 1) == []


@behaviour
async def test_another_worker_takes_over_with_everything_that_was_flushed(stage: Stage) -> None:
    dead = await stage.worker("dead", lease=10.0)
    run_id = await stage.owned(dead)
    await stage.flush(dead, run_id, turn(1))
    await stage.flush(dead, run_id, turn(2))
    await stage.store.deliver(NAMESPACE, "order-1", signal("unread"))
    await stage.pass_time(11)
    alive = await stage.worker("alive")
    assert await stage.store.recover(alive) == 0, "nobody noticed yet"
    assert await renewed(stage.store, alive)
    assert not await renewed(stage.store, alive)
    assert await stage.store.recover(alive) == 1
    assert await stage.store.recover(alive) == 0
    claimed = await stage.claim_one(alive)
    assert [found.seq for found in claimed.history] == [0, 1, 2]
    assert [item.number for item in claimed.inbox] == [1]
    with pytest.raises(LeaseLostError):
        await stage.flush(dead, run_id, turn(3))


@behaviour
async def test_workers_of_another_namespace_are_left_alone(stage: Stage) -> None:
    neighbour = await stage.worker("neighbour", namespace="neighbour", lease=10.0)
    await stage.store.start(new_run("theirs", namespace="neighbour"))
    await stage.store.claim(neighbour, 1)
    await stage.pass_time(11)
    mine = await stage.worker()
    assert not await renewed(stage.store, mine)
    assert await stage.store.recover(mine) == 0


@behaviour
async def test_resigning_gives_everything_back_at_once_and_twice_is_fine(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    task = NewTask(seq=1, queue="default", name="render", input=b"[]", options=b"{}")
    await stage.flush(lease, run_id, turn(1), tasks=(task,))
    assert len(await stage.store.claim_tasks(lease, 5)) == 1
    await stage.store.resign(lease)
    await stage.store.resign(lease)
    assert (await stage.summary()).state is RunState.READY
    other = await stage.worker("two")
    assert (await stage.claim_one(other)).info.run_id == run_id
    assert len(await stage.store.claim_tasks(other, 5)) == 1
    with pytest.raises(LeaseLostError):
        await stage.flush(lease, run_id, turn(2))


@behaviour
async def test_a_worker_that_was_seen_to_die_loses_its_runs_at_once(stage: Stage) -> None:
    dead = await stage.worker("pod-1")
    run_id = await stage.owned(dead)
    other = await stage.worker("pod-2")
    assert (await stage.store.expire(NAMESPACE, "pod-1")).workers == 1
    assert (await stage.store.expire(NAMESPACE, "pod-1")).workers == 0
    assert (await stage.store.expire("neighbour", "pod-2")).workers == 0
    assert (await stage.claim_one(other)).info.run_id == run_id
    with pytest.raises(LeaseLostError):
        await stage.flush(dead, run_id, turn(1))


@behaviour
async def test_only_workers_in_force_are_listed(stage: Stage) -> None:
    short = await stage.worker("short", lease=5.0, build="build-7")
    long = await stage.worker("long")
    assert await stage.store.workers(NAMESPACE) == [
        (short.worker, "short", "build-7"),
        (long.worker, "long", "build-1"),
    ]
    await stage.pass_time(6)
    assert [name for _, name, _ in await stage.store.workers(NAMESPACE)] == ["long"]
    assert await stage.store.workers("neighbour") == []


@behaviour
async def test_a_held_run_shows_why_and_is_not_claimed(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    answer = await stage.flush(lease, run_id, Hold(reason="NonDeterminism", message="history has X, code asks for Y"))
    assert (answer.recorded, answer.ended) == (True, True)
    summary = await stage.summary()
    assert (summary.phase, summary.hold_reason) == ("Stalled", "NonDeterminism")
    assert (summary.hold_message, summary.worker) == ("history has X, code asks for Y", None)
    assert await stage.store.claim(lease, 10) == []
    assert await stage.store.recover(lease) == 0
    assert await stage.store.resume(NAMESPACE, "order-1") == run_id
    assert await stage.store.resume(NAMESPACE, "order-1") is None
    summary = await stage.summary()
    assert (summary.state, summary.hold_reason, summary.hold_message) == (RunState.READY, "", "")


@behaviour
async def test_other_code_frees_a_held_run_once(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await stage.flush(lease, run_id, Hold(reason="NonDeterminism", message="it differs"))
    assert await stage.store.recover(await stage.worker("same build")) == 0
    assert await stage.store.recover(await stage.worker("other queue", build="build-2", queues=("red",))) == 0
    assert await stage.store.recover(await stage.worker("knows nothing", build="build-2", workflows=())) == 0
    fixed = await stage.worker("fixed", build="build-2")
    assert await stage.store.recover(fixed) == 1
    await stage.claim_one(fixed)
    await stage.flush(fixed, run_id, Hold(reason="NonDeterminism", message="it still differs"))
    assert await stage.store.recover(lease) == 0, "two builds must not hand a run back and forth for ever"
    assert await stage.store.recover(await stage.worker("third", build="build-3")) == 1


@behaviour
async def test_a_build_may_try_again_after_the_run_has_slept(stage: Stage) -> None:
    old, new = await stage.worker("old"), await stage.worker("new", build="build-2")
    run_id = await stage.owned(old)
    await stage.flush(old, run_id, Hold(reason="NonDeterminism", message="it differs"))
    assert await stage.store.recover(new) == 1
    await stage.claim_one(new)
    await stage.flush(new, run_id, turn(1), Park(mail=0, wake_at=1))
    await stage.claim_one(new)
    await stage.flush(new, run_id, Hold(reason="NonDeterminism", message="something else"))
    assert await stage.store.recover(old) == 1


@behaviour
async def test_a_worker_gets_runs_of_the_workflows_that_it_knows_only(stage: Stage) -> None:
    await stage.start("order-1")
    await stage.start("shipping-1", workflow="shipping")
    lease = await stage.worker(workflows=("shipping", "billing"))
    assert [run.info.id for run in await stage.store.claim(lease, 10)] == ["shipping-1"]
    parked = await stage.worker("two")
    run_id = (await stage.claim_one(parked)).info.run_id
    await stage.flush(parked, run_id, Park(mail=0, wake_at=1))
    assert await stage.store.claim(lease, 10) == []
    assert (await stage.claim_one(parked)).info.run_id == run_id


@behaviour
async def test_a_run_that_no_worker_knows_is_held_until_one_does(stage: Stage) -> None:
    run_id = (await stage.start()).run_id
    await stage.start("shipping-1", workflow="shipping")
    await stage.start("other-queue", queue="red")
    ignorant = await stage.worker("ignorant", workflows=("shipping",))
    assert await stage.store.hold_unknown(ignorant) == 1
    assert await stage.store.hold_unknown(ignorant) == 0
    summary = await stage.summary()
    assert (summary.run_id, summary.phase, summary.hold_reason) == (run_id, "Stalled", UNKNOWN_WORKFLOW)
    assert "order" in summary.hold_message
    assert "default" in summary.hold_message
    assert await stage.store.recover(ignorant) == 0
    knowing = await stage.worker("knows it")
    assert await stage.store.recover(knowing) == 1
    assert (await stage.summary()).phase == "Pending"
    assert await stage.store.hold_unknown(ignorant) == 0, "somebody knows it now"
    assert (await stage.claim_one(knowing)).info.run_id == run_id


@behaviour
async def test_a_run_that_was_held_as_unknown_is_freed_by_the_same_build_with_more_workflows(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await stage.flush(lease, run_id, Hold(reason=UNKNOWN_WORKFLOW, message="nobody knows order"))
    assert await stage.store.recover(await stage.worker("knows it")) == 1
    assert (await stage.summary()).phase == "Running"


@behaviour
async def test_whoever_expires_a_worker_learns_whose_runs_are_free_now(stage: Stage) -> None:
    lease = await stage.worker("pod-1")
    for instance, key in (("a", "uid-a"), ("b", None), ("c", "uid-c")):
        await stage.start(instance, key=key)
    assert len(await stage.store.claim(lease, 2)) == 2
    assert await stage.store.expire(NAMESPACE, "pod-1") == Expired(1, ("uid-a",))
    assert await stage.store.expire(NAMESPACE, "pod-1") == Expired(0, ())


@behaviour
async def test_workers_learn_with_their_lease_which_installation_they_serve(stage: Stage) -> None:
    leases = [await stage.worker(), await stage.worker("two"), await (await stage.another()).register(worker_info("3"))]
    assert len({lease.installation for lease in leases}) == 1
    assert re.fullmatch("[0-9a-f]{12}", leases[0].installation)
