"""Activity options as JSON, for the worker that carries out somebody else's task.

What lives here: the two directions. What must not: decisions. `placement`
writes, `tasks` reads.
"""

import msgspec

from perdure.model.policies import ActivityOptions, RetryPolicy, seconds, type_name


class _TaskOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    timeout: float | None = None
    heartbeat_timeout: float | None = None
    initial_interval: float = 1.0
    backoff_coefficient: float = 2.0
    max_interval: float = 100.0
    max_attempts: int = 0
    non_retryable: tuple[str, ...] = ()


_decoder = msgspec.json.Decoder(_TaskOptions)


def encode_options(options: ActivityOptions) -> bytes:
    """Return the options without the queue, which the task has itself; exception classes become names."""
    retry = options.retry
    return msgspec.json.encode(
        _TaskOptions(
            timeout=options.timeout,
            heartbeat_timeout=options.heartbeat_timeout,
            initial_interval=seconds(retry.initial_interval, "initial_interval"),
            backoff_coefficient=float(retry.backoff_coefficient),
            max_interval=seconds(retry.max_interval, "max_interval"),
            max_attempts=int(retry.max_attempts),
            non_retryable=tuple(e if isinstance(e, str) else type_name(e) for e in retry.non_retryable),
        )
    )


def decode_options(data: bytes) -> ActivityOptions:
    """Return the options that `encode_options` wrote."""
    task = _decoder.decode(data)
    return ActivityOptions(
        timeout=task.timeout,
        heartbeat_timeout=task.heartbeat_timeout,
        retry=RetryPolicy(
            initial_interval=task.initial_interval,
            backoff_coefficient=task.backoff_coefficient,
            max_interval=task.max_interval,
            max_attempts=task.max_attempts,
            non_retryable=task.non_retryable,
        ),
    )
