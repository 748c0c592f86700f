"""What becomes known of a run's end on this worker: counted, and said where somebody has to look.

What lives here: `note`. What must not: what follows from an ending. `tenure` calls it.
"""

import logging

from perdure.model.events import WorkflowExecutionFailed
from perdure.model.runs import Close, Ending, Hold, RunInfo, RunState
from perdure.telemetry.logs import about
from perdure.telemetry.tally import Tally

logger = logging.getLogger("perdure.worker")

_OUTCOMES = {state: state.name.lower() for state in RunState}


def note(tally: Tally, run: RunInfo, ending: Ending | None) -> None:
    """Count a close or a hold that took place, and log a failure. A hold was logged with its reason before."""
    if isinstance(ending, Close):
        tally.closed[run.workflow][_OUTCOMES[ending.state]] += 1
        if isinstance(ending.outcome, WorkflowExecutionFailed):
            failure = ending.outcome.failure
            text = f"{failure.type}: {failure.message}\n{failure.traceback}".rstrip()
            logger.warning("%s failed: %s", run.id, text, extra=about(run))
    elif isinstance(ending, Hold):
        tally.held[ending.reason] = tally.held.get(ending.reason, 0) + 1
