"""Everything that a person needs to know about one run: what it is, where it stands, what to do.

What lives here: which facts are shown, in which order, and the advice for runs
that cannot go on. What must not: the store, clocks, printing. ``perdure
describe`` shows it.
"""

from collections.abc import Sequence
from typing import Any

from perdure.cli import output
from perdure.cli.narration import arguments, reason
from perdure.cli.steps import Outcome, steps_of
from perdure.model.events import (
    WorkflowExecutionCompleted,
    WorkflowExecutionFailed,
    WorkflowExecutionStarted,
)
from perdure.model.runs import HistoryEvent, RunState, RunSummary

Fact = tuple[str, output.Cell]

ADVICE = {
    "UnknownWorkflow": "start a worker whose modules define workflow {workflow}: perdure worker MODULE --queue {queue}",
    "NoWorkerOfBuild": (
        "start a worker of build {build} whose modules define workflow {workflow}: "
        "perdure worker MODULE --queue {queue} --build-id {build}; perdure terminate {id} gives up"
    ),
    "NonDeterminism": (
        "deploy code that does what the history says (perdure history {id}); a worker with another build resumes the "
        "run by itself. Without new code: perdure resume {id} tries again, perdure terminate {id} gives up"
    ),
    "UnreadableHistory": (
        "upgrade the workers of queue {queue} to the newer release that wrote the history; one of them resumes the run "
        "by itself"
    ),
    "PayloadTooLarge": (
        "deploy code that records less, or start the workers with a higher --max-payload and then: perdure resume {id}"
    ),
    "RunTooLarge": "give it up (perdure terminate {id}), and start it anew with references instead of large values",
    "TurnTimedOut": (
        "let the code that is named above await something or move it into an activity, and deploy it; a worker with "
        "another build resumes the run by itself. If it is right and slow: raise --max-turn, then perdure resume {id}"
    ),
    "PoisonRun": (
        "see why the workers ended while they had the run (kubectl logs --previous), and deploy what mends it; then: "
        "perdure resume {id}. perdure terminate {id} gives up"
    ),
    "DeterminismViolation": (
        "mend the line that is named above and deploy it; a worker with another build resumes the run by itself"
    ),
}
OTHER_ADVICE = (
    "mend the cause and deploy it; a worker with another build resumes the run by itself. "
    "perdure resume {id} tries again at once, perdure terminate {id} gives up"
)


def facts(run: RunSummary, history: Sequence[HistoryEvent], workers: Sequence[str]) -> list[Fact]:
    """Return names and values, in the order in which they are shown; ``workers`` are those of the namespace."""
    found: list[Fact] = [
        ("workflow", run.workflow + _input(history)),
        ("phase", output.phase(run.phase)),
        ("run", f"{run.run_id} in namespace {run.namespace}, queue {run.queue}" + _priority(run) + _build(run)),
        ("created", output.moment(run.created_at)),
    ]
    if run.started_at is not None:
        found.append(("started", output.moment(run.started_at)))
    if run.closed_at is not None:
        found.append(("closed", output.moment(run.closed_at)))
    found += _position(run, workers)
    if not run.state.closed:  # what the author said on the way is not true any more
        found += [(name, text) for name, text in (("status", run.status_text), ("progress", run.progress)) if text]
    found += _under_way(run, history)
    found.append(("history", f"{len(history)} event{'s' * (len(history) != 1)}; perdure history {run.id} shows them"))
    return found + _ending(run)


def as_object(run: RunSummary) -> dict[str, Any]:
    """Return the same for programs."""
    plain: dict[str, Any] = {
        "id": run.id,
        "namespace": run.namespace,
        "runId": run.run_id,
        "workflow": run.workflow,
        "queue": run.queue,
        "priority": run.priority,
        "phase": run.phase,
        "createdAt": run.created_at,
        "startedAt": run.started_at,
        "closedAt": run.closed_at,
        "wakeAt": run.wake_at,
        "worker": run.worker,
        "waitingFor": run.waiting_for,
        "status": run.status_text,
        "progress": run.progress,
        "holdReason": run.hold_reason,
        "holdMessage": run.hold_message,
        "cancelRequested": run.cancel_requested,
        "suspended": run.suspended,
        "build": run.build,
    }
    if run.result_size is not None:
        plain["resultSize"] = run.result_size
    elif isinstance(run.outcome, WorkflowExecutionCompleted):
        plain["result"] = run.outcome.result
    elif isinstance(run.outcome, WorkflowExecutionFailed):
        plain["failure"] = run.outcome.failure
    elif run.outcome is not None:
        plain["reason"] = run.outcome.reason
    return plain


