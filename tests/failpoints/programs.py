"""The processes of the scenario: a host that starts runs beside its worker, a helper that comes and goes, a caller.

What lives here: what each process does from its start to its end. A process that dies is started again with the same
program, so a program looks before it does a thing that must be done once, as every client of a durable store has to.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from perdure import Client, Limits, Worker, WorkflowClosedError
from perdure.client import FullStore
from perdure.errors import RunFailure, StoreUnavailableError
from perdure.model.events import SignalReceived
from perdure.model.payload import encode
from perdure.model.runs import RunState, RunSummary
from perdure.model.workers import Lease, WorkerInfo
from perdure.runtime import claiming, execution, flush, tasks, tenure
from perdure.store.base import RunFilter
from tests.failpoints import workflows
from tests.failpoints.workflows import ACTIVITIES, LARGE, WORKFLOWS, Process
from tests.support.world import described

PAUSE = 0.05


@dataclass(frozen=True)
class Part:
    """What a process is told."""

    role: str
    url: str
    namespace: str
    folder: Path
    lease: float
    successor: bool

    @property
    def key(self) -> str:
        """The key of the run that has one."""
        return f"{self.namespace}-key"


def perform(part: Part) -> None:
    """Be one process of the scenario."""
    Process.journal = part.folder / "journal"
    log = logging.FileHandler(part.folder / f"{part.role}.log")
    log.setFormatter(logging.Formatter("%(asctime)s %(process)d %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[log, LostLeases()])
    # What others wait for by polling when a hint is lost takes seconds in production.
    for module, name, value in (
        (execution, "LINGER", 0.1),
        (claiming, "CLAIM_POLL", 0.5),
        (tenure, "TASK_POLL", 0.5),
        (tenure, "INBOX_POLL", 0.2),
        (tenure, "RECOVER_POLL", 0.5),
        (tasks, "DROPPED_POLL", 0.1),
        (claiming, "SURVIVED", 0.0),
        (flush, "FEW", 2),  # two runs are a crowd here, so that starts go along with turns
    ):
        assert hasattr(module, name)
        setattr(module, name, value)
    asyncio.run(PROGRAMS[part.role](part))


class LostLeases(logging.Handler):
    """Notes in the journal when the process loses its lease: what it was doing may be done again."""

    def emit(self, record: logging.LogRecord) -> None:
        """Look for the one message."""
        if "lost its lease" in record.getMessage():
            workflows.write("lost-lease")


def stopping(part: Part) -> asyncio.Event:
    """Return an event that the signal to stop sets; another signal makes the process say where it stands."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, say_where, part.folder / f"{part.role}.log")
    return stop


def say_where(log: Path) -> None:
    """Write the stack of every thread and every task."""
    with log.open("a") as file:
        faulthandler.dump_traceback(file)
        for task in asyncio.all_tasks():
            task.print_stack(file=file)


@asynccontextmanager
async def connected(part: Part) -> AsyncIterator[Client]:
    """Connect, again and again if need be."""
    async with AsyncExitStack() as stack:
        while True:
            try:
                client = await stack.enter_async_context(Client.connect(part.url, namespace=part.namespace))
                break
            except StoreUnavailableError:
                await asyncio.sleep(PAUSE)
        yield client


def worker(part: Part, client: Client, *queues: str, late: bool = False) -> Worker:
    """Return the worker of a process, with few slots, so that a gather overflows into tasks."""
    known = [known for known in WORKFLOWS if late or known is not workflows.late]
    limits = Limits(lease=part.lease, drain=10, activities=4, threads=2)
    return Worker(client, workflows=known, activities=ACTIVITIES, queues=queues, name=part.role, limits=limits)


async def until(what: Callable[[], Awaitable[bool]]) -> None:
    """Ask until the answer is true; whoever plays the scenario has a limit."""
    while True:
        if await what():
            return
        await asyncio.sleep(PAUSE)


