"""Exceptions to recorded failures and back.

What lives here: `record` (exception to `Failure`), `rebuild` (`Failure` to
`ApplicationError`) and `outcome_error` (what the result of a run raises that has
none). What must not: retry decisions. The engine calls it for workflows, the
runtime for activities, the client for results.
"""

import traceback as traceback_module
from collections.abc import Iterator
from typing import assert_never

from perdure.errors import (
    ApplicationError,
    PayloadError,
    PerdureError,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowTerminatedError,
    WorkflowTimedOutError,
)
from perdure.model.events import (
    ClosedFromOutside,
    Closing,
    Failure,
    WorkflowExecutionCancelled,
    WorkflowExecutionCompleted,
    WorkflowExecutionFailed,
    WorkflowExecutionTerminated,
    WorkflowExecutionTimedOut,
)
from perdure.model.policies import type_name

MESSAGE_LIMIT = 8_192
TRACEBACK_LIMIT = 16_384
CAUSE_LIMIT = 16
_OWN_CODE = __file__.removesuffix("model/failure.py")  # frames of the engine tell an author nothing


def record(error: BaseException, above: tuple[BaseException, ...] = ()) -> Failure:
    """Return ``error`` as text: its class, message, traceback and chain of causes, each within a limit.

    Those ``above`` are recorded already: whoever raises the cause of an error while handling that makes a ring of them.
    """
    if isinstance(error, ApplicationError):
        name, message, text = error.type, error.message, error.traceback
    else:
        name, message, text = _name(type(error)), _message(error), _traceback(error)
    following = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if isinstance(error, BaseExceptionGroup):
        message = f"{message}: {'; '.join(_members(error))}"
        following = following or error.exceptions[0]
    chain = (*above, error)
    if len(above) == CAUSE_LIMIT or any(following is one for one in chain):
        following = None
    cause = record(following, chain) if following is not None else None
    return Failure(_clip(name, 256), _clip(message, MESSAGE_LIMIT), text, cause)


def rebuild(failure: Failure) -> ApplicationError:
    """Return the failure as an exception whose ``__cause__`` chain is the recorded one."""
    error = ApplicationError(failure.message, type_name=failure.type, traceback=failure.traceback)
    if failure.cause is not None:
        error.__cause__ = rebuild(failure.cause)
    return error


def outcome_error(instance: str, outcome: Closing | ClosedFromOutside) -> Exception:
    """Return the error that a closed run means for somebody who wanted its result."""
    match outcome:
        case WorkflowExecutionFailed(failure=failure):
            error = WorkflowFailedError(instance, f"{instance} failed: {rebuild(failure)}")
            error.__cause__ = rebuild(failure)
            return error
        case WorkflowExecutionCancelled(reason=reason):
            return WorkflowCancelledError(instance, _why(f"{instance} was cancelled", reason))
        case WorkflowExecutionTerminated(reason=reason):
            return WorkflowTerminatedError(instance, _why(f"{instance} was terminated", reason))
        case WorkflowExecutionTimedOut(reason=reason):
            return WorkflowTimedOutError(instance, _why(f"{instance} timed out", reason))
        case WorkflowExecutionCompleted():
            return PayloadError(f"{instance} has a result")
        case _ as never:
            assert_never(never)


def _why(text: str, reason: str) -> str:
    return f"{text}: {reason}" if reason else text


def _name(error: type[BaseException]) -> str:
    ours = error.__module__ == PerdureError.__module__
    return error.__name__ if ours else type_name(error)


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001  # an author's __str__ may raise anything; the failure must still be recorded
        return f"<str() of the exception raised {type(broken).__name__}>"


def _members(group: BaseExceptionGroup[BaseException]) -> Iterator[str]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _members(error)
        else:
            yield f"{_name(type(error))}: {_message(error)}"


def _traceback(error: BaseException) -> str:
    frames = traceback_module.extract_tb(error.__traceback__)
    authors = [frame for frame in frames if not frame.filename.startswith(_OWN_CODE)]
    text = "".join(traceback_module.format_list(authors))
    if len(text) > TRACEBACK_LIMIT:  # the innermost frames tell most
        text = "  ...\n" + text[-TRACEBACK_LIMIT:]
    return _printable(text)


def _clip(text: str, limit: int) -> str:
    return _printable(text if len(text) <= limit else text[: limit - 3] + "...")


def _printable(text: str) -> str:
    # Lone surrogates cannot be encoded as UTF-8, and the record must never fail.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
