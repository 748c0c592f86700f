"""The store in memory: the reference model that every other store is held to, and what ``memory://`` opens.

What lives here: `MemoryStore`, with the rules of `base` in their plainest form; workers and tasks are in
`memory_workers`, rows and the reading half in `memory_rows`. What must not: cleverness. One lock around every verb is
its transaction. Rows keep encoded bytes, so that nobody shares an object with the store.
"""

from collections.abc import Sequence

from perdure.errors import PayloadError
from perdure.model import codec
from perdure.model.events import (
    TIMED_OUT,
    ClosedFromOutside,
    Incoming,
    Microseconds,
    Turn,
    TurnHeader,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionTerminated,
)
from perdure.model.hints import Hint
from perdure.model.runs import (
    ClaimAnswer,
    ClaimedRun,
    Close,
    Commit,
    Committed,
    Hold,
    InboxItem,
    NewRun,
    Park,
    Release,
    RunId,
    RunState,
    Started,
    move,
)
from perdure.model.workers import Known, Lease
from perdure.store import records
from perdure.store.base import MOST_OF_A_TURN, POISONOUS, SUSPECT, UNREADABLE, CommitRefusedError, Taker, turn_too_large
from perdure.store.memory_rows import InboxRow, RunRow, TaskRow
from perdure.store.memory_workers import MemoryWorkers


