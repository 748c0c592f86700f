"""Replay: a history and the code give the run as it was. Read this file first.

What lives here: `replay`. What must not: anything that waits, logs or stores.

A history is a list of turns. Each turn holds what happened (events applied in
the order in which they are recorded) and what the code asked for in answer
(commands). Replaying a turn means: set the time to the turn's, apply what
happened, run the code until it waits, and match each command it emits against
the recorded one. After the last turn the run stands where it stood when that
turn was written, and `Run.turn` moves it on.

::

    turn 0   WorkflowExecutionStarted                  written by the starter, if need be with what is turn 1 here
    turn 1   ActivityScheduled #1 charge               the code ran and asked for an activity
    turn 2   ActivityCompleted #1, TimerStarted #2     it was told the result and asked for a timer
    turn 3   TimerFired #2, WorkflowExecutionCompleted

Where the code does something else than history says, the rest of history means
nothing to it: `NonDeterminismError`, and the run is held.
"""

from collections.abc import Iterable

from perdure.model.events import Turn
from perdure.model.runs import RunInfo

from .run import Definition, Run


def replay(definition: Definition, info: RunInfo, history: Iterable[Turn]) -> Run:
    """Return the run at the end of ``history``.

    Pure: the same arguments give the same run, at any time and on any machine.
    Raises `EngineFault` (in most cases `NonDeterminismError`) when this code did
    not write this history. The half-replayed run is torn down first.
    """
    run = Run(definition, info)
    try:
        with run.loop.staying():
            for turn in history:
                run.replay_turn(turn)
    except BaseException:
        run.evict()
        raise
    run.visible = None  # it is in the store since
    return run
