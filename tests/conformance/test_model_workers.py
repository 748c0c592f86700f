"""Workers that live, stall, die and come back late, as Hypothesis invents them: what must hold after every step.

Nothing is compared with another store here: each is held to the invariants themselves. The actors do what a worker
does (take, listen, record, let go), and a view that goes around the store's verbs tells what is true.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import psycopg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    precondition,
    rule,
    run_state_machine_as_test,
)

from perdure.model.events import (
    Event,
)
from perdure.model.runs import (
    ClaimAnswer,
    Close,
    Commit,
    Committed,
    Ending,
    Hold,
    NewTask,
    Park,
    Release,
    RunId,
    RunState,
    TaskDone,
)
from perdure.store.postgres import migrate
from tests.conformance.model_clients import NUMBERS, Clients
from tests.conformance.model_invariants import LEASE
from tests.conformance.model_view import Actor, View, in_memory, in_postgres
from tests.support.stores import (
    LATER,
    NAMESPACE,
    MemoryStage,
    PostgresStage,
    Stage,
    announced,
    behaviour,
    close,
    completed_activity,
    scheduled,
    turn,
)

T = TypeVar("T")

TABLES = ", ".join(
    f"perdure.{name}" for name in ("worker", "run", "history", "payload", "inbox", "task", "status_change")
)
ENDINGS = ["none", "none", "none", "none", "park", "park", "sleep", "close", "hold", "release"]


@dataclass(frozen=True)
class Plan:
    """What one commit of a flush shall be: of which of an actor's runs, and how it ends."""

    number: int
    task: bool
    wake_at: int
    ending: str


# Nothing is drawn in the middle of a step: what an actor owns there may depend on a race, and Hypothesis wants the same
# choices to be there when it goes the same way again.
PLANS = st.lists(
    st.builds(Plan, NUMBERS, st.booleans(), st.sampled_from([1, LATER]), st.sampled_from(ENDINGS)),
    min_size=1,
    max_size=3,
)