class MemoryStore(MemoryWorkers):
    """A `Store` and `ReadStore` that lasts as long as this object.

    ``clock`` returns microseconds since 1970; tests move time with it.
    """

    # Starting and telling

    async def start(self, new: NewRun, taker: Taker | None = None) -> Started:
        """Create the run and its turn 0, or return the run that has the key or the id already."""
        event = records.started_event(new)
        with self.lock:
            for run in self.runs.values():
                if new.key is not None and run.key == new.key:
                    return Started(run.id, created=False, workflow=run.workflow)
            existing = self._open_run(new.namespace, new.id)
            if existing:
                return Started(existing.id, created=False, workflow=existing.workflow)
            now = self.clock()
            run = RunRow(
                id=RunId(next(self.run_ids)),
                namespace=new.namespace,
                instance=new.id,
                workflow=new.workflow,
                queue=new.queue,
                key=new.key,
                priority=new.priority,
                created_at=now,
                deadline=None if new.timeout is None else now + round(new.timeout * 1_000_000),
                suspended=new.suspended,
                build=new.build,
            )
            beginning = taker.begin([(new, event)])[0] if taker is not None else None
            turn = beginning.turn if beginning is not None else None
            written = turn or Turn(0, TurnHeader(time=now), (event,))
            run.history[0] = codec.encode_turn(written.header, written.events)
            self.runs[run.id] = run
            if taker is not None and beginning is not None and self._in_force(taker.lease):
                self._own(run, taker.lease, now)
                beginning.took(records.newborn(new, event, run.id, now, turn))
            else:
                if beginning is not None:
                    beginning.dropped()
                self.hint(Hint(queues=frozenset({run.queue})))
            return Started(run.id, created=True, workflow=run.workflow, taken=run.state is RunState.OWNED)

    async def adopt(self, run_id: RunId, key: str) -> None:
        """Give a run the key of another object."""
        with self.lock:
            self.runs[run_id].key = key
            self._changed(self.runs[run_id])

    async def owned(self, lease: Lease) -> list[RunId]:
        """Return the runs of this worker."""
        with self.lock:
            self._fence(lease)
            return [run.id for run in self.runs.values() if run.owner == lease.worker]

    async def deliver(
        self, namespace: str, instance: str, event: Incoming, run_id: RunId | None = None
    ) -> RunId | None:
        """Number the message and put it into the inbox of the open run; a parked run is ready then."""
        with self.lock:
            run = self._open_run(namespace, instance, run_id)
            if run is None:
                return None
            if isinstance(event, WorkflowExecutionCancelRequested):
                run.cancel_requested, run.suspended = True, False
            run.put_mail(event)
            self._hint_mail(run)
            return run.id

    async def terminate(self, namespace: str, instance: str, reason: str, run_id: RunId | None = None) -> RunId | None:
        """Close the open run; the last message in its inbox tells its owner."""
        event = WorkflowExecutionTerminated(reason)
        records.check_texts(reason)
        with self.lock:
            run = self._open_run(namespace, instance, run_id)
            if run is None:
                return None
            owner = run.owner
            self._close_from_outside(run, RunState.TERMINATED, event)
            if owner is not None and self._lives(owner):  # else nobody would ever read, or remove, the note
                run.mail += 1
                run.inbox[run.mail] = InboxRow(records.encode_outcome(event), owner)
                self.hint(Hint(workers=frozenset({owner})))
            return run.id

    async def time_out(self, lease: Lease) -> int:
        """Close runs that nobody owns and whose deadline has passed."""
        with self.lock:
            self._fence(lease)
            late = [run for run in self.runs.values() if run.deadline is not None and run.deadline <= self.clock()]
            late = [run for run in late if not self._lives(run.owner) and not run.state.closed and not run.suspended]
            for run in late:
                self._close_from_outside(run, RunState.TIMED_OUT, TIMED_OUT)
            return len(late)

    def _close_from_outside(self, run: RunRow, state: RunState, event: ClosedFromOutside) -> None:
        last = max(run.history)
        header, _ = codec.decode_for_readers(last, run.history[last])
        time = self.clock() if header is None else max(self.clock(), header.time)
        run.history[last + 1] = codec.encode_turn(TurnHeader(time=time), [event])
        self._close(run, state, records.encode_outcome(event))
        self.hint(Hint(closed=frozenset({run.id})))
        self._changed(run)

    async def resume(self, namespace: str, instance: str, run_id: RunId | None = None) -> RunId | None:
        """Make a held run ready again."""
        with self.lock:
            run = self._open_run(namespace, instance, run_id)
            if run is None or run.state is not RunState.HELD:
                return None
            run.held_builds.clear()
            run.takeovers = 0
            self._free_held(run)
            return run.id

    async def suspend(
        self, namespace: str, instance: str, run_id: RunId | None = None, *, suspended: bool
    ) -> RunId | None:
        """Let nobody take the open run, or let them again."""
        with self.lock:
            run = self._open_run(namespace, instance, run_id)
            if run is None or (suspended and run.cancel_requested):
                return None
            if run.suspended != suspended:
                run.suspended = suspended
                self._changed(run)
            if run.owner is not None:
                self.hint(Hint(workers=frozenset({run.owner})))
            elif not suspended:
                self.hint(Hint(queues=frozenset({run.queue})))
            return run.id

    # What owners do

    async def claim(self, lease: Lease, limit: int) -> list[ClaimedRun]:
        """Take over runs that are due or ready."""
        with self.lock:
            me = self._fence(lease).info
            now = self.clock()
            mine = [run for run in self.runs.values() if run.is_for(me) and not run.suspended]
            due = [
                run for run in mine if run.state is RunState.PARKED and run.wake_at is not None and run.wake_at <= now
            ]
            ready = [run for run in mine if run.state is RunState.READY]
            due.sort(key=lambda run: (run.wake_at, run.id))
            ready.sort(key=lambda run: (-run.priority, run.id))
            suspects = [run for run in ready if SUSPECT <= run.takeovers < POISONOUS]
            suspects.sort(key=lambda run: run.id)
            ordinary = due + [run for run in ready if run.takeovers < SUSPECT]
            chosen = (suspects[:1] or ordinary)[:limit]
            for run in chosen:
                self._own(run, lease, now)
            claimed: list[ClaimedRun] = []
            for run in sorted(chosen, key=lambda run: (-run.priority, run.id)):
                try:
                    claimed.append(self._claimed(run))
                except PayloadError as error:
                    self._hold_unreadable(run, me.build, error)
            return claimed

    async def claim_announced(self, lease: Lease, run: ClaimedRun, turn: Turn) -> ClaimAnswer:
        """Take a run as it was announced, and record its turn 1."""
        with self.lock:
            me, row = self._fence(lease).info, self.runs.get(run.info.run_id)
            first = codec.encode_turn(run.history[0].header, run.history[0].events)
            if row is None or row.history[0] != first or (row.info, row.deadline) != (run.info, run.deadline):
                return ClaimAnswer.UNSURE
            if row.state is not RunState.READY or row.suspended or not row.is_for(me):
                return ClaimAnswer.GONE
            if row.started_at is not None or row.mail:
                return ClaimAnswer.GONE
            self._own(row, lease, self.clock())
            row.history[1] = codec.encode_turn(turn.header, turn.events)
            return ClaimAnswer.TAKEN

    async def absolve(self, runs: Sequence[RunId]) -> None:
        """Clear runs of the suspicion that they end their workers."""
        with self.lock:
            for run in (self.runs[run_id] for run_id in runs if run_id in self.runs):
                run.takeovers = 0

    async def flush(self, lease: Lease, commits: Sequence[Commit]) -> list[Committed]:
        """Carry out the commits that can be stored, then complain about those that cannot."""
        with self.lock:
            me, now = self._fence(lease).info, self.clock()
            answers: list[Committed | None] = []
            refused: dict[int, PayloadError] = {}
            for place, commit in enumerate(commits):
                try:
                    records.check_texts(*records.texts(commit))
                    if commit.turn is not None and records.turn_size(commit.turn) > MOST_OF_A_TURN:
                        raise turn_too_large(commit.run_id, records.turn_size(commit.turn))
                    answers.append(self._commit(lease, me.build, commit, now))
                except PayloadError as error:
                    refused[place] = error
                    answers.append(None)
            if refused:
                raise CommitRefusedError(refused, answers)
            return [answer for answer in answers if answer is not None]

    async def remembers(self, lease: Lease, known: Sequence[Known]) -> Lease | None:
        """Return the lease, unless a run, a turn or a message is not there that the owner knows of."""
        with self.lock:
            self._fence(lease)
            rows = [(self.runs.get(one.run_id), one) for one in known]
            there = (row is not None and one.turn in row.history and one.mail <= row.mail for row, one in rows)
            return lease if all(there) else None

    async def inbox(self, lease: Lease) -> list[InboxItem]:
        """Return messages that came to this worker."""
        with self.lock:
            me = self._fence(lease).info
            items: list[InboxItem] = []
            for run in self.runs.values():
                mine = [number for number, row in run.inbox.items() if row.owner == lease.worker]
                if run.owner == lease.worker and run.suspended:
                    items.append(InboxItem(run.id, 0, None))
                if run.owner == lease.worker or run.state.closed:
                    try:
                        items += [
                            InboxItem(run.id, number, records.decode_inbox(run.inbox[number].body)) for number in mine
                        ]
                    except PayloadError as error:
                        self._hold_unreadable(run, me.build, error)
                    for number in mine if run.state.closed else ():
                        del run.inbox[number]
            return items

    # The steps

    def _open_run(self, namespace: str, instance: str, run_id: RunId | None = None) -> RunRow | None:
        for run in self.runs.values():
            if run.namespace == namespace and run.instance == instance and not run.state.closed:
                return run if run_id in {None, run.id} else None
        return None

    def _claimed(self, run: RunRow) -> ClaimedRun:
        return ClaimedRun(
            info=run.info,
            history=run.turns(),
            inbox=tuple(
                InboxItem(run.id, number, records.decode_inbox(row.body)) for number, row in sorted(run.inbox.items())
            ),
            tasks=tuple(sorted(run.tasks)),
            mail=run.mail,
            created_at=run.created_at,
            deadline=run.deadline,
            suspect=run.takeovers >= SUSPECT,
            details=dict(run.details),
            claims=run.claims,
        )

    def _own(self, run: RunRow, lease: Lease, now: Microseconds) -> None:
        run.state, run.owner, run.wake_at = move(run.state, RunState.OWNED), lease.worker, None
        run.claimed_at, run.claims = now, run.claims + 1
        if run.started_at is None:
            run.started_at = now
            self._changed(run)

    def _hold_unreadable(self, run: RunRow, build: str, error: PayloadError) -> None:
        self._end(run, build, Hold(reason=UNREADABLE, message=str(error)))
        self._changed(run)

    def _commit(self, lease: Lease, build: str, commit: Commit, now: Microseconds) -> Committed:
        run = self.runs.get(commit.run_id)
        mine = run is not None and run.owner == lease.worker and commit.claim in {None, run.claims}
        if run is not None and commit.turn is not None:
            data = codec.encode_turn(commit.turn.header, commit.turn.events)
            before = run.history.get(commit.turn.seq)
            if before is not None:
                # An earlier try of the same bytes was ours, and if the run is not ours any more its ending was too.
                ours = before == data
                return Committed(recorded=ours, ended=ours and commit.ending is not None and not mine)
        if run is None or not mine:
            took_place = run is not None and commit.turn is None and _looks_ended(run, commit.ending)
            return Committed(recorded=took_place, ended=took_place)
        if isinstance(commit.ending, Close) and commit.ending.mail not in {None, run.mail}:
            return Committed(recorded=False, ended=False, unread=True)
        if commit.turn is not None:
            run.history[commit.turn.seq] = data
        waited_for = run.waiting_for
        self._apply(run, commit, now)
        ended = commit.ending is not None and self._end(run, build, commit.ending)
        if commit.visible is not None or run.state >= RunState.HELD or run.waiting_for != waited_for:
            self._changed(run)
        return Committed(recorded=True, ended=ended)

    def _apply(self, run: RunRow, commit: Commit, now: Microseconds) -> None:
        for number in [number for number in run.inbox if commit.consumed is not None and number <= commit.consumed]:
            del run.inbox[number]
        for task in commit.tasks:
            run.tasks[task.seq] = TaskRow(
                run_id=run.id,
                seq=task.seq,
                queue=task.queue,
                name=task.name,
                input=bytes(task.input),
                options=bytes(task.options),
                attempt=task.attempt,
                available_at=now + round(task.delay * 1_000_000),
            )
            self.hint(Hint(tasks=frozenset({task.queue})))
        for seq in commit.dropped_tasks:
            run.tasks.pop(seq, None)
        if commit.visible is not None:
            run.status_text, run.progress = commit.visible.text, commit.visible.progress

    def _end(self, run: RunRow, build: str, ending: Park | Close | Hold | Release) -> bool:
        match ending:
            case Park() if ending.mail != run.mail:
                return False
            case Park():
                run.state, run.owner, run.wake_at = move(run.state, RunState.PARKED), None, ending.wake_at
                run.waiting_for = ending.waiting_for
                run.held_builds.clear()
            case Close():
                self._close(run, ending.state, records.encode_outcome(ending.outcome))
                if not ending.awaited:
                    self.hint(Hint(closed=frozenset({run.id})))
            case Hold():
                run.state, run.owner = move(run.state, RunState.HELD), None
                run.hold_reason, run.hold_message = ending.reason, ending.message
                run.held_builds.add(build)
            case Release():
                run.state, run.owner = move(run.state, RunState.READY), None
                self.hint(Hint(queues=frozenset({run.queue})))
        return True

    def _close(self, run: RunRow, state: RunState, outcome: bytes) -> None:
        run.state, run.owner, run.outcome = move(run.state, state), None, outcome
        run.wake_at, run.closed_at = None, self.clock()
        run.waiting_for = run.hold_reason = run.hold_message = ""
        run.inbox.clear()
        run.tasks.clear()
        run.details.clear()


def _looks_ended(run: RunRow, ending: Park | Close | Hold | Release | None) -> bool:
    """Tell whether the run is as this ending leaves it: then an earlier try of the same commit took place."""
    match ending:
        case Park():
            return run.state is RunState.PARKED
        case Close():
            return run.outcome == records.encode_outcome(ending.outcome)
        case Hold():
            return (run.state, run.hold_reason) == (RunState.HELD, ending.reason)
        case Release():
            return run.state is RunState.READY
    return False
