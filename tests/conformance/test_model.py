"""PostgreSQL does what the model does: the same verbs in the same order get the same answers from both.

Hypothesis invents the verbs. The memory store is the model; what it answers and shows is the expectation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from perdure.errors import LeaseLostError
from perdure.model.events import (
    Failure,
    TurnHeader,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionTerminated,
)
from perdure.model.runs import (
    ClaimAnswer,
    Commit,
    Ending,
    Hold,
    NewTask,
    Park,
    Release,
    RunId,
    RunSummary,
    TaskDone,
    TaskRetry,
    Visible,
    WorkerId,
)
from perdure.model.workers import Known, Lease
from perdure.store.base import UNKNOWN_WORKFLOW, Poller, RunFilter
from perdure.store.memory_rows import RunRow
from perdure.store.postgres import migrate
from tests.conformance.model_view import Actor
from tests.support.stores import (
    LATER,
    NAMESPACE,
    FullStore,
    MemoryStage,
    PostgresStage,
    Stage,
    announced,
    close,
    commit,
    completed_activity,
    new_run,
    signal,
    turn,
    worker_info,
)

INSTANCES = st.sampled_from(["a", "b", "c"])
NUMBERS = st.integers(0, 7)
TABLES = ", ".join(
    f"perdure.{name}" for name in ("worker", "run", "history", "payload", "inbox", "task", "status_change")
)
CHOSEN_BY_THE_STORE = {"created_at", "deadline", "now", "server"}


def plain(value: Any) -> Any:
    """Return an answer without what may differ: times and ids that the store chose, and epochs."""
    if isinstance(value, LeaseLostError):
        return "lease lost"
    if isinstance(value, datetime):
        return "a time"
    if isinstance(value, Lease):
        return value.worker
    if isinstance(value, TurnHeader):
        return "a header"
    if isinstance(value, msgspec.Raw):
        return bytes(value)
    names = value.__struct_fields__ if isinstance(value, msgspec.Struct) else ()
    names = ("reason",) if isinstance(value, WorkflowExecutionTerminated) else names
    names = tuple(field.name for field in fields(value)) if is_dataclass(value) else names
    if names:
        return type(value).__name__, {
            name: "its own" if name in CHOSEN_BY_THE_STORE else plain(getattr(value, name)) for name in names
        }
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value


def endings(mail: st.SearchStrategy[int]) -> st.SearchStrategy[Ending | None]:
    """Return endings of a run that has about so much mail."""
    return st.one_of(
        st.none(),
        st.none(),
        st.builds(
            lambda number, wake_at: Park(mail=number, wake_at=wake_at, waiting_for=f"mail {number}"),
            mail,
            st.sampled_from([None, 1, LATER]),
        ),
        st.builds(close, st.none(), st.none() | mail),
        st.sampled_from([Hold(reason="Broken", message="it differs"), Hold(reason=UNKNOWN_WORKFLOW, message="")]),
        st.just(Release()),
    )


async def changes(store: FullStore, _: int) -> tuple[list[int], list[RunSummary]]:
    """Return the status changes; those that one flush makes have no order among themselves."""
    found = await store.status_changes(100)
    return [change.number for change in found], sorted((change.run for change in found), key=lambda run: run.run_id)


async def pollers(store: FullStore, _: int) -> list[Poller]:
    """Return which queues are served, in an order."""
    return sorted(await store.pollers(), key=lambda poller: (poller.namespace, poller.queue, poller.build))


class Verbs(RuleBasedStateMachine):
    """Carries every verb out on both stages and compares the answers."""

    dsn: str

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.model, self.real = MemoryStage(), PostgresStage(self.dsn)
        self.leases: list[tuple[Lease, Lease]] = []
        self.turns: dict[RunId, int] = {}
        self.flushed: list[tuple[int, Commit]] = []
        self.tasks: list[tuple[int, RunId, int]] = []

    @initialize()
    def open(self) -> None:
        async def both() -> None:
            await self.model.open()
            await self.real.open()
            await self.real.execute(f"TRUNCATE {TABLES} RESTART IDENTITY")

        self.runner.run(both())
        for build in ("build-1", "build-2"):
            self.register(build=build, workflows=("order",), lease=5_000.0)
        for instance in ("a", "b"):
            self.start(instance=instance, key=f"uid-{instance}", priority=0)
        self.claim(number=0, limit=3)

    def teardown(self) -> None:
        self.runner.run(self.real.close())
        self.runner.close()

    def same(self, verb: Callable[[FullStore, int], Awaitable[Any]]) -> Any:
        """Carry a verb out on both stores; the second argument says which of the leases is its own."""

        async def answer(stage: Stage, side: int) -> Any:
            try:
                return await verb(stage.store, side)
            except LeaseLostError as error:
                return error

        expected = self.runner.run(answer(self.model, 0))
        found = self.runner.run(answer(self.real, 1))
        assert plain(found) == plain(expected)
        return expected

    def lease(self, number: int) -> tuple[Lease, Lease]:
        return self.leases[number % len(self.leases)]

    @rule(instance=INSTANCES, key=st.sampled_from([None, None, "uid-1", "uid-2"]), priority=st.integers(0, 1))
    def start(self, instance: str, key: str | None, priority: int) -> None:
        started = self.same(lambda store, _: store.start(new_run(instance, key=key, priority=priority)))
        self.turns.setdefault(started.run_id, 1)

    @rule(instance=INSTANCES, suspended=st.booleans(), build=st.sampled_from([None, "build-1", "build-3"]))
    def start_for_some(self, instance: str, suspended: bool, build: str | None) -> None:
        started = self.same(lambda store, _: store.start(new_run(instance, suspended=suspended, build=build)))
        self.turns.setdefault(started.run_id, 1)

    @rule(instance=INSTANCES, number=NUMBERS)
    def start_beside_a_worker(self, instance: str, number: int) -> None:
        takers = [Actor(lease, "taker") for lease in self.lease(number)]
        started = self.same(lambda store, side: store.start(new_run(instance), takers[side]))
        self.turns.setdefault(started.run_id, 1)
        assert set(takers[0].runs) == set(takers[1].runs) == ({started.run_id} if started.taken else set())

    @precondition(lambda self: len(self.leases) < 5)
    @rule(
        build=st.sampled_from(["build-1", "build-2"]),
        workflows=st.sampled_from([("order",), ("order",), ("shipping",)]),
        lease=st.sampled_from([50.0, 5_000.0]),
    )
    def register(self, build: str, workflows: tuple[str, ...], lease: float) -> None:
        info = worker_info(f"worker-{len(self.leases) % 3}", build=build, workflows=workflows, lease=lease)
        made: list[Lease] = []

        async def register(store: FullStore, _: int) -> WorkerId:
            made.append(await store.register(info))
            return made[-1].worker

        self.same(register)
        self.leases.append((made[0], made[1]))

    @rule(instance=INSTANCES, number=NUMBERS)
    def deliver(self, instance: str, number: int) -> None:
        event = signal(f"signal-{number}") if number else WorkflowExecutionCancelRequested("enough")
        self.same(lambda store, _: store.deliver(NAMESPACE, instance, event))

    @rule(instance=INSTANCES)
    def resume(self, instance: str) -> None:
        self.same(lambda store, _: store.resume(NAMESPACE, instance))

    @rule(instance=INSTANCES, suspended=st.booleans())
    def suspend(self, instance: str, suspended: bool) -> None:
        self.same(lambda store, _: store.suspend(NAMESPACE, instance, suspended=suspended))

    @rule(instance=INSTANCES)
    def terminate(self, instance: str) -> None:
        run_id = self.same(lambda store, _: store.terminate(NAMESPACE, instance, "enough"))
        if run_id is not None:
            self.turns[run_id] += 1

    @rule(number=NUMBERS, limit=st.integers(1, 3))
    def claim(self, number: int, limit: int) -> None:
        self.same(lambda store, side: store.claim(self.lease(number)[side], limit))

    @rule(number=NUMBERS, run=st.integers(0, 30), stale=st.booleans())
    def claim_announced(self, number: int, run: int, stale: bool) -> None:
        """Claim a run as its start announced it, or as it was not."""
        row = self.model.store.runs[sorted(self.turns)[-1 - run % len(self.turns)]]
        first = turn(1, signal("ready"))

        async def claim(store: FullStore, side: int) -> ClaimAnswer:
            hint = await announced(store, row.id, row.instance, **({"history": (turn(0),)} if stale else {}))
            return await store.claim_announced(self.lease(number)[side], hint, first)

        if self.same(claim) is ClaimAnswer.TAKEN:
            self.turns[row.id] = 2

    @rule(data=st.data())
    def flush(self, data: st.DataObject) -> None:
        """Mostly what a worker does with its own runs, sometimes what it does by mistake."""
        rows = self.model.store.runs
        owned = [run_id for run_id, run in rows.items() if run.owner is not None]
        astray = data.draw(NUMBERS) == 0
        run = rows[data.draw(st.sampled_from(sorted(self.turns) if astray or not owned else owned))]
        owner = 0 if astray or run.owner is None else run.owner - 1
        others = [rows[run_id] for run_id in owned if rows[run_id].owner == run.owner and run_id != run.id]
        together = [run, *others] if data.draw(st.booleans()) else [run]
        self.write(owner, [self.commit(data, run, astray=astray) for run in together])

    def commit(self, data: st.DataObject, run: RunRow, *, astray: bool) -> Commit:
        mail = st.sampled_from([run.mail, max(0, run.mail - 1)])
        seq = self.turns[run.id] - (1 if astray else 0)
        ending: Ending | None = data.draw(endings(mail))
        parts: list[Any] = [] if ending is None else [ending]
        changes: dict[str, Any] = {
            "consumed": data.draw(st.none() | mail),
            "visible": data.draw(st.none() | st.builds(lambda number: Visible(text=f"text {number}"), mail)),
        }
        if data.draw(NUMBERS):
            task = NewTask(seq=seq, queue="default", name=("print", "render")[seq % 2], input=b"[]", options=b"{}")
            parts.append(turn(seq))
            changes["tasks"] = data.draw(st.sampled_from([(), (task,)]))
            changes["dropped_tasks"] = data.draw(st.sampled_from([(), (), (1,), (2,)]))
        return commit(run.id, *parts, **changes)

    @precondition(lambda self: self.flushed)
    @rule(number=NUMBERS)
    def flush_again(self, number: int) -> None:
        """What a worker does that got no answer."""
        owner, asked = self.flushed[-1 - number % len(self.flushed)]
        self.write(owner, [asked])

    def write(self, number: int, asked: list[Commit]) -> None:
        answers = self.same(lambda store, side: store.flush(self.lease(number)[side], asked))
        for one, answer in zip(asked, answers, strict=True) if isinstance(answers, list) else ():
            if answer.recorded and one.turn is not None:
                self.turns[one.run_id] = max(self.turns[one.run_id], one.turn.seq + 1)
                self.flushed.append((number % len(self.leases), one))

    @rule(number=NUMBERS, more=st.sampled_from([(0, 0), (0, 0), (1, 0), (0, 1)]))
    def remember(self, number: int, more: tuple[int, int]) -> None:
        """Ask for what is there, and for one turn or message more in the newest run."""
        rows = sorted(self.model.store.runs.values(), key=lambda row: row.id)
        known = [Known(row.id, max(row.history), row.mail) for row in rows]
        if rows:
            known[-1] = Known(rows[-1].id, max(rows[-1].history) + more[0], rows[-1].mail + more[1])
        answer = self.same(lambda store, side: store.remembers(self.lease(number)[side], known))
        assert isinstance(answer, LeaseLostError) or (answer is None) == (bool(rows) and any(more))
        if answer is None:
            for _ in range(10_000):  # PostgreSQL leaves them out: a memory does not come back without its end
                next(self.model.store.run_ids)

    @invariant()
    def the_same_is_seen(self) -> None:
        """Whatever happened, people and owners see the same."""
        if self.leases:
            self.same(lambda store, _: store.list_runs(NAMESPACE, RunFilter()))
        for lease in self.leases:
            self.same(lambda store, side, lease=lease: store.inbox(lease[side]))  # type: ignore[misc]  # bound now

    @rule(number=NUMBERS)
    def help_others(self, number: int) -> None:
        self.same(lambda store, side: store.hold_unknown(self.lease(number)[side]))
        self.same(lambda store, side: store.recover(self.lease(number)[side]))
        self.same(lambda store, side: store.time_out(self.lease(number)[side]))

    @rule()
    def absolve(self) -> None:
        self.same(lambda store, _: store.absolve(sorted(self.turns)))

    @rule(number=NUMBERS)
    def renew(self, number: int) -> None:
        self.same(lambda store, side: asyncio.to_thread(store.renew, self.lease(number)[side]))

    @precondition(lambda self: len(self.leases) > 1)
    @rule(number=NUMBERS, by_name=st.booleans())
    def end_worker(self, number: int, by_name: bool) -> None:
        if by_name:
            self.same(lambda store, _: store.expire(NAMESPACE, f"worker-{number % 3}"))
        else:
            self.same(lambda store, side: store.resign(self.lease(number)[side]))

    @rule(seconds=st.sampled_from([1.0, 60.0]))
    def pass_time(self, seconds: float) -> None:
        self.runner.run(self.model.pass_time(seconds))
        self.runner.run(self.real.pass_time(seconds))

    @rule(number=NUMBERS, limit=st.integers(1, 3), passed_over=st.sampled_from([(), ("render",), ("print", "unheard")]))
    def claim_tasks(self, number: int, limit: int, passed_over: tuple[str, ...]) -> None:
        taken = self.same(lambda store, side: store.claim_tasks(self.lease(number)[side], limit, passed_over))
        if isinstance(taken, list):
            self.tasks += [(number % len(self.leases), task.run_id, task.seq) for task in taken]

    @precondition(lambda self: self.tasks)
    @rule(number=NUMBERS, retry=st.booleans())
    def finish_task(self, number: int, retry: bool) -> None:
        owner, run_id, seq = self.tasks[number % len(self.tasks)]
        failure = Failure("ValueError", "no")
        result = (
            TaskRetry(run_id=run_id, seq=seq, attempt=2, failure=failure, delay=30.0)
            if retry
            else TaskDone(run_id=run_id, seq=seq, event=completed_activity(seq))
        )
        self.same(lambda store, side: store.finish_tasks(self.lease(owner)[side], [result]))

    @rule()
    def read_everything(self) -> None:
        self.same(lambda store, _: store.open_keys())
        self.same(lambda store, _: store.workers(NAMESPACE))
        self.same(pollers)
        self.same(changes)
        for run_id in self.turns:
            self.same(lambda store, _, run_id=run_id: store.history(run_id))  # type: ignore[misc]  # bound now


def test_postgresql_answers_as_the_model_does(database: str) -> None:
    migrate(database)

    class OnThisDatabase(Verbs):
        dsn = database

    run_state_machine_as_test(
        OnThisDatabase,
        settings=settings(
            max_examples=40, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
