"""Reading: what people, the command line and the operator see, and hints between processes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from perdure.model.events import Unreadable, WorkflowExecutionCompleted, WorkflowExecutionTerminated
from perdure.model.hints import Audience, Hint
from perdure.model.runs import Hold, NewTask, Park, Release, RunId, RunState, RunSummary, Visible
from perdure.store import records
from perdure.store.base import Poller, Queue, RunFilter
from tests.support.stores import (
    NAMESPACE,
    Stage,
    behaviour,
    close,
    completed,
    completed_activity,
    signal,
    turn,
    worker_info,
)


@behaviour
async def test_what_does_not_exist_is_not_described(stage: Stage) -> None:
    started = await stage.start()
    assert await stage.store.describe(NAMESPACE, "order-2") is None
    assert await stage.store.describe("neighbour", "order-1") is None
    assert await stage.store.describe("neighbour", "order-1", started.run_id) is None
    assert await stage.store.history(RunId(10**6)) == []


@behaviour
async def test_events_are_numbered_through_all_turns_with_time_and_worker(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await stage.flush(lease, run_id, turn(1, completed_activity(1), completed_activity(2), worker="pod-1"))
    await stage.flush(lease, run_id, turn(2))
    await stage.flush(lease, run_id, turn(3, worker="pod-2"))
    history = await stage.store.history(run_id)
    assert [event.id for event in history] == [1, 2, 3, 4, 5]
    assert [event.turn for event in history] == [0, 1, 1, 2, 3]
    assert [event.worker for event in history] == ["", "pod-1", "pod-1", "pod-1", "pod-2"]
    assert [event.time.timestamp() for event in history[1:]] == [1, 1, 2, 3]
    assert history[4].type == "ActivityScheduled"


@behaviour
async def test_pages_of_runs_go_from_new_to_old(stage: Stage) -> None:
    runs = [(await stage.start(f"order-{number}")).run_id for number in range(5)]
    await stage.start("theirs", namespace="neighbour")
    first = await stage.store.list_runs(NAMESPACE, RunFilter(limit=2))
    assert [run.run_id for run in first] == [runs[4], runs[3]]
    second = await stage.store.list_runs(NAMESPACE, RunFilter(limit=2, before=first[-1].run_id))
    assert [run.run_id for run in second] == [runs[2], runs[1]]
    last = await stage.store.list_runs(NAMESPACE, RunFilter(limit=2, before=second[-1].run_id))
    assert [run.run_id for run in last] == [runs[0]]


@behaviour
async def test_runs_are_listed_by_workflow_state_and_instance(stage: Stage) -> None:
    lease = await stage.worker()
    closed = await stage.owned(lease, "order-1")
    await stage.flush(lease, closed, turn(1), close())
    open_again = (await stage.start("order-1")).run_id
    shipping = (await stage.start("shipping-1", workflow="shipping")).run_id

    async def listed(where: RunFilter) -> list[RunId]:
        return [run.run_id for run in await stage.store.list_runs(NAMESPACE, where)]

    assert await listed(RunFilter()) == [shipping, open_again, closed]
    assert await listed(RunFilter(workflow="shipping")) == [shipping]
    assert await listed(RunFilter(instance="order-1")) == [open_again, closed]
    assert await listed(RunFilter(states=frozenset({RunState.COMPLETED, RunState.FAILED}))) == [closed]
    assert await listed(RunFilter(states=frozenset({RunState.READY}), workflow="order")) == [open_again]


@behaviour
async def test_whoever_waits_learns_what_has_ended_and_what_is_not_there(stage: Stage) -> None:
    runs = [(await stage.start(f"order-{number}")).run_id for number in range(3)]
    await stage.store.terminate(NAMESPACE, "order-2", "enough")
    await stage.store.terminate(NAMESPACE, "order-1", "not asked for")
    found = await stage.store.ended([runs[2], RunId(10**6), runs[0]])
    assert found.keys() == {runs[2], RunId(10**6)}
    assert found[RunId(10**6)] is None
    ended = found[runs[2]]
    assert ended is not None
    assert ended.id == "order-2"
    assert isinstance(ended.outcome, WorkflowExecutionTerminated)
    assert ended.outcome.reason == "enough"
    assert await stage.store.ended([]) == {}
    assert await stage.store.ended([runs[2]]) == {runs[2]: ended}
    assert await stage.store.ended([runs[0]]) == {}
    assert await stage.store.ended([RunId(10**6)]) == {RunId(10**6): None}


@behaviour
async def test_runs_are_found_by_key_of_whatever_namespace(stage: Stage) -> None:
    lease = await stage.worker()
    one = await stage.owned(lease, "order-1", key="uid-1")
    two = (await stage.start("order-2", key="uid-2", namespace="neighbour")).run_id
    await stage.start("order-3")
    assert {run.run_id for run in await stage.store.by_key(["uid-1", "uid-2", "uid-9"])} == {one, two}
    assert await stage.store.open_keys() == {"uid-1": (NAMESPACE, "order-1"), "uid-2": ("neighbour", "order-2")}
    await stage.flush(lease, one, turn(1), close())
    assert await stage.store.open_keys() == {"uid-2": ("neighbour", "order-2")}
    assert {run.run_id for run in await stage.store.by_key(["uid-1"])} == {one}


@behaviour
async def test_who_reads_many_runs_gets_the_beginning_of_a_long_result_and_its_size(stage: Stage) -> None:
    lease = await stage.worker()
    for instance, length in (("short", 10), ("long", 1_000_000)):
        run_id = await stage.owned(lease, instance, key=instance)
        await stage.flush(lease, run_id, turn(1), close(completed(f'"{length * "ü"}"')))
    readers = {
        "by key": await stage.store.by_key(["short", "long"]),
        "newest": await stage.store.newest([(NAMESPACE, "short"), (NAMESPACE, "long")]),
        "page": await stage.store.list_runs(NAMESPACE, RunFilter()),
        "changes": await changed(stage),
    }
    for reader, runs in readers.items():
        short, long = sorted(runs, key=lambda run: run.id, reverse=True)
        assert (result(short), short.result_size) == (f'"{10 * "ü"}"'.encode(), None), reader
        assert long.result_size == 2_000_002, reader
        assert result(long).startswith(f'"{500 * "ü"}'.encode()), reader
        assert len(result(long)) < 5_000, reader
    whole = await stage.summary("long")
    assert (len(result(whole)), whole.result_size) == (2_000_002, None)


def test_the_beginning_of_a_result_that_only_a_newer_release_can_read_is_no_result() -> None:
    summary = RunSummary(
        id="order-1", run_id=RunId(1), namespace=NAMESPACE, workflow="order", queue="default", state=RunState.COMPLETED,
        created_at=datetime.now(UTC), started_at=None, closed_at=None, wake_at=None, worker=None, priority=0, key=None,
        waiting_for="", status_text="", progress="", hold_reason="", hold_message="", cancel_requested=False,
        outcome=None,
    )  # fmt: skip
    seen = records.with_beginning(summary, b"\x02compressed", 100_000)
    assert isinstance(seen.outcome, Unreadable)
    assert seen.result_size is None


async def changed(stage: Stage) -> list[RunSummary]:
    """Return each run whose visible state changed, once."""
    return list({change.run.id: change.run for change in await stage.store.status_changes(100)}.values())


def result(run: RunSummary) -> bytes:
    assert isinstance(run.outcome, WorkflowExecutionCompleted)
    return bytes(run.outcome.result)


@behaviour
async def test_each_visible_change_of_a_run_with_a_key_is_listed_until_acknowledged(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = (await stage.start(key="uid-1")).run_id

    async def changes() -> int:
        """Return how many there are, and acknowledge them."""
        found = await stage.store.status_changes(10)
        assert {change.run.run_id for change in found} <= {run_id}
        assert [change.number for change in found] == sorted({change.number for change in found})
        assert await stage.store.status_changes(10) == found
        await stage.store.acknowledge([change.number for change in found])
        assert await stage.store.status_changes(10) == []
        return len(found)

    assert await changes() == 0, "whoever started it knows"
    await stage.claim_one(lease)
    assert await changes() == 1
    await stage.flush(lease, run_id, turn(1))
    assert await changes() == 0
    await stage.flush(lease, run_id, visible=Visible(text="packing"))
    assert await changes() == 1
    await stage.flush(lease, run_id, turn(2), Park(mail=0, wake_at=None, waiting_for="signal approve"))
    assert await changes() == 1
    await stage.store.deliver(NAMESPACE, "order-1", signal("approve"))
    await stage.claim_one(lease)
    await stage.flush(lease, run_id, turn(3), Park(mail=1, wake_at=1, waiting_for="signal approve"), consumed=1)
    await stage.claim_one(lease)
    assert await changes() == 0, "people see the same"
    await stage.flush(lease, run_id, Hold(reason="NonDeterminism", message="it differs"))
    assert await changes() == 1
    await stage.store.resume(NAMESPACE, "order-1")
    assert await changes() == 1
    await stage.claim_one(lease)
    await stage.flush(lease, run_id, turn(4), close(), visible=Visible(text="done"))
    (change,) = await stage.store.status_changes(10)
    assert (change.run.phase, change.run.status_text, change.run.key) == ("Succeeded", "done", "uid-1")


@behaviour
async def test_status_changes_come_oldest_first_and_runs_without_a_key_have_none(stage: Stage) -> None:
    lease = await stage.worker()
    for number in range(3):
        await stage.start(f"order-{number}", key=f"uid-{number}")
    await stage.start("plain")
    await stage.store.claim(lease, 10)
    for number in (2, 0):
        await stage.store.terminate(NAMESPACE, f"order-{number}", "enough")
    await stage.store.terminate(NAMESPACE, "plain", "enough")
    found = await stage.store.status_changes(10)
    assert len(found) == 5
    assert [change.run.id for change in found][3:] == ["order-2", "order-0"]
    assert await stage.store.status_changes(2) == found[:2]
    assert await stage.store.status_changes(2, after=found[1].number) == found[2:4]
    assert await stage.store.status_changes(10, after=found[-1].number) == []


@behaviour
async def test_those_who_listen_hear_of_work_mail_and_ends(stage: Stage) -> None:
    other = await stage.another()
    lease = await other.register(worker_info("one"))
    for audience in Audience:
        other.hear(audience)
    heard: list[Hint] = []
    news = asyncio.Event()

    async def listen() -> None:
        async for hint in other.listen():
            heard.append(hint)
            news.set()

    async def until(what: str, hint: Hint) -> None:
        """Wait for ``what``, repeating a hint that may have been sent before anybody listened."""
        while True:
            stage.store.hint(hint)
            queues = {queue for found in heard for queue in found.queues}
            workers = {worker for found in heard for worker in found.workers}
            said = {*queues, *(f"worker {worker}" for worker in workers)}
            said |= {"closed" for found in heard if found.closed} | {"changed" for found in heard if found.changed}
            if what in said:
                return
            news.clear()
            try:
                await asyncio.wait_for(news.wait(), 0.1)
            except TimeoutError:
                pass

    listener = asyncio.create_task(listen())
    try:
        await until("first", Hint(queues=frozenset({"first"})))
        nothing = Hint(queues=frozenset({"nothing"}))
        await stage.start(key="uid-1")
        await until("default", nothing)
        await stage.claim_one(lease)
        await until("changed", nothing)
        await stage.store.deliver(NAMESPACE, "order-1", signal("a"))
        await until(f"worker {lease.worker}", nothing)
        await stage.store.terminate(NAMESPACE, "order-1", "enough")
        await until("closed", nothing)
    finally:
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)


@behaviour
async def test_a_census_counts_what_is_open_and_what_waits(stage: Stage) -> None:
    lease = await stage.worker(queues=("default", "idle"))
    closed = await stage.owned(lease, "order-1")
    await stage.flush(lease, closed, turn(1), close())
    held = await stage.owned(lease, "order-2")
    await stage.flush(lease, held, Hold(reason="NonDeterminism", message="the code has changed"))
    due = await stage.owned(lease, "order-3")
    soon = (await stage.summary("order-3")).created_at.timestamp() + 60
    await stage.flush(lease, due, turn(1), Park(mail=0, wake_at=round(soon * 1_000_000)))
    busy = await stage.owned(lease, "order-4")
    task = NewTask(seq=1, queue="heavy", name="pack", input=b"[]", options=b"{}")
    await stage.flush(lease, busy, turn(1), tasks=(task,))
    await stage.start("order-5", workflow="other", queue="slow")
    await stage.start("order-6", namespace="neighbour")

    before = await stage.store.census([NAMESPACE])
    assert (before.open, dict(before.held)) == (4, {"NonDeterminism": 1})
    queues = {queue: counted for (namespace, queue), counted in before.queues.items() if namespace == NAMESPACE}
    assert set(queues) == {"default", "idle", "heavy", "slow"}
    assert len(before.queues) == len(queues), "the namespaces that were asked for"
    assert queues["default"] == queues["idle"] == Queue(workers=1)
    assert (queues["slow"].runs, queues["slow"].workers) == (1, 0)
    assert (queues["heavy"].runs, queues["heavy"].activities) == (0, 1)
    await stage.pass_time(90)
    after = await stage.store.census([NAMESPACE])
    default, heavy = after.queues[NAMESPACE, "default"], after.queues[NAMESPACE, "heavy"]
    assert (default.runs, default.workers) == (1, 0)
    assert 29 <= default.oldest <= 89
    assert 90 <= heavy.oldest <= 149
    everywhere = await stage.store.census(None)
    assert everywhere.open == 5
    assert everywhere.queues["neighbour", "default"].runs == everywhere.queues[NAMESPACE, "default"].runs == 1
    assert (await stage.store.census(["nowhere"])).queues == {}


@behaviour
async def test_a_suspended_run_is_open_and_asks_for_no_worker(stage: Stage) -> None:
    await stage.start(suspended=True)
    census = await stage.store.census(None)
    assert (census.open, census.queues) == (1, {})


@behaviour
async def test_a_run_that_goes_on_after_a_takeover_is_not_the_oldest_that_waits_to_start(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await stage.flush(lease, run_id, turn(1), Release())
    [waiting] = (await stage.store.census(None)).queues.values()
    assert (waiting.runs, waiting.oldest) == (1, 0.0)


@behaviour
async def test_the_newest_run_of_each_of_many_instances_is_found(stage: Stage) -> None:
    lease = await stage.worker()
    closed = await stage.owned(lease, "order-1")
    await stage.flush(lease, closed, turn(1), close())
    second = (await stage.start("order-1")).run_id
    ended = await stage.owned(lease, "order-2")
    await stage.flush(lease, ended, turn(1), close())
    theirs = (await stage.start("order-1", namespace="neighbour")).run_id
    asked = [(NAMESPACE, "order-1"), (NAMESPACE, "order-2"), (NAMESPACE, "nobody"), (NAMESPACE, "order-1")]
    assert sorted(run.run_id for run in await stage.store.newest(asked)) == [second, ended]
    assert [run.run_id for run in await stage.store.newest([("neighbour", "order-1")])] == [theirs]
    assert await stage.store.newest([]) == []


@behaviour
async def test_a_queue_is_served_as_long_as_a_worker_of_it_is_alive(stage: Stage) -> None:
    assert await stage.store.pollers() == frozenset()
    lease = await stage.worker(queues=("default", "gpu"))
    await stage.worker("two", build="build-2", lease=600.0)
    await stage.store.register(worker_info("three", namespace="elsewhere", lease=600.0))
    default, gpu = Poller(NAMESPACE, "default", "build-1"), Poller(NAMESPACE, "gpu", "build-1")
    others = {Poller(NAMESPACE, "default", "build-2"), Poller("elsewhere", "default", "build-1")}
    assert await stage.store.pollers() == {default, gpu} | others
    await stage.pass_time(120.0)
    assert await stage.store.pollers() == others
    await stage.store.resign(lease)
    assert await stage.store.pollers() == others