class Workers(Clients):
    """What clients do, what workers do, and what happens to workers."""

    # What workers do

    @precondition(lambda self: len(self.actors) < 5)
    @rule(build=st.sampled_from(["build-1", "build-2"]))
    def register(self, build: str) -> None:
        self.enter(build)

    @rule(number=NUMBERS, limit=st.integers(1, 3))
    def claim(self, number: int, limit: int) -> None:
        self.take(self.actor(number), limit)

    def take(self, actor: Actor, limit: int) -> None:
        before = self.view()
        claimed = self.do(self.stage.store.claim(actor.lease, limit))
        assert (claimed is not None) == before.in_force(actor.lease)
        for run in claimed or ():
            assert before.runs[run.info.run_id].state in {RunState.READY, RunState.PARKED}
            assert not before.runs[run.info.run_id].suspended
            actor.took(run)

    @rule(number=NUMBERS, run=NUMBERS)
    def claim_announced(self, number: int, run: int) -> None:
        """Take a run as its start announced it, however long ago that was."""
        before = self.view()
        if not before.runs:
            return
        actor, run_id = self.actor(number), sorted(before.runs)[-1 - run % len(before.runs)]
        was = before.runs[run_id]
        hint = self.runner.run(announced(self.stage.store, run_id, was.instance))
        first = turn(1, scheduled(1))
        answer = self.do(self.stage.store.claim_announced(actor.lease, hint, first))
        is_now = self.view().runs[run_id]
        assert (answer is not None) == before.in_force(actor.lease)
        if answer is ClaimAnswer.TAKEN:
            assert (was.state, was.suspended, was.mail, len(was.history)) == (RunState.READY, False, 0, 1)
            assert (is_now.state, is_now.owner) == (RunState.OWNED, actor.lease.worker)
            actor.took(msgspec.structs.replace(hint, history=(*hint.history, first)))
        else:
            assert is_now == was

    @rule(number=NUMBERS)
    def listen(self, number: int) -> None:
        self.hear(self.owner(number) or self.actor(number))

    def hear(self, actor: Actor) -> None:
        before = self.view()
        items = self.do(self.stage.store.inbox(actor.lease))
        assert (items is not None) == before.in_force(actor.lease)
        actor.told(items or ())

    @rule(number=NUMBERS, plans=PLANS)
    def work(self, number: int, plans: list[Plan]) -> None:
        """Take something, listen, and record: what a worker does most of the time."""
        actor = self.actor(number)
        self.take(actor, 2)
        self.hear(actor)
        if actor.runs:
            self.write(actor, plans)

    @rule(number=NUMBERS, plans=PLANS)
    def record(self, number: int, plans: list[Plan]) -> None:
        """Record turns of up to three runs in one flush; whoever lost its lease or a run finds out, and no more."""
        actor = self.owner(number)
        if actor is not None:
            self.write(actor, plans)

    def write(self, actor: Actor, plans: list[Plan]) -> None:
        runs = sorted(actor.runs)
        chosen = {runs[plan.number % len(runs)]: plan for plan in plans}
        commits = [self.commit(actor, run_id, plan) for run_id, plan in chosen.items()]
        before = self.view()
        answers = self.do(self.stage.store.flush(actor.lease, commits))
        after = self.view()
        assert (answers is not None) == before.in_force(actor.lease)
        if answers is None:
            assert after.runs == before.runs, "a fenced flush writes nothing"
            actor.runs.clear()
            return
        for commit, answer in zip(commits, answers, strict=True):
            was, is_now = before.runs[commit.run_id], after.runs[commit.run_id]
            mine = was.owner == actor.lease.worker
            assert answer.unread == (mine and isinstance(commit.ending, Close) and commit.ending.mail != was.mail)
            assert answer.recorded == (mine and not answer.unread)
            refused = isinstance(commit.ending, Park) and commit.ending.mail != was.mail
            if not answer.recorded:
                assert is_now == was, "nobody writes into a run of somebody else, or closes one that has unread mail"
            else:
                assert answer.ended == (commit.ending is not None and not refused)
            self.answered(actor, commit, answer)

    def commit(self, actor: Actor, run_id: RunId, plan: Plan) -> Commit:
        held = actor.runs[run_id]
        events: list[Event] = list(held.waiting)
        tasks: tuple[NewTask, ...] = ()
        if plan.task:
            task = NewTask(seq=held.turns, queue="default", name="render", input=b"[]", options=b"{}")
            events, tasks = [*events, scheduled(held.turns)], (task,)
        endings: dict[str, Ending | None] = {
            "none": None,
            "park": Park(mail=held.seen, wake_at=None),
            "sleep": Park(mail=held.seen, wake_at=plan.wake_at),
            "close": close(mail=held.seen),
            "hold": Hold(reason="Broken", message="it differs"),
            "release": Release(),
        }
        ending = endings[plan.ending]
        if isinstance(ending, Close):
            events = [*events, ending.outcome]
        return Commit(
            run_id=run_id,
            turn=turn(held.turns, *events) if events else None,
            consumed=held.seen if held.waiting else None,
            tasks=tasks,
            ending=ending,
        )

    def answered(self, actor: Actor, commit: Commit, answer: Committed) -> None:
        held = actor.runs[commit.run_id]
        if answer.unread:
            return
        if not answer.recorded or answer.ended:
            del actor.runs[commit.run_id]
        elif commit.turn is not None:
            held.turns += 1
            held.waiting.clear()

    @rule(number=NUMBERS, limit=st.integers(1, 2))
    def claim_tasks(self, number: int, limit: int) -> None:
        actor, before = self.actor(number), self.view()
        tasks = self.do(self.stage.store.claim_tasks(actor.lease, limit))
        assert (tasks is not None) == before.in_force(actor.lease)
        actor.tasks |= {(task.run_id, task.seq) for task in tasks or ()}

    @rule(number=NUMBERS)
    def finish_task(self, number: int) -> None:
        working = [actor for actor in self.actors if actor.tasks]
        if not working:
            return
        actor, before = working[number % len(working)], self.view()
        run_id, seq = actor.tasks.pop()
        done = TaskDone(run_id=run_id, seq=seq, event=completed_activity(seq))

        async def finish() -> bool:
            await self.stage.store.finish_tasks(actor.lease, [done])
            return True

        landed = self.do(finish())
        assert (landed is not None) == before.in_force(actor.lease)
        if landed is None or seq not in before.runs[run_id].tasks:
            assert self.view().runs == before.runs

    # What happens to workers

    @rule(number=NUMBERS)
    def heartbeat(self, number: int) -> None:
        self.beat(self.actor(number))

    def beat(self, actor: Actor) -> None:
        before = self.view()

        async def renew() -> object:
            return await asyncio.to_thread(self.stage.store.renew, actor.lease)

        assert (self.do(renew()) is not None) == before.in_force(actor.lease)

    @rule(number=NUMBERS)
    def help_others(self, number: int) -> None:
        self.do(self.stage.store.recover(self.actor(number).lease))
        self.do(self.stage.store.hold_unknown(self.actor(number).lease))

    @rule(seconds=st.sampled_from([1.0, LEASE / 2]))
    def time_passes(self, seconds: float) -> None:
        self.runner.run(self.stage.pass_time(seconds))

    @rule(number=NUMBERS, found_out=st.booleans(), plans=PLANS)
    def stall(self, number: int, found_out: bool, plans: list[Plan]) -> None:
        """A worker is silent for longer than its lease, others may or may not find it out, and it goes on."""
        silent = self.owner(number) or self.actor(number)
        others = [actor for actor in self.actors if actor is not silent]
        for seconds in (0.4, 0.4, 0.4):
            for other in others:
                self.beat(other)
            self.runner.run(self.stage.pass_time(seconds * LEASE))
        if found_out:
            for other in others:
                self.beat(other)
                self.do(self.stage.store.recover(other.lease))
                self.take(other, 2)
        if silent.runs:
            self.write(silent, plans)

    @rule(number=NUMBERS)
    def crash(self, number: int) -> None:
        """Vanish without a word; what was known is forgotten, what is stored stays."""
        self.actors.remove(self.actor(number))
        self.enter("build-1")

    @rule(number=NUMBERS, how=st.sampled_from(["resigned", "expired"]), plans=PLANS)
    def lose_lease(self, number: int, how: str, plans: list[Plan]) -> None:
        """Resign, or be thrown out, and still try to write what is in hand."""
        actor = self.owner(number) or self.actor(number)
        if how == "expired":
            self.runner.run(self.stage.store.expire(NAMESPACE, actor.name))
        else:
            self.runner.run(self.stage.store.resign(actor.lease))
        self.enter("build-1")
        if actor.runs:
            self.write(actor, plans)


