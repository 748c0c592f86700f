"""Driving the engine by hand: histories in, decisions out, no store and no worker.

What lives here: `Script`, which plays the part of the runtime. Engine and replay
tests use it.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from perdure.engine.flags import CURRENT
from perdure.engine.replay import replay
from perdure.engine.run import Decision, Run
from perdure.model.codec import decode_turn, encode_turn
from perdure.model.events import (
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
    Command,
    Failure,
    Incoming,
    SignalReceived,
    TimerFired,
    Turn,
    TurnHeader,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionCompleted,
    WorkflowExecutionFailed,
    WorkflowExecutionStarted,
)
from perdure.model.runs import RunId, RunInfo
from perdure.workflow import Workflow

SECOND = 1_000_000
EPOCH = 1_700_000_000 * SECOND


class Script:
    """One run, moved turn by turn. Every turn is encoded and decoded, as a store would."""

    def __init__(self, workflow: Workflow[..., Any], *args: Any, seed: str = "seed") -> None:
        self.workflow = workflow
        self.info = RunInfo(id="it", run_id=RunId(1), namespace="default", workflow=workflow.name, queue="default")
        self.now = EPOCH
        started = WorkflowExecutionStarted(workflow.name, workflow.signature.encode_call(args, {}), seed)
        self.rows = [encode_turn(TurnHeader(time=self.now), [started])]
        self.messages = 0
        self.run = replay(workflow, self.info, self.history)

    @property
    def history(self) -> list[Turn]:
        """The recorded turns, read back from their bytes."""
        return [decode_turn(number, row) for number, row in enumerate(self.rows)]

    def turn(self, *events: Incoming, after: float = 0.001) -> Decision:
        """Move the run by one turn and record it."""
        self.now += round(after * SECOND)
        header = TurnHeader(time=self.now, build="build", python="3.11", flags=int(CURRENT), worker="worker")
        decision = self.run.turn(header, events)
        if decision.turn is not None:
            self.rows.append(encode_turn(decision.turn.header, decision.turn.events))
        return decision

    def complete(self, *results: tuple[int, Any]) -> Decision:
        """Complete activities by number, in one turn."""
        return self.turn(*(ActivityCompleted(seq, msgspec.Raw(json.dumps(value).encode())) for seq, value in results))

    def fail(self, seq: int, kind: str = "ValueError", message: str = "broken") -> Decision:
        """Fail an activity for good."""
        return self.turn(ActivityFailed(seq, Failure(kind, message, "  File ...\n")))

    def signal(self, name: str, payload: Any) -> SignalReceived:
        """Return a signal with an id of its own."""
        self.messages += 1
        return SignalReceived(name, msgspec.Raw(json.dumps(payload).encode()), str(self.messages))

    def fire(self, seq: int) -> Decision:
        """Let a timer fire when it is due."""
        handle = self.run.timers[seq]
        self.now = max(self.now, handle.fire_at)
        return self.turn(TimerFired(seq), after=0)

    def cancel(self, reason: str = "") -> Decision:
        """Ask the run to cancel."""
        return self.turn(WorkflowExecutionCancelRequested(reason))

    def finish(self, answer: Callable[[ActivityScheduled], Any], limit: int = 10_000) -> Any:
        """Answer every activity and fire every timer until the run closes; return its result."""
        decision = self.turn()
        for _ in range(limit):
            if decision.closing is not None:
                return self.outcome(decision)
            scheduled = [
                c for c in decision.commands if isinstance(c, ActivityScheduled) and c.seq in self.run.activities
            ]
            if scheduled:
                decision = self.complete(*((command.seq, answer(command)) for command in scheduled))
            else:
                decision = self.fire(min(self.run.timers, key=lambda seq: self.run.timers[seq].fire_at))
        raise AssertionError("the run does not come to an end")

    @staticmethod
    def outcome(decision: Decision) -> Any:
        """Return the result of a closing decision, or raise with its failure."""
        if isinstance(decision.closing, WorkflowExecutionCompleted):
            return json.loads(bytes(decision.closing.result))
        if isinstance(decision.closing, WorkflowExecutionFailed):
            pytest.fail(str(decision.closing.failure))
        return decision.closing

    def replayed(self, workflow: Workflow[..., Any] | None = None, turns: int | None = None) -> Run:
        """Replay what is recorded so far (or its first ``turns``), by the same or by other code."""
        return replay(workflow or self.workflow, self.info, self.history[:turns])


def kinds(events: Sequence[object]) -> list[str]:
    """Return the names of events, without the first turn's start."""
    return [type(event).__name__ for event in events]


def spelled(commands: Sequence[Command]) -> list[str]:
    """Return commands as short words: ``ActivityScheduled 1 charge``."""
    words = []
    for command in commands:
        parts = [type(command).__name__, getattr(command, "seq", ""), getattr(command, "name", "")]
        words.append(" ".join(str(part) for part in parts if part != ""))
    return words


def all_events(script: Script) -> list[object]:
    """Return every recorded event."""
    return [event for turn in script.history for event in turn.events]
