"""What must hold of a store after every step, whatever its clients and workers did.

What lives here: the invariants, and the last worker that finds everything. What must not: the steps; a model that
drives a store derives from `Invariants`.
"""

from __future__ import annotations

import asyncio
import itertools
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

from perdure.errors import LeaseLostError
from perdure.model.events import ActivityCompleted, Event, SignalReceived
from perdure.model.runs import RunId, RunState
from perdure.store import records
from tests.conformance.model_view import Actor, View
from tests.support.stores import NAMESPACE, Stage, worker_info

T = TypeVar("T")

INSTANCES = ("a", "b", "c")
LEASE = 50.0


class Invariants(RuleBasedStateMachine):
    """Drives one store. ``told`` has the signals that each run was sent, in the order in which the store took them."""

    stage: Stage

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.numbers = itertools.count(1)
        self.actors: list[Actor] = []
        self.told: dict[RunId, list[str]] = defaultdict(list)

    @initialize()
    def open(self) -> None:
        """Begin with three workers and three runs."""
        self.runner.run(self.stage.open())
        self.empty()
        for instance in INSTANCES:
            self.enter("build-1")
            self.runner.run(self.stage.start(instance))

    @abstractmethod
    def view(self) -> View:
        """Look past the verbs of the store."""

    def empty(self) -> None:
        """Remove what an earlier example stored."""

    def enter(self, build: str) -> Actor:
        """Register one more worker."""
        name = f"worker-{next(self.numbers) % 3}"
        lease = self.runner.run(self.stage.store.register(worker_info(name, build=build, lease=LEASE)))
        self.actors.append(Actor(lease, name))
        return self.actors[-1]

    def do(self, verb: Coroutine[Any, Any, T]) -> T | None:
        """Carry out a verb; None when the lease is lost."""
        try:
            return self.runner.run(verb)
        except LeaseLostError:
            return None

    @invariant()
    def everything_holds(self) -> None:
        """After every step."""
        view = self.view()
        self.a_run_has_one_owner(view)
        self.nothing_sleeps_on_unread_mail(view)
        self.closed_runs_leave_nothing_behind_but_a_note_to_their_owner(view)
        for run_id, row in view.runs.items():
            assert [seq for seq, _ in row.history] == list(range(len(row.history))), f"run {run_id} has a gap"
            # Nothing that was accepted is lost, unless somebody else than the code ends the run.
            self.messages_came_once_and_in_order(run_id, row.events(), complete=row.state is RunState.COMPLETED)

    def a_run_has_one_owner(self, view: View) -> None:
        """Nobody whose lease is in force believes to own what the store gives to somebody else."""
        for run_id, row in view.runs.items():
            assert (row.owner is not None) == (row.state == RunState.OWNED)
            believers = [actor for actor in self.actors if run_id in actor.runs and view.in_force(actor.lease)]
            assert len(believers) <= 1
            assert row.state.closed or all(actor.lease.worker == row.owner for actor in believers)

    def nothing_sleeps_on_unread_mail(self, view: View) -> None:
        """A parked run has no mail, and what its owner has not seen comes with the owner's next look."""
        for run_id, row in view.runs.items():
            if row.state == RunState.PARKED:
                assert row.inbox == (), f"run {run_id} sleeps on {row.inbox}"
            for actor in self.actors:
                if row.owner == actor.lease.worker and run_id in actor.runs:
                    unseen = {who for number, who, _ in row.inbox if number > actor.runs[run_id].seen}
                    assert unseen <= {row.owner}, f"run {run_id} has mail that its owner does not look for"

    def closed_runs_leave_nothing_behind_but_a_note_to_their_owner(self, view: View) -> None:
        """No task and no mail of a closed run stays, but for the one that says that it is closed."""
        for row in view.runs.values():
            if row.state.closed:
                assert row.tasks == ()
                assert len(row.inbox) <= 1

    def messages_came_once_and_in_order(
        self, run_id: RunId, events: Sequence[Event], *, complete: bool = False
    ) -> None:
        """What was recorded is what was sent so far, from the first message on."""
        messages = [event.id for event in events if isinstance(event, SignalReceived)]
        assert messages == (self.told[run_id] if complete else self.told[run_id][: len(messages)])
        ends = Counter(event.seq for event in events if isinstance(event, ActivityCompleted))
        assert all(times == 1 for times in ends.values()), f"ends of activities came twice: {ends}"

    def teardown(self) -> None:
        """Let everybody die and one more worker come: nothing that was sent is lost."""
        try:
            if self.actors:
                self.the_last_worker_finds_everything()
        finally:
            self.runner.run(self.stage.close())
            self.runner.close()

    def the_last_worker_finds_everything(self) -> None:
        """All that was ever sent to an open run is in its history or in the hands of its last owner."""
        store = self.stage.store
        self.runner.run(self.stage.pass_time(2 * LEASE))
        self.actors.clear()
        last = self.enter("build-9")
        store.renew(last.lease)
        self.runner.run(store.recover(last.lease))
        for instance in INSTANCES:
            self.runner.run(store.resume(NAMESPACE, instance))
            self.runner.run(store.suspend(NAMESPACE, instance, suspended=False))
        while claimed := self.runner.run(store.claim(last.lease, 10)):
            for run in claimed:
                last.took(run)
        for run_id, row in self.view().runs.items():
            if row.state.closed:
                assert row.inbox == (), "notes to those who are gone are gone"
                continue
            assert row.state == RunState.PARKED or run_id in last.runs, f"nobody can take run {run_id}"
            mail = [records.decode_inbox(body) for _, _, body in row.inbox]
            self.messages_came_once_and_in_order(run_id, [*row.events(), *mail], complete=True)
