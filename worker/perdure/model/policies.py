"""Retry policies and timeouts: pure arithmetic, time is always an argument.

What lives here: frozen data and functions of it. What must not: clocks, random
numbers, I/O. The author API builds these, the runtime asks them.
"""

import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from perdure.errors import DefinitionError, NonRetryableError

Duration = timedelta | float
"""A length of time: a `timedelta`, or a number of seconds."""

MICROSECONDS = 1_000_000


LONGEST = 100 * 366 * 86_400
"""Seconds of the longest time that may be asked for: far beyond it the clock of one part or another overflows."""
MOST_ATTEMPTS = 2**31 - 1
"""What the number of an attempt can be."""
_LARGEST = sys.float_info.max


def seconds(value: Duration, what: str) -> float:
    """Return ``value`` in seconds; raise `DefinitionError` naming ``what`` if it is not above 0 and up to `LONGEST`."""
    number: object = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number <= LONGEST:
        message = f"{what} must be a timedelta or a number of seconds above 0, at most a hundred years, not {value!r}"
        raise DefinitionError(message)
    return float(number)


def check_name(value: object, what: str) -> None:
    """Raise `DefinitionError` naming ``what`` if ``value`` is no text."""
    if not isinstance(value, str):
        message = f"{what} must be a str, not {value!r}"
        raise DefinitionError(message)


def _is_number(value: object, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_named(entry: object) -> bool:
    return isinstance(entry, str) or (isinstance(entry, type) and issubclass(entry, BaseException))


def type_name(error: type[BaseException]) -> str:
    """Return the name under which an exception class is recorded: ``ValueError``, ``shop.CardDeclined``."""
    return error.__qualname__ if error.__module__ == "builtins" else f"{error.__module__}.{error.__qualname__}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a failed activity is tried again.

    The delay before attempt ``n + 1`` is ``initial_interval * backoff_coefficient ** (n - 1)``,
    at most ``max_interval``. ``max_attempts=0`` sets no limit. ``non_retryable`` holds exception
    classes (a subclass counts) or their names, with or without the module.
    """

    initial_interval: Duration = 1.0
    backoff_coefficient: float = 2.0
    max_interval: Duration = 100.0
    max_attempts: int = 0
    non_retryable: tuple[type[BaseException] | str, ...] = ()

    def __post_init__(self) -> None:
        seconds(self.initial_interval, "RetryPolicy.initial_interval")
        seconds(self.max_interval, "RetryPolicy.max_interval")
        if not _is_number(self.backoff_coefficient, int | float) or not 1 <= self.backoff_coefficient <= _LARGEST:
            message = (
                f"RetryPolicy.backoff_coefficient must be a number of at least 1, not {self.backoff_coefficient!r}"
            )
            raise DefinitionError(message)
        if not _is_number(self.max_attempts, int) or not 0 <= self.max_attempts <= MOST_ATTEMPTS:
            message = (
                "RetryPolicy.max_attempts must be a whole number, 0 (no limit) or more, at most "
                f"{MOST_ATTEMPTS:,}, not {self.max_attempts!r}"
            )
            raise DefinitionError(message)
        listed: object = self.non_retryable
        if not isinstance(listed, tuple | list | set | frozenset) or not all(map(_is_named, listed)):
            message = (
                "RetryPolicy.non_retryable must be a tuple of exception classes or their names, such as "
                f"(ValueError, 'shop.CardDeclined'), not {listed!r}"
            )
            raise DefinitionError(message)

    def delay(self, attempt: int) -> float | None:
        """Return the seconds to wait after failed ``attempt`` (from 1), or None when it was the last one."""
        if self.max_attempts and attempt >= self.max_attempts:
            return None
        longest = seconds(self.max_interval, "RetryPolicy.max_interval")
        first = seconds(self.initial_interval, "RetryPolicy.initial_interval")
        exponent = min(attempt - 1, 1023)
        try:
            return min(longest, first * self.backoff_coefficient**exponent)
        except OverflowError:
            return longest

    def allows(self, error: BaseException) -> bool:
        """Tell whether an attempt that ended in ``error`` may be followed by another; of a group, all must allow it."""
        if isinstance(error, BaseExceptionGroup) and not all(self.allows(one) for one in error.exceptions):
            return False
        if isinstance(error, NonRetryableError):
            return False
        names = {name for cls in type(error).__mro__ for name in (cls.__name__, type_name(cls))}
        return not any(
            entry in names if isinstance(entry, str) else isinstance(error, entry) for entry in self.non_retryable
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityOptions:
    """How one activity call is carried out. ``None`` means: no limit, or the default of the run.

    ``timeout`` bounds one attempt, ``heartbeat_timeout`` the silence between two heartbeats,
    both in seconds. ``queue`` sends the activity to the workers of another task queue.
    """

    queue: str | None = None
    timeout: float | None = None
    heartbeat_timeout: float | None = None
    retry: RetryPolicy = RetryPolicy()

    def __post_init__(self) -> None:
        if self.queue is not None:
            check_name(self.queue, "queue")
        retry: object = self.retry
        if not isinstance(retry, RetryPolicy):
            message = f"retry must be a RetryPolicy, not {retry!r}"
            raise DefinitionError(message)
