"""Guards around a turn: reading the outside world inside workflow code holds the run.

What lives here: wrappers for ``time``, ``random``, ``uuid`` and ``os.urandom``,
and an audit hook for files, sockets, processes and threads. What must not:
rules for anything but a turn; outside one, every wrapper is a pass-through. A
worker installs it once for the process; it cannot be taken out again, because
audit hooks cannot.

What cannot be guarded at run time: ``datetime.now()`` (a method of an immutable
C type; use ``workflow.now()``), a ``random.Random()`` without a seed, the order
of a set of texts, the environment, and what was imported by name before the
worker was made.
"""

import asyncio
import os
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable
from functools import wraps
from types import FrameType, SimpleNamespace
from typing import Any

from perdure.engine.loop import RunFuture, RunLoop, RunTask, running

_CLOCKS = (
    "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "clock_gettime",
    "clock_gettime_ns", "process_time", "process_time_ns", "thread_time", "thread_time_ns",
)  # fmt: skip
_CLOCKS_BY_DEFAULT = {"localtime": 0, "gmtime": 0, "ctime": 0, "asctime": 0, "strftime": 1}
"""They read the clock when no more than so many arguments are given."""
_RANDOM = (
    "betavariate", "binomialvariate", "choice", "choices", "expovariate", "gammavariate", "gauss", "getrandbits",
    "lognormvariate", "normalvariate", "paretovariate", "randbytes", "randint", "random", "randrange", "sample",
    "shuffle", "triangular", "uniform", "vonmisesvariate", "weibullvariate",
)  # fmt: skip

# Machinery that may read clocks and files on behalf of harmless code: imports, log records, tracebacks.
_TRUSTED = ("importlib", "logging", "linecache", "tokenize", "traceback", "warnings", "zipimport", "inspect")

_AUDITED = {
    "open": "opened the file {0!r}; read and write files in an activity",
    "os.listdir": "listed the directory {0!r}; do that in an activity",
    "os.scandir": "listed the directory {0!r}; do that in an activity",
    "os.remove": "removed {0!r}; do that in an activity",
    "os.rename": "renamed {0!r}; do that in an activity",
    "os.mkdir": "made the directory {0!r}; do that in an activity",
    "os.system": "ran a shell command; do that in an activity",
    "os.exec": "replaced the process; do that in an activity",
    "os.fork": "forked; start processes in an activity",
    "os.posix_spawn": "started a process; do that in an activity",
    "subprocess.Popen": "started a process; do that in an activity",
    "socket.__new__": "opened a socket; use the network in an activity",
    "socket.connect": "connected a socket; use the network in an activity",
    "socket.getaddrinfo": "looked up a host name; use the network in an activity",
    "socket.gethostbyname": "looked up a host name; use the network in an activity",
    "socket.gethostname": "asked for the name of the host, which differs between workers; ask in an activity",
    "sqlite3.connect": "opened the database {0!r}; do that in an activity",
    "_thread.start_new_thread": "started a thread; call a synchronous activity instead",
}

_installed = False


def install() -> None:
    """Put the guards in place for this process; later calls do nothing."""
    global _installed  # noqa: PLW0603  # audit hooks are global to the process
    if _installed:
        return
    _installed = True
    # The event loop around a turn asks for the time all the time, and may.
    asyncio.base_events.time = SimpleNamespace(  # type: ignore[attr-defined]
        monotonic=time.monotonic, get_clock_info=time.get_clock_info
    )
    for name in _CLOCKS:
        _differs(time, name, "use workflow.now() or asyncio.get_running_loop().time()")
    for name, given in _CLOCKS_BY_DEFAULT.items():
        _differs(time, name, "use workflow.now()", unless_given=given)
    _differs(time, "sleep", "use await asyncio.sleep(); it is a durable timer in a workflow")
    for name in _RANDOM:
        _differs(random, name, f"use workflow.random().{name}()")
    for name in ("uuid1", "uuid4"):
        _differs(uuid, name, "use workflow.uuid4()")
    for name in ("urandom", "getrandom"):
        _differs(os, name, "use workflow.random().randbytes() or workflow.uuid4()")
    _wrap(threading.Thread, "start", _AUDITED["_thread.start_new_thread"])  # audited from Python 3.12 on only
    random._urandom = os.urandom  # type: ignore[attr-defined]  # noqa: SLF001  # SystemRandom and secrets read this name
    _order_waits()
    _order_sets()
    _keep_to_their_runs()
    _let_ignored_exceptions_be_shown()
    sys.addaudithook(_audit)


def _differs(module: Any, name: str, instead: str, unless_given: int | None = None) -> None:
    if hasattr(module, name):  # not every system has all of them
        _wrap(module, name, f"{module.__name__}.{name}() differs on replay; {instead}", unless_given)


