"""One owned run, from the claim to its end here: turns, activities, timers, parking.

What lives here: what happens around a turn. What must not: the turn itself (`engine`), where an activity runs
(`placement`), making attempts (`attempts`), writing (`flush`). `tenure` creates one for each claimed run.

A run has at most one commit in flight. Everything that happens meanwhile waits in ``_incoming`` and goes into the next
turn together. Nothing that a turn asked for starts before its commit is durable.
"""

import asyncio
import heapq
import logging
from collections import deque
from collections.abc import Callable, Sequence

from perdure.engine.primitives.activity import PendingActivity
from perdure.engine.replay import replay
from perdure.engine.run import Decision, Definition, Run
from perdure.errors import EngineFault, PayloadError
from perdure.model.events import (
    TIMED_OUT,
    ActivityAttemptFailed,
    ActivityCancelRequested,
    ActivityCompleted,
    ActivityFailed,
    ClosedFromOutside,
    Closing,
    Event,
    Incoming,
    TimerFired,
    Turn,
    TurnHeader,
    WorkflowExecutionCancelled,
    WorkflowExecutionCompleted,
    WorkflowExecutionFailed,
)
from perdure.model.failure import record
from perdure.model.policies import MICROSECONDS
from perdure.model.runs import ClaimedRun, Close, Commit, Ending, Hold, InboxItem, Park, Release, RunState
from perdure.model.workers import Known
from perdure.telemetry.logs import about

from .agenda import DEADLINE, Agenda, add_timers, until_next
from .attempts import Job, Retry, Verdict
from .beginning import Begun
from .flush import Answer
from .home import Home
from .placement import NOWHERE, place
from .turns import header, take

logger = logging.getLogger("perdure.worker")

LINGER = 1.0
"""Seconds that a run without anything to do stays in memory before it is parked."""

_STATES = {
    WorkflowExecutionCompleted: RunState.COMPLETED,
    WorkflowExecutionFailed: RunState.FAILED,
    WorkflowExecutionCancelled: RunState.CANCELLED,
}
_VERDICTS = (ActivityCompleted, ActivityFailed, ActivityAttemptFailed)
_FOLLOWED_UP = frozenset((ActivityAttemptFailed, ActivityCancelRequested))


