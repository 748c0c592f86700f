"""What clients do in a model of a store: start, tell, meddle.

What lives here: their steps, on top of the invariants. What must not: what workers do; `test_model_workers` adds it.
"""

from __future__ import annotations

import asyncio

from hypothesis import strategies as st
from hypothesis.stateful import rule

from perdure.errors import LeaseLostError
from perdure.model.events import SignalReceived, WorkflowExecutionCancelRequested
from perdure.model.runs import Commit, Committed, Park, RunId
from tests.conformance.model_invariants import INSTANCES, Invariants
from tests.conformance.model_view import Actor
from tests.support.stores import NAMESPACE, new_run, raw

NUMBERS = st.integers(0, 11)


class Clients(Invariants):
    """What clients do, some of it beside a worker or at the same moment as one."""

    def actor(self, number: int) -> Actor:
        """Return one of the actors; mostly one whose lease is in force, if there are any."""
        view = self.view()
        living = [actor for actor in self.actors if view.in_force(actor.lease)]
        chosen = living if living and number % 4 else self.actors
        return chosen[number % len(chosen)]

    def owner(self, number: int) -> Actor | None:
        """Return one of the actors that believe that they own something."""
        owners = [actor for actor in self.actors if actor.runs]
        return owners[number % len(owners)] if owners else None

    @rule(instance=st.sampled_from(INSTANCES), number=NUMBERS, key=st.booleans())
    def start(self, instance: str, number: int, key: bool) -> None:
        """Start a run: for anybody, or beside a worker that takes it at once."""
        taker = self.actor(number) if number % 2 and not key else None
        owns = len(taker.runs) if taker is not None else 0
        new = new_run(instance, key=f"key-{next(self.numbers)}" if key else None)
        before = self.view()
        started = self.runner.run(self.stage.store.start(new, taker))
        assert started.created == all(row.instance != instance or row.state.closed for row in before.runs.values())
        assert started.taken == (started.created and taker is not None and before.in_force(taker.lease))
        assert (len(taker.runs) if taker is not None else 0) == owns + started.taken

    @rule(instance=st.sampled_from(INSTANCES), name=st.sampled_from(["left", "right"]))
    def signal(self, instance: str, name: str) -> None:
        message = f"{name}-{next(self.numbers)}"
        event = SignalReceived(name, raw("null"), id=message)
        run_id = self.runner.run(self.stage.store.deliver(NAMESPACE, instance, event))
        assert (run_id is None) == all(
            row.instance != instance or row.state.closed for row in self.view().runs.values()
        ), "a message arrives whenever an instance is open"
        if run_id is not None:
            self.told[run_id].append(message)

    @rule(number=NUMBERS)
    def signal_while_it_falls_asleep(self, number: int) -> None:
        """Both at once: whichever comes first, the message is read."""
        actor = self.owner(number)
        if actor is None:
            return
        message = f"left-{next(self.numbers)}"
        run_id, held = sorted(actor.runs.items())[number % len(actor.runs)]
        row = self.view().runs[run_id]
        commit = Commit(run_id=run_id, ending=Park(mail=held.seen - len(held.waiting), wake_at=None))
        event = SignalReceived("left", raw("null"), id=message)

        async def flush() -> Committed | None:
            try:
                return (await self.stage.store.flush(actor.lease, [commit]))[0]
            except LeaseLostError:
                return None

        async def both() -> tuple[Committed | None, RunId | None]:
            other = await self.stage.another()
            return await asyncio.gather(flush(), other.deliver(NAMESPACE, row.instance, event))

        answer, told = self.runner.run(both())
        if told is not None:
            self.told[told].append(message)
        if answer is None:
            actor.runs.clear()
        elif not answer.recorded or answer.ended:
            del actor.runs[run_id]

    @rule(instance=st.sampled_from(INSTANCES), what=st.sampled_from(["cancel", "terminate", "resume", "resume"]))
    def meddle(self, instance: str, what: str) -> None:
        store = self.stage.store
        if what == "cancel":
            self.runner.run(store.deliver(NAMESPACE, instance, WorkflowExecutionCancelRequested("enough")))
        elif what == "terminate":
            self.runner.run(store.terminate(NAMESPACE, instance, "enough"))
        else:
            self.runner.run(store.resume(NAMESPACE, instance))

    @rule(instance=st.sampled_from(INSTANCES), suspended=st.booleans())
    def suspend(self, instance: str, suspended: bool) -> None:
        run_id = self.runner.run(self.stage.store.suspend(NAMESPACE, instance, suspended=suspended))
        is_open = any(row.instance == instance and not row.state.closed for row in self.view().runs.values())
        assert run_id is not None or suspended or not is_open, "whatever is open can be resumed"
        assert run_id is None or self.view().runs[run_id].suspended == suspended