def _wrap(owner: Any, name: str, message: str, unless_given: int | None = None) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    @wraps(original)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        loop = running()
        harmless = unless_given is not None and len(args) > unless_given
        if loop is not None and loop.guarded and not harmless and not trusted(sys._getframe(1)):  # noqa: SLF001
            loop.host.violation(message)
        return original(*args, **kwargs)

    setattr(owner, name, guarded)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    message = _AUDITED.get(event)
    if message is None:
        return
    loop = running()
    if loop is None or not loop.guarded or trusted(sys._getframe(1)):  # noqa: SLF001
        return
    if not (event == "open" and _is_time_zone(args[0])):
        loop.host.violation("the workflow " + message.format(*args))


def _is_time_zone(path: Any) -> bool:
    zones = sys.modules.get("zoneinfo")  # its part in C opens files by itself
    return zones is not None and isinstance(path, str) and path.startswith(tuple(zones.TZPATH))


def trusted(frame: FrameType | None) -> bool:
    """Tell whether a trusted module is at work between this frame and the workflow's loop below it."""
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name == RunLoop.__module__:  # what lies below is the worker, not the workflow
            return False
        if name.partition(".")[0] in _TRUSTED or frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _let_ignored_exceptions_be_shown() -> None:
    """Do not blame the workflow for the file that Python opens to show where a ``__del__`` raised."""
    original = sys.unraisablehook

    @wraps(original)
    def shown(unraisable: Any) -> None:
        loop = running()
        if loop is None:
            original(unraisable)
            return
        guarded, loop.guarded = loop.guarded, False
        try:
            original(unraisable)
        finally:
            loop.guarded = guarded

    sys.unraisablehook = shown


def _order_waits() -> None:
    """Hold a run that waits for what has no lasting order in a set, and let `as_completed` start in the order given."""
    wait, as_completed = asyncio.wait, asyncio.as_completed
    lasting = (RunTask, RunFuture, asyncio.tasks._GatheringFuture)  # type: ignore[attr-defined]  # noqa: SLF001

    def looked_at(loop: RunLoop, futures: list[Any]) -> list[Any]:
        for future in futures:
            if asyncio.isfuture(future) and not isinstance(future, lasting):
                loop.host.violation(
                    f"sets of what asyncio.{type(future).__name__}() makes are in another order on replay; "
                    "use asyncio.get_running_loop().create_future(), or asyncio.create_task()"
                )
        return futures

    @wraps(wait)
    def ordered_wait(fs: Any, **kwargs: Any) -> Any:
        loop = running()
        return wait(fs if loop is None else looked_at(loop, list(fs)), **kwargs)

    @wraps(as_completed)
    def ordered(fs: Any, **kwargs: Any) -> Any:
        loop = running()
        if loop is not None:
            fs = looked_at(loop, [asyncio.ensure_future(awaitable) for awaitable in fs])
        return as_completed(fs, **kwargs)

    asyncio.wait = ordered_wait
    asyncio.tasks.wait = ordered_wait
    asyncio.as_completed = ordered
    asyncio.tasks.as_completed = ordered


def _order_sets() -> None:
    """Let sets of what ``asyncio.gather`` returns, and of all tasks, iterate on replay as they did before."""
    # Not a hash from the run's sequence, which would shift those that follow.
    asyncio.tasks._GatheringFuture.__hash__ = lambda self: hash(tuple(self._children))  # type: ignore[attr-defined]  # noqa: SLF001
    original = asyncio.all_tasks

    @wraps(original)
    def ordered(loop: asyncio.AbstractEventLoop | None = None) -> Any:
        turn = running()
        return set(turn.open_tasks()) if turn is not None and loop in (None, turn) else original(loop)

    asyncio.all_tasks = ordered
    asyncio.tasks.all_tasks = ordered


def _keep_to_their_runs() -> None:
    """Hold a run that waits for a lock, an event or a queue that other runs share, and of which no history tells."""
    mixin: Any = asyncio.mixins._LoopBoundMixin  # noqa: SLF001
    original = mixin._get_loop  # noqa: SLF001

    def new(cls: Any, *args: Any, **kwargs: Any) -> Any:
        above = super(mixin, cls).__new__
        made = above(cls) if above is object.__new__ else above(cls, *args, **kwargs)
        turn = running()
        if turn is not None and not trusted(sys._getframe(1)):  # noqa: SLF001  # what an import makes is everybody's
            made._loop = turn  # noqa: SLF001
        return made

    @wraps(original)
    def get_loop(self: Any) -> Any:
        turn = running()
        if turn is not None and self._loop is not turn:
            turn.host.violation(
                f"the workflow waits for an asyncio.{type(self).__name__} that was made outside of this run, such as "
                "at the top of a module: other runs share it, and no replay repeats what they do; make it in the run"
            )
        return original(self)

    mixin.__new__ = new
    mixin._get_loop = get_loop  # noqa: SLF001
