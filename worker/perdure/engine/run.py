"""One run: its event loop, what it waits for, and how a turn goes.

What lives here: the state of a run and the two ways to move it, `replay_turn`
(a recorded turn, every command matched) and `turn` (a new one, commands
collected). What must not: anything that waits, logs or stores. `replay` and the
runtime call it; workflow code reaches it through `current`.
"""

import asyncio
import contextvars
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NoReturn, Protocol, TypeVar, get_args

import msgspec

from perdure.errors import (
    DeterminismViolation,
    EngineFault,
    NonDeterminismError,
    PayloadTooLargeError,
    PerdureError,
    RunEvicted,
    UnknownWorkflowError,
)
from perdure.model.events import (
    ActivityAttemptFailed,
    ActivityCompleted,
    ActivityFailed,
    Closing,
    Command,
    Event,
    Incoming,
    SignalReceived,
    TimerFired,
    Turn,
    TurnHeader,
    WorkflowExecutionCancelled,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionCompleted,
    WorkflowExecutionFailed,
    WorkflowExecutionStarted,
    WorkflowExecutionTerminated,
    WorkflowExecutionTimedOut,
)
from perdure.model.failure import record
from perdure.model.payload import LIMIT, Signature, check_size, encode, too_large
from perdure.model.runs import UNBORN, RunInfo, Visible

from . import flags as logic
from . import headers, matching
from .loop import RunLoop, RunTask, TimerHandle, running
from .primitives import activity, entropy, signal, timer
from .teardown import end_tasks

C = TypeVar("C", bound=Command)