class Execution:
    """A run while this worker owns it."""

    def __init__(self, home: Home, definition: Definition, claimed: ClaimedRun, begun: Begun | None = None) -> None:
        self.home = home
        self.info = claimed.info
        self.claim = claimed.claims
        self.over = False
        self.leaving = home.draining
        """Whether it is given back as soon as no attempt is under way."""
        self._definition = definition
        self._history: Sequence[Turn] = claimed.history
        self._run: Run | None = None
        self._unplaced = begun is None
        """Whether activities of earlier turns wait for a place: after a claim, and after a suspension."""
        self._loop = home.turns.loop
        self._incoming: deque[Incoming] = deque()
        self._seen = self._consumed = claimed.mail - len(claimed.inbox)
        self._recorded_turn = len(claimed.history) - 1
        self._local: set[int] = set()
        self._remote: set[int] = set(claimed.tasks)
        self._details = dict(claimed.details)
        self._agenda: Agenda = [] if claimed.deadline is None else [(claimed.deadline, DEADLINE)]
        self._in_flight = self._scheduled = False
        self._under_way: tuple[Run, Commit, Sequence[int]]
        self._wake: asyncio.TimerHandle | None = None
        self.receive(claimed.inbox)
        if begun is None:
            self._schedule()
        else:
            self._go_on(begun)

    def _go_on(self, begun: Begun) -> None:
        """Do what the first turn asked for, now that it is recorded."""
        self._run = begun.run
        self._recorded_turn = begun.run.turns - 1
        self._run.info = self.info
        self._history = ()
        add_timers(self._agenda, begun.decision.commands)
        self._after(begun.run, begun.placed.here)

    @property
    def known(self) -> Known:
        """What the store has of the run, if it has forgotten nothing."""
        return Known(self.info.run_id, self._recorded_turn, self._seen)

    # --- what comes in ------------------------------------------------------------

    def receive(self, items: Sequence[InboxItem]) -> None:
        """Take messages from the inbox in the order of their numbers; what was taken before is ignored."""
        for item in items:
            if item.event is None:
                self.drain()
            elif isinstance(item.event, ClosedFromOutside):
                self.abandon()  # what came before it, and was not taken yet, is gone
            elif item.number == self._seen + 1 and not self.over:
                self._seen = item.number
                self._post(item.event)

    def drain(self) -> None:
        """Give the run back as soon as no attempt is under way."""
        self.leaving = True
        self._settle()

    def stay(self) -> None:
        """Go on after all, as the suspension is over, with what did not begin meanwhile."""
        if self.leaving and not self.home.draining:
            self.leaving, self._unplaced = False, True
            self._schedule()

    def abandon(self) -> None:
        """Drop the run without a word to the store: it is not ours any more."""
        if not self.over:
            self._leave(None)

    def _post(self, event: Incoming) -> None:
        self._incoming.append(event)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and not self._in_flight and not self.over:
            self._scheduled = True
            self.home.turns.add(self._advance)

    # --- a turn -------------------------------------------------------------------

    def _advance(self) -> None:
        self._scheduled = False
        if self.over or self._in_flight:
            return
        run = self._run
        try:
            if run is None:
                run = self._run = replay(self._definition, self.info, self._history)
                run.payload_limit = self.home.payload_limit
                self._history = ()
                for handle in run.timers.values():
                    heapq.heappush(self._agenda, (handle.fire_at, handle.seq))
            now = self.home.clock.now()
            if self._agenda and self._take_due(run, now):
                self._time_out(run, now)
                return
            incoming = take(self._incoming)
            decision = run.turn(header(self.home.name, self.home.build, now), incoming)
            self._commit(run, decision)
        except EngineFault as fault:
            self._hold(type(fault).__name__.removesuffix("Error"), str(fault))
        except Exception as error:  # whatever it is, the run is held and the worker lives on
            logger.exception("a turn of %s failed", self.info.id, extra=about(self.info))
            failure = record(error)
            self._hold("EngineFault", f"{failure.type}: {failure.message}\n{failure.traceback}")

    def _take_due(self, run: Run, now: int) -> bool:
        """Let timers fire and attempts start that are due; tell whether the run itself is out of time."""
        while self._agenda and self._agenda[0][0] <= now:
            _, seq = heapq.heappop(self._agenda)
            if seq == DEADLINE:
                return True
            if seq in run.timers:
                self._incoming.append(TimerFired(seq))
            elif seq in run.activities:
                self._start(run.activities[seq])
        return False

    def _commit(self, run: Run, decision: Decision) -> None:
        # What was left for the next turn is not consumed; what this one took and is offered again is not wanted then.
        consumed = self._seen if self._seen != self._consumed and not self._incoming else None
        ending: Ending | None = None
        placed = NOWHERE
        if decision.closing is not None:
            ending = self._close(_STATES[type(decision.closing)], decision.closing, self._seen)
        elif self.leaving and not self._local:
            ending = Release()
        else:
            there = self._remote
            if self._unplaced:
                # What is under way, or will be again, has its place; what has ended and waits for a turn needs none.
                news = (*self._incoming, *(decision.turn.events if decision.turn is not None else ()))
                told = (event.seq for event in news if isinstance(event, _VERDICTS))
                there = self._remote.union(self._local, (seq for _, seq in self._agenda), told)
            placed = place(self.home, run, decision, there, everything=self._unplaced)
            self._unplaced = False
            if placed.tasks:
                self._remote.update(task.seq for task in placed.tasks)
        add_timers(self._agenda, decision.commands)
        commit = Commit(
            run_id=self.info.run_id,
            turn=decision.turn,
            consumed=consumed,
            tasks=placed.tasks,
            dropped_tasks=placed.dropped,
            visible=decision.visible,
            ending=ending,
            claim=self.claim,
        )
        if decision.turn is None and consumed is None and ending is None and not placed.tasks:
            self._after(run, placed.here)
        else:
            self._under_way = (run, commit, placed.here)
            self._submit(commit, self._recorded)

    def _submit(self, commit: Commit, answered: Callable[[Answer], None]) -> None:
        self._in_flight = True
        if self._wake is not None:
            self._cancel_wake()
        self.home.flusher.submit(commit, answered)

    # --- after a commit -----------------------------------------------------------

    def _recorded(self, answer: Answer) -> None:
        run, commit, here = self._under_way
        self._in_flight = False
        if self.over:
            return
        if isinstance(answer, PayloadError):
            self._hold("TurnRefused", str(answer))
            return
        if answer.unread:  # the next owner takes the turn again, with what came
            self._give_up(Release())
            return
        if not answer.recorded:
            message = "%s was taken over or closed by somebody else; this worker drops it"
            logger.warning(message, self.info.id, extra=about(self.info))
            self._leave(None)
            return
        if commit.consumed is not None:
            self._consumed = commit.consumed
        if commit.ending is not None and answer.ended:
            self._leave(commit.ending)
            return
        if commit.turn is not None:
            self._recorded_turn = commit.turn.seq
            for event in commit.turn.events:
                if type(event) in _FOLLOWED_UP:
                    self._follow_up(event)
        if commit.tasks:
            self.home.offer(frozenset(task.queue for task in commit.tasks))
        self._after(run, here)

    def _follow_up(self, event: Event) -> None:
        if type(event) is ActivityAttemptFailed:
            heapq.heappush(self._agenda, (event.retry_at, event.seq))
        elif type(event) is ActivityCancelRequested:
            self._local.discard(event.seq)
            self._remote.discard(event.seq)
            self.home.attempts.cancel(self.info.run_id, event.seq)

    def _after(self, run: Run, here: Sequence[int]) -> None:
        for seq in here:
            pending = run.activities.get(seq)
            if pending is None:
                continue
            if pending.retry_at and pending.retry_at > self.home.clock.now():
                heapq.heappush(self._agenda, (pending.retry_at, seq))
            else:
                self._start(pending)
        self._settle()

    def _start(self, pending: PendingActivity) -> None:
        if pending.seq in self._local or self.leaving:
            return
        self._local.add(pending.seq)
        info, options = self.info, pending.options
        job = Job(
            pending.name,
            pending.attempt,
            options.queue or info.queue,
            info.id,
            info.run_id,
            pending.seq,
            pending.input,
            options,
            self._details.get(pending.seq) if self._details else None,
        )
        self.home.attempts.submit(job, self._verdict)

    def _verdict(self, job: Job, verdict: Verdict) -> None:
        if self.over:
            return
        seq = job.seq
        self._local.discard(seq)
        if isinstance(verdict, Retry):
            if verdict.details is not None:
                self._details[seq] = verdict.details
            retry_at = self.home.clock.now() + round(verdict.delay * MICROSECONDS)
            self._post(ActivityAttemptFailed(seq, job.attempt, verdict.failure, retry_at))
        else:
            if self._details:
                self._details.pop(seq, None)
            self._post(verdict)

    # --- waiting -------------------------------------------------------------------

    def _settle(self) -> None:
        """Decide what to wait for, now that nothing is in flight."""
        if self.over or self._in_flight:
            return
        if self._incoming or (self._unplaced and not self.leaving):
            self._schedule()
            return
        if self._wake is not None:
            self._cancel_wake()
        if self._local and not self._agenda:
            self.home.resting.discard(self.info.run_id)
            return
        if self.leaving and not self._local:
            self._give_up(Release())
            return
        wait = self._until_next()
        if wait is not None and (self._local or wait <= 2 * LINGER):
            self._wake = self._loop.call_later(max(0.0, wait), self._advance)
        elif not self._local:
            self._wake = self._loop.call_later(LINGER, self._park)
        if self._local:
            self.home.resting.discard(self.info.run_id)
        else:
            self.home.resting.add(self.info.run_id)
            self.home.came_to_rest()

    def _until_next(self) -> float | None:
        return until_next(self._agenda, self._run, self.home.clock.now()) if self._agenda and self._run else None

    def _park(self) -> None:
        if self.over or self._in_flight or self._incoming or self._local or self._run is None:
            return
        wake_at = self._agenda[0][0] if self._until_next() is not None else None
        self._give_up(Park(mail=self._consumed, wake_at=wake_at, waiting_for=self._run.waiting_for()))

    def _give_up(self, ending: Park | Hold | Release) -> None:
        commit = Commit(run_id=self.info.run_id, ending=ending, claim=self.claim)
        self._submit(commit, lambda answer: self._given_up(answer, ending))

    def _given_up(self, answer: Answer, ending: Park | Hold | Release) -> None:
        self._in_flight = False
        if self.over:
            return
        if isinstance(answer, PayloadError) or not answer.recorded:
            self._leave(None)
        elif answer.ended:
            self._leave(ending)
        else:  # refused: a message is on its way, the next look into the inbox brings it
            self._settle()

    def _cancel_wake(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None

    # --- the end --------------------------------------------------------------------

    def _time_out(self, run: Run, now: int) -> None:
        turn = Turn(run.turns, TurnHeader(time=max(now, run.header.time)), (TIMED_OUT,))
        commit = Commit(run_id=self.info.run_id, turn=turn, ending=self._close(RunState.TIMED_OUT, TIMED_OUT))
        self._under_way = (run, commit, ())
        self._submit(commit, self._recorded)

    def _close(self, state: RunState, outcome: Closing | ClosedFromOutside, mail: int | None = None) -> Close:
        return Close(state=state, outcome=outcome, mail=mail, awaited=self.home.awaited(self.info.run_id))

    def _hold(self, reason: str, message: str) -> None:
        message = message.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()  # the store takes text only
        logger.error("%s is held: %s", self.info.id, message, extra=about(self.info))
        self._give_up(Hold(reason=reason, message=message))

    def _leave(self, ending: Ending | None) -> None:
        self.over = True
        self._cancel_wake()
        for seq in self._local:
            self.home.attempts.cancel(self.info.run_id, seq)
        if self._run is not None and (stubborn := self._run.evict()):
            message = "%s: tasks %s ignored their cancellation and were closed"
            logger.error(message, self.info.id, stubborn, extra=about(self.info))
        self.home.left(self, ending)
