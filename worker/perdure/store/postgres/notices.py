"""Hints as they travel: the channels and payloads of NOTIFY.

What lives here: their form, both ways. What must not: when they are sent and who hears them (`hints`).
"""

from collections.abc import Sequence
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from perdure.model.events import Turn, TurnHeader, WorkflowExecutionStarted
from perdure.model.hints import Audience, Hint
from perdure.model.runs import ClaimedRun, NewRun, RunId, RunInfo, WorkerId
from perdure.store.postgres import arrays
from perdure.store.postgres.sealing import Seal

MOST_NAMES = 50
LONGEST_NAME = 100
"""Most queues, or workers, in one payload, which must stay below 8,000 bytes."""
MOST_RUNS = 300
"""Most runs that one payload says are closed."""
LONGEST_ANNOUNCEMENT = 2_000
"""Most bytes of a payload that announces a run: every worker of the server reads it."""


class _Described(msgspec.Struct, array_like=True):
    namespace: str
    instance: str
    workflow: str
    queue: str
    started: WorkflowExecutionStarted


class _Announcement(msgspec.Struct, array_like=True):
    """A run that was started just now. All but the first field is added by the statement that starts it."""

    sealed: str
    run_id: int
    created_at: int
    deadline: int | None

    def opened(self, seal: Seal) -> ClaimedRun:
        run = _described.decode(seal.open(self.sealed))
        return ClaimedRun(
            info=RunInfo(
                id=run.instance,
                run_id=RunId(self.run_id),
                namespace=run.namespace,
                workflow=run.workflow,
                queue=run.queue,
            ),
            history=(Turn(0, TurnHeader(time=self.created_at), (run.started,)),),
            inbox=(),
            tasks=(),
            mail=0,
            created_at=self.created_at,
            deadline=self.deadline,
        )


class _Payload(msgspec.Struct, array_like=True):
    sender: str
    queues: list[str] = []
    workers: list[int] = []
    closed: list[int] = []
    changed: bool = False
    tasks: list[str] = []
    announced: _Announcement | None = None


_ANNOUNCES_NOTHING: Final = "null]"
"""How a payload without an announcement ends."""
_ADDRESSED: Final = "perdure_worker_"

_decoder = msgspec.json.Decoder(_Payload)
_described = msgspec.json.Decoder(_Described)


class Notice(NamedTuple):
    """One payload for all that listen to one of these channels."""

    channels: tuple[str, ...]
    payload: str


def sent(notice: Notice | None) -> dict[str, object]:
    """Return the parameters of a statement that a hint for one channel rides on: the last turn of a run."""
    channel, payload = (None, None) if notice is None else (notice.channels[0], notice.payload)
    return {"channel": arrays.text(channel), "hint": arrays.text(payload)}


def sent_to_some(notice: Notice | None) -> dict[str, object]:
    """Return the parameters of a statement that a hint for any number of channels rides on: a start."""
    channels, payload = ((), None) if notice is None else notice
    return {"channels": arrays.texts(channels), "hint": arrays.text(payload)}


def announcing(notice: Notice, seal: Seal, new: NewRun, started: bytes) -> Notice | None:
    """Return the beginning of a notice that announces the run, too; None when that is too long.

    ``started`` is the first event as it is recorded. The statement that starts the run adds its id, the time of its
    turn 0 and its deadline or null, with commas between them, and closes two brackets.
    """
    channels, payload = notice
    if len(started) > LONGEST_ANNOUNCEMENT:
        return None
    described = (new.namespace, new.id, new.workflow, new.queue, msgspec.Raw(started))
    sealed = seal.close(msgspec.json.encode(described))
    payload = f'{payload.removesuffix(_ANNOUNCES_NOTHING)}["{sealed}",'
    return Notice(channels, payload) if len(payload.encode()) <= LONGEST_ANNOUNCEMENT else None


def channel_of(audience: Audience) -> str:
    """Return the channel on which this audience is told."""
    return f"perdure_{audience}"


def channel_to(worker: WorkerId) -> str:
    """Return the channel on which this worker is told."""
    return f"{_ADDRESSED}{worker}"


def encoded(sender: str, hint: Hint, few: Sequence[WorkerId] | None) -> list[Notice]:
    """Return as few notices as say all of it; what it announces is left out.

    The few workers are told of runs and tasks; None: every worker is.
    """
    notices: list[Notice] = []
    closed = iter(sorted(hint.closed))
    while runs := list[int](islice(closed, MOST_RUNS)):
        notices.append(_notice((channel_of(Audience.CLIENTS),), _Payload(sender, closed=runs)))
    if hint.changed:
        notices.append(_notice((channel_of(Audience.OPERATORS),), _Payload(sender, changed=True)))
    owners = iter(sorted(hint.workers))
    while some := tuple(islice(owners, MOST_NAMES)):
        notices.append(_notice(tuple(map(channel_to, some)), _Payload(sender, workers=list(some))))
    channels = (channel_of(Audience.WORKERS),) if few is None else tuple(map(channel_to, few))
    queues, tasks = iter(_short(hint.queues)), iter(_short(hint.tasks))
    while channels:
        payload = _Payload(sender, list(islice(queues, MOST_NAMES)))
        payload.tasks = list(islice(tasks, MOST_NAMES - len(payload.queues)))
        if not (payload.queues or payload.tasks):
            break
        notices.append(_notice(channels, payload))
    return notices


def decoded(sender: str, seal: Seal, channel: str, payload: str) -> Hint | None:
    """Return the hint of another process; None for our own and for those of releases that write them otherwise."""
    try:
        found = _decoder.decode(payload)
    except msgspec.MsgspecError:
        return None
    if found.sender == sender:
        return None
    return Hint(
        queues=frozenset(found.queues),
        tasks=frozenset(found.tasks),
        workers=frozenset(WorkerId(worker) for worker in found.workers),
        closed=frozenset(map(RunId, found.closed)),
        changed=found.changed,
        announced=_opened(found.announced, seal),
        addressed=channel.startswith(_ADDRESSED),
    )


def _opened(announcement: _Announcement | None, seal: Seal) -> tuple[ClaimedRun, ...]:
    """Return the run; nothing when it is sealed or written otherwise, and the rest is a hint like any other."""
    if announcement is None:
        return ()
    try:
        return (announcement.opened(seal),)
    except (msgspec.MsgspecError, ValueError):
        return ()


def _notice(channels: tuple[str, ...], payload: _Payload) -> Notice:
    return Notice(channels, msgspec.json.encode(payload).decode())


def _short(names: frozenset[str]) -> list[str]:
    """Leave out names that would fill a payload: those queues are polled."""
    return sorted(name for name in names if len(msgspec.json.encode(name)) <= LONGEST_NAME)
