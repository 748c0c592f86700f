"""The operator as a program: candidacy, terms, probes, signals.

What lives here: `run` and the wiring of all parts. What must not: decisions. The command line and ``python -m
perdure_operator`` call it.

A process is a candidate for its whole life and leads for a term at a time. A term has everything that acts: the watch,
the controller, the writer, the loops between database and objects; when the Lease is lost, all of it ends, writer
included, and the process stands by again. Nothing is carried over from one term to the next, since everything can be
read again.
"""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from perdure.telemetry import logs
from perdure.telemetry.prometheus import page

from .cluster import Cluster
from .comparison import Comparison
from .controller import Controller
from .database import Database
from .events import Events, News
from .expiry import Expiry
from .handlers import Watch, WatchEndedError
from .health import Health, every, late
from .leader import Election
from .metrics import Backlog, Standing, operator_metrics
from .objects import Objects
from .parts import Parts
from .pods import VanishedWorkers
from .queues import Queues
from .settings import Settings
from .sync import Sync
from .writer import StatusWriter

logger = logging.getLogger("perdure.operator")

PROBE = 5.0
"""Seconds between two looks at whether the database can be reached; it counts as away after three."""
DEEP = 12_000
"""Levels of recursion, so that the deepest object that an API server takes (10,000 levels) can be read and refused."""
SILENCE = 60.0
"""Seconds without a sign of life of the watch after which the process should be restarted."""


class TermOverError(Exception):
    """Control flow: this process does not lead any more."""


class Operator:
    """One operator process."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._settings = settings
        self._cluster = cluster
        self._database = Database(settings.url)
        self._election = Election(cluster, settings)
        self._term: Term | None = None
        self._past_errors = 0

    async def run(self) -> None:
        """Stand for election and lead, over and over, until cancelled or until a term ends by an error."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(every(PROBE, self._database.probe), name="database probe")
                if self._settings.health:
                    health = Health(self._settings.health, self._dead, self._unready, self._role, self._metrics)
                    group.create_task(health.run(), name="health")
                await self._candidacy()
        finally:
            await self._election.release()
            await self._database.close()

    async def _candidacy(self) -> None:
        while True:
            await self._election.win()
            self._term = Term(self._settings, self._cluster, self._database, self._election)
            try:
                # In a task of its own: the end of a group may leave it marked as cancelled, and then a timeout that
                # comes later looks like the end of the process (Python 3.11.2).
                await asyncio.create_task(self._term.run(), name="term")
            except* TermOverError:
                pass  # stand by again
            finally:
                self._past_errors += self._term.controller.errors
                self._term = None

    def _metrics(self, accept: str) -> tuple[str, bytes]:
        term = self._term
        own = {} if term is None else term.standing()
        errors = 0 if term is None else term.controller.errors
        standing = Standing(
            leading=self._election.leading,
            terms=self._election.terms,
            status_writes=self._cluster.status_writes,
            reconcile_errors=self._past_errors + errors,
            api_errors=self._cluster.errors,
            store_errors=self._database.errors,
            **own,
        )
        return page(operator_metrics(standing), accept)

    def _role(self) -> str:
        return "leader" if self._election.leading else "standby"

    def _dead(self) -> dict[str, str]:
        watch = self._term.watch if self._term is not None else None
        silent = watch is not None and watch.silence() > SILENCE
        return {"watch": f"no sign of life for {SILENCE:g} s"} if silent else {}

    def _unready(self) -> dict[str, str]:
        wrong = self._dead()
        if late(self._database.reached_at, 3 * PROBE):
            wrong["database"] = self._database.trouble or "no answer"
        if late(self._election.reached_at, self._settings.lease):
            wrong["api server"] = self._election.trouble or "no answer"
        if self._term is not None and self._term.writer.trouble:
            wrong["status"] = self._term.writer.trouble
        return wrong


