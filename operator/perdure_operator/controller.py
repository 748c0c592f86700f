"""From objects to runs: what was seen is queued by UID, looked up in batches and acted on.

What lives here: `Controller`, which carries out what `reconcile` decides. What must not: kopf, the API server, what a
status says. `handlers` and `sync` hand in what they see; statuses go to `writer`.

One batch is under way at a time, and within it runs are cancelled before others are started: a message goes to the open
run of a name, so a name must not change hands in between.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from perdure.client import FullStore
from perdure.errors import InputMissingError, ManifestError, PayloadError, SchemaVersionError, StoreError
from perdure.manifest import WorkflowInstance, parse
from perdure.model.events import WorkflowExecutionCancelRequested, WorkflowExecutionStarted
from perdure.model.runs import RunSummary, Started

from .abandoned import Abandoned, abandoned_key
from .cluster import ClusterError
from .database import Database
from .objects import Objects, said
from .reconcile import (
    Abandon,
    Action,
    Cancel,
    DeletionPolicy,
    Start,
    Suspend,
    Terminate,
    decide,
    decide_gone,
    may_be_untouched,
)
from .restored import recall
from .status import Refusal, project
from .writer import StatusWriter

logger = logging.getLogger("perdure.operator")

BATCH = 100
UNTOUCHED_AFTER = 2.0
"""Seconds that a worker has to take up a cancellation before a run without any history of its own is closed."""
NAME_RETRY = 5.0
RETRY = 2.0
LONGEST_RETRY = 60.0
LONGEST_PAUSE = 10.0


@dataclass(slots=True)
class Job:
    """One object to look at. Without ``instance`` it is gone, or ``invalid`` says why it cannot be read."""

    uid: str
    namespace: str
    name: str
    generation: int = 0
    instance: WorkflowInstance | None = None
    invalid: str = ""
    restored: str = ""
    policy: DeletionPolicy = DeletionPolicy.CANCEL
    refusal: Refusal | None = None
    tries: int = 0
    actions: tuple[Action, ...] = field(default=())

    @property
    def gone(self) -> bool:
        """Whether there is no object any more."""
        return self.instance is None and not self.invalid


class Controller:
    """Acts on objects that are new, changed or gone."""

    def __init__(
        self,
        database: Database,
        objects: Objects,
        writer: StatusWriter,
        abandoned: Abandoned,
        config_map: Callable[[str, str], Awaitable[Mapping[str, str] | None]],
    ) -> None:
        self._database = database
        self._config_map = config_map
        self.abandoned = abandoned
        self._objects = objects
        self._writer = writer
        self._jobs: dict[str, Job] = {}
        self._news = asyncio.Event()
        self._waiting: dict[tuple[str, str], Job] = {}
        self._timers: set[asyncio.TimerHandle] = set()
        self._idle = asyncio.Event()
        self.errors = 0
        self.witnessed: Callable[[datetime], bool] = lambda _: True

    @property
    def waiting(self) -> int:
        """How many objects wait to be looked at."""
        return len(self._jobs)

    def see(self, body: Mapping[str, Any]) -> None:
        """Take an object as the API server has it."""
        if self._objects.see(body):
            job = _job(body)
            queued = self._jobs.get(job.uid)
            if queued is None or queued.generation <= job.generation:
                self._enqueue(job)

    def see_gone(self, uid: str, namespace: str, name: str) -> None:
        """Take note that there is no object of this UID any more."""
        known = self._objects.remove(uid)
        self._writer.forget(uid)
        queued = self._jobs.get(uid)
        if known is None and queued is not None and queued.gone:
            return  # it knows the policy
        policy = known.policy if known is not None else DeletionPolicy.CANCEL
        if policy is DeletionPolicy.ABANDON and known is not None and not known.finished:
            self.abandoned.add(uid)
        elif uid in self.abandoned:
            policy = DeletionPolicy.ABANDON
        waiting = self._waiting.get((namespace, name))
        if waiting is not None and waiting.uid == uid:
            del self._waiting[namespace, name]
        self._enqueue(Job(uid, namespace, name, policy=policy))

    def name_is_free(self, namespace: str, name: str) -> None:
        """Take note that no run of this name is open any more."""
        waiting = self._waiting.pop((namespace, name), None)
        if waiting is not None:
            self._retry(waiting)

    async def catch_up(self, longest: float) -> None:
        """Wait until everything is done, or for so many seconds: the database may be away."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest):
                await self._idle.wait()

    async def run(self) -> None:
        """Work until cancelled."""
        failures = 0
        try:
            while True:
                if not self._jobs:
                    self._idle.set()
                await self._news.wait()
                batch = self._take()
                left = await self._work_through(batch)
                if not left:
                    failures = 0
                    continue
                for job in left:
                    self._jobs.setdefault(job.uid, job)
                self._news.set()
                failures += 1
                await asyncio.sleep(min(LONGEST_PAUSE, 0.25 * 2 ** min(failures, 6)))
        finally:
            for timer in self._timers:
                timer.cancel()

    def _enqueue(self, job: Job) -> None:
        self._jobs[job.uid] = job
        self._idle.clear()
        self._news.set()

    def _take(self) -> list[Job]:
        chosen = list(self._jobs)[:BATCH]
        batch = [self._jobs.pop(uid) for uid in chosen]
        if not self._jobs:
            self._news.clear()
        return batch

    async def _work_through(self, batch: Sequence[Job]) -> Sequence[Job]:
        """Work on a batch; return those that have to be tried again."""
        try:
            await self._work(batch)
        except StoreError as error:
            self.errors += 1
            self._database.failed(error)
            logger.warning("%d objects wait for the database: %s", len(self._jobs) + len(batch), error)
            self._refuse(batch, _unavailable(error))
            return batch
        except Exception:  # whatever it is, the operator goes on with the other objects
            if len(batch) > 1:
                return [left for job in batch for left in await self._work_through([job])]
            self.errors += 1
            logger.exception("reconciling %s/%s failed", batch[0].namespace, batch[0].name, extra=_about(batch[0]))
            self._put_off(batch[0])
        return []

    def _put_off(self, job: Job) -> None:
        """Try again later what the operator cannot deal with, so that it does not hold the other objects up."""
        self._refuse(
            [job], Refusal("ReconcileFailed", "the operator failed on this object and tries again; see its log")
        )
        self._later(_pause(job), lambda: self._again(job) if job.gone else self._retry(job))

    async def _work(self, batch: Sequence[Job]) -> None:
        store = await self._database.store()
        runs = {run.key: run for run in await store.by_key([job.uid for job in batch])}
        refusals = await recall(store, batch, runs, self._objects, self.witnessed)
        for job in batch:
            job.refusal = refusals.get(job.uid)
            job.actions = () if job.refusal else self._decide(job, runs.get(job.uid))
        for job in batch:
            await self._end(store, job, runs.get(job.uid))
        started = [job for job in batch if Start() in job.actions]
        await asyncio.gather(*(self._start(store, job) for job in started))
        acted = [job.uid for job in batch if job.actions]
        if acted:
            runs.update({run.key: run for run in await store.by_key(acted)})
        self._database.answered()
        for job in batch:
            run = runs.get(job.uid)
            if run is None and Start() in job.actions and job.refusal is None:
                self._wait_for_name(job)
            elif run is not None and Start() in job.actions:
                await self._end(store, job, run)
            self._report(job, run)

    def _decide(self, job: Job, run: RunSummary | None) -> tuple[Action, ...]:
        if job.instance is not None:
            known = self._objects.get(job.uid)
            return decide(job.instance, run, finished=known is not None and known.finished)
        return decide_gone(run, job.policy) if job.gone else ()

    # Doing it

    async def _start(self, store: FullStore, job: Job) -> None:
        assert job.instance is not None
        try:
            found = {name: await self._config_map(job.namespace, name) for name in sorted(job.instance.config_maps)}
            there = {name: data for name, data in found.items() if data is not None}
            started = await store.start(job.instance.new_run(job.namespace, there))
        except PayloadError as error:
            job.refusal = Refusal("InvalidSpec", str(error), stalled=True)
            return
        except (InputMissingError, ClusterError) as error:
            job.refusal = Refusal("InputMissing", str(error))
            self._later(_pause(job), lambda: self._retry(job))
            return
        if started.created:
            logger.info("%s/%s started as run %d", job.namespace, job.name, started.run_id, extra=_about(job, started))

    async def _end(self, store: FullStore, job: Job, run: RunSummary | None) -> None:
        """Cancel or close the run, if that is among the actions."""
        for action in job.actions:
            if run is None or isinstance(action, Start):
                continue
            if isinstance(action, Abandon):
                await store.adopt(run.run_id, abandoned_key(job.uid))
                logger.info("%s/%s goes on without its object", run.namespace, run.id, extra=_about(job, run))
                continue
            if isinstance(action, Suspend):
                await store.suspend(run.namespace, run.id, run.run_id, suspended=action.suspended)
                logger.info("%s/%s is %s", run.namespace, run.id, "suspended" if action.suspended else "resumed")
                continue
            if isinstance(action, Terminate):
                await store.terminate(run.namespace, run.id, action.reason, run.run_id)
                logger.info("%s/%s is terminated: %s", run.namespace, run.id, action.reason)
                continue
            if isinstance(action, Cancel):
                event = WorkflowExecutionCancelRequested(action.reason, uuid.uuid4().hex)
                await store.deliver(run.namespace, run.id, event, run.run_id)
                logger.info(
                    "%s/%s is asked to cancel: %s", run.namespace, run.id, action.reason, extra=_about(job, run)
                )
                if may_be_untouched(run):
                    self._later(UNTOUCHED_AFTER, lambda: self._again(job))
                continue
            if await _is_untouched(store, run):
                await store.terminate(
                    run.namespace, run.id, f"cancelled before any of its code ran: {action.reason}", run.run_id
                )
                logger.info("%s/%s is closed; no worker had taken it", run.namespace, run.id, extra=_about(job, run))

    def _wait_for_name(self, job: Job) -> None:
        job.refusal = Refusal(
            "PreviousRunClosing",
            f"a run of an earlier {job.name} is still open; this one starts when that run has closed "
            f"(`perdure describe {job.name}` shows it, `perdure terminate {job.name}` ends it)",
        )
        self._waiting[job.namespace, job.name] = job
        self._later(NAME_RETRY, lambda: self.name_is_free(job.namespace, job.name))

    # Telling

    def _report(self, job: Job, run: RunSummary | None) -> None:
        known = self._objects.get(job.uid)
        if known is None or job.gone:
            return
        if job.invalid:
            job.refusal = Refusal("InvalidSpec", job.invalid, stalled=True)
        known.generation = max(known.generation, job.generation)
        known.deleting = bool(job.instance and job.instance.deleting)
        known.refusal = job.refusal
        if run is not None or job.refusal is not None:
            self._writer.put(job.uid, project(run, known.generation, job.refusal, served=self._database.is_served(run)))

    def _refuse(self, batch: Sequence[Job], refusal: Refusal) -> None:
        """Tell those that have no status yet why nothing happens; others keep the one that they have."""
        for job in batch:
            known = self._objects.get(job.uid)
            if known is not None and not job.gone and "runId" not in known.status():
                self._writer.put(job.uid, project(None, job.generation, refusal))

    # Later

    def _again(self, job: Job) -> None:
        if job.uid not in self._jobs:
            self._enqueue(job)

    def _retry(self, job: Job) -> None:
        """Look again, unless the object is gone or has another spec by now."""
        known = self._objects.get(job.uid)
        if known is not None and known.newest == job.generation:
            self._again(job)

    def _later(self, delay: float, call: Callable[[], None]) -> None:
        def due() -> None:
            self._timers.discard(timer)
            call()

        timer = asyncio.get_running_loop().call_later(delay, due)
        self._timers.add(timer)


