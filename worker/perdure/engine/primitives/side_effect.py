"""Side effects: a value computed once and read from history ever after."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from perdure.model.events import NULL, SideEffectRecorded
from perdure.model.payload import Reader, encode

if TYPE_CHECKING:
    from perdure.engine.run import Run


def side_effect(run: "Run", function: Callable[[], Any], result: Reader) -> Any:
    """Return the recorded value, or call ``function`` and record what it returns.

    The value is read back from its JSON the first time too, so that the code
    sees the same object live and on replay.
    """
    seq = run.next_seq()
    value = NULL
    if not run.replaying:
        run.refuse_when_torn_down()
        run.loop.guarded = False
        try:
            value = encode(function(), "the value of a side effect")
        finally:
            run.loop.guarded = True
        run.check_size(value, "the value of a side effect")
    recorded = run.emit(SideEffectRecorded(seq, value))
    return result.read(recorded.value, "the recorded side effect")
