"""Durable workflows on PostgreSQL: write plain ``async`` functions, every step is recorded, any worker can go on.

This module re-exports the public names and holds nothing else.
"""

from perdure import activity, workflow
from perdure.client import Client, WorkflowHandle
from perdure.errors import (
    ActivityError,
    ApplicationError,
    NonRetryableError,
    PerdureError,
    WorkflowCancelledError,
    WorkflowClosedError,
    WorkflowFailedError,
    WorkflowIdInUseError,
    WorkflowNotFoundError,
    WorkflowTerminatedError,
    WorkflowTimedOutError,
)
from perdure.model.policies import RetryPolicy
from perdure.runtime.limits import Limits
from perdure.runtime.worker import Worker
from perdure.secret import Secret

__version__ = "0.1.0"

__all__ = [
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
