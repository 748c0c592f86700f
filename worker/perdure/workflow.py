"""The author API for workflows: ``@workflow.define`` and what workflow code may ask for.

What lives here: thin calls on the run whose turn is in progress. What must not:
rules of the engine. Everything but ``define`` and ``signal`` raises
`PerdureError` when it is called outside a workflow.
"""

import asyncio
import inspect
import logging
import random as random_module
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from perdure.activity import merge_options
from perdure.engine.primitives import entropy
from perdure.engine.primitives.activity import schedule
from perdure.engine.primitives.side_effect import side_effect as record_side_effect
from perdure.engine.primitives.signal import mailbox
from perdure.engine.run import Run, current
from perdure.errors import (
    DefinitionError,
    DeterminismViolation,
    NonDeterminismError,
    PayloadError,
    PerdureError,
)
from perdure.model.payload import Reader, Signature, check_readable, encode
from perdure.model.policies import ActivityOptions, Duration, RetryPolicy, check_name
from perdure.model.runs import Visible

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

__all__ = [
    "DeterminismViolation",
    "NonDeterminismError",
    "Signal",
    "Workflow",
    "WorkflowInfo",
    "define",
    "execute_activity",
    "info",
    "logger",
    "now",
    "random",
    "set_status",
    "side_effect",
    "signal",
    "uuid4",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Workflow(Generic[P, R]):
    """A workflow definition. Outside a workflow a call is just a call of the function."""

    def __init__(self, function: Callable[P, Coroutine[Any, Any, R]], name: str) -> None:
        self.function = cast("Callable[..., Coroutine[Any, Any, Any]]", function)
        self.name = name
        self.signature = Signature(function, name)
        self.__doc__ = function.__doc__
        self.__name__ = name
        self.__wrapped__ = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Call the function, as in a unit test."""
        if current() is not None:
            message = (
                f"workflow {self.name} is called inside a workflow; this release starts no child workflows. "
                "Share the code as a plain async function, or start it with a client from an activity"
            )
            raise PerdureError(message)
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<workflow {self.name}>"


@overload
def define(function: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
@overload
def define(*, name: str | None = None) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Workflow[P, R]]: ...


def define(function: Callable[..., Any] | None = None, /, *, name: str | None = None) -> Any:
    """Make an ``async`` function a workflow, known by ``name`` (the function's name by default).

    Raises `DefinitionError` when it is not an ``async`` function or its
    parameters cannot be recorded.
    """

    def decorate(function: Callable[..., Any]) -> Workflow[Any, Any]:
        if not inspect.iscoroutinefunction(function):
            message = f"@workflow.define decorates an async function, not {function!r}"
            raise DefinitionError(message)
        return Workflow(function, name or function.__name__)

    if name is not None:
        check_name(name, "the name of a workflow")

    return decorate if function is None else decorate(function)


def _run(what: str) -> Run:
    run = current()
    if run is None:
        message = f"workflow.{what} can only be used while a workflow runs on a worker"
        raise PerdureError(message)
    return run


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowInfo:
    """What a run knows about itself. ``is_replaying`` is for logs and metrics only, never for decisions."""

    id: str
    run_id: int
    namespace: str
    workflow: str
    queue: str
    start_time: datetime
    build_id: str
    is_replaying: bool


def info() -> WorkflowInfo:
    """Return what the run knows about itself."""
    run = _run("info()")
    identity = run.identity()
    return WorkflowInfo(
        id=identity.id,
        run_id=identity.run_id,
        namespace=identity.namespace,
        workflow=identity.workflow,
        queue=identity.queue,
        start_time=_EPOCH + timedelta(microseconds=run.start_time),
        build_id=run.header.build or "",
        is_replaying=run.replaying,
    )


def now() -> datetime:
    """Return the time of the turn, in UTC: the clock of the database, the same on every replay."""
    return _EPOCH + timedelta(microseconds=_run("now()").loop.now)


def uuid4() -> uuid.UUID:
    """Return a random uuid that is the same on every replay."""
    return entropy.uuid4(_run("uuid4()"))


def random() -> random_module.Random:
    """Return the run's random generator, seeded by its start. Uuids come from another stream."""
    return entropy.stream(_run("random()"), "random")


def side_effect(function: Callable[[], T], result_type: Any = Any) -> T:
    """Call ``function`` once, record what it returns, and return the recorded value ever after.

    For values that are cheap to get and may differ next time: a configuration
    flag, a host name. What takes time belongs in an activity, and so does what
    changes anything: a turn that could not be recorded is taken again, and
    calls ``function`` again. An exception is recorded too, and raised as
    `ApplicationError` ever after; the function may not ask the workflow for
    anything (activities, random numbers, messages).
    """
    return cast("T", record_side_effect(_run("side_effect()"), function, Reader(result_type)))


def set_status(text: str = "", progress: str = "") -> None:
    """Show people how far the run is: one line of text, and progress such as ``3/7``."""
    run = _run("set_status()")
    run.check_may_ask()
    run.visible = Visible(text=str(text)[:1024], progress=str(progress)[:64])


def execute_activity(
    name: str,
    *args: Any,
    result_type: Any = Any,
    queue: str | None = None,
    timeout: Duration | None = None,
    retry: RetryPolicy | None = None,
    heartbeat_timeout: Duration | None = None,
) -> "asyncio.Future[Any]":
    """Call an activity by its name, for code that does not have the function."""
    run = _run("execute_activity()")
    check_name(name, "the name of an activity")
    options = merge_options(ActivityOptions(), queue, timeout, retry, heartbeat_timeout)
    return schedule(run, name, encode(args, f"the input of {name}"), options, Reader(result_type))


class Signal(Generic[T]):
    """A named channel of typed messages to a run; see `signal`."""

    def __init__(self, name: str, message_type: Any) -> None:
        self.name = name
        self.reader = Reader(message_type)
        check_readable((message_type,), f"signal {name}")  # every message would be skipped

    async def receive(self) -> T:
        """Wait for the next message. Messages of one name arrive in the order in which they were delivered.

        A message that does not fit the type is logged and skipped; it stays in the history.
        """
        run = _run("Signal.receive()")
        while True:
            raw = await mailbox(run, self.name).get()
            try:
                return cast("T", self.reader.read(raw, f"signal {self.name}"))
            except PayloadError as error:
                logger.warning("skipped a message: %s", error)

    def receive_nowait(self) -> T:
        """Return a message that has already arrived; raise `asyncio.QueueEmpty` when there is none."""
        run = _run("Signal.receive_nowait()")
        run.check_may_ask()
        while True:
            raw = mailbox(run, self.name).get_nowait()
            try:
                return cast("T", self.reader.read(raw, f"signal {self.name}"))
            except PayloadError as error:
                logger.warning("skipped a message: %s", error)

    async def __aiter__(self) -> AsyncIterator[T]:
        """Yield messages for ever."""
        while True:
            yield await self.receive()

    def __repr__(self) -> str:
        return f"<signal {self.name}>"


@overload
def signal(name: str, message_type: type[T], /) -> Signal[T]: ...
@overload
def signal(name: str, message_type: Any = ..., /) -> Signal[Any]: ...


def signal(name: str, message_type: Any = Any, /) -> Signal[Any]:
    """Declare a signal: ``await approve.receive()`` in the workflow, ``await handle.signal(approve, True)`` outside.

    Declare it at module level to use one object on both sides, or anywhere in
    the workflow: a signal is known by its name, and messages wait for their receiver.
    """
    return Signal(name, message_type)


class _RunLogger(logging.LoggerAdapter[logging.Logger]):
    """Silent while history is replayed, and when a run is given up. Adds the instance and the run."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # the name is logging's
        """Whether the record would be written now."""
        run = current()
        return (run is None or not (run.replaying or run.tearing_down)) and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add namespace, ids and name of the workflow to the record, and the id to the text."""
        run = current()
        if run is None:
            return msg, kwargs
        identity = run.identity()
        known = {"workflow_id": identity.id, "run_id": identity.run_id, "workflow": identity.workflow}
        kwargs["extra"] = {"namespace": identity.namespace, **known, **(kwargs.get("extra") or {})}
        return f"[{identity.id}] {msg}", kwargs


def _say_or_keep(record: logging.LogRecord) -> bool:
    """Keep what a turn logs that is not recorded yet and may be dropped: it would be said again by the next owner."""
    run = current()
    if run is None or run.unsaid is None:
        return True
    record.msg, record.args = record.getMessage(), ()  # what it speaks of may change
    run.unsaid.append(record)
    return False


logger = _RunLogger(logging.getLogger("perdure.workflow"), {})
"""The logger for workflow code."""
logger.logger.addFilter(_say_or_keep)
