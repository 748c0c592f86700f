"""Messages of clients to runs, many at a time.

What lives here: the packing of messages and their answers. What must not: the inbox as its owner reads it (`owning`).
`store` owns one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from perdure.model import codec
from perdure.model.events import Incoming, WorkflowExecutionCancelRequested
from perdure.model.runs import Hint, RunId, RunState, WorkerId
from perdure.store import records
from perdure.store.postgres.arrays import boolean, byteas, int4s, texts
from perdure.store.postgres.connection import Lanes
from perdure.store.postgres.gathering import Ask, Gathering

Delivered = tuple[RunId | None, Hint]

NOBODY: Delivered = (None, Hint())


@dataclass(slots=True)
class _Message(Ask[Delivered]):
    namespace: str
    instance: str
    cancel: bool
    body: bytes

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
        self.close = self._gathering.close

    async def deliver(self, namespace: str, instance: str, event: Incoming) -> Delivered:
        """Put a message into the inbox of the open run; the run is None when there is no open one."""
        records.check_texts(namespace, instance)
        cancel = isinstance(event, WorkflowExecutionCancelRequested)
        message = _Message(namespace, instance, cancel, codec.encode_message(event))
        self._gathering.add(message)
        return await message.answer

    async def _write(self, batch: Sequence[_Message]) -> None:
        instances = {(message.namespace, message.instance) for message in batch}
        parameters = {
            "namespaces": texts([message.namespace for message in batch]),
            "instances": texts([message.instance for message in batch]),
            "cancels": int4s([int(message.cancel) for message in batch]),
            "bodies": byteas([message.body for message in batch]),
            "several": boolean(len(instances) > 1),
        }
        rows = await self._lanes.pick(len(batch)).fetch("deliver", parameters)
        found = {(row[0], row[1]): (RunId(row[2]), mail_hint(row[3], row[4], row[5])) for row in rows}
        for one in batch:
            one.settle(found.get((one.namespace, one.instance), NOBODY))


def mail_hint(owner: int | None, queue: str, state: int) -> Hint:
    """Return whom to tell of new mail: the owner, or who might become it."""
    if owner is not None:
        return Hint(workers=frozenset({WorkerId(owner)}))
    return Hint(queues=frozenset({queue})) if state == RunState.READY else Hint()
