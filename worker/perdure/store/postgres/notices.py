"""Hints as they travel: the channels and payloads of NOTIFY.

What lives here: their form, both ways. What must not: when they are sent and who hears them (`hints`).
"""

from itertools import islice
from typing import Final

import msgspec

from perdure.model.events import Turn, TurnHeader, WorkflowExecutionStarted
from perdure.model.hints import Audience, Hint
from perdure.model.runs import ClaimedRun, NewRun, RunId, RunInfo, WorkerId
from perdure.store.postgres import arrays
from perdure.store.postgres.sealing import Seal

MOST_NAMES = 50
LONGEST_NAME = 100
"""Most queues, or workers, in one payload, which must stay below 8,000 bytes."""
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
    closed: bool = False
    changed: bool = False
    tasks: list[str] = []
    announced: _Announcement | None = None


_ANNOUNCES_NOTHING: Final = "null]"
"""How a payload without an announcement ends."""

_decoder = msgspec.json.Decoder(_Payload)
_described = msgspec.json.Decoder(_Described)

Notice = tuple[str, str]
"""A channel and a payload."""


def sent(notice: Notice | None) -> dict[str, object]:
    """Return the parameters of a statement that a hint rides on."""
    channel, payload = notice or (None, None)
    return {"channel": arrays.text(channel), "hint": arrays.text(payload)}


def announcing(notice: Notice, seal: Seal, new: NewRun, started: bytes) -> Notice | None:
    """Return the beginning of a notice that announces the run, too; None when that is too long.

    ``started`` is the first event as it is recorded. The statement that starts the run adds its id, the time of its
    turn 0 and its deadline or null, with commas between them, and closes two brackets.
    """
    channel, payload = notice
    if len(started) > LONGEST_ANNOUNCEMENT:
        return None
    described = (new.namespace, new.id, new.workflow, new.queue, msgspec.Raw(started))
    sealed = seal.close(msgspec.json.encode(described))
    payload = f'{payload.removesuffix(_ANNOUNCES_NOTHING)}["{sealed}",'
    return (channel, payload) if len(payload.encode()) <= LONGEST_ANNOUNCEMENT else None


def channel_of(audience: Audience) -> str:
    """Return the channel on which this audience is told."""
    return f"perdure_{audience}"


def encoded(sender: str, hint: Hint) -> list[Notice]:
    """Return as few notices as say all of it; what it announces is left out."""
    notices: list[Notice] = []
    if hint.closed:
        notices.append(_notice(Audience.CLIENTS, _Payload(sender, closed=True)))
    if hint.changed:
        notices.append(_notice(Audience.OPERATORS, _Payload(sender, changed=True)))
    queues, tasks = iter(_short(hint.queues)), iter(_short(hint.tasks))
    workers = iter(sorted(int(worker) for worker in hint.workers))
    while True:
        payload = _Payload(sender, list(islice(queues, MOST_NAMES)), list(islice(workers, MOST_NAMES)))
        payload.tasks = list(islice(tasks, MOST_NAMES - len(payload.queues)))
        if not (payload.queues or payload.tasks or payload.workers):
            return notices
        notices.append(_notice(Audience.WORKERS, payload))


def decoded(sender: str, seal: Seal, payload: str) -> Hint | None:
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
        closed=found.closed,
        changed=found.changed,
        announced=_opened(found.announced, seal),
    )


def _opened(announcement: _Announcement | None, seal: Seal) -> tuple[ClaimedRun, ...]:
    """Return the run; nothing when it is sealed or written otherwise, and the rest is a hint like any other."""
    if announcement is None:
        return ()
    try:
        return (announcement.opened(seal),)
    except (msgspec.MsgspecError, ValueError):
        return ()


def _notice(audience: Audience, payload: _Payload) -> Notice:
    return channel_of(audience), msgspec.json.encode(payload).decode()


def _short(names: frozenset[str]) -> list[str]:
    """Leave out names that would fill a payload: those queues are polled."""
    return sorted(name for name in names if len(msgspec.json.encode(name)) <= LONGEST_NAME)