SOME = settings(max_examples=100, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck))


def test_the_invariants_hold_in_memory() -> None:
    class InMemory(Workers):
        def __init__(self) -> None:
            super().__init__()
            self.stage: MemoryStage = MemoryStage()

        def view(self) -> View:
            return in_memory(self.stage)

    run_state_machine_as_test(InMemory, settings=SOME)


def test_the_invariants_hold_on_postgresql(database: str) -> None:
    migrate(database)
    with psycopg.connect(database, autocommit=True) as connection:

        class OnPostgres(Workers):
            def __init__(self) -> None:
                super().__init__()
                self.stage: PostgresStage = PostgresStage(database)

            def empty(self) -> None:
                connection.execute(f"TRUNCATE {TABLES} RESTART IDENTITY".encode())

            def view(self) -> View:
                return in_postgres(connection)

        run_state_machine_as_test(OnPostgres, settings=settings(SOME, max_examples=25))


@behaviour
async def test_a_run_that_is_terminated_when_its_owner_is_gone_already_leaves_no_note(stage: Stage) -> None:
    owner = await stage.worker(lease=LEASE)
    await stage.owned(owner)
    await stage.pass_time(2 * LEASE)
    assert stage.store.renew(await stage.worker("two")).reaped
    await stage.store.terminate(NAMESPACE, "order-1", "enough")
    if isinstance(stage, MemoryStage):
        view = in_memory(stage)
    else:
        assert isinstance(stage, PostgresStage)
        with psycopg.connect(stage.dsn) as connection:
            view = in_postgres(connection)
    assert [row.inbox for row in view.runs.values()] == [()]
