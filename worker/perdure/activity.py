"""The author API for activities: ``@activity.define``, ``info``, ``heartbeat``, ``is_cancelled``.

What lives here: the definition object and the context in which an attempt runs.
What must not: scheduling (the engine) and carrying out (the runtime).
"""

import contextvars
import inspect
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload

import msgspec

from perdure.engine.loop import running
from perdure.engine.primitives.activity import schedule
from perdure.engine.run import Run
from perdure.errors import DefinitionError, PerdureError
from perdure.model.payload import Signature
from perdure.model.policies import ActivityOptions, Duration, RetryPolicy, check_name, seconds

P = ParamSpec("P")
R = TypeVar("R")

__all__ = ["Activity", "ActivityInfo", "define", "heartbeat", "info", "is_cancelled"]


class Activity(Generic[P, R]):
    """A function that a workflow may call as a recorded step.

    Inside a workflow a call schedules the activity at once, and awaiting it
    waits for its result. Anywhere else a call is just a call of the function.
    """

    def __init__(self, function: Callable[P, Any], name: str, options: ActivityOptions) -> None:
        self.function = function
        self.name = name
        self.default_options = options
        self.is_async = inspect.iscoroutinefunction(function)
        self.signature = Signature(function, name)
        self.__doc__ = function.__doc__
        self.__name__ = name
        self.__wrapped__ = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Schedule the activity (inside a workflow), or call the function (anywhere else)."""
        loop = running()
        if loop is None:
            return self.function(*args, **kwargs)  # type: ignore[no-any-return]  # or whatever an ordinary one returns
        run: Run = loop.host  # type: ignore[assignment]  # the host of a RunLoop is its Run
        payload = self.signature.encode_call(args, kwargs)
        return schedule(run, self.name, payload, self.default_options, self.signature.result)  # type: ignore[return-value]  # it is awaited all the same

    def options(
        self,
        *,
        queue: str | None = None,
        timeout: Duration | None = None,
        retry: RetryPolicy | None = None,
        heartbeat_timeout: Duration | None = None,
    ) -> "Activity[P, R]":
        """Return the same activity with other options; what is left out stays as it was defined."""
        other: Activity[P, R] = Activity.__new__(Activity)
        other.__dict__.update(self.__dict__)
        other.default_options = merge_options(self.default_options, queue, timeout, retry, heartbeat_timeout)
        return other

    def __repr__(self) -> str:
        return f"<activity {self.name}>"


def merge_options(
    base: ActivityOptions,
    queue: str | None,
    timeout: Duration | None,
    retry: RetryPolicy | None,
    heartbeat_timeout: Duration | None,
) -> ActivityOptions:
    """Return ``base`` with everything that is not None replaced; raise `DefinitionError` for what is no such option."""
    changes: dict[str, Any] = {}
    if queue is not None:
        changes["queue"] = queue
    if timeout is not None:
        changes["timeout"] = seconds(timeout, "timeout")
    if retry is not None:
        changes["retry"] = retry
    if heartbeat_timeout is not None:
        changes["heartbeat_timeout"] = seconds(heartbeat_timeout, "heartbeat_timeout")
    return replace(base, **changes)


@overload
def define(function: Callable[P, Coroutine[Any, Any, R]], /) -> Activity[P, R]: ...
@overload
def define(function: Callable[P, R], /) -> Activity[P, R]: ...
@overload
def define(
    *,
    name: str | None = None,
    queue: str | None = None,
    timeout: Duration | None = None,
    retry: RetryPolicy | None = None,
    heartbeat_timeout: Duration | None = None,
) -> "_Decorator": ...


def define(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    queue: str | None = None,
    timeout: Duration | None = None,
    retry: RetryPolicy | None = None,
    heartbeat_timeout: Duration | None = None,
) -> Any:
    """Make a function an activity.

    An ``async`` function runs on the worker's event loop, any other one in its
    thread pool. ``timeout`` bounds one attempt and ``heartbeat_timeout`` the
    silence between two heartbeats (a `timedelta` or seconds; none by default);
    ``retry`` says when a failed attempt is followed by another; ``queue`` sends
    the activity to the workers of another task queue.

    Raises `DefinitionError` when parameters or result cannot be recorded, and for an option that is none.
    """
    options = merge_options(ActivityOptions(), queue, timeout, retry, heartbeat_timeout)
    if name is not None:
        check_name(name, "the name of an activity")

    def decorate(function: Callable[..., Any]) -> Activity[Any, Any]:
        if not hasattr(function, "__name__"):
            message = f"@activity.define decorates a function, not {function!r}"
            raise DefinitionError(message)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            message = f"{function.__name__} is a generator, whose steps cannot be recorded: return a list instead"
            raise DefinitionError(message)
        return Activity(function, name or function.__name__, options)

    return decorate if function is None else decorate(function)


class _Decorator:
    """The type of ``define(...)`` with arguments."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Activity[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Activity[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        """Decorate ``function``."""
        raise AssertionError(function)


class ActivityInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt knows about itself.

    ``attempt`` counts from 1, and ``seq`` the steps of the run. ``installation`` names the database among all others.
    ``heartbeat_details`` is what the attempt before said last, or one before it: JSON values.
    """

    name: str
    attempt: int
    queue: str
    workflow_id: str
    run_id: int
    seq: int
    installation: str
    heartbeat_details: Any = None

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of the same step: hand it to the outside world, which may see a step twice.

        It is ``<installation>/<run id>/<seq>``. Every database numbers its runs from 1, and several may talk to one
        payment provider: so the key begins with 12 random digits that the database got with its schema. Of a thousand
        databases two have the same ones with a probability of 2 in a billion, and keys stay short where room is scarce.
        """
        return f"{self.installation}/{self.run_id}/{self.seq}"


class ActivityContext(Protocol):
    """The running attempt, as the runtime sets it up."""

    cancelled: bool

    @property
    def info(self) -> ActivityInfo:
        """What the attempt knows about itself."""

    def beat(self, details: Any) -> None:
        """Take note of a heartbeat; called from any thread."""


context: contextvars.ContextVar[ActivityContext] = contextvars.ContextVar("perdure_activity")


def _context(what: str) -> ActivityContext:
    try:
        return context.get()
    except LookupError:
        message = f"activity.{what}() can only be called while an activity runs on a worker"
        raise PerdureError(message) from None


def info() -> ActivityInfo:
    """Return what the running attempt knows about itself."""
    return _context("info").info


def heartbeat(details: Any = None) -> None:
    """Say that the attempt is alive.

    The next attempt finds the last ``details`` in its info, wherever it is made. They are recorded once a second, as
    JSON: what was a dataclass comes back as a dict. A worker that vanishes takes those of its last second with it.
    Raises `PayloadError` when they cannot be recorded.
    """
    _context("heartbeat").beat(details)


def is_cancelled() -> bool:
    """Whether the workflow stopped waiting, the attempt timed out or the worker is stopping.

    Functions in threads ask this, as a thread cannot be interrupted; in ``async``
    activities ``asyncio.CancelledError`` arrives by itself.
    """
    return _context("is_cancelled").cancelled
