"""What an object and its run ask for: pure decisions.

What lives here: `decide` for an object that is there, `decide_gone` for one that is not. What must not: Kubernetes, the
store, clocks. `controller` carries out what they return.

The object says what is wanted, the run what is. The run's row is the truth for "started": an object without one is
started, whatever its status claims, unless that status says that the run has ended: a closed run may have been removed
from the database after a while, and must not run again.
"""

from dataclasses import dataclass
from enum import Enum

from perdure.manifest import Cancellation, WorkflowInstance
from perdure.model.runs import RunState, RunSummary
from perdure.store.base import ABSENT_BUILD, UNKNOWN_WORKFLOW


class DeletionPolicy(Enum):
    """What becomes of an open run whose object is deleted."""

    CANCEL = "Cancel"
    ABANDON = "Abandon"


@dataclass(frozen=True, slots=True)
class Start:
    """Create the run of the object."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Ask the run to cancel."""

    reason: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """Close the run without asking its code."""

    reason: str


@dataclass(frozen=True, slots=True)
class Suspend:
    """Let nobody go on with the run, or let them again."""

    suspended: bool


@dataclass(frozen=True, slots=True)
class Abandon:
    """Let the run go on without an object."""


@dataclass(frozen=True, slots=True)
class CloseUntouched:
    """Close the run, which was asked to cancel before, unless workflow code has run in it.

    A run that no worker can take never sees its cancellation, and would keep its name in use for ever.
    """

    reason: str


Action = Start | Cancel | Terminate | Suspend | Abandon | CloseUntouched

DELETED = "its WorkflowInstance was deleted"
ASKED = "spec.cancel asks for it"
"""The reason where the object gives none."""


def decide(instance: WorkflowInstance, run: RunSummary | None, *, finished: bool) -> tuple[Action, ...]:
    """Return what to do for an object that is there; ``finished``: its status says that the run has ended."""
    if run is None:
        if instance.deleting or finished:
            return ()
        return (Start(), *_asked(instance.cancel)) if instance.cancel is not None else (Start(),)
    if run.state.closed:
        return ()
    if instance.cancel is not None and instance.cancel.mode == "Terminate":
        return _asked(instance.cancel)
    if instance.cancel is not None:
        return _end(run, instance.cancel.reason or ASKED)
    if instance.deleting and instance.deletion_policy == DeletionPolicy.CANCEL.value:
        return _end(run, DELETED)
    if instance.suspend != run.suspended and not run.cancel_requested:
        return (Suspend(instance.suspend),)
    return ()


def _asked(cancel: Cancellation) -> tuple[Action]:
    reason = cancel.reason or ASKED
    return (Terminate(reason),) if cancel.mode == "Terminate" else (Cancel(reason),)


def decide_gone(run: RunSummary | None, policy: DeletionPolicy) -> tuple[Action, ...]:
    """Return what to do for an object that was deleted."""
    if run is None or run.state.closed:
        return ()
    return (Abandon(),) if policy is DeletionPolicy.ABANDON else _end(run, DELETED)


def may_be_untouched(run: RunSummary) -> bool:
    """Tell whether no workflow code may have seen the run yet."""
    if run.state is RunState.HELD:
        return run.hold_reason in {UNKNOWN_WORKFLOW, ABSENT_BUILD}
    return run.started_at is None


def _end(run: RunSummary, reason: str) -> tuple[Action, ...]:
    if run.state.closed:
        return ()
    if not run.cancel_requested:
        return (Cancel(reason),)
    return (CloseUntouched(reason),) if may_be_untouched(run) else ()
