"""Giving a run up: what is said of one claim, late or again, does not touch the next one of the same worker."""

from __future__ import annotations

from perdure.model.runs import Committed, Hold, Park, Release
from tests.support.stores import NAMESPACE, Stage, behaviour, new_run, turn
from tests.support.takers import begun

NOT_OURS = Committed(recorded=False, ended=False)
ENDED = Committed(recorded=True, ended=True)


@behaviour
async def test_what_gives_up_one_claim_takes_nothing_from_the_next(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = (await stage.start()).run_id
    for ending in (Park(mail=0, wake_at=1), Hold(reason="NonDeterminism", message="it differs"), Release()):
        first = await stage.claim_one(lease)
        assert await stage.flush(lease, run_id, ending, claim=first.claims) == ENDED
        await stage.store.resume(NAMESPACE, "order-1")
        assert (await stage.claim_one(lease)).claims == first.claims + 1
        assert await stage.flush(lease, run_id, ending, claim=first.claims) == NOT_OURS
        assert await stage.flush(lease, run_id, turn(1), ending, claim=first.claims) == NOT_OURS
        assert (await stage.summary()).worker == "one"
        assert await stage.flush(lease, run_id, Release(), claim=first.claims + 1) == ENDED
    assert await stage.types(run_id) == ["WorkflowExecutionStarted"]


@behaviour
async def test_a_turn_that_was_recorded_as_a_claim_was_given_up_has_ended_that_claim(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = (await stage.start()).run_id
    first = await stage.claim_one(lease)
    for _ in range(2):
        assert await stage.flush(lease, run_id, turn(1), Release(), claim=first.claims) == ENDED
        await stage.store.claim(lease, 10)
    assert (await stage.summary()).worker == "one"


@behaviour
async def test_a_run_that_was_taken_from_its_start_has_been_claimed_once(stage: Stage) -> None:
    taking = begun(await stage.worker())
    await stage.store.start(new_run("order-1"), taking)
    (taken,) = taking.runs
    assert await stage.flush(taking.lease, taken.info.run_id, Release(), claim=taken.claims) == ENDED
    assert (await stage.claim_one(taking.lease)).claims == taken.claims + 1
