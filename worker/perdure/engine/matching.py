"""Code against history: whether a command equals the recorded one.

What lives here: the comparison (kind, name, target) and the words of the error.
What must not: state. `run.Run` asks for every command of a replayed turn.
"""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, assert_never

from perdure.errors import NonDeterminismError
from perdure.model.events import (
    ActivityCancelRequested,
    ActivityScheduled,
    Command,
    SideEffectFailed,
    SideEffectRecorded,
    TimerCancelled,
    TimerStarted,
    WorkflowExecutionCancelled,
    WorkflowExecutionCompleted,
    WorkflowExecutionFailed,
)

from .loop import RunLoop, running


def same(recorded: object, command: Command) -> bool:
    """Tell whether the code asked again for what history says it asked for."""
    match command:
        case ActivityScheduled():  # a pattern with its fields costs more than to compare them
            if type(recorded) is not ActivityScheduled:
                return False
            target = recorded.name == command.name and recorded.queue == command.queue
            return target and recorded.seq == command.seq
        case SideEffectRecorded() | SideEffectFailed():
            return isinstance(recorded, SideEffectRecorded | SideEffectFailed) and recorded.seq == command.seq
        case ActivityCancelRequested() | TimerStarted() | TimerCancelled():
            return type(recorded) is type(command) and bool(getattr(recorded, "seq") == command.seq)  # noqa: B009  # the same type
        case WorkflowExecutionCompleted() | WorkflowExecutionFailed() | WorkflowExecutionCancelled():
            return type(recorded) is type(command)
        case _ as never:
            assert_never(never)


def spell(command: object) -> str:
    """Return a command in words: kind, number, name."""
    match command:
        case None:
            return "nothing more in this turn"
        case ActivityScheduled(seq=seq, name=name, queue=queue):
            return f"ActivityScheduled #{seq} {name}" + (f" on queue {queue}" if queue else "")
        case ActivityCancelRequested(seq=seq) | TimerCancelled(seq=seq) | TimerStarted(seq=seq):
            return f"{type(command).__name__} #{seq}"
        case SideEffectRecorded(seq=seq) | SideEffectFailed(seq=seq):
            return f"{type(command).__name__} #{seq}"
        case WorkflowExecutionFailed(failure=failure):
            return f"WorkflowExecutionFailed with {failure.type}: {failure.message}"
        case _:
            return type(command).__name__


def mismatch(where: str, recorded: object, command: object, at: str) -> NonDeterminismError:
    """Return the error that shows both sides."""
    if isinstance(command, WorkflowExecutionFailed):
        frames = [line for line in command.failure.traceback.splitlines() if line.startswith("  File ")]
        at = frames[-1].strip() if frames else at
    lines = [
        f"the code of {where} does not do what its history says:",
        f"  history has   {spell(recorded)}",
        f"  the code has  {spell(command)}",
    ]
    if at:
        lines.append(f"  at            {at}")
    lines.append("The run is held and nothing is lost. Deploy code that does the same again, and the run goes on.")
    return NonDeterminismError("\n".join(lines))


def code_position(function: Callable[..., Any]) -> str:
    """Return ``file:line`` of the innermost frame of this turn that is in the file of the author's function.

    A task of another file has none there: then it is the innermost one that is neither asyncio's nor ours.
    """
    frame: FrameType | None = sys._getframe(1) if running() is not None else None  # noqa: SLF001  # the stack is what we are asked for
    elsewhere = ""
    while frame is not None and frame.f_code is not RunLoop._run.__code__:  # noqa: SLF001  # below it is the worker
        if frame.f_code.co_filename == function.__code__.co_filename:
            return _spelled(frame)
        if not elsewhere and frame.f_globals.get("__name__", "").partition(".")[0] not in ("perdure", "asyncio"):
            elsewhere = _spelled(frame)
        frame = frame.f_back
    return elsewhere


def waiting_position(function: Callable[..., Any], waiting: Any) -> str:
    """Return where a coroutine waits, in the file of the author's function."""
    place = ""
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None)
        if frame is not None and frame.f_code.co_filename == function.__code__.co_filename:
            place = f"{_spelled(frame)}, where it waits"
        waiting = getattr(waiting, "cr_await", None)
    return place


def _spelled(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
