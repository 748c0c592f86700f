"""The client: start workflows, talk to them, wait for results.

What lives here: `Client` and `WorkflowHandle`. What must not: SQL, rendering,
Kubernetes. The CLI, the operator and users call it.
"""

import os
import uuid
from collections.abc import Callable, Sequence
from os import urandom
from time import time_ns
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, cast, overload

from perdure.engine.loop import running
from perdure.engine.run import current
from perdure.errors import (
    DefinitionError,
    PerdureError,
    RequestError,
    StoreError,
    WorkflowClosedError,
    WorkflowIdInUseError,
    WorkflowNotFoundError,
)
from perdure.listening import Hints
from perdure.model.events import (
    ClosedFromOutside,
    Closing,
    Incoming,
    SignalReceived,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionCompleted,
)
from perdure.model.failure import outcome_error
from perdure.model.hints import Audience, Hint
from perdure.model.ids import check_id, new_id, new_seed
from perdure.model.payload import LIMIT, Reader, check_size, encode
from perdure.model.policies import Duration, seconds
from perdure.model.runs import HistoryEvent, NewRun, RunId, RunSummary, Started, states_of
from perdure.store.base import ReadStore, RunFilter, Store, Taker
from perdure.watcher import Watcher
from perdure.workflow import Signal, Workflow

R = TypeVar("R")
T = TypeVar("T")

DEFAULT_NAMESPACE = "default"


class FullStore(Store, ReadStore, Protocol):
    """A store that can be read and written."""


async def open_store(url: str) -> FullStore:
    """Open the store that a URL names: ``postgresql://…`` or ``memory://``.

    Raises `StoreError` for another scheme, `SchemaVersionError` for a database
    that was not migrated, `StoreUnavailableError` when nobody answers.
    """
    scheme = url.partition("://")[0]
    if scheme in ("postgresql", "postgres"):
        from perdure.store.postgres import PostgresStore

        return await PostgresStore.connect(url)
    if scheme == "memory":
        from perdure.store.memory import MemoryStore

        return MemoryStore()
    message = f"no store knows the scheme {scheme!r}; use postgresql://user@host/database or memory://"
    raise StoreError(message)


class WorkflowHandle(Generic[R]):
    """A workflow instance, typed by what its workflow returns."""

    def __init__(
        self, client: "Client", instance: str, run_id: RunId | None, result: Reader, *, open_at: float | None = None
    ) -> None:
        self._client = client
        self._result = result
        self._open_at = open_at
        self.id = instance
        self.run_id = run_id

    async def result(self) -> R:
        """Wait until the run closes and return what the workflow returned.

        Raises `WorkflowFailedError`, `WorkflowCancelledError`,
        `WorkflowTerminatedError` or `WorkflowTimedOutError` when it closed
        without a result, `PayloadError` when the result does not fit the type.
        """
        run_id = self.run_id if self.run_id is not None else await self._run_id()
        outcome = await self._client.outcome(self.id, run_id, open_at=self._open_at)
        if isinstance(outcome, WorkflowExecutionCompleted):
            return cast("R", self._result.read(outcome.result, f"the result of {self.id}"))
        raise outcome_error(self.id, outcome)

    @overload
    async def signal(self, signal: Signal[T], payload: T) -> None: ...
    @overload
    async def signal(self, signal: str, payload: Any = None) -> None: ...

    async def signal(self, signal: Signal[Any] | str, payload: Any = None) -> None:
        """Deliver a message.

        Raises `WorkflowNotFoundError` or `WorkflowClosedError`. What is accepted waits until the run asks for it, and
        the run does not close by itself before it could have: if something comes while its last turn is being written,
        that turn is taken again. What it has not asked for when it closes goes with it. What the receiver could not
        read raises `PayloadError`, if the signal is given as it was declared and not by name.
        """
        name = signal if isinstance(signal, str) else signal.name
        raw = encode(payload, f"signal {name}")
        if isinstance(signal, Signal):
            signal.reader.read(raw, f"signal {name}")
        check_size(raw, f"signal {name}", self._client.payload_limit)
        await self._client.deliver(self.id, SignalReceived(name, raw, uuid.uuid4().hex))

    async def cancel(self, reason: str = "") -> None:
        """Ask the run to cancel: its code sees `asyncio.CancelledError` and may clean up."""
        await self._client.deliver(self.id, WorkflowExecutionCancelRequested(reason, uuid.uuid4().hex))

    async def terminate(self, reason: str = "") -> None:
        """Close the run now, without asking its code."""
        if await self._client.store.terminate(self._client.namespace, self.id, reason) is None:
            raise await self._client.why_not(self.id)

    async def suspend(self) -> None:
        """Let no worker go on with the run until `resume`: an attempt under way ends first, and nothing is lost.

        Timers and the timeout count on; what became due meanwhile happens after `resume`. A request to cancel ends it.
        Raises `WorkflowNotFoundError`, `WorkflowClosedError`, or `RequestError` for a run that is asked to cancel.
        """
        client = self._client
        run = await client.handle(self.id).describe()
        if await client.store.suspend(client.namespace, self.id, run.run_id, suspended=True) is None:
            if (await client.handle(self.id, run_id=run.run_id).describe()).state.closed:
                raise await client.why_not(self.id, run.run_id)
            message = f"{self.id} is asked to cancel and has to go on to do so"
            raise RequestError(message)

    async def resume(self) -> bool:
        """Let a suspended or held run go on; False when it was neither."""
        client = self._client
        run = await client.handle(self.id).describe()
        suspended = run.suspended and not run.state.closed
        if suspended:
            await client.store.suspend(client.namespace, self.id, run.run_id, suspended=False)
        return await client.store.resume(client.namespace, self.id, run.run_id) is not None or suspended

    async def describe(self) -> RunSummary:
        """Return where the run stands."""
        summary = await self._client.store.describe(self._client.namespace, self.id, self.run_id)
        if summary is None:
            raise _not_found(self.id, self._client.namespace)
        return summary

    async def history(self) -> list[HistoryEvent]:
        """Return every recorded event, in order."""
        return await self._client.store.history(await self._run_id())

    async def _run_id(self) -> RunId:
        if self.run_id is None:
            self.run_id = (await self.describe()).run_id
        return self.run_id

    def __repr__(self) -> str:
        return f"<workflow instance {self.id} run {self.run_id}>"


