"""Messages: numbered by their run, never lost, never in the way of a run that sleeps."""

from __future__ import annotations

import asyncio

from perdure.model.events import (
    WorkflowExecutionCancelRequested,
    WorkflowExecutionTerminated,
    WorkflowExecutionTimedOut,
)
from perdure.model.runs import Close, Hold, Park, RunId, RunState
from tests.support.stores import LATER, NAMESPACE, Stage, behaviour, close, commit, names, signal, turn


@behaviour
async def test_messages_come_with_the_claim_in_the_order_in_which_they_were_delivered(stage: Stage) -> None:
    started = await stage.start()
    for name in ("a", "b", "c"):
        assert await stage.store.deliver(NAMESPACE, "order-1", signal(name)) == started.run_id
    claimed = await stage.claim_one(await stage.worker())
    assert names(claimed.inbox) == [(1, "a"), (2, "b"), (3, "c")]
    assert claimed.mail == 3


@behaviour
async def test_nobody_takes_a_message_for_a_run_that_is_not_open(stage: Stage) -> None:
    assert await stage.store.deliver(NAMESPACE, "order-1", signal("a")) is None
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await stage.flush(lease, run_id, turn(1), close())
    assert await stage.store.deliver(NAMESPACE, "order-1", signal("a")) is None
    assert await stage.store.deliver("neighbour", "order-1", signal("a")) is None


@behaviour
async def test_the_owner_finds_messages_that_came_after_its_claim(stage: Stage) -> None:
    lease = await stage.worker()
    first, second = await stage.owned(lease), await stage.owned(lease, "order-2")
    other = await stage.worker("two", queues=("other",))
    await stage.owned(other, "order-3", queue="other")
    for instance in ("order-2", "order-1", "order-3", "order-2"):
        await stage.store.deliver(NAMESPACE, instance, signal(instance))
    items = await stage.store.inbox(lease)
    assert [(item.run_id, item.number) for item in items] == [(first, 1), (second, 1), (second, 2)]
    assert await stage.store.inbox(lease) == items
    assert len(await stage.store.inbox(other)) == 1


