"""What surrounds a turn: its header, and the collector of garbage."""

import gc

import msgspec

from perdure import activity, workflow
from perdure.model.events import ActivityCompleted, TurnHeader
from tests.support.engine import Script


@activity.define
async def step(number: int) -> int:
    return number


@workflow.define
async def sequence(count: int) -> int:
    return sum([await step(number) for number in range(count)])


def test_a_turn_in_which_nothing_happened_leaves_no_trace_in_the_next_header() -> None:
    script = Script(sequence, 1)
    script.turn()
    other = TurnHeader(time=script.now, build="other build", python="3.11", flags=1, worker="other worker")
    assert script.run.turn(other, ()).turn is None
    recorded = script.run.turn(other, (ActivityCompleted(1, msgspec.Raw(b"1")),)).turn
    assert recorded is not None
    assert (recorded.header.build, recorded.header.worker) == ("other build", "other worker")


def test_garbage_of_another_run_is_not_finalized_within_a_turn() -> None:
    """A run that was dropped without eviction holds `finally` blocks; collecting it must not emit into this run."""
    before = gc.isenabled()
    inside: list[bool] = []

    @workflow.define
    async def looking() -> None:
        inside.append(gc.isenabled())

    gc.enable()
    try:
        Script(looking).turn()
        assert inside == [False]
        assert gc.isenabled()
        gc.disable()
        Script(looking).turn()
        assert not gc.isenabled()
    finally:
        (gc.enable if before else gc.disable)()
