"""The watchdog of an event loop: who keeps it from moving, and an end to turns that do not end by themselves.

What lives here: the thread that looks, the report with the stack, and the
interruption of a turn. What must not: leases (`lease` asks how long the loop has
been silent) and runs beyond the one that is stuck. `lease` starts one for each
registration.

A turn costs nothing here: it shows its loop to `turning` while its callbacks
run, and looks once, on its way out, whether somebody has set an alarm. The rest
is done a few times a second from a thread. The exception that the thread raises
in a stuck turn is `RunEvicted`, after the run was given a fault; it can land
nowhere else, because a turn does not leave before the alarm is settled:

* the thread sets the alarm, and only then looks whether the turn is still there;
* the turn hides from `turning`, and only then looks for an alarm.

So either the thread sees that the turn has left, or the turn sees the alarm,
waits for the thread to decide, and takes back what was not delivered.

Patience is counted in the computing time of the loop's thread and in looks, not
by the clock: a process that was stopped, or starved by others, is not stuck.
"""

import asyncio
import ctypes
import logging
import sys
import threading
import time
import traceback
from types import FrameType

from perdure.engine import loop as engine_loop
from perdure.engine.loop import RunLoop, turning
from perdure.engine.run import Run
from perdure.errors import RunEvicted, TurnTimedOutError

from .guard import trusted

logger = logging.getLogger("perdure.worker")

LOOK = 0.25
"""Seconds between two looks, and between two signs of life of the event loop."""
FRAMES = 40
"""Most lines of a stack that are reported, innermost last."""

_one_at_a_time = threading.Lock()


class Alarm:
    """Set at the loop of a turn that does not end. `settle` is the turn's half of the handshake."""

    def __init__(self, loop: RunLoop, thread: int) -> None:
        self.deciding = True
        self.raised = False
        self._loop = loop
        self._thread = thread

    def settle(self) -> None:
        """Return when nothing can reach this thread any more. To be called again if `RunEvicted` comes out of it."""
        while self.deciding:
            pass  # for as long as the other thread takes for three lines; no lock, as it could be left behind
        raise_in(self._thread, None)
        self._loop.alarm = None


class Watchdog:
    """Watches the event loop that it is made in.

    ``turn`` is how many seconds a turn may compute; ``silence`` how many the
    loop may be silent before its worker is given up.
    """

    def __init__(self, turn: float, silence: float, look: float = LOOK) -> None:
        self._limit = min(turn, silence / 2)
        self._waiting_limit = silence / 2
        self._look = look
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._clock = time.pthread_getcpuclockid(self._thread) if hasattr(time, "pthread_getcpuclockid") else None
        self._stopped = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="perdure-watchdog", daemon=True)
        self._pulse = time.monotonic()
        self._pulse_handle: asyncio.TimerHandle | None = None
        self._case: object = None
        self._looks = 0
        self._computed = 0.0
        self._patience = 1

    def start(self) -> None:
        """Watch from now on."""
        self._beat()
        self._watcher.start()

    async def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()
        if self._pulse_handle is not None:
            self._pulse_handle.cancel()
        if self._watcher.is_alive():
            await self._loop.run_in_executor(None, self._watcher.join)

    def silence(self) -> float:
        """Return the seconds since the loop last gave a sign of life."""
        return time.monotonic() - self._pulse

    def stack(self) -> str:
        """Return what the loop's thread is doing, outermost first; in a turn, the part that is the workflow's."""
        return _told(sys._current_frames().get(self._thread))  # noqa: SLF001  # the documented way to another thread's stack

    def _beat(self) -> None:
        self._pulse = time.monotonic()
        self._pulse_handle = self._loop.call_later(LOOK, self._beat)

    def _watch(self) -> None:
        while not self._stopped.wait(self._look):
            try:
                loop = turning(self._loop)
                if loop is None:
                    self._look_at_loop()
                else:
                    self._look_at_turn(loop)
            except Exception:
                logger.exception("the watchdog of the event loop failed; it looks again")

    def _is_due(self, case: object) -> bool:
        """Tell whether this case, which is the same as at the last look, has had its time."""
        if case != self._case:
            self._case, self._looks, self._computed, self._patience = case, 0, self._computing_time(), 1
            return False
        self._looks += 1
        computed = self._computing_time() - self._computed
        waited = self._looks * self._look
        return computed >= self._limit * self._patience or waited >= self._waiting_limit * self._patience

    def _computing_time(self) -> float:
        return time.clock_gettime(self._clock) if self._clock is not None else time.monotonic()

    # --- a turn -------------------------------------------------------------------

    def _look_at_turn(self, loop: RunLoop) -> None:
        run = loop.host
        assert isinstance(run, Run)
        turns = run.turns
        if not self._is_due((run.info.run_id, run.info.id, turns)):
            return
        if _imports(sys._current_frames().get(self._thread)):  # noqa: SLF001
            self._case = None  # what the first import of a module costs, the turn is not to blame for
            return
        message = (
            f"a turn of {run.info.id} (workflow {run.definition.name}, run {run.info.run_id}) did not end within "
            f"{self._limit:g} s of computing and kept every other run of the worker waiting. Await something in long "
            f"loops, and compute in activities. It was here:\n{self.stack()}"
        )
        if self._interrupt(loop, run, turns, message):
            if self._patience > 1:
                logger.error("although it was interrupted (does it catch BaseException?), %s", message)
            else:
                logger.error("%s", message)
            self._patience *= 2

    def _interrupt(self, loop: RunLoop, run: Run, turns: int, message: str) -> bool:
        """Raise `RunEvicted` in the turn if it is still there; it arrives when Python code runs again."""
        with _one_at_a_time:
            if isinstance(loop.alarm, Alarm) and loop.alarm.raised and self._patience == 1:
                return False  # another worker of this thread has seen it too
            alarm = loop.alarm = Alarm(loop, self._thread)
            try:
                if turning(self._loop) is not loop or run.turns != turns:
                    return False
                # An import or a log record that is cut in the middle would harm others, and ends soon.
                if trusted(sys._current_frames().get(self._thread)):  # noqa: SLF001
                    return False
                if run.fault is None:
                    run.fault = TurnTimedOutError(message)
                alarm.raised = True
                raise_in(self._thread, RunEvicted)
                return True
            finally:
                alarm.deciding = False

    # --- anything else --------------------------------------------------------------

    def _look_at_loop(self) -> None:
        """Report what keeps the loop from moving outside of turns; there is no way to interrupt it."""
        pulse = self._pulse
        if (pulse == self._case and self._patience > 1) or not self._is_due(pulse):
            return
        self._patience = 2
        task = asyncio.current_task(self._loop)
        culprit = task.get_name() if task is not None else "a callback"
        logger.warning(
            "the event loop has not moved for %.1f s, nor any run of this worker; after %g s the lease is given up. "
            "%s is in the way. An activity that does not await belongs in a thread: declare it without async. "
            "It is here:\n%s", self.silence(), 2 * self._waiting_limit, culprit, self.stack(),
        )  # fmt: skip


def raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raise ``error`` in another thread at its next opportunity; None takes back what was not delivered."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), None if error is None else ctypes.py_object(error)
    )


def _imports(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != engine_loop.__file__:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _told(frame: FrameType | None) -> str:
    frames = traceback.extract_stack(frame) if frame is not None else []
    inner = [place for place, found in enumerate(frames) if found.filename == engine_loop.__file__]
    frames = frames[inner[-1] + 1 :] if inner and inner[-1] + 1 < len(frames) else frames
    return "".join(traceback.format_list(frames[-FRAMES:]))
