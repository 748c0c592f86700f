"""The public surface is small and pinned: a change here is a change for every user."""

from importlib.metadata import version

import perdure
from perdure import activity, workflow

TOP = [
    "ActivityError",
    "ApplicationError",
    "Client",
    "Limits",
    "NonRetryableError",
    "PerdureError",
    "RetryPolicy",
    "Secret",
    "Worker",
    "WorkflowCancelledError",
    "WorkflowClosedError",
    "WorkflowFailedError",
    "WorkflowHandle",
    "WorkflowIdInUseError",
    "WorkflowNotFoundError",
    "WorkflowTerminatedError",
    "WorkflowTimedOutError",
    "activity",
    "workflow",
]
WORKFLOW = [
    "DeterminismViolation",
    "NonDeterminismError",
    "Signal",
    "Workflow",
    "WorkflowInfo",
    "define",
    "execute_activity",
    "info",
    "logger",
    "now",
    "random",
    "set_status",
    "side_effect",
    "signal",
    "uuid4",
]
ACTIVITY = ["Activity", "ActivityInfo", "define", "heartbeat", "info", "is_cancelled"]


def test_the_exported_names_are_these() -> None:
    assert perdure.__all__ == TOP
    assert workflow.__all__ == WORKFLOW
    assert activity.__all__ == ACTIVITY


def test_every_exported_name_is_there_and_documented() -> None:
    for module in (perdure, workflow, activity):
        for name in module.__all__:
            assert getattr(module, name).__doc__ or name == "logger", name


def test_the_version_is_the_distributions() -> None:
    assert perdure.__version__ == version("perdure")
