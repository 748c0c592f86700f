"""Headers of turns: what a turn inherits from the one before, and what is worth recording.

What lives here: pure functions. What must not: the run. `run` calls them.
"""

from perdure.model.events import Microseconds, TurnHeader

from . import flags as logic


def says_only_the_time(header: TurnHeader) -> bool:
    """Tell whether everything else is as in the turn before."""
    return header.build is None and header.python is None and header.flags is None and header.worker is None


def at(time: Microseconds, header: TurnHeader) -> TurnHeader:
    """Return the header of a turn at ``time`` for which the rest of ``header`` holds."""
    if header.time == time:
        return header
    return TurnHeader(time=time, build=header.build, python=header.python, flags=header.flags, worker=header.worker)


def effective(header: TurnHeader, before: TurnHeader, *, recorded: bool) -> TurnHeader:
    """Return the header with everything that it leaves out taken from ``before``; time never goes back.

    A new turn runs under today's rules, a ``recorded`` one under those of its time.
    """
    time = max(before.time, header.time)
    complete = header.build is not None and header.python is not None and header.worker is not None
    if complete and header.flags is not None and header.time == time:
        return header
    inherited = before.flags if recorded else int(logic.CURRENT)
    return TurnHeader(
        time=time,
        build=header.build if header.build is not None else before.build,
        python=header.python if header.python is not None else before.python,
        flags=header.flags if header.flags is not None else inherited,
        worker=header.worker if header.worker is not None else before.worker,
    )


def difference(before: TurnHeader, after: TurnHeader) -> TurnHeader:
    """Return the header to record: what did not change is left out."""
    if after.build == before.build and after.worker == before.worker and after.flags == before.flags:
        return TurnHeader(time=after.time, python=after.python if after.python != before.python else None)
    return TurnHeader(
        time=after.time,
        build=after.build if after.build != before.build else None,
        python=after.python if after.python != before.python else None,
        flags=after.flags if after.flags != before.flags else None,
        worker=after.worker if after.worker != before.worker else None,
    )
