"""One tenure of a worker: everything that holds while one lease does.

What lives here: the owned runs, and the loops that look into the inbox and recover. What must not: taking runs
(`claiming`), signals, processes, re-registration (`worker`). When the lease is lost the whole tenure is thrown away and
nothing of it can write.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any

from perdure.ending import end
from perdure.engine.loop import Stillness
from perdure.errors import LeaseLostError, StoreError
from perdure.model.hints import MANY, Hint
from perdure.model.policies import MICROSECONDS
from perdure.model.runs import ClaimedRun, Close, Commit, Ending, NewRun, Park, Release, RunId
from perdure.model.workers import Lease
from perdure.store.base import Start
from perdure.telemetry.tally import Now

from .alarm import Alarm
from .attempts import Attempts
from .beginning import Beginning, Begun
from .charge import Charge
from .claiming import ClaimLoop
from .clock import StoreClock
from .endings import note
from .execution import Execution
from .flush import Flusher
from .heartbeats import Heartbeats
from .lease import SILENCE, LeaseKeeper
from .relay import Relay
from .tasks import TaskLoop
from .turns import TurnQueue
from .waiting import hinted

logger = logging.getLogger("perdure.worker")

TASK_POLL = 8.0
DEAF_POLL = 1.0
INBOX_POLL = 0.5
"""Seconds between two looks when nobody hints. An idle worker looks for runs
(see `claiming`) and tasks only and stays below one statement a second, heartbeats
included; where no hint can come, as behind PgBouncer, it looks more often."""
RECOVER_POLL = 30.0
STRAY_POLL = 3.0
"""Seconds until the second look at a run that the store says is ours and that is not known here."""
LOOKS = 3
"""How many looks for such runs follow after anything that may have left one."""


class Tenure:
    """The worker between one registration and its end. It is the `Home` of its executions."""

    def __init__(self, charge: Charge) -> None:
        self.charge = charge
        self.name = charge.info.name
        self.build = charge.info.build
        self.queues = charge.info.queues
        self.clock = StoreClock()
        self.payload_limit = charge.limits.payload
        self.attempts = Attempts(charge.activities, charge.limits, charge.tally)
        self.draining = False
        self.polling = False
        self.resting: set[RunId] = set()
        self.lost = asyncio.Event()
        self.turns: TurnQueue
        self.flusher: Flusher
        self.lease: Lease
        self._tasks: TaskLoop
        self.keeper: LeaseKeeper
        self._executions: dict[RunId, Execution] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._claims: ClaimLoop
        self._alarm: Alarm
        self._ailing = {ClaimLoop.run.__qualname__}  # until it has claimed once
        self._unknown: set[RunId] = set()
        self._doubts = 0
        self._forgotten = False
        self._suspended: set[RunId] = set()
        self._mail = asyncio.Event()
        self._orphans = asyncio.Event()
        self._came_to_rest = asyncio.Event()

    @property
    def runs(self) -> Collection[RunId]:
        """The runs that it owns."""
        return self._executions

    @property
    def idle(self) -> bool:
        """Whether it has no run and no activity."""
        return not self._executions and not self._tasks.busy

    def moves(self, run_id: RunId) -> bool:
        """Whether it has the run, and the run does not only wait."""
        return run_id in self._executions and run_id not in self.resting

    def standing(self) -> Now:
        """Return how things stand."""
        return Now({self.build: int(self.polling and not self.draining)}, len(self.runs), self.attempts.standing())

    # --- beginning and end ------------------------------------------------------------

    async def start(self) -> None:
        """Register and begin to claim. Raises `StoreUnavailableError` when nobody answers."""
        charge = self.charge
        self.lease = await charge.store.register(charge.info)
        self.keeper = LeaseKeeper(charge.store, self.lease, charge.limits, self.clock, self._on_lease_event)
        self.turns = TurnQueue()
        self.flusher = Flusher(charge.store, self.lease, self.turns, charge.tally, self.lost.set)
        self.flusher.confirm = self._confirm
        self._heartbeats = Heartbeats(charge.store, self.lease)
        self.attempts.installation = self.lease.installation
        self.attempts.on_heartbeat = self._heartbeats.note
        relay = Relay(charge.store, Hint(tasks=frozenset(self.queues), count=MANY))
        poll = self._pause_of_tasks
        self._tasks = TaskLoop(charge.store, self.lease, self.attempts, self._heartbeats, relay, poll)
        self._tasks.on_rest = self._came_to_rest.set
        self._tasks.on_forgotten = self._start_afresh
        self.attempts.on_free = self._tasks.has_room
        self.attempts.may_begin = self.keeper.holds
        self._claims = ClaimLoop(self, self._pause)
        self._alarm = Alarm(self._claims.look)
        try:
            await self.keeper.start()
        except BaseException:
            await self.keeper.stop()
            raise
        loops = (self._recover_loop, self._claims.run, self._inbox_loop, self._tasks.run, self._heartbeats.keep_sending)
        for loop in loops:
            self._loops.append(asyncio.create_task(self._watched(loop), name=f"perdure {loop.__qualname__}"))

    async def drain(self) -> None:
        """Claim no more, give runs back as they come to rest, and wait for attempts up to the limit."""
        self.draining = True
        self._tasks.drain()
        for execution in list(self._executions.values()):
            execution.drain()
        try:
            async with asyncio.timeout(self.charge.limits.drain):
                while (self._executions or self._tasks.busy) and not self.lost.is_set():
                    self._came_to_rest.clear()
                    await self._came_to_rest.wait()
        except TimeoutError:
            logger.warning("%d runs still had attempts under way after the drain time", len(self.runs))

    async def end(self) -> None:
        """Stop every loop, drop what is left and, if the lease is still ours, give everything back at once."""
        ours = self._forgotten or not self.lost.is_set()
        self.lost.set()  # what is answered from now on, as the start of a run, finds nobody here any more
        self.draining = True
        self.polling = False
        for execution in self._executions.values():
            execution.leaving = True
        await end(self._loops)
        for execution in list(self._executions.values()):
            execution.abandon()
        self._alarm.stop()
        await self.attempts.stop()
        await self.flusher.stop()
        await self.keeper.stop()
        if ours:
            try:
                async with asyncio.timeout(SILENCE):
                    await self._heartbeats.send()
                    await self.charge.store.resign(self.lease)
            except LeaseLostError:
                pass  # then there is nothing left to give back
            except (StoreError, TimeoutError) as error:
                logger.warning("could not resign; others wait until the lease expires: %s", str(error) or "no answer")

    # --- runs that are started in this process --------------------------------------------

    def would_take(self, new: NewRun) -> bool:
        """Tell whether a run that is started in this process may be ours from the start.

        Only while it can do something soon: what is more is left for other workers to find.
        """
        return (
            self.polling
            and not self.draining
            and new.key is None
            and not new.suspended
            and new.build in {None, self.build}
            and new.namespace == self.charge.info.namespace
            and new.queue in self.queues
            and new.workflow in self.charge.workflows
            and self.room > 0
        )

    def takes_along(self, starts: int) -> bool:
        """Whether turns are about to be written with which so many starts should go."""
        return self.flusher.takes_along(starts)

    @property
    def room(self) -> int:
        """How many more runs could do something soon; the others are left for workers that may come.

        Runs that only wait do not count. For each slot one more may wait, so that no slot does.
        """
        limits = self.charge.limits
        busy = len(self._executions) - len(self.resting)
        return min(limits.runs - len(self._executions), 2 * limits.activities - busy)

    def begin(self, starts: Sequence[Start]) -> list[Beginning]:
        """Take the first turns of runs that may be ours from their start."""
        self.unsure()
        workflows = self.charge.workflows
        with Stillness():
            return [Beginning(self, workflows[new.workflow], new, started, self.adopt) for new, started in starts]

    def unsure(self) -> None:
        """Take note that it may own a run without knowing, now or when the store has forgotten the last moments."""
        self._doubts = LOOKS

    def adopt(self, run: ClaimedRun, begun: Begun | None = None) -> None:
        """Go on with a run that is owned here from now on, after its first turn if that has begun.

        The last claim of a run counts: who has an earlier one has given the run up, and the answer is late.
        """
        former = self._executions.get(run.info.run_id)
        if self.lost.is_set() or (former is not None and former.claim >= run.claims):
            if begun is not None:
                begun.run.evict()
            return
        if former is not None:
            former.abandon()
        self.charge.tally.turns += begun is not None
        definition = self.charge.workflows[run.info.workflow]  # the store hands out what we registered, and no more
        self.charge.audience.near(run.info.run_id)
        self._executions[run.info.run_id] = Execution(self, definition, run, begun)

    async def _release_strays(self) -> None:
        """Give back runs that the store says are ours and that we know nothing of, two looks in a row.

        The acknowledgement of a start may be lost for good, when the connection does not come back in time. The end of
        a run may be, when another server takes over that had not received it yet.
        """
        if not self._doubts:
            return
        self._doubts -= 1
        unknown = set(await self.charge.store.owned(self.lease)) - set(self._executions)
        for run_id in unknown & self._unknown:
            logger.warning("run %d is owned here but not known; giving it back", run_id, extra={"run_id": run_id})
            self.flusher.submit(Commit(run_id=run_id, ending=Release()), lambda _: None)
        self._unknown = unknown
        if unknown:
            self.unsure()

    # --- what executions, hints and the lease say ---------------------------------------

    def left(self, execution: Execution, ending: Ending | None) -> None:
        """Take note that a run is not owned here any more."""
        run_id = execution.info.run_id
        self._executions.pop(run_id, None)
        self.resting.discard(run_id)
        self.unsure()
        note(self.charge.tally, execution.info, ending)
        if isinstance(ending, Close):
            self.charge.audience.closed(run_id, ending.outcome)
        else:
            self.charge.audience.far(run_id)
        if isinstance(ending, Park) and ending.wake_at is not None:
            # A parked run belongs to nobody. Whoever parked it looks again at the right moment; the poll is the floor.
            self._alarm.set((ending.wake_at - self.clock.now()) / MICROSECONDS)
        self.came_to_rest()

    def came_to_rest(self) -> None:
        """Take note that a run waits or has left."""
        self._claims.came_to_rest()
        self._came_to_rest.set()

    def awaited(self, run_id: RunId) -> bool:
        """Tell whether somebody in this process waits for the run."""
        return self.charge.audience.awaits(run_id)

    def offer(self, queues: frozenset[str]) -> None:
        """Take note that there are tasks to take; the store tells the other workers of these queues."""
        self.on_hint(Hint(tasks=queues))

    def on_hint(self, hint: Hint) -> None:
        """Look now where the hint points."""
        if not hint.queues.isdisjoint(self.queues):
            self._claims.hear(hint)
        if not hint.tasks.isdisjoint(self.queues):
            self._tasks.wake(addressed=hint.addressed)
        if self.lease.worker in hint.workers:
            self._mail.set()

    def _on_lease_event(self, event: str) -> None:
        if event == "lost":
            self.lost.set()
            self._came_to_rest.set()
            return
        if event == "moved":
            self._doubt()
        self._orphans.set()

    # --- another server -----------------------------------------------------------------

    def _doubt(self) -> None:
        """Look whether another server lacks an end of ours, of a run or of a task."""
        self.unsure()
        self._tasks.doubt()

    async def _confirm(self, lease: Lease) -> Lease:
        """Return the lease with the server that answers now; give it up when that lacks something of our runs.

        What comes after what is missing must not be recorded.
        """
        known = [execution.known for execution in self._executions.values()]
        confirmed = await self.charge.store.remembers(lease, known)
        if confirmed is None:
            self._start_afresh()
            message = f"the server that answers now lacks something that worker {lease.worker} was told is recorded"
            raise LeaseLostError(message)
        self._on_lease_event("moved")
        return confirmed

    def _start_afresh(self) -> None:
        logger.error("the database lacks what it had confirmed, as after a failover; the worker starts afresh")
        self._forgotten = True
        self._on_lease_event("lost")

    # --- loops --------------------------------------------------------------------------

    async def _watched(self, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a loop through outages of the store; a lost lease ends the tenure."""
        while True:
            try:
                await loop()
                return
            except LeaseLostError:
                self._on_lease_event("lost")
                return
            except StoreError as error:
                self._ailing.add(loop.__qualname__)
                self.polling = False
                self.charge.tally.store_errors += 1
                logger.warning("%s", error)
                await asyncio.sleep(0.5)
            except Exception:
                self._ailing.add(loop.__qualname__)
                self.polling = False
                logger.exception("a loop of the worker failed; it starts again")
                await asyncio.sleep(1)

    def looked(self) -> None:
        """Take note that a look for runs went well."""
        self._went_well(self._claims.run)

    def _went_well(self, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Take note that a loop has done what it had to do; when all have, the worker takes work."""
        self._ailing.discard(loop.__qualname__)
        self.polling = not self._ailing

    def _pause_of_tasks(self) -> float:
        self._went_well(self._tasks.run)
        return self._pause(TASK_POLL)

    def _pause(self, longest: float) -> float:
        return longest if self.charge.hears() else DEAF_POLL

    async def _inbox_loop(self) -> None:
        while True:
            self._mail.clear()
            if self._executions:
                items = await self.charge.store.inbox(self.lease)
                for item in items:
                    execution = self._executions.get(item.run_id)
                    if execution is not None:
                        execution.receive((item,))
                suspended = {item.run_id for item in items if item.event is None}
                for run_id in (self._suspended - suspended) & self._executions.keys():
                    self._executions[run_id].stay()
                self._suspended = suspended
            self._went_well(self._inbox_loop)
            if self.flusher.stalled:
                logger.error("turns could not be written for a reason that nobody foresaw; the worker starts afresh")
                self._on_lease_event("lost")
            await hinted(self._mail, INBOX_POLL)

    async def _recover_loop(self) -> None:
        while True:
            self._orphans.clear()
            recovered = await self.charge.store.recover(self.lease)
            if recovered:
                self.charge.tally.recovered += recovered
                self._claims.look()
            await self.charge.store.hold_unknown(self.lease)
            if await self.charge.store.time_out(self.lease):
                self._orphans.set()  # there may be more
            await self._claims.absolve()
            await self._release_strays()
            self._tasks.wake()
            self._went_well(self._recover_loop)
            await hinted(self._orphans, STRAY_POLL if self._unknown else RECOVER_POLL)
