"""The status of an object as a projection of its run: pure, and rebuilt from the database at any time.

What lives here: `project` (run to status) and `render` (status to the JSON of the object). What must not: Kubernetes,
the store, clocks; what time it is comes as an argument. `controller` and `sync` project, `writer` renders.

Every condition has the generation of the spec that was acted on. A time of transition is kept as long as the condition
keeps its status; a new one is the run's own time where the run has one, so that a status written twice is the same.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, assert_never

import msgspec

from perdure.model.events import (
    ClosedFromOutside,
    Closing,
    Unreadable,
    WorkflowExecutionCancelled,
    WorkflowExecutionCompleted,
    WorkflowExecutionFailed,
    WorkflowExecutionTerminated,
    WorkflowExecutionTimedOut,
)
from perdure.model.runs import RunState, RunSummary
from perdure.store.base import ABSENT_BUILD, UNKNOWN_WORKFLOW

SIZE_LIMIT = 2_000
"""Most bytes of a status as JSON. It is a summary; the history is in the database."""
MARKER = "… (cut)"
_RESULT, _MESSAGE, _REASON_TEXT, _WORD = 480, 400, 320, 100

Truth = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the operator does not do what the object asks for, for now. ``stalled``: not until somebody changes it."""

    reason: str
    message: str
    stalled: bool = False


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition; ``since`` is when it came true, if the database knows."""

    type: str
    status: Truth
    reason: str
    message: str = ""
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """A status without the times that depend on what was written before.

    ``passing``: the run goes on and a better status may follow in a moment, so that this one need not hurry.
    """

    generation: int
    fields: Mapping[str, Any]
    conditions: tuple[Condition, ...]
    passing: bool


def project(run: RunSummary | None, generation: int, refusal: Refusal | None = None, *, served: bool = True) -> Status:
    """Return the status of an object whose run stands like this; None when it has none yet.

    ``served``: a worker is there that serves the queue of the run, with the right build.
    """
    if run is None:
        phase = "Stalled" if refusal is not None and refusal.stalled else "Pending"
        reason = refusal.reason if refusal is not None else phase
        fields = {"phase": phase, "message": _cut(refusal.message, _MESSAGE) if refusal else ""}
        conditions = [
            Condition("Succeeded", "Unknown", reason),
            Condition("Finished", "False", reason),
        ]
    else:
        fields = _fields(run, served=served)
        conditions = [*_progress(run), *_suspended(run)]
    stalled = _stalled(run, refusal)
    conditions = [_accepted(run, refusal), *conditions, *([stalled] if stalled else [])]
    return Status(
        generation=generation,
        fields={name: value for name, value in fields.items() if value},
        conditions=tuple(conditions),
        passing=refusal is None and (run is None or (run.state < RunState.HELD and not run.suspended)),
    )


def render(status: Status, before: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return the status as it goes on the object on which ``before`` is written."""
    known = {old.get("type"): old for old in before.get("conditions") or ()}
    conditions = []
    wanted = status.conditions
    if "Suspended" in known and all(condition.type != "Suspended" for condition in wanted):
        wanted = (*wanted, Condition("Suspended", "False", "Resumed"))
    for condition in wanted:
        old = known.get(condition.type)
        if old is not None and old.get("status") == condition.status:
            since = str(old.get("lastTransitionTime"))
        elif old is not None and condition.since is not None and _is_later(condition.since, old):
            since = _time(condition.since)
        else:
            since = _time(condition.since if old is None and condition.since is not None else now)
        conditions.append(
            {
                "type": condition.type,
                "status": condition.status,
                "reason": condition.reason,
                "message": condition.message,
                "lastTransitionTime": since,
                "observedGeneration": status.generation,
            }
        )
    # That it had a run is never forgotten, whatever becomes of the database.
    run = {"runId": before["runId"]} if before.get("runId") else {}
    return _fitted({"observedGeneration": status.generation, **run, **status.fields, "conditions": conditions})


def canonical(status: Mapping[str, Any] | None) -> bytes:
    """Return the bytes by which two statuses are compared; none for no status."""
    return b"" if status is None else msgspec.json.encode(status, order="deterministic")


def is_finished(status: Mapping[str, Any]) -> bool:
    """Tell whether a status says that the run has ended."""
    return _is_true(status, "Finished")


def has_succeeded(status: Mapping[str, Any]) -> bool:
    """Tell whether a status says that the run has ended as it should."""
    return _is_true(status, "Succeeded")


def _is_true(status: Mapping[str, Any], kind: str) -> bool:
    conditions = status.get("conditions") or ()
    return any(each.get("type") == kind and each.get("status") == "True" for each in conditions)


def _fields(run: RunSummary, *, served: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "phase": run.phase,
        "runId": str(run.run_id),
        "startTime": _time(run.started_at) if run.started_at else "",
        "completionTime": _time(run.closed_at) if run.closed_at else "",
        "progress": _cut(run.progress, _WORD),
        "waitingFor": _cut(_waiting_for(run, served=served), _WORD),
        "message": _cut(run.hold_message or run.status_text or _unserved(run, served=served), _MESSAGE),
    }
    if run.outcome is not None:
        message = _ending(run.outcome, run)[2]
        fields["message"] = _cut(message or run.status_text, _MESSAGE)
    if isinstance(run.outcome, WorkflowExecutionCompleted):
        result = bytes(run.outcome.result)
        fields["result"] = _cut(result.decode("utf-8", "replace"), _RESULT)
        size = len(result) if run.result_size is None else run.result_size
        fields["resultRef"] = {"runId": str(run.run_id), "size": size}
    return fields


