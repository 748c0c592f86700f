"""Durable timers: what ``asyncio.sleep``, ``timeout`` and ``wait_for`` become.

What lives here: starting, firing, cancelling. What must not: waiting for real
time; the runtime sees `Run.timers` and reports `TimerFired`.
"""

import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from perdure.engine.loop import TimerHandle
from perdure.model.events import TimerCancelled, TimerFired, TimerStarted

if TYPE_CHECKING:
    from perdure.engine.run import Run


def start(
    run: "Run", fire_at: int, callback: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context
) -> TimerHandle:
    """Emit the command and return the handle. The recorded time counts, so that replay keeps the first promise."""
    seq = run.next_seq()
    recorded = run.emit(TimerStarted(seq, fire_at))

    def cancel_timer(number: int) -> None:
        run.emit(TimerCancelled(number))
        del run.timers[number]

    handle = TimerHandle(callback, args, context, seq=seq, fire_at=recorded.fire_at, cancel_timer=cancel_timer)
    run.timers[seq] = handle
    return handle


def fired(run: "Run", event: TimerFired) -> bool:
    """Make the callback ready; False when nobody waits for it any more."""
    handle = run.timers.pop(event.seq, None)
    if handle is None:
        return False
    handle.fired = True
    run.loop.push(handle)
    return True
