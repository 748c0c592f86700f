"""Logic flags: which scheduling rules a turn was run with.

What lives here: one bit for every change of the engine that alters the order in
which workflow code proceeds. Each turn records the bits in force, and replay
runs the turn under the recorded ones. A release that changes an order adds a
bit, keeps the old branch for turns without it, and never reuses a number.
"""

from enum import IntFlag

from perdure.errors import UnreadableHistoryError


class LogicFlag(IntFlag):
    """The rules that may differ between turns."""

    CANCEL_AFTER_FIRST_STEP = 1
    """A cancel request in the turn that starts the run reaches the code at its first
    await instead of keeping it from running at all, so that cleanup code is entered."""


CURRENT = LogicFlag.CANCEL_AFTER_FIRST_STEP
"""What new turns are run with."""


def known(flags: int) -> LogicFlag:
    """Return recorded flags; raise `UnreadableHistoryError` for one that only a newer release knows."""
    if flags == CURRENT:
        return CURRENT
    unknown = flags & ~sum(LogicFlag)
    if unknown:
        message = (
            f"a turn of its history was recorded under rules of a newer release of Perdure (flag {unknown:#x}). "
            "Upgrade this worker; a worker of the newer release takes the run by itself"
        )
        raise UnreadableHistoryError(message)
    return LogicFlag(flags)