def _suspended(run: RunSummary) -> list[Condition]:
    if not run.suspended or run.state.closed:
        return []
    return [Condition("Suspended", "True", "Suspended", "no worker goes on with the run until spec.suspend is false")]


def _waiting_for(run: RunSummary, *, served: bool) -> str:
    if run.suspended and run.state < RunState.HELD:
        return "spec.suspend to be false"
    match run.state:
        case RunState.HELD if run.hold_reason in {UNKNOWN_WORKFLOW, ABSENT_BUILD}:
            return _workers(run)
        case RunState.READY | RunState.OWNED if not served:
            return _workers(run)
        case RunState.READY:
            return "a worker"
        case RunState.PARKED:
            return run.waiting_for
        case _:
            return ""


def _workers(run: RunSummary) -> str:
    return f"Workers of build {run.build}" if run.build else "Workers"


def _unserved(run: RunSummary, *, served: bool) -> str:
    if served or run.suspended or run.state not in {RunState.READY, RunState.OWNED}:
        return ""
    build = f" with build {run.build}" if run.build else ""
    return f"no worker serves queue {run.queue}{build}"


def _progress(run: RunSummary) -> list[Condition]:
    """Return Succeeded and Finished."""
    if run.outcome is None:
        held = _camel_case(run.hold_reason) if run.state is RunState.HELD else run.phase
        reason = "Cancelling" if run.cancel_requested else held
        return [
            Condition("Succeeded", "Unknown", reason, since=run.created_at),
            Condition("Finished", "False", reason, since=run.created_at),
        ]
    succeeded, reason, message = _ending(run.outcome, run)
    return [
        Condition("Succeeded", succeeded, reason, _cut(message, _REASON_TEXT), run.closed_at),
        Condition("Finished", "True", reason, since=run.closed_at),
    ]


def _ending(outcome: Closing | ClosedFromOutside | Unreadable, run: RunSummary) -> tuple[Truth, str, str]:
    """Return whether a run succeeded, the reason and what to tell people."""
    match outcome:
        case WorkflowExecutionCompleted():
            return "True", "Succeeded", ""
        case WorkflowExecutionFailed(failure=failure):
            reason = "InvalidInput" if failure.type == "PayloadError" else "WorkflowFailed"
            return "False", reason, f"{failure.type}: {failure.message}" if failure.message else failure.type
        case WorkflowExecutionCancelled(reason=why):
            return "False", "Cancelled", why
        case WorkflowExecutionTerminated(reason=why):
            return "False", "Terminated", why
        case WorkflowExecutionTimedOut(reason=why):
            return "False", "TimedOut", why
        case Unreadable(reason=why):
            return ("True" if run.state is RunState.COMPLETED else "False"), run.phase, why
        case _ as never:
            assert_never(never)


def _accepted(run: RunSummary | None, refusal: Refusal | None) -> Condition:
    if refusal is not None:
        return Condition("Accepted", "False", refusal.reason, _cut(refusal.message, _REASON_TEXT))
    if run is None:
        return Condition("Accepted", "Unknown", "Pending")
    if run.state is RunState.HELD and run.hold_reason in {UNKNOWN_WORKFLOW, ABSENT_BUILD}:
        return Condition("Accepted", "False", run.hold_reason, _cut(run.hold_message, _REASON_TEXT))
    return Condition("Accepted", "True", "Recorded", since=run.created_at)


def _stalled(run: RunSummary | None, refusal: Refusal | None) -> Condition | None:
    if refusal is not None and refusal.stalled:
        return Condition("Stalled", "True", refusal.reason, _cut(refusal.message, _REASON_TEXT))
    if run is not None and run.state is RunState.HELD:
        return Condition("Stalled", "True", _camel_case(run.hold_reason), _cut(run.hold_message, _REASON_TEXT))
    return None


def _camel_case(word: str) -> str:
    """Return a reason that the API takes, whoever held the run."""
    letters = re.sub(r"[^A-Za-z0-9]", "", word)
    return letters[:1].upper() + letters[1:] if letters[:1].isalpha() else "Held"


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _is_later(moment: datetime, old: Mapping[str, Any]) -> bool:
    """Tell whether a time of the database comes after what was written; both have the same form."""
    return _time(moment) >= str(old.get("lastTransitionTime"))


def stored_size(value: Any) -> int:
    """Return the bytes of a value as JSON in the API server, which escapes ``<``, ``>`` and ``&``."""
    data = msgspec.json.encode(value)
    return len(data) + 5 * sum(data.count(character) for character in (b"<", b">", b"&"))


def _encoded_size(text: str) -> int:
    return stored_size(text) - 2


def _cut(text: str, limit: int) -> str:
    """Return the text, or as much of its beginning as fits into ``limit`` bytes with the marker."""
    text = text.encode("utf-8", "replace").decode()
    if len(text) <= limit and _encoded_size(text) <= limit:
        return text
    room = limit - _encoded_size(MARKER)
    low, high = 0, min(len(text), room)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _encoded_size(text[:middle]) <= room else (low, middle - 1)
    return text[:low] + MARKER


def _fitted(rendered: dict[str, Any]) -> dict[str, Any]:
    """Take from the longest texts what is too much. The parts are bounded so that this hardly ever happens."""
    for name in ("result", "message", "waitingFor", "progress"):
        excess = stored_size(rendered) - SIZE_LIMIT
        if excess > 0 and name in rendered:
            rendered[name] = _cut(rendered[name], max(40, _encoded_size(rendered[name]) - excess))
    if not rendered.get("result", "").endswith(MARKER):
        rendered.pop("resultRef", None)
    return rendered
