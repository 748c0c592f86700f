"""Exit codes: what a script learns from `perdure` without reading its output.

What lives here: the numbers, which error means which, and the one place where
errors are shown. What must not: decisions of commands. `app` calls it.
"""

import os
import traceback
from enum import IntEnum

from rich.text import Text

from perdure.cli import output
from perdure.errors import (
    ApplicationError,
    PerdureError,
    RequestError,
    RunFailure,
    SchemaVersionError,
    StoreUnavailableError,
    WorkflowNotFoundError,
)


class ExitCode(IntEnum):
    """What the process tells its caller."""

    SUCCESS = 0
    RUN_FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    STORE_UNAVAILABLE = 4
    INTERNAL = 70
    TIMED_OUT = 124


MEANINGS = {
    ExitCode.SUCCESS: "success",
    ExitCode.RUN_FAILED: "the run failed, was cancelled or terminated, or reached its timeout",
    ExitCode.USAGE: "usage, bad input, or a request that cannot be met",
    ExitCode.NOT_FOUND: "there is no workflow instance of this id",
    ExitCode.STORE_UNAVAILABLE: "the database cannot be reached, or was not migrated",
    ExitCode.TIMED_OUT: "the wait timed out; the run goes on",
}
"""For people, in the order in which they are documented."""


class WaitTimedOutError(PerdureError):
    """The command waited as long as it was told to."""


def exit_code(error: PerdureError) -> ExitCode:
    """Return what an error means for a script."""
    match error:
        case RunFailure():
            return ExitCode.RUN_FAILED
        case WaitTimedOutError():
            return ExitCode.TIMED_OUT
        case WorkflowNotFoundError():
            return ExitCode.NOT_FOUND
        case StoreUnavailableError() | SchemaVersionError():
            return ExitCode.STORE_UNAVAILABLE
        case RequestError():
            return ExitCode.USAGE
        case _:
            return ExitCode.INTERNAL


def debugging() -> bool:
    """Whether tracebacks of Perdure itself are wanted (``--debug`` or ``PERDURE_DEBUG``)."""
    return bool(os.environ.get("PERDURE_DEBUG"))


def show(error: PerdureError) -> None:
    """Write an error to stderr: what it says, and for a failed run where its code raised."""
    output.err.print(Text("error: ", style="bold red").append(str(error), style="not bold default"))
    if isinstance(error, RunFailure):
        _show_causes(error)
    elif debugging():
        output.err.print("".join(traceback.format_exception(error)).rstrip())


def _show_causes(error: BaseException) -> None:
    """Write the recorded tracebacks, the innermost cause last, as it is the one to look at."""
    cause = error.__cause__
    while isinstance(cause, ApplicationError):
        output.err.print(Text(f"  {cause}", style="bold"))
        if cause.traceback:
            output.err.print(Text(cause.traceback.rstrip("\n"), style="dim"))
        cause = cause.__cause__
        if cause is not None:
            output.err.print("caused by")