class Definition(Protocol):
    """A workflow as the engine needs it; the author API builds these."""

    name: str
    signature: Signature
    function: Callable[..., Coroutine[Any, Any, Any]]


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What a turn came to.

    ``turn`` is to be recorded; None when nothing that came was wanted.
    ``commands`` are the tail of its events.
    """

    turn: Turn | None
    commands: tuple[Command, ...]
    closing: Closing | None
    visible: Visible | None


class Run:
    """A run at some point of its history. Not thread-safe; belongs to one owner."""

    def __init__(self, definition: Definition, info: RunInfo) -> None:
        self.definition = definition
        self.info = info
        self.seed = ""
        self._header = TurnHeader(time=0)
        self.start_time = 0
        self.turns = 0
        self.activities: dict[int, activity.PendingActivity] = {}
        self.timers: dict[int, TimerHandle] = {}
        self.mailboxes: dict[str, asyncio.Queue[msgspec.Raw]] = {}
        self.message_ids: set[str] = set()
        self.streams: dict[str, random.Random] = {}
        self.visible: Visible | None = None
        self.unsaid: list[Any] | None = None
        """Where a turn that may be dropped leaves what it logs."""
        self.payload_limit = LIMIT
        self.fault: EngineFault | None = None
        self.tearing_down = False
        self.cancel_reason: str | None = None
        self.closed = False
        self.loop = RunLoop(self)  # type: ignore[abstract]  # every method that is left abstract refuses
        self._main: RunTask[Any] | None = None
        self._seq = 0
        self._commands: list[Command] = []
        self._recorded: Sequence[Command] | None = None
        self._matched = 0
        self._flags = logic.CURRENT
        self._fresh = False

    # --- moving -------------------------------------------------------------

    @property
    def header(self) -> TurnHeader:
        """What holds for the last turn, whether it said so itself or a turn before it did."""
        return headers.at(self.loop.now, self._header)

    @property
    def replaying(self) -> bool:
        """Whether the current turn is one from history."""
        return self._recorded is not None

    @property
    def stopped(self) -> bool:
        """Whether the turn must not go on: it cannot be recorded."""
        return self.fault is not None and not self.tearing_down

    def replay_turn(self, turn: Turn) -> None:
        """Run a recorded turn again.

        Raises `NonDeterminismError` when the code does not do what the turn
        says it did; the run is of no use afterwards.
        """
        if turn.seq != self.turns:
            message = f"turn {self.turns} of {self.info.id} is missing: its history goes on with turn {turn.seq}"
            raise NonDeterminismError(message)
        events = turn.events
        first = 0  # of the commands: they come last
        while first < len(events) and type(events[first]) in _APPLY:
            first += 1
        recorded = events[first:]
        if recorded and type(recorded[-1]) in _FROM_OUTSIDE:
            self.closed = True
            recorded = recorded[:-1]
        self._begin(turn.header, recorded)  # type: ignore[arg-type]  # neither incoming nor from outside
        for event in events[:first]:
            if not _APPLY[type(event)](self, event):
                raise self._mismatch(event, None)
        # Turn 0 has a worker when it was taken together with the start.
        if (turn.seq > 0 or turn.header.worker is not None) and not self.closed:
            self._step()
            if self._matched < len(recorded):
                raise self._mismatch(recorded[self._matched], None)
        self._recorded = None

    def turn(self, header: TurnHeader, incoming: Sequence[Incoming]) -> Decision:
        """Apply what happened, run the code until it waits, and return what it asked for.

        Incoming events that the run does not wait for (any more) are left out of
        the decision. Raises `EngineFault` when the turn must not be recorded.
        """
        before = self._header = self.header
        self._commands = []
        self._begin(header, None)
        applied: list[Event] = [event for event in incoming if _APPLY[type(event)](self, event)]
        if not applied and not self._fresh:
            self.turns -= 1
            self._header = before  # what is not recorded must not be inherited by the next turn
            self.loop.now = before.time
            return Decision(None, (), None, None)
        self._step()
        visible, self.visible = self.visible, None
        commands = tuple(self._commands)
        closing: Closing | None = None
        if self.closed and commands and type(commands[-1]) in _CLOSING:
            closing = commands[-1]  # type: ignore[assignment]  # what it is has just been asked
        turn = Turn(self.turns - 1, headers.difference(before, self._header), (*applied, *commands))
        return Decision(turn, commands, closing, visible)

    def _begin(self, header: TurnHeader, recorded: Sequence[Command] | None) -> None:
        self.turns += 1
        if recorded is not None and headers.says_only_the_time(header):  # nearly all of a history
            self.loop.now = max(self.loop.now, header.time)
        else:
            before = self._header if recorded is None else self.header
            self._header = headers.effective(header, before, recorded=recorded is not None)
            self.loop.now = self._header.time
            if self._header.flags != self._flags:
                self._flags = logic.known(self._header.flags or 0)
        self._recorded = recorded
        self._matched = 0

    def _step(self) -> None:
        self._fresh = False
        self.loop.run_ready()
        if self.fault is not None:
            raise self.fault
        if self._main is not None and self._main.done() and not self.closed:
            self._close(self._main)

    def _close(self, main: RunTask[Any]) -> None:
        self.closed = True
        try:
            self.emit(self._closing(main))
        except RunEvicted:
            assert self.fault is not None
            raise self.fault from None

    def _closing(self, main: RunTask[Any]) -> Closing:
        if main.cancelled():
            return WorkflowExecutionCancelled(self.cancel_reason or "")
        error = main.exception()
        if error is None:
            try:
                result = encode(main.result(), f"the result of {self.definition.name}")
                if not self.replaying:
                    check_size(result, f"the result of {self.definition.name}", self.payload_limit)
                return WorkflowExecutionCompleted(result)
            except PerdureError as unfit:
                error = unfit
        return WorkflowExecutionFailed(record(error))

    # --- what happens outside -------------------------------------------------

    def _started(self, event: WorkflowExecutionStarted) -> bool:
        if self._main is not None:
            return False
        if event.workflow != self.definition.name:
            message = f"{self.info.id} runs workflow {event.workflow}, not {self.definition.name}"
            raise UnknownWorkflowError(message)
        self.seed = event.seed
        self.start_time = self.loop.now
        self.loop.hash = entropy.hash_base(event.seed)  # differs between runs and agrees between replays
        self._main = self.loop.create_task(self._run_main(event.input), name="main", context=contextvars.Context())
        self._fresh = True
        return True

    async def _run_main(self, payload: msgspec.Raw) -> Any:
        args, kwargs = self.definition.signature.decode_call(payload)
        try:
            return await self.definition.function(*args, **kwargs)
        finally:
            if self.loop.generators is not None:
                await self.loop.generators.end(self.loop.create_task)

    def _cancel_requested(self, event: WorkflowExecutionCancelRequested) -> bool:
        if self.cancel_reason is not None:
            return False
        self.cancel_reason = event.reason
        assert self._main is not None
        if logic.LogicFlag.CANCEL_AFTER_FIRST_STEP in self._flags:
            self.loop.call_soon(self._main.cancel)
        else:
            self._main.cancel()
        return True

    def identity(self) -> RunInfo:
        """Return what the run knows about itself.

        A run whose start is not recorded yet has no run id. Asking for it gives the turn up (raises `RunEvicted`);
        it is taken again after the start.
        """
        if self.info.run_id == UNBORN:
            self.fault = EngineFault("the run id is not known before the start is recorded")
            raise RunEvicted
        return self.info

    # --- what the code asks for -------------------------------------------------

    def next_seq(self) -> int:
        """Return the number of the next activity, timer or side effect."""
        self._seq += 1
        return self._seq

    def emit(self, command: C) -> C:
        """Record a command, or on replay match it; return it as history has it.

        Raises `RunEvicted` when the run is being torn down, or when the turn
        cannot be recorded (then `fault` says why).
        """
        if self.tearing_down or self.fault is not None or not self.loop.guarded:
            self.check_may_ask()
        history = self._recorded
        if history is None:
            self._commands.append(command)
            return command
        recorded = history[self._matched] if self._matched < len(history) else None
        if not matching.same(recorded, command):
            self.fault = self._mismatch(recorded, command)
            raise RunEvicted
        self._matched += 1
        return recorded  # type: ignore[return-value]  # of the same type, or it would not match

    def check_may_ask(self) -> None:
        """Raise when the code may ask for nothing: `RunEvicted` at its end, `DeterminismViolation` in a side effect."""
        if self.tearing_down or self.fault is not None:
            raise RunEvicted
        if not self.loop.guarded:
            self.violation("the function of a side effect asks its workflow for something; it is not called on replay")

    def start_timer(
        self, fire_at: int, callback: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context
    ) -> TimerHandle:
        """Emit the command that starts a timer."""
        return timer.start(self, fire_at, callback, args, context)

    def waiting_for(self) -> str:
        """Return what the run waits for, in words for people: activities, signals, the next timer."""
        parts = [f"activity {pending.name}" for pending in list(self.activities.values())[:3]]
        if len(self.activities) > 3:
            parts.append(f"{len(self.activities) - 3} more activities")
        parts += [f"signal {name}" for name, box in self.mailboxes.items() if box._getters]  # type: ignore[attr-defined]  # noqa: SLF001  # asyncio tells nobody who waits
        if self.timers and not parts:
            parts.append("timer")
        return ", ".join(parts)

    # --- faults -------------------------------------------------

    def check_size(self, payload: msgspec.Raw, what: str) -> None:
        """Hold the run when a turn asks to record more than the limit. What is recorded already was within it then."""
        if len(payload) > self.payload_limit and not self.replaying:
            message = f"{self.definition.name}: {too_large(what, len(payload), self.payload_limit)}"
            self.fault = PayloadTooLargeError(message)
            raise RunEvicted

    def violation(self, message: str) -> NoReturn:
        """Hold the run: its code touched the outside world. Raises `DeterminismViolation`."""
        if self.fault is None:
            at = matching.code_position(self.definition.function)
            self.fault = DeterminismViolation(f"{self.definition.name}: {message}" + (f" (at {at})" if at else ""))
        raise self.fault

    def broken_callback(self, error: BaseException) -> None:
        """Hold the run when a callback raised: asyncio would only log it."""
        if self.fault is None and not self.tearing_down:
            failure = record(error)
            self.fault = EngineFault(
                f"a callback of {self.definition.name} raised {failure.type}: {failure.message}\n{failure.traceback}"
            )

    def _mismatch(self, recorded: object, command: object) -> NonDeterminismError:
        where = f"{self.info.id} (workflow {self.definition.name}, run {self.info.run_id}), turn {self.turns - 1}"
        header = self.header
        where += f" recorded by build {header.build or '?'} on Python {header.python or '?'},"
        at = matching.code_position(self.definition.function)
        if command is None and self._main is not None:
            at = matching.waiting_position(self.definition.function, self._main.get_coro())
        return matching.mismatch(where, recorded, command, at)

    # --- tearing down -------------------------------------------------

    def evict(self) -> list[str]:
        """Tear the run down without letting its code emit a command.

        Returns the names of tasks that refused to end; they are closed by force.
        The run is of no use afterwards.
        """
        self.tearing_down = True
        stubborn = end_tasks(self.loop)
        # Without cycles all of it goes now, and the garbage collector has nothing to find.
        self.loop.tasks.clear()
        if self.loop.generators is not None:
            self.loop.generators.clear()
        self._main = None
        del self.loop
        return stubborn


_CLOSING = frozenset(get_args(Closing))
_FROM_OUTSIDE = (WorkflowExecutionTerminated, WorkflowExecutionTimedOut)

_APPLY: dict[type, Callable[[Run, Any], bool]] = {
    WorkflowExecutionStarted: Run._started,  # noqa: SLF001
    WorkflowExecutionCancelRequested: Run._cancel_requested,  # noqa: SLF001
    SignalReceived: signal.received,
    ActivityCompleted: activity.completed,
    ActivityAttemptFailed: activity.attempt_failed,
    ActivityFailed: activity.failed,
    TimerFired: timer.fired,
}
"""What each incoming event does; False when the run does not wait for it: what comes twice or too late."""


def current() -> Run | None:
    """Return the run whose turn this thread is in the middle of, if it is in one."""
    loop = running()
    return loop.host if loop is not None else None  # type: ignore[return-value]  # the host of a RunLoop is its Run