async def start(client: Client, instance: str, workflow: Any, *args: Any, **options: Any) -> None:
    """Start an instance, unless an earlier life of this process did."""
    if await client.store.describe(client.namespace, instance) is None:
        await client.start(workflow, *args, id=instance, **options)


async def host(part: Part) -> None:
    """Work, and start runs that are this worker's own from the first moment."""
    stop = stopping(part)
    async with connected(part) as client:
        restart_the_server_for(client.store)
        await host_with(part, client, stop)


def restart_the_server_for(store: FullStore) -> None:
    """Let a store believe, from each lease on, that its server was started again: it asks whether all is there."""
    register = store.register

    async def register_before_the_restart(info: WorkerInfo) -> Lease:
        lease = await register(info)
        return msgspec.structs.replace(lease, server=lease.server - 1)

    setattr(store, "register", register_before_the_restart)  # noqa: B010  # a method, to mypy


async def host_with(part: Part, client: Client, stop: asyncio.Event) -> None:
    """Be the host on this connection."""
    async with worker(part, client, "default") as working:
        await until_ready(working)
        await start(client, "everything", workflows.everything, "x" * LARGE)
        for workflow in (workflows.conversation, workflows.busy, workflows.guest):
            await start(client, workflow.name, workflow)
        await stop.wait()


async def helper(part: Part) -> None:
    """Work, drain when asked to, and come back knowing one workflow more."""
    stop = stopping(part)
    Process.leave = asyncio.Event()
    async with connected(part) as client:
        if not part.successor:
            async with worker(part, client, "default", "other"):
                await first(stop, Process.leave)
        if not stop.is_set():
            async with worker(part, client, "default", "other", late=True):
                await stop.wait()


async def until_ready(working: Worker) -> None:
    """Wait until the worker takes runs."""

    async def ready() -> bool:
        return working.ready

    await until(ready)