def _pause(job: Job) -> float:
    """Return the seconds until the next try, which grow with each."""
    job.tries += 1
    return min(LONGEST_RETRY, RETRY * 2.0 ** min(job.tries - 1, 10))


def _unavailable(error: StoreError) -> Refusal:
    """Return what users are told; where the database is, and what it said, is the business of the log."""
    if isinstance(error, SchemaVersionError):
        return Refusal("StoreUnavailable", "the schema of the database is not the operator's: run `perdure migrate`")
    message = "the operator cannot use its database, its log says why; the instance starts as soon as it can"
    return Refusal("StoreUnavailable", message)


async def _is_untouched(store: FullStore, run: RunSummary) -> bool:
    """Tell whether no workflow code has run yet: nothing is recorded but the start."""
    return all(isinstance(event.event, WorkflowExecutionStarted) for event in await store.history(run.run_id))


def _about(job: Job, run: Started | RunSummary | None = None) -> dict[str, object]:
    """Return what a record about this object has as ``extra``."""
    known: dict[str, object] = {"namespace": job.namespace, "workflow_id": job.name}
    return known if run is None else {**known, "run_id": run.run_id, "workflow": run.workflow}


def _job(body: Mapping[str, Any]) -> Job:
    metadata = body["metadata"]
    job = Job(metadata["uid"], metadata["namespace"], metadata["name"], metadata.get("generation", 0))
    job.restored = said(body)
    try:
        job.instance = parse(body, strict=False)
    except ManifestError as error:
        job.invalid = str(error)
    return job
