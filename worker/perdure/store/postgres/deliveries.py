"""Messages of clients to runs, many at a time.

What lives here: the packing of messages and their answers. What must not: the inbox as its owner reads it (`owning`).
`store` owns one.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from perdure.model import codec
from perdure.model.events import Incoming, SignalReceived, WorkflowExecutionCancelRequested
from perdure.model.hints import Hint
from perdure.model.runs import RunId, RunState, WorkerId
from perdure.store import records
from perdure.store.postgres.arrays import boolean, byteas, column, int4s, int8s, texts
from perdure.store.postgres.connection import AnswerLostError, Lanes, Patience, Row, look_first
from perdure.store.postgres.gathering import Ask, Gathering

Delivered = tuple[RunId | None, Hint]

NOBODY: Delivered = (None, Hint())
_NAMED = (SignalReceived, WorkflowExecutionCancelRequested)


@dataclass(slots=True)
class _Message(Ask[Delivered]):
    namespace: str
    instance: str
    run_id: RunId | None
    cancel: bool
    body: bytes
    mark: bytes | None
    """What tells it from every other message; None: nothing does."""

    @property
    def size(self) -> int:
        return len(self.body)

    @property
    def refusal(self) -> str:
        return f"the message to {self.instance} cannot be stored"


class Deliveries:
    """Numbers messages and puts them into the inboxes of open runs, those for one run in the order given."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._gathering: Gathering[_Message] = Gathering("perdure-deliver", self._write)
        self._loop = asyncio.get_running_loop()
        self.close = self._gathering.close

    async def deliver(self, namespace: str, instance: str, event: Incoming, run_id: RunId | None) -> Delivered:
        """Put a message into the inbox of the open run; the run is None when there is no open one."""
        records.check_texts(namespace, instance)
        cancel = isinstance(event, WorkflowExecutionCancelRequested)
        mark = msgspec.json.encode(event.id) if isinstance(event, _NAMED) and event.id else None
        body = codec.encode_message(event)
        message = _Message(namespace, instance, run_id, cancel, body, mark, answer=self._loop.create_future())
        self._gathering.add(message)
        return await message.answer

    async def _write(self, batch: Sequence[_Message]) -> None:
        patience: Patience | None = None
        while batch:
            instances = {(message.namespace, message.instance) for message in batch}
            parameters = {
                "runs": int8s(column([message.run_id for message in batch])),
                "cancels": int4s([int(message.cancel) for message in batch]),
                "bodies": byteas([message.body for message in batch]),
                "several": boolean(len(instances) > 1),
                **_addresses(batch),
            }
            try:
                lane = self._lanes.pick(len(batch))
                rows = await lane.fetch("deliver", parameters, on_repeat=look_first, patience=patience)
            except AnswerLostError:
                patience = patience or Patience()
                batch = await self._undelivered(batch)
                continue
            _settle(batch, rows)
            for message in batch:
                message.settle(NOBODY)
            return

    async def _undelivered(self, batch: Sequence[_Message]) -> list[_Message]:
        """Settle the messages that an earlier try has delivered, whose runs may be closed by now; return the others."""
        parameters = {**_addresses(batch), "marks": byteas([message.mark for message in batch])}
        rows = await self._lanes.pick(len(batch)).fetch("delivered", parameters)
        _settle(batch, rows)
        delivered = {row[0] for row in rows}
        return [message for place, message in enumerate(batch, start=1) if place not in delivered]


def _settle(batch: Sequence[_Message], rows: Sequence[Row]) -> None:
    for place, run_id, owner, queue, state in rows:
        batch[place - 1].settle((RunId(run_id), mail_hint(owner, queue, state)))


def _addresses(batch: Sequence[_Message]) -> dict[str, object]:
    return {
        "namespaces": texts([message.namespace for message in batch]),
        "instances": texts([message.instance for message in batch]),
    }


def mail_hint(owner: int | None, queue: str, state: int) -> Hint:
    """Return whom to tell of new mail: the owner, or who might become it."""
    if owner is not None:
        return Hint(workers=frozenset({WorkerId(owner)}))
    return Hint(queues=frozenset({queue})) if state == RunState.READY else Hint()