class Client:
    """A connection to the workflows of one namespace. Use it as a context manager."""

    def __init__(self, source: str | FullStore, namespace: str, payload_limit: int = LIMIT) -> None:
        self._source = source
        self.namespace = namespace
        self.payload_limit = payload_limit
        self._store: FullStore | None = None
        self.watcher: Watcher
        self.hints: Hints

    @classmethod
    def connect(cls, url: str | None = None, *, namespace: str | None = None, payload_limit: int = LIMIT) -> "Client":
        """Return a client for ``async with``.

        ``url`` is ``postgresql://…`` or ``memory://``, by default the
        environment variable ``PERDURE_URL``; ``namespace`` is ``PERDURE_NAMESPACE``
        or ``default``. An input or a signal of more than ``payload_limit`` bytes
        of JSON (2 MiB by default) is refused.
        """
        url = url or os.environ.get("PERDURE_URL")
        if not url:
            message = "no database is named; pass a URL or set PERDURE_URL, such as postgresql://user@host/database"
            raise StoreError(message)
        return cls(url, namespace or os.environ.get("PERDURE_NAMESPACE") or DEFAULT_NAMESPACE, payload_limit)

    @classmethod
    def over(cls, store: FullStore, *, namespace: str = DEFAULT_NAMESPACE, payload_limit: int = LIMIT) -> "Client":
        """Return a client on a store that is open already and stays so: one store can serve many namespaces."""
        return cls(store, namespace, payload_limit)

    @property
    def store(self) -> FullStore:
        """The store, while the client is open. Raises `PerdureError` at any other time, and inside a workflow."""
        if running() is not None:
            _refuse_in_workflow()
        if self._store is None:
            message = "this client is not open; use it inside `async with Client.connect(...) as client:`"
            raise PerdureError(message)
        return self._store

    async def __aenter__(self) -> Self:
        _refuse_in_workflow()
        self._store = await open_store(self._source) if isinstance(self._source, str) else self._source
        self.watcher = Watcher(self._store)
        self.hints = Hints(self._store)
        self.hosts: list[Callable[[NewRun], Taker | None]] = []
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.hints.stop()
        await self.watcher.stop()
        store, self._store = self._store, None
        if store is not None and isinstance(self._source, str):
            await store.close()

    @overload
    async def start(
        self,
        workflow: Workflow[..., R],
        /,
        *args: Any,
        id: str | None = None,
        queue: str = ...,
        timeout: Duration | None = None,
        priority: int = 0,
    ) -> WorkflowHandle[R]: ...
    @overload
    async def start(
        self,
        workflow: str,
        /,
        *args: Any,
        id: str | None = None,
        queue: str = ...,
        timeout: Duration | None = None,
        priority: int = 0,
    ) -> WorkflowHandle[Any]: ...

    async def start(
        self,
        workflow: Workflow[..., Any] | str,
        /,
        *args: Any,
        id: str | None = None,  # noqa: A002  # the word users know
        queue: str = "default",
        timeout: Duration | None = None,
        priority: int = 0,
    ) -> WorkflowHandle[Any]:
        """Start an instance, or return the one that is open under this ``id``.

        ``timeout`` bounds the whole run; one that no worker has (it is held, or none serves its queue) is ended within
        30 seconds by any worker that lives, one that is suspended when it is resumed. Runs of a higher ``priority``
        are claimed first. Raises `WorkflowIdInUseError` when the open instance runs another workflow, `PayloadError`
        when an argument cannot be recorded, `RequestError` for a ``priority`` that is no whole number of 32 bits.
        """
        store, given = self.store, cast("object", workflow)
        if not isinstance(given, Workflow | str):
            message = f"start() takes a function with @workflow.define, or the name of one, not {given!r}"
            raise DefinitionError(message)
        if isinstance(workflow, Workflow):
            name, payload = workflow.name, workflow.signature.encode_call(args, {})
        else:
            name, payload = workflow, encode(args, f"the input of {workflow}")
        noise = urandom(24)
        new = NewRun(
            id=new_id(time_ns() // 1_000_000, noise[11:]) if id is None else id,
            namespace=self.namespace,
            workflow=name,
            queue=queue,
            input=bytes(payload),
            seed=new_seed(noise[:11]),
            timeout=seconds(timeout, "timeout") if timeout is not None else None,
            priority=priority,
        )
        started = await self._start(new, store)
        result = workflow.signature.result if isinstance(workflow, Workflow) else _ANY
        open_at = self.watcher.loop.time() if started.created else None
        return WorkflowHandle(self, new.id, started.run_id, result, open_at=open_at)

    async def start_new(self, new: NewRun) -> RunId:
        """Start a run that is described already."""
        return (await self._start(new, self.store)).run_id

    async def _start(self, new: NewRun, store: FullStore) -> Started:
        check_id(new.id)
        check_size(new.input, f"the input of {new.workflow}", self.payload_limit)
        taker = None
        for host in self.hosts:
            taker = taker or host(new)
        started = await store.start(new, taker)
        if started.workflow != new.workflow:
            message = f"{new.id} is open and runs workflow {started.workflow}, not {new.workflow}; choose another id"
            raise WorkflowIdInUseError(message)
        if started.created and not started.taken:
            self.hints.dispatch(Hint(queues=frozenset({new.queue})))
        return started

    @overload
    def handle(self, id: str, workflow: Workflow[..., R], *, run_id: int | None = None) -> WorkflowHandle[R]: ...
    @overload
    def handle(self, id: str, workflow: None = None, *, run_id: int | None = None) -> WorkflowHandle[Any]: ...

    def handle(
        self,
        id: str,  # noqa: A002  # the word users know
        workflow: Workflow[..., Any] | None = None,
        *,
        run_id: int | None = None,
    ) -> WorkflowHandle[Any]:
        """Return a handle on an instance that was started before (its newest run, unless ``run_id`` says which)."""
        _refuse_in_workflow()
        result = workflow.signature.result if workflow is not None else _ANY
        return WorkflowHandle(self, id, RunId(run_id) if run_id is not None else None, result)

    async def list(
        self, *, workflow: str | None = None, phases: Sequence[str] = (), limit: int = 50, before: int | None = None
    ) -> "list[RunSummary]":
        """Return runs, newest first; ``before`` is the run id of the last row of the page before.

        Of a result of more than 16 KB they have the beginning and the size; `WorkflowHandle.describe` has all of it.
        """
        where = RunFilter(
            workflow=workflow,
            states=states_of(phases),
            limit=limit,
            before=RunId(before) if before is not None else None,
        )
        return await self.store.list_runs(self.namespace, where)

    async def outcome(
        self, instance: str, run_id: RunId, *, open_at: float | None = None
    ) -> Closing | ClosedFromOutside:
        """Wait until the run of the instance closes and return its last event. It was open at ``open_at``."""
        _ = self.store  # which refuses what nobody would ever wake
        self.hints.add(self.watcher.on_hint, Audience.CLIENTS)
        return await self.watcher.outcome(instance, run_id, open_at=open_at)

    async def deliver(self, instance: str, event: Incoming) -> None:
        """Put a message into the inbox of an open instance."""
        if await self.store.deliver(self.namespace, instance, event) is None:
            raise await self.why_not(instance)

    async def why_not(self, instance: str, run_id: RunId | None = None) -> WorkflowNotFoundError | WorkflowClosedError:
        """Return the error that says why a message did not arrive."""
        summary = await self.store.describe(self.namespace, instance, run_id)
        if summary is None:
            return _not_found(instance, self.namespace)
        return WorkflowClosedError(f"{instance} is closed ({summary.phase}) and takes no more messages")


_ANY = Reader(Any)


def _not_found(instance: str, namespace: str) -> WorkflowNotFoundError:
    return WorkflowNotFoundError(f"there is no workflow instance {instance} in namespace {namespace}")


def _refuse_in_workflow() -> None:
    run = current()
    if run is not None:
        run.violation("a workflow may not use a client; start other workflows, signal and await them in an activity")
