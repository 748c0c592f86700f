"""Side effects: a value computed once and read from history ever after."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from perdure.model.events import NULL, SideEffectFailed, SideEffectRecorded
from perdure.model.failure import rebuild, record
from perdure.model.payload import Reader, encode

if TYPE_CHECKING:
    from perdure.engine.run import Run


def side_effect(run: "Run", function: Callable[[], Any], result: Reader) -> Any:
    """Return the recorded value, or call ``function`` and record what it returns or raises.

    The value is read back from its JSON the first time too, and an exception
    built anew from its record, so that the code sees the same live and on replay.
    """
    run.check_may_ask()
    seq = run.next_seq()
    recorded = run.emit(SideEffectRecorded(seq, NULL) if run.replaying else _compute(run, seq, function))
    if isinstance(recorded, SideEffectFailed):
        raise rebuild(recorded.failure)
    return result.read(recorded.value, "the recorded side effect")


def _compute(run: "Run", seq: int, function: Callable[[], Any]) -> SideEffectRecorded | SideEffectFailed:
    run.loop.guarded = False
    try:
        value = encode(function(), "the value of a side effect")
    except Exception as error:  # noqa: BLE001  # whatever it raises is recorded, and raised again
        return SideEffectFailed(seq, record(error))
    finally:
        run.loop.guarded = True
    run.check_size(value, "the value of a side effect")
    return SideEffectRecorded(seq, value)