def row(run: RunSummary) -> list[output.Cell]:
    """Return the run as a row of ``perdure list``: id, workflow, phase, age, what it is about."""
    return [run.id, run.workflow, output.phase(run.phase), output.age(run.created_at), output.clip(_about(run), 200)]


def _about(run: RunSummary) -> str:
    if run.state is RunState.HELD:
        return f"{run.hold_reason}: {run.hold_message}"
    if run.state.closed:
        return reason(run.outcome.failure) if isinstance(run.outcome, WorkflowExecutionFailed) else ""
    parts = [run.progress, run.status_text]
    if run.state is RunState.OWNED:
        parts.append(f"on {run.worker}")
    elif run.waiting_for:
        parts.append(f"waits for {run.waiting_for}")
    elif run.started_at is None:
        parts.append(f"waits for a worker of queue {run.queue}")
    return ", ".join(part for part in parts if part)


def _input(history: Sequence[HistoryEvent]) -> str:
    started = history[0].event if history else None
    return arguments(started.input, 500) if isinstance(started, WorkflowExecutionStarted) else ""


def _priority(run: RunSummary) -> str:
    return f", priority {run.priority}" if run.priority else ""


def _build(run: RunSummary) -> str:
    return f", for workers of build {run.build} only" if run.build else ""


def _position(run: RunSummary, workers: Sequence[str]) -> list[Fact]:
    """Return who has the run, or what it needs to go on."""
    found: list[Fact] = []
    match run.state:
        case RunState.OWNED:
            found.append(("worker", run.worker or ""))
        case RunState.PARKED:
            found.append(("worker", "none: it sleeps until something happens"))
            if run.waiting_for:
                found.append(("waits for", run.waiting_for))
            if run.wake_at is not None:
                found.append(("wakes", output.moment(run.wake_at)))
        case RunState.READY:
            found.append(("worker", f"none yet: it waits for a worker of queue {run.queue}"))
            if not workers:
                found.append(
                    ("what to do", f"start a worker: perdure worker MODULE --namespace {run.namespace} -q {run.queue}")
                )
        case RunState.HELD:
            advice = ADVICE.get(run.hold_reason, OTHER_ADVICE)
            found += [
                ("held", run.hold_reason),
                ("because", run.hold_message),
                ("what to do", advice.format(id=run.id, workflow=run.workflow, queue=run.queue, build=run.build)),
            ]
        case _:
            pass
    if run.suspended and not run.state.closed:
        found.append(("suspended", f"no worker goes on with it; perdure resume {run.id} lets it go on"))
    if run.cancel_requested and not run.state.closed:
        found.append(("cancel", "requested; its code may still clean up"))
    return found


def _under_way(run: RunSummary, history: Sequence[HistoryEvent]) -> list[Fact]:
    if run.state.closed:
        return []
    found: list[Fact] = []
    for step in steps_of(history).values():
        if step.outcome is not Outcome.UNDER_WAY:
            continue
        text = f"#{step.seq} {step.name}{arguments(step.scheduled.input)}, attempt {step.attempts + 1}"
        if step.failure is not None:
            text += f" at {output.clock(output.from_microseconds(step.retry_at))} after {reason(step.failure)}"
        found.append(("activity", text))
    return found


def _ending(run: RunSummary) -> list[Fact]:
    outcome = run.outcome
    if outcome is None:
        return []
    if isinstance(outcome, WorkflowExecutionCompleted):
        return [("result", output.compact(outcome.result, 2_000))]
    if isinstance(outcome, WorkflowExecutionFailed):
        return [("failure", reason(outcome.failure)), ("traceback", f"perdure result {run.id} shows it")]
    return [("reason", outcome.reason)] if outcome.reason else []
