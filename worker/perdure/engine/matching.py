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
        case _:
            return type(command).__name__


def mismatch(where: str, recorded: object, command: object, at: str) -> NonDeterminismError:
    """Return the error that shows both sides."""
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
    """Return ``file:line`` of the innermost frame on the stack that is in the file of the author's function."""
    author = function.__code__.co_filename
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  # the stack is what we are asked for
    while frame is not None:
        if frame.f_code.co_filename == author:
            return f"{author}:{frame.f_lineno} in {frame.f_code.co_name}"
        frame = frame.f_back
    return ""