class Term:
    """Everything that acts while this process leads."""

    def __init__(self, settings: Settings, cluster: Cluster, database: Database, election: Election) -> None:
        self._objects = objects = Objects()
        self._settings = settings
        self._cluster = cluster
        self._election = election
        self.writer = StatusWriter(cluster, objects, election, settings)
        self.controller = Controller(database, objects, self.writer, election.abandoned, cluster.config_map)
        self.controller.witnessed = election.witnessed
        parts = Parts(cluster, database, objects, self.controller, self.writer, election, settings)
        self._sync = Sync(parts)
        self._comparison = Comparison(parts)
        self._expiry = Expiry(parts)
        self._queues = Queues(database, self._comparison.refresh)
        self._workers = VanishedWorkers(database, self._worker_vanished)
        self._events = Events(cluster, settings)
        self.writer.on_written = self._events.status_written
        self._backlog = Backlog(database, settings.namespaces)
        self.watch: Watch | None = None

    async def run(self) -> None:
        """Lead until the Lease is lost; raise what ends it, in a group."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._hold(), name="lease")
            group.create_task(self.writer.run(), name="writer")
            group.create_task(self.controller.run(), name="controller")
            group.create_task(self._workers.run(), name="vanished workers")
            group.create_task(self._backlog.run(), name="backlog")
            namespaces, pods = await self._comparison.list()
            if not pods:
                logger.warning(
                    "pods may not be listed: the runs of a worker that vanishes wait for the end of its lease"
                )
            self.watch = Watch(self, namespaces, pods=pods)
            group.create_task(self.watch.run(), name="watch")
            group.create_task(self._sync.run(), name="status changes")
            group.create_task(self._compare(), name="comparison")
            group.create_task(self._expiry.run(), name="expiry")
            group.create_task(self._queues.run(), name="queues")
            group.create_task(self._events.run(), name="events")

    def standing(self) -> dict[str, Any]:
        """Return what `metrics.Standing` has of a term."""
        return {
            "objects": len(self._objects),
            "objects_waiting": self.controller.waiting,
            "statuses_waiting": self.writer.waiting,
            "watched_at": None if self.watch is None else time.time() - self.watch.silence(),
            "compared_at": self._comparison.compared_at,
            "census": self._backlog.census,
        }

    async def _hold(self) -> None:
        await self._election.hold()
        raise TermOverError

    async def _compare(self) -> None:
        await self._comparison.run()
        raise TermOverError

    def _worker_vanished(self, uid: str, worker: str) -> None:
        known = self._objects.get(uid)
        if known is not None:
            note = f"the pod of worker {worker} is gone; another worker goes on with the run where it stopped"
            self._events.report(known, News("WorkerVanished", note))

    def instance(self, body: Mapping[str, Any], *, deleted: bool) -> None:
        """Take a WorkflowInstance that the watch has seen."""
        if deleted:
            metadata = body["metadata"]
            self.controller.see_gone(metadata["uid"], metadata["namespace"], metadata["name"])
        else:
            self.controller.see(body)

    def pod(self, body: Mapping[str, Any], *, deleted: bool) -> None:
        """Take a worker's pod that the watch has seen."""
        self._workers.see(body, deleted=deleted)


async def serve(settings: Settings) -> None:
    """Run an operator until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    async with Cluster(settings.connections + 4) as cluster:
        try:
            await Operator(settings, cluster).run()
        except asyncio.CancelledError:
            logger.info("stopped by a signal")


def run(
    url: str,
    *,
    namespaces: Sequence[str] | None = None,
    log_format: logs.LogFormat = logs.LogFormat.TEXT,
    debug: bool = False,
) -> None:
    """Run the operator until it is told to stop; ``namespaces`` None means all.

    What is not given comes from the environment (see `settings.Settings.read`). Raises `WatchEndedError` when the watch
    fails for good and `RequestError` for settings that cannot be read; whoever started the process starts it again.
    """
    settings = Settings.read(url, namespaces, os.environ)
    sys.setrecursionlimit(DEEP)
    logs.configure(log_format, debug=debug)
    for name in ("kopf", "kopf.objects"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It warns that it does not handle signals in its thread; this process does.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(serve(settings))
    except BaseExceptionGroup as group:  # what `except*` raises is in a group again before Python 3.11.4
        if (found := _first(group)) is None:
            raise
        raise found from group


def _first(group: BaseExceptionGroup[Any]) -> WatchEndedError | None:
    found: BaseException | None = group.subgroup(WatchEndedError)
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert found is None or isinstance(found, WatchEndedError)
    return found


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None  # the loop of the standard library does as well
    return uvloop.new_event_loop
