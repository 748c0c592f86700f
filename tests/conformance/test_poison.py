"""Runs that end their workers: told from those that were only with them, and held in the end."""

from perdure.model.runs import RunId, RunState
from perdure.model.workers import Lease
from perdure.store.base import POISON, POISONOUS, SUSPECT
from tests.support.stores import NAMESPACE, Stage, behaviour, turn


async def vanish(stage: Stage, times: int = 1) -> None:
    """Let workers take what there is, one after the other, and vanish."""
    for number in range(times):
        lease = await stage.worker(f"victim-{number}", lease=1.0)
        await stage.store.claim(lease, 10)
        await bury(stage)


async def bury(stage: Stage) -> None:
    """Let the leases of all workers end, and another worker take note."""
    await stage.pass_time(2)
    heir = await stage.worker("heir")
    stage.store.renew(heir)
    await stage.store.recover(heir)
    await stage.store.resign(heir)


async def claimed_by(stage: Stage, lease: Lease) -> list[RunId]:
    return [run.info.run_id for run in await stage.store.claim(lease, 10)]


@behaviour
async def test_a_run_whose_owners_vanish_one_after_the_other_is_held(stage: Stage) -> None:
    await stage.start("poison", key="uid-1")
    await vanish(stage, POISONOUS - 1)
    assert (await stage.summary("poison")).state is RunState.READY
    await vanish(stage)
    summary = await stage.summary("poison")
    assert (summary.phase, summary.hold_reason) == ("Stalled", POISON)
    assert "perdure resume poison" in summary.hold_message
    assert [change.run.phase for change in await stage.store.status_changes(10)][-1] == "Stalled"
    assert await claimed_by(stage, await stage.worker()) == []


@behaviour
async def test_a_held_poison_is_freed_by_another_build_and_by_hand_with_a_count_of_zero(stage: Stage) -> None:
    await stage.start("poison")
    await vanish(stage, POISONOUS)
    same = await stage.worker("same build")
    assert await stage.store.recover(same) == 0
    other = await stage.worker("other build", build="build-2")
    assert await stage.store.recover(other) == 1
    await vanish(stage, POISONOUS - 1)
    assert (await stage.summary("poison")).state is RunState.READY
    await vanish(stage)
    assert (await stage.summary("poison")).hold_reason == POISON
    await stage.store.resume(NAMESPACE, "poison")
    (run,) = await stage.store.claim(await stage.worker(), 10)
    assert not run.suspect


@behaviour
async def test_a_run_that_gets_on_is_never_held(stage: Stage) -> None:
    run_id = (await stage.start("slow")).run_id
    for number in range(2 * POISONOUS):
        lease = await stage.worker(f"victim-{number}", lease=1.0)
        await stage.store.claim(lease, 10)
        assert (await stage.flush(lease, run_id, turn(number + 1))).recorded
        await bury(stage)
    assert (await stage.summary("slow")).state is RunState.READY


@behaviour
async def test_suspects_are_claimed_alone_and_before_others(stage: Stage) -> None:
    suspects = [(await stage.start(f"suspect-{number}")).run_id for number in range(3)]
    await vanish(stage, SUSPECT)
    ordinary = (await stage.start("ordinary", priority=9)).run_id
    lease = await stage.worker()
    assert [await claimed_by(stage, lease) for _ in range(5)] == [*([run_id] for run_id in suspects), [ordinary], []]


@behaviour
async def test_only_the_last_suspect_that_was_claimed_is_counted_on(stage: Stage) -> None:
    for name in ("innocent", "poison"):
        await stage.start(name)
    await vanish(stage, SUSPECT)
    for number in range(POISONOUS - SUSPECT):
        lease = await stage.worker(f"victim-{number}", lease=1.0)
        assert len(await claimed_by(stage, lease)) == 1
        assert len(await claimed_by(stage, lease)) == 1
        await bury(stage)
    assert (await stage.summary("innocent")).state is RunState.READY
    assert (await stage.summary("poison")).hold_reason == POISON


@behaviour
async def test_a_suspect_that_its_worker_survives_is_cleared(stage: Stage) -> None:
    run_id = (await stage.start("suspect")).run_id
    await vanish(stage, SUSPECT)
    lease = await stage.worker("long-lived", lease=1.0)
    (run,) = await stage.store.claim(lease, 10)
    assert run.suspect
    await stage.store.absolve([run_id])
    await bury(stage)
    (run,) = await stage.store.claim(await stage.worker(), 10)
    assert not run.suspect


@behaviour
async def test_a_worker_that_resigns_is_not_counted_and_one_that_is_expelled_is(stage: Stage) -> None:
    await stage.start("run")
    for _ in range(POISONOUS):
        lease = await stage.worker()
        await stage.store.claim(lease, 10)
        await stage.store.resign(lease)
    for number in range(POISONOUS):
        lease = await stage.worker(f"pod-{number}")
        (run,) = await stage.store.claim(lease, 10)
        assert run.suspect is (number >= SUSPECT)
        await stage.store.expire(NAMESPACE, f"pod-{number}")
    lease = await stage.worker()
    assert await stage.store.claim(lease, 10) == [], "it is not handed out any more"
    assert await stage.store.recover(lease) == 0
    assert (await stage.summary("run")).hold_reason == POISON


@behaviour
async def test_a_run_whose_worker_lost_its_lease_and_came_back_is_not_suspected_for_it(stage: Stage) -> None:
    run_id = (await stage.start("run")).run_id
    for number in range(2 * POISONOUS):
        (run,) = await stage.store.claim(await stage.worker(f"flapping-{number}", lease=1.0), 10)
        assert not run.suspect
        if number % 2:
            await stage.store.absolve([run_id])
            await bury(stage)
        else:
            await bury(stage)
            await stage.store.absolve([run_id])
    assert (await stage.summary("run")).state is RunState.READY


@behaviour
async def test_a_run_that_ends_all_workers_that_know_it_is_held_for_them_whoever_else_serves_its_queue(
    stage: Stage,
) -> None:
    neighbour = await stage.worker("neighbour", build="build-2", workflows=("something else",), lease=600.0)
    await stage.start("poison", key="uid-1")
    for number in range(POISONOUS):
        lease = await stage.worker(f"victim-{number}", lease=1.0)
        await stage.store.recover(lease)
        assert len(await claimed_by(stage, lease)) == 1
        await stage.pass_time(2)
        stage.store.renew(neighbour)
        assert await stage.store.recover(neighbour) == 1
        assert await stage.store.hold_unknown(neighbour) == 1
    lease = await stage.worker("the last one")
    assert await stage.store.recover(lease) == 0
    assert (await stage.summary("poison")).hold_reason == POISON
    assert await stage.store.recover(lease) == 0
    assert await claimed_by(stage, lease) == []