@behaviour
async def test_consumed_messages_go_with_the_turn_that_applied_them(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    for name in ("a", "b", "c"):
        await stage.store.deliver(NAMESPACE, "order-1", signal(name))
    await stage.flush(lease, run_id, turn(1, signal("a"), signal("b")), consumed=2)
    assert names(await stage.store.inbox(lease)) == [(3, "c")]


@behaviour
async def test_numbers_go_on_after_messages_were_consumed(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await stage.store.deliver(NAMESPACE, "order-1", signal("a"))
    await stage.flush(lease, run_id, turn(1, signal("a")), consumed=1)
    await stage.store.deliver(NAMESPACE, "order-1", signal("b"))
    assert names(await stage.store.inbox(lease)) == [(2, "b")]


@behaviour
async def test_a_message_after_the_park_makes_the_run_ready(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    answer = await stage.flush(lease, run_id, turn(1), Park(mail=0, wake_at=LATER, waiting_for="signal approve"))
    assert (answer.recorded, answer.ended) == (True, True)
    assert await stage.store.claim(lease, 10) == []
    summary = await stage.summary()
    assert (summary.state, summary.waiting_for, summary.worker) == (RunState.PARKED, "signal approve", None)
    assert summary.wake_at is not None
    await stage.store.deliver(NAMESPACE, "order-1", signal("approve"))
    assert (await stage.summary()).wake_at is None
    claimed = await stage.claim_one(lease)
    assert (names(claimed.inbox), claimed.mail) == ([(1, "approve")], 1)
    assert [event.seq for event in claimed.history] == [0, 1]


@behaviour
async def test_a_message_before_the_park_refuses_it(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await stage.store.deliver(NAMESPACE, "order-1", signal("approve"))
    answer = await stage.flush(lease, run_id, turn(1), Park(mail=0, wake_at=None))
    assert (answer.recorded, answer.ended) == (True, False)
    summary = await stage.summary()
    assert (summary.state, summary.worker) == (RunState.OWNED, "one")
    assert names(await stage.store.inbox(lease)) == [(1, "approve")]
    answer = await stage.flush(lease, run_id, turn(2, signal("approve")), Park(mail=1, wake_at=None), consumed=1)
    assert (answer.recorded, answer.ended) == (True, True)


@behaviour
async def test_no_wake_up_is_lost_between_senders_and_an_owner_that_parks(stage: Stage) -> None:
    """Whatever the order of deliveries and parks, every message is seen once and in order."""
    messages = 60
    owner, sender = await stage.another(), await stage.another()
    lease = await stage.worker()
    run_id = (await stage.start()).run_id
    seen: list[int] = []

    async def send(store_number: int) -> None:
        store = (sender, stage.store)[store_number]
        for number in range(messages // 2):
            assert await store.deliver(NAMESPACE, "order-1", signal(f"{store_number}-{number}")) == run_id

    async def own() -> None:
        seq, consumed = 0, 0
        while len(seen) < messages:
            claimed = await owner.claim(lease, 1)
            if not claimed:
                await asyncio.sleep(0)
                continue
            items = list(claimed[0].inbox)
            assert claimed[0].mail == consumed + len(items), "a claim must bring all mail"
            ended = False
            while not ended:
                fresh = [item for item in items if item.number > consumed]
                assert [item.number for item in fresh] == list(range(consumed + 1, consumed + 1 + len(fresh)))
                seen.extend(item.number for item in fresh)
                consumed += len(fresh)
                seq += 1
                parts = (
                    turn(seq, *(item.event for item in fresh if item.event is not None)),
                    Park(mail=consumed, wake_at=None),
                )
                (answer,) = await owner.flush(lease, [commit(run_id, *parts, consumed=consumed)])
                assert answer.recorded
                ended = answer.ended
                items = [] if ended else await owner.inbox(lease)

    await asyncio.gather(own(), send(0), send(1))
    assert seen == list(range(1, messages + 1))
    assert (await stage.summary()).state is RunState.PARKED


@behaviour
async def test_a_held_run_keeps_its_messages_and_stays_held(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await stage.flush(lease, run_id, Hold(reason="NonDeterminism", message="it differs"))
    assert await stage.store.deliver(NAMESPACE, "order-1", signal("a")) == run_id
    assert (await stage.summary()).state is RunState.HELD
    await stage.store.resume(NAMESPACE, "order-1")
    assert names((await stage.claim_one(lease)).inbox) == [(1, "a")]


@behaviour
async def test_asking_to_cancel_is_a_message_and_shows(stage: Stage) -> None:
    started = await stage.start()
    assert not (await stage.summary()).cancel_requested
    await stage.store.deliver(NAMESPACE, "order-1", WorkflowExecutionCancelRequested("changed my mind"))
    summary = await stage.summary()
    assert (summary.cancel_requested, summary.state, summary.run_id) == (True, RunState.READY, started.run_id)
    (item,) = (await stage.claim_one(await stage.worker())).inbox
    assert item.event == WorkflowExecutionCancelRequested("changed my mind")


@behaviour
async def test_a_closed_run_leaves_no_messages_behind(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await stage.store.deliver(NAMESPACE, "order-1", signal("late"))
    await stage.flush(lease, run_id, turn(1), close())
    assert await stage.store.inbox(lease) == []


@behaviour
async def test_terminating_closes_the_run_and_tells_its_owner_once(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await stage.store.deliver(NAMESPACE, "order-1", signal("unread"))
    assert await stage.store.terminate(NAMESPACE, "order-1", "no money") == run_id
    summary = await stage.summary()
    assert (summary.state, summary.worker, summary.phase) == (RunState.TERMINATED, None, "Terminated")
    assert isinstance(summary.outcome, WorkflowExecutionTerminated)
    assert summary.outcome.reason == "no money"
    assert summary.closed_at is not None
    history = await stage.store.history(run_id)
    assert [(event.type, event.turn) for event in history] == [
        ("WorkflowExecutionStarted", 0),
        ("WorkflowExecutionTerminated", 1),
    ]
    (item,) = await stage.store.inbox(lease)
    assert (item.run_id, item.event) == (run_id, summary.outcome)
    assert await stage.store.inbox(lease) == []
    assert await stage.store.terminate(NAMESPACE, "order-1", "again") is None


@behaviour
async def test_the_owner_of_a_terminated_run_records_nothing_more(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await stage.flush(lease, run_id, turn(1))
    await stage.store.terminate(NAMESPACE, "order-1", "no money")
    for seq in (2, 3):
        answer = await stage.flush(lease, run_id, turn(seq), close())
        assert (answer.recorded, answer.ended) == (False, False)
    assert (await stage.types(run_id))[-1] == "WorkflowExecutionTerminated"
    assert (await stage.summary()).state is RunState.TERMINATED


@behaviour
async def test_the_time_of_a_termination_does_not_go_back(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    future = LATER
    await stage.flush(lease, run_id, turn(1, time=future))
    await stage.store.terminate(NAMESPACE, "order-1", "no money")
    history = await stage.store.history(run_id)
    assert history[-1].time == history[-2].time


@behaviour
async def test_terminating_beside_a_flushing_owner_ends_in_one_history(stage: Stage) -> None:
    """The owner flushes turn after turn, parks or not, while somebody terminates: no dead end, no gap, no overlap."""
    owner = await stage.another()
    lease = await stage.worker()
    for round_number in range(12):
        instance = f"order-{round_number}"
        run_id = await stage.owned(lease, instance)

        async def go_on(run_id: RunId = run_id, *, ends: bool = round_number % 2 == 0) -> int:
            for seq in range(1, 1000):
                parts = (turn(seq), Park(mail=99, wake_at=None)) if ends else (turn(seq),)
                (answer,) = await owner.flush(lease, [commit(run_id, *parts)])
                if not answer.recorded:
                    return seq
                await asyncio.sleep(0)
            raise AssertionError("it was never terminated")

        async def terminate(instance: str = instance, pause: int = round_number) -> None:
            for _ in range(pause):
                await asyncio.sleep(0)
            assert await stage.store.terminate(NAMESPACE, instance, "enough") is not None

        refused, _ = await asyncio.gather(go_on(), terminate())
        turns = [event.turn for event in await stage.store.history(run_id)]
        assert turns == list(range(refused + 1))
        assert (await stage.types(run_id))[-1] == "WorkflowExecutionTerminated"
        assert (await stage.summary(instance)).state is RunState.TERMINATED


@behaviour
async def test_runs_that_nobody_owns_can_be_terminated_too(stage: Stage) -> None:
    lease = await stage.worker()
    await stage.start("ready", queue="elsewhere")
    parked = await stage.owned(lease, "parked")
    await stage.flush(lease, parked, Park(mail=0, wake_at=LATER))
    held = await stage.owned(lease, "held")
    await stage.flush(lease, held, Hold(reason="NonDeterminism", message="it differs"))
    for instance in ("ready", "parked", "held"):
        assert await stage.store.terminate(NAMESPACE, instance, "enough") is not None
        summary = await stage.summary(instance)
        assert (summary.state, summary.hold_reason, summary.wake_at) == (RunState.TERMINATED, "", None)
    assert await stage.store.inbox(lease) == []


@behaviour
async def test_an_owner_can_close_a_run_that_ran_out_of_time(stage: Stage) -> None:

    lease = await stage.worker()
    run_id = await stage.owned(lease)
    event = WorkflowExecutionTimedOut("90 s")
    answer = await stage.flush(lease, run_id, turn(1, event), Close(state=RunState.TIMED_OUT, outcome=event))
    assert (answer.recorded, answer.ended) == (True, True)
    summary = await stage.summary()
    assert (summary.phase, summary.outcome) == ("TimedOut", event)


@behaviour
async def test_what_is_meant_for_a_run_does_not_reach_its_successor(stage: Stage) -> None:
    """Whoever has looked at a run decides about that one; meanwhile it may close, and its id be used again."""
    store = stage.store
    lease = await stage.worker()
    first = (await stage.start()).run_id
    await store.terminate(NAMESPACE, "order-1", "enough")
    second = await stage.owned(lease)
    await stage.flush(lease, second, Hold(reason="Broken", message="by itself"))
    cancel = WorkflowExecutionCancelRequested("not you", "c")
    assert await store.deliver(NAMESPACE, "order-1", cancel, first) is None
    assert await store.suspend(NAMESPACE, "order-1", first, suspended=True) is None
    assert await store.resume(NAMESPACE, "order-1", first) is None
    assert await store.terminate(NAMESPACE, "order-1", "not you", first) is None
    summary = await stage.summary()
    assert (summary.run_id, summary.phase, summary.cancel_requested) == (second, "Stalled", False)
    assert await store.resume(NAMESPACE, "order-1", second) == second
    assert await store.suspend(NAMESPACE, "order-1", second, suspended=True) == second
    assert await store.deliver(NAMESPACE, "order-1", cancel, second) == second
    assert await store.terminate(NAMESPACE, "order-1", "you", second) == second


@behaviour
async def test_messages_for_a_run_and_for_whichever_is_open_may_come_together(stage: Stage) -> None:
    first = (await stage.start()).run_id
    await stage.store.terminate(NAMESPACE, "order-1", "enough")
    lease = await stage.worker()
    second = await stage.owned(lease)
    meant: list[RunId | None] = [None, first, second, None, second]
    told = await asyncio.gather(
        *(stage.store.deliver(NAMESPACE, "order-1", signal(f"s{n}"), run_id) for n, run_id in enumerate(meant))
    )
    assert told == [second, None, second, second, second]
    found = await stage.store.inbox(lease)
    assert names(found) == [(1, "s0"), (2, "s2"), (3, "s3"), (4, "s4")]
