"""Every error that Perdure raises, as one tree.

What lives here: exception classes and nothing else. What must not: imports from
any other floor. Everybody may import this module.

::

    PerdureError
    ├── ActivityError            an activity failed for good; workflow code may catch it
    ├── ApplicationError         a failure as it was recorded: type name, message, traceback text
    ├── NonRetryableError        raised inside an activity to end its retries
    ├── RunFailure               what ``await handle.result()`` raises
    │   ├── WorkflowFailedError
    │   ├── WorkflowCancelledError
    │   ├── WorkflowTerminatedError
    │   └── WorkflowTimedOutError
    ├── EngineFault              the run is held: nothing is lost, fixed code resumes it
    │   ├── NonDeterminismError
    │   ├── DeterminismViolation
    │   ├── PayloadTooLargeError
    │   ├── TurnTimedOutError
    │   ├── UnreadableHistoryError
    │   └── UnknownWorkflowError
    ├── RequestError             what was asked for cannot be done
    │   ├── DefinitionError
    │   ├── PayloadError
    │   ├── ManifestError
    │   ├── InputMissingError
    │   ├── SecretMissingError
    │   ├── WorkflowNotFoundError
    │   ├── WorkflowClosedError
    │   └── WorkflowIdInUseError
    └── StoreError
        ├── StoreUnavailableError
        ├── SchemaVersionError
        └── LeaseLostError

``RunEvicted`` stands outside the tree. It is control flow, derives from
``BaseException`` and so cannot be swallowed by ``except Exception`` in the
code of an author.
"""


class PerdureError(Exception):
    """The root of every error raised by Perdure."""


class ApplicationError(PerdureError):
    """A failure read back from history.

    The original exception object is gone: it was recorded as text, so that old
    histories stay readable after the class has moved. ``__cause__`` holds the
    recorded cause, if there was one.
    """

    def __init__(self, message: str, *, type_name: str = "", traceback: str = "") -> None:
        super().__init__(message)
        self.message = message
        own = type(self)
        self.type = type_name or (own.__name__ if own is ApplicationError else f"{own.__module__}.{own.__qualname__}")
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class ActivityError(PerdureError):
    """An activity failed and will not be tried again.

    ``activity`` is its name, ``attempts`` how often it ran, and ``__cause__`` an `ApplicationError` with the recorded
    message and traceback text. ``type`` is the name of the last exception's class, with its module unless that is
    ``builtins`` or Perdure's own: ``ValueError``, ``shop.CardDeclined``, ``NonRetryableError``.
    """

    def __init__(self, activity: str, attempts: int, cause: ApplicationError) -> None:
        tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        super().__init__(f"activity {activity} failed after {tries}: {cause}")
        self.activity = activity
        self.attempts = attempts
        self.type = cause.type
        self.__cause__ = cause


class NonRetryableError(PerdureError):
    """Raise this (or a subclass) in an activity when another attempt cannot help."""


class RunFailure(PerdureError):
    """A run that closed without a result. ``id`` is the workflow instance."""

    def __init__(self, instance: str, message: str) -> None:
        super().__init__(message)
        self.id = instance


class WorkflowFailedError(RunFailure):
    """The workflow raised. ``__cause__`` is an `ApplicationError` with the traceback text."""


class WorkflowCancelledError(RunFailure):
    """The run was cancelled and let the cancellation end it."""


class WorkflowTerminatedError(RunFailure):
    """The run was terminated: closed at once, without running its ``finally`` blocks."""


class WorkflowTimedOutError(RunFailure):
    """The run reached its ``timeout`` before it closed."""


class EngineFault(PerdureError):
    """The turn cannot be recorded. The run is held until code that can replay it arrives."""


class NonDeterminismError(EngineFault):
    """The code does not do what the recorded history says it did."""


class DeterminismViolation(EngineFault):
    """Workflow code touched the outside world: a clock, a file, a socket, a thread, real randomness."""


class PayloadTooLargeError(EngineFault):
    """A turn asks to record a value that is over the limit."""


class TurnTimedOutError(EngineFault):
    """A turn computed for so long that it was interrupted: its code loops without awaiting anything."""


class UnreadableHistoryError(EngineFault):
    """A newer release wrote the history; a worker of that release goes on with it."""


class UnknownWorkflowError(EngineFault):
    """The run is one of another workflow than the code that was to replay it: claims take known workflows only."""


class RequestError(PerdureError):
    """What was asked for cannot be done; the message says what to do instead."""


class DefinitionError(RequestError, TypeError):
    """A workflow or an activity is declared in a way that cannot be recorded."""


class PayloadError(RequestError, ValueError):
    """A value cannot be encoded, or recorded bytes do not fit the declared type."""


class ManifestError(RequestError, ValueError):
    """A WorkflowInstance document is not valid; the message names the field."""


class InputMissingError(RequestError):
    """A ConfigMap that gives an argument of a WorkflowInstance is not there, or does not have it."""


class SecretMissingError(RequestError):
    """A Secret is not mounted where an activity reads it; the message says where, and never what."""


class WorkflowNotFoundError(RequestError, LookupError):
    """There is no workflow instance of this id in the namespace."""


class WorkflowClosedError(RequestError):
    """The instance is closed and takes no more messages."""


class WorkflowIdInUseError(RequestError):
    """An open instance has this id but runs another workflow."""


class StoreError(PerdureError):
    """The store could not do its part."""


class StoreUnavailableError(StoreError, ConnectionError):
    """The database cannot be reached. Nothing was lost; the call may be repeated."""


class SchemaVersionError(StoreError):
    """The database schema is not the one this release needs; run ``perdure migrate``."""


class LeaseLostError(StoreError):
    """This worker is no longer the owner of its runs; somebody else goes on with them."""


class RunEvicted(BaseException):
    """Control flow: the run is being torn down and may not emit commands any more."""
