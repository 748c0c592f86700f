"""One worker process: its definitions, its event loop, its signals, its health.

What lives here: what happens from the start of the process to its end. What
must not: options of the command line (`work`), several processes (`supervising`).
"""

import asyncio
import contextlib
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from perdure.cli import modules
from perdure.client import Client
from perdure.errors import StoreError, StoreUnavailableError
from perdure.runtime.attempts import TITLE
from perdure.runtime.health import Health, HealthServer, Pulse
from perdure.runtime.limits import Limits
from perdure.runtime.worker import Worker
from perdure.telemetry import logs
from perdure.telemetry.tally import Tally

logger = logging.getLogger("perdure.worker")

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 10.0
"""Seconds between two tries to reach a database that does not answer when the process starts."""
LEAVE = 2.0
"""Seconds that what goes on may take when everything was given back, before the process ends all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What a worker process is told. It travels to child processes as JSON.

    ``alone``: whoever had this name before is dead, for it is the name of a pod, and this is its only worker.
    """

    modules: tuple[str, ...]
    url: str
    namespace: str
    queues: tuple[str, ...]
    name: str | None
    build_id: str | None
    limits: Limits
    log_format: logs.LogFormat
    alone: bool = False
    debug: bool = False


class Stop:
    """The wish to stop, as signals bring it: the first drains, the second ends the process at once."""

    def __init__(self, on_first: Callable[[], None], on_second: Callable[[], None] = lambda: None) -> None:
        self.wanted = False
        self._on_first = on_first
        self._on_second = on_second

    def install(self) -> None:
        """Listen to SIGTERM and SIGINT. Plain handlers, because those of a loop wait until the loop turns."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._received)

    def _received(self, number: int, _frame: FrameType | None) -> None:
        if self.wanted:
            self._on_second()
            os._exit(128 + number)
        self.wanted = True
        self._on_first()


class WorkerProcess:
    """A worker and everything around it in one process."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._pulse = Pulse()
        self._worker: Worker | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._stop = Stop(self._begin_to_stop)

    def health(self) -> Health:
        """Return how this process is; called from other threads."""
        return Health(not_live=self._pulse.complaint(), not_ready=self._not_ready())

    def tally(self) -> Tally:
        """Return what this process has counted; called from other threads."""
        return self._worker.tally() if self._worker is not None else Tally()

    def run(self, health: HealthServer | None = None) -> None:
        """Serve until a signal comes, then drain. Raises `DefinitionError` for modules that define nothing."""
        definitions = modules.load(self._service.modules)
        self._stop.install()
        if health is not None:
            health.start()
            logger.info("health endpoints: %s/livez, /readyz and /metrics", health.url)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._serve(definitions))
            ending = threading.Timer(LEAVE, self._leave)
            ending.daemon = True
            ending.start()
        for thread in threading.enumerate():
            if thread.name.startswith(TITLE):
                thread.join()
        ending.cancel()

    async def _serve(self, definitions: modules.Definitions) -> None:
        self._loop = asyncio.get_running_loop()
        if self._stop.wanted:
            return
        beating = asyncio.create_task(self._pulse.beat())
        try:
            async with contextlib.AsyncExitStack() as stack:
                client = await self._connected(stack)
                if client is not None:
                    await self._work(client, definitions)
        finally:
            beating.cancel()

    async def _connected(self, stack: contextlib.AsyncExitStack) -> Client | None:
        """Open the client, waiting for a database that is not there yet; None when a signal came first."""
        service = self._service
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            try:
                return await self._unless_stopped(
                    stack.enter_async_context(Client.connect(service.url, namespace=service.namespace))
                )
            except StoreUnavailableError as error:
                logger.warning("%s; trying again in %g s", error, pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(LONGEST_PAUSE, pause * 2)
        return None

    async def _unless_stopped(self, opening: Any) -> Client | None:
        """Wait for ``opening`` or a signal, whichever is first."""
        task: asyncio.Task[Client] = asyncio.ensure_future(opening)
        stopped = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return None
        return task.result()

    async def _work(self, client: Client, definitions: modules.Definitions) -> None:
        service = self._service
        worker = Worker(
            client,
            workflows=definitions.workflows,
            activities=definitions.activities,
            queues=service.queues,
            name=service.name,
            build_id=service.build_id,
            limits=service.limits,
        )
        self._worker = worker
        logger.info(
            "worker %s: workflows %s; activities %s",
            worker.name,
            ", ".join(item.name for item in definitions.workflows) or "none",
            ", ".join(item.name for item in definitions.activities) or "none",
        )
        if service.alone:
            await self._bury(client, worker.name)
        if self._stopping.is_set():
            return
        await worker.run()
        logger.info("worker %s has stopped and given everything back", worker.name)

    async def _bury(self, client: Client, name: str) -> None:
        """Let others have the runs of the container that was here before, without waiting for its lease."""
        try:
            expired = await client.store.expire(client.namespace, name)
        except StoreError as error:
            logger.warning("what worker %s had before is free when its lease ends: %s", name, error)
        else:
            if expired.workers:
                logger.info("worker %s was here before and did not stop in order; its runs are taken over", name)

    def _begin_to_stop(self) -> None:
        """Called in a signal handler, that is between any two instructions of the main thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._stopping.set()
        if self._worker is not None:
            logger.info("stopping: attempts under way may go on for %g s", self._service.limits.drain)
            self._worker.stop()

    def _leave(self) -> None:
        """End the process whatever goes on: a thread cannot be interrupted, and others may be doing its work again."""
        names = {thread.name for thread in threading.enumerate()}
        names.update(task.get_name() for task in asyncio.all_tasks(self._loop))
        left = ", ".join(sorted(name for name in names if name.startswith(TITLE)))
        message = "the drain time is over and the process ends; cut off in the middle: %s"
        logger.warning(message, left or "threads that activities have begun")
        try:
            logging.shutdown()
            sys.stdout.flush()
        finally:
            os._exit(0)

    def _not_ready(self) -> str:
        if self._stop.wanted:
            return "the worker is stopping"
        if self._worker is None:
            return "the worker is starting and has not reached its database yet"
        if not self._worker.ready:
            return f"worker {self._worker.name} has no lease or cannot reach its database"
        return ""


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's, where it is installed."""
    if sys.platform == "win32":
        return None
    try:
        uvloop: Any = importlib.import_module("uvloop")
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
