"""The worker: what users start.

What lives here: registration of definitions, one tenure after the other, and a
stop that drains. What must not: what happens within a tenure. The CLI and users
construct it.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Coroutine, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec

from perdure.activity import Activity
from perdure.client import Client
from perdure.ending import end
from perdure.errors import DefinitionError, LeaseLostError, StoreError, StoreUnavailableError
from perdure.model.hints import Audience, Hint
from perdure.model.runs import NewRun, RunId
from perdure.model.workers import WorkerInfo
from perdure.store.base import Taker
from perdure.telemetry.tally import Tally
from perdure.workflow import Workflow

from . import guard
from .build import build_id as fingerprint
from .charge import Charge
from .lease import SILENCE
from .limits import Limits
from .tenure import Tenure

logger = logging.getLogger("perdure.worker")

OUTCOMES = ("completed", "failed", "cancelled", "timed_out")
"""How runs end here; those that somebody terminates end in the database."""


class Worker:
    """Runs workflows and activities of one namespace.

    Use it as a context manager beside a client, or ``await worker.run()`` as a
    program of its own. ``name`` tells workers apart for people (host and process
    by default); ``build_id`` names the code (a fingerprint of it by default).
    """

    def __init__(
        self,
        client: Client,
        *,
        workflows: Iterable[Workflow[..., Any]] = (),
        activities: Iterable[Activity[..., Any]] = (),
        queues: Sequence[str] = ("default",),
        name: str | None = None,
        build_id: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._client = client
        self._workflows = _by_name(workflows, Workflow, "workflows=[...]")
        self._activities = _by_name(activities, Activity, "activities=[...]")
        if isinstance(queues, str) or not queues:
            message = f"queues must be a list of names, such as ['default'], not {queues!r}"
            raise DefinitionError(message)
        self._queues = tuple(queues)
        self.name = name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._build_id = build_id
        self._limits = limits or Limits()
        self._tally = Tally(closed={name: dict.fromkeys(OUTCOMES, 0) for name in self._workflows})
        self._tenure: Tenure | None = None
        self._service: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._survived: set[RunId] = set()
        """Runs that this process had when a lease of it ran out: they did not end it."""

    @property
    def ready(self) -> bool:
        """Whether the worker has a lease, reaches the store and takes work."""
        return self._tenure is not None and self._tenure.polling and not self._stopping.is_set()

    @property
    def owned(self) -> int:
        """How many runs the worker owns right now."""
        return len(self._tenure.runs) if self._tenure is not None else 0

    def tally(self) -> Tally:
        """Return what the worker has counted so far, and how it stands; may be called from any thread."""
        tally, tenure = self._tally.copy(), self._tenure
        return msgspec.structs.replace(tally, now=tenure.standing()) if tenure is not None else tally

    async def run(self) -> None:
        """Serve until `stop` is called or the task is cancelled; drain either way."""
        async with self:
            await self._stopping.wait()

    def stop(self) -> None:
        """Begin to drain: claim no more and give the runs back."""
        self._stopping.set()

    async def __aenter__(self) -> Self:
        guard.install()
        functions = [*self._workflows.values(), *self._activities.values()]
        info = WorkerInfo(
            namespace=self._client.namespace,
            name=self.name,
            build=self._build_id or fingerprint(item.function for item in functions),
            queues=self._queues,
            workflows=tuple(self._workflows),
            lease=self._limits.lease,
        )
        charge = Charge(
            store=self._client.store,
            info=info,
            workflows=self._workflows,
            activities=self._activities,
            limits=self._limits,
            tally=self._tally,
            audience=self._client.watcher,
            hears=lambda: not self._client.hints.deaf,
        )
        self._client.hints.add(self._on_hint, Audience.WORKERS)
        self._client.hosts.append(self._taker)
        self._service = asyncio.create_task(self._serve(charge), name=f"perdure worker {self.name}")
        # Whoever waits for the end of this worker must not wait for ever when an error has ended it.
        self._service.add_done_callback(lambda _: self._stopping.set())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._client.hints.discard(self._on_hint)
        self._client.hosts.remove(self._taker)
        assert self._service is not None
        await asyncio.shield(self._service)

    def _taker(self, new: NewRun) -> Taker | None:
        """Return who would take a run that is started in this process: the tenure, while it is free."""
        tenure = self._tenure
        return tenure if tenure is not None and not self._stopping.is_set() and tenure.would_take(new) else None

    def _on_hint(self, hint: Hint) -> None:
        if self._tenure is not None:
            self._tenure.on_hint(hint)

    async def _serve(self, charge: Charge) -> None:
        """Hold one tenure after the other until the worker is stopped. What was right once may be right again."""
        served = False
        while not self._stopping.is_set():
            tenure = Tenure(charge)
            try:
                if not await self._begun(tenure):
                    return
            except LeaseLostError as error:  # somebody took it before the first heartbeat
                logger.warning("%s; registering again", error)
                continue
            except StoreError as error:
                if not served and not isinstance(error, StoreUnavailableError):
                    raise  # whoever has just started it looks
                logger.warning("%s", error)
                self._tally.store_errors += 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await self._stopping.wait()
                continue
            self._tenure, served = tenure, True
            logger.info("worker %s serves %s with build %s", self.name, ", ".join(self._queues), charge.info.build)
            (await self._or_stop(tenure.lost.wait())).cancel()
            if not tenure.lost.is_set():
                await tenure.drain()
            else:
                self._tally.leases_lost += 1
                if tenure.keeper.over:
                    self._survived.update(tenure.runs)
                logger.error("worker %s lost its lease; it registers again with nothing in hand", self.name)
            await tenure.end()
            self._tenure = None

    async def _begun(self, tenure: Tenure) -> bool:
        """Start it; False when the worker is stopped meanwhile and the store is silent."""
        starting = await self._or_stop(self._register(tenure))
        await asyncio.wait([starting], timeout=SILENCE)
        await end([starting])
        if starting.cancelled():
            return False
        starting.result()
        return True

    async def _register(self, tenure: Tenure) -> None:
        if self._survived:
            await self._client.store.absolve(sorted(self._survived))
            self._survived.clear()
        await tenure.start()

    async def _or_stop(self, other: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Wait for ``other`` or until the worker is stopped; return the task, which may not be over then."""
        waits = [asyncio.create_task(other), asyncio.create_task(self._stopping.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waits[1].cancel()
        return waits[0]


def _by_name(
    items: Iterable[Any], kind: type[Workflow[..., Any]] | type[Activity[..., Any]], where: str
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        if not isinstance(item, kind):
            message = f"{where} takes decorated functions; {item!r} is not one: use @{kind.__name__.lower()}.define"
            raise DefinitionError(message)
        if item.name in found and found[item.name] is not item:
            message = f"two definitions are called {item.name}; give one of them another name: define(name=...)"
            raise DefinitionError(message)
        found[item.name] = item
    return found