async def first(*events: asyncio.Event) -> None:
    """Wait for one of the events."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


async def caller(part: Part) -> None:
    """Start the other runs, tell them what they wait for, and write down how all of them end."""
    stopping(part)
    async with connected(part) as client:
        play = Play(part, client)
        await start(client, "drifter", workflows.drifter, queue="other")  # where only the helper looks
        for workflow in (workflows.sleeper, workflows.cancellable):
            await start(client, workflow.name, workflow)
        await start(client, "waiting", workflows.waiting)
        await start(client, "expiring", workflows.waiting, timeout=0.4)
        await start(client, "fragile", workflows.fragile, queue="other")
        await start(client, "late", workflows.late)
        if not await client.store.by_key([part.key]):
            await client.start_new(described(client, "keyed", "keyed", b'{"name":"object"}', part.key))
        await asyncio.gather(
            play.talk(), play.cancel(), play.terminate("busy"), play.terminate("waiting"), play.resume(), play.suspend()
        )
        await asyncio.gather(*(play.closed(instance) for instance in ("everything", "drifter", "late", "sleeper")))
        (part.folder / "quiet").touch()
        await start(client, "stolen", workflows.stolen)
        await play.steal()
        outcomes = {instance: await play.outcome(instance) for instance in INSTANCES}
        await play.look()
        (part.folder / "outcomes.json").write_text(json.dumps(outcomes))


INSTANCES = (
    "everything", "conversation", "drifter", "sleeper", "cancellable", "busy", "guest", "waiting", "expiring",
    "fragile", "late", "keyed", "stolen",
)  # fmt: skip


class Play:
    """What the caller does to runs. Each act may be begun again by a process that does not know how far it came."""

    def __init__(self, part: Part, client: Client) -> None:
        self._part = part
        self._client = client
        self._store: FullStore = client.store

    async def _summary(self, instance: str) -> RunSummary | None:
        return await self._store.describe(self._part.namespace, instance)

    async def _reached(self, instance: str, reached: Callable[[RunSummary], bool]) -> None:
        """Wait until a run is there and where it should be, or closed."""

        async def there() -> bool:
            summary = await self._summary(instance)
            return summary is not None and (summary.state.closed or reached(summary))

        await until(there)

    async def talk(self) -> None:
        """Deliver two kinds of messages, some before and some after the run fell asleep."""
        await self._reached("conversation", lambda _: True)
        messages = [("left", 1), ("right", "a"), ("left", 2), ("right", "b"), ("left", 3)]
        for number, (name, payload) in enumerate(messages):
            if number == 3:
                await self._reached("conversation", lambda run: run.state == RunState.PARKED and run.wake_at is None)
            # The same id each time: a message that is delivered again is the same message.
            event = SignalReceived(name, encode(payload, name), id=f"{name}-{payload}")
            try:
                await self._client.deliver("conversation", event)
            except WorkflowClosedError:
                return  # an earlier try brought it, and the run did not wait for the next one

    async def cancel(self) -> None:
        """Cancel a run that sleeps."""
        await self._reached("cancellable", lambda run: run.state == RunState.PARKED)
        if (await self._client.handle("cancellable").describe()).state.closed:
            return
        try:
            await self._client.handle("cancellable").cancel("enough")
        except WorkflowClosedError:
            pass  # an earlier try brought it

    async def terminate(self, instance: str) -> None:
        """Close a run from outside: one that its owner works on, one that sleeps."""
        await self._reached(instance, lambda run: self._began(instance) or run.state == RunState.PARKED)
        if not (await self._client.handle(instance).describe()).state.closed:
            await self._client.handle(instance).terminate("enough")

    def _began(self, instance: str) -> bool:
        return f"attempt {instance} " in Process.journal.read_text()

    async def resume(self) -> None:
        """Let a run go on each time that it is held."""

        async def mended() -> bool:
            (run,) = await self._store.list_runs(self._part.namespace, RunFilter(instance="fragile"))
            if run.state == RunState.HELD:
                await self._store.resume(self._part.namespace, "fragile")
            return run.state.closed

        await until(mended)

    async def suspend(self) -> None:
        """Hold a run up, and let it go on."""
        await self._reached("sleeper", lambda _: True)
        for suspended in (True, False):
            await self._store.suspend(self._part.namespace, "sleeper", suspended=suspended)

    async def steal(self) -> None:
        """Take the lease of whoever works on the run in vain, twice: then the run is suspected, and survives."""
        taken = 0

        async def free() -> bool:
            nonlocal taken
            (run,) = await self._store.list_runs(self._part.namespace, RunFilter(instance="stolen"))
            tried = Process.journal.read_text().count("attempt stolen ")
            if taken < tried < 3 and run.worker is not None and not run.state.closed:
                taken = tried
                await self._store.expire(self._part.namespace, run.worker)
            return run.state.closed

        await until(free)

    async def closed(self, instance: str) -> None:
        """Wait for the end of a run, however it ends."""
        try:
            await self._client.handle(instance).result()
        except RunFailure:
            pass

    async def outcome(self, instance: str) -> list[Any]:
        """Return what a run came to."""
        try:
            return ["result", await self._client.handle(instance).result()]
        except RunFailure as failure:
            return [type(failure).__name__, str(failure)]

    async def look(self) -> None:
        """Read everything that can be read, and say of every status change that it has been seen."""
        store, namespace = self._store, self._part.namespace
        for run in await self._client.list():
            await store.history(run.run_id)
        await store.workers(namespace)
        assert (await store.census([namespace])).held == {}
        assert {poller.queue for poller in await store.pollers() if poller.namespace == namespace} >= {"default"}
        assert [run.id for run in await store.newest([(namespace, "keyed")])] == ["keyed"]
        assert self._part.key not in await store.open_keys()
        (run,) = await store.by_key([self._part.key])
        assert (run.status_text, run.progress) == ("object", "2/2")
        await store.adopt(run.run_id, self._part.key)

        async def all_seen() -> bool:
            changes = await store.status_changes(100)
            await store.acknowledge([change.number for change in changes])
            return not changes

        await until(all_seen)


PROGRAMS: dict[str, Callable[[Part], Coroutine[Any, Any, None]]] = {"host": host, "helper": helper, "caller": caller}
