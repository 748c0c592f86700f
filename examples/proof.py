"""Did anything run twice? What the demo checks at its end.

What lives here: pure functions from a history and a journal to rows and a verdict. What must not: processes, the
terminal. The history says what was recorded, the journal what the activities did to the outside world; neither knows of
the other, so where they agree nothing was lost and nothing was doubled.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from perdure.cli.narration import arguments
from perdure.cli.steps import Outcome, Step, steps_of
from perdure.model.runs import HistoryEvent


@dataclass(frozen=True)
class Row:
    """One step: what the history has of it, how often its side effect took place, and whether that is right."""

    call: str
    recorded: str
    ran: int
    right: bool
    note: str


def prove(history: Sequence[HistoryEvent], journal: str, killed: str) -> list[Row]:
    """Return one row for each step of the history, in order; ``killed`` is the name of the worker that was killed."""
    keys = Counter(line.split("\t")[0] for line in journal.splitlines())
    ran = {int(key.rpartition("/")[2]): times for key, times in keys.items()}
    takeover = next((event.id for event in history if event.worker not in ("", killed)), len(history) + 1)
    before = steps_of(event for event in history if event.id < takeover)
    return [_row(step, before.get(seq), ran.get(seq, 0)) for seq, step in steps_of(history).items()]


def _row(step: Step, before: Step | None, ran: int) -> Row:
    if before is None:
        right, note = ran == step.attempts, "after the takeover"
    elif before.results:
        right, note = ran == step.attempts, "before the kill, not run again"
    else:
        # Its attempt began and its end was never recorded. Nobody can know how far it came, so it is made again.
        right, note = step.attempts <= ran <= step.attempts + 1, "under way at the kill, tried again"
    return Row(
        call=f"{step.name}{arguments(step.scheduled.input, 20)}",
        recorded=_recorded(step),
        ran=ran,
        right=right and step.outcome is Outcome.COMPLETED and step.results == 1,
        note=note,
    )


def _recorded(step: Step) -> str:
    failed = step.attempts - step.results
    results = "1 result" if step.results == 1 else f"{step.results} results"
    return results if not failed else f"{failed} failed attempt{'s' * (failed > 1)}, {results}"
