"""Starting runs, many at a time.

What lives here: the packing of starts and their answers. What must not: leases and turns. `store` owns one.
"""

import asyncio
import itertools
import secrets
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import msgspec
from psycopg import errors

from perdure.errors import PayloadError
from perdure.model import codec
from perdure.model.events import WorkflowExecutionStarted
from perdure.model.hints import NOTHING, Hint
from perdure.model.runs import NewRun, RunId, Started
from perdure.model.workers import Lease
from perdure.store import records
from perdure.store.base import Beginning, Taker
from perdure.store.postgres.arrays import Bytea, boolean, byteas, column, int4, int4s, int8, int8s, text, texts
from perdure.store.postgres.connection import AnswerLostError, Lane, Lanes, Parameters, Patience, Row, look_first
from perdure.store.postgres.gathering import Ask, Gathering
from perdure.store.postgres.hints import Hints
from perdure.store.postgres.leasing import NOBODY, fence
from perdure.store.postgres.notices import Notice, announcing, sent_to_some
from perdure.store.postgres.sealing import Seal

_encoder = msgspec.json.Encoder()


@dataclass(slots=True)
class _Birth(Ask[Started]):
    """A start that waits to be written. Either ``event`` or the whole ``turn`` is recorded."""

    new: NewRun
    started: WorkflowExecutionStarted
    taker: Taker | None = None
    beginning: Beginning | None = None
    event: bytes | None = None
    turn: bytes | None = None
    outside: Sequence[bytes] = ()
    hinted: bool = False

    @property
    def lease(self) -> Lease | None:
        """By which right somebody takes it."""
        return self.taker.lease if self.taker is not None else None

    @property
    def size(self) -> int:
        return len(self.new.input) + len(self.event or b"") + len(self.turn or b"") + sum(map(len, self.outside))

    @property
    def refusal(self) -> str:
        return f"{self.new.id} cannot be started"

    @property
    def names(self) -> Sequence[Hashable]:
        name = (self.new.namespace, self.new.id)
        return (name,) if self.new.key is None else (name, self.new.key)

    @property
    def settled(self) -> bool:
        return self.answer.done() and self.beginning is None

    @property
    def packed(self) -> bool:
        """Whether there is something to write; not, if nobody waited for it any more when it was to begin."""
        return self.event is not None or self.turn is not None

    def pack(self) -> None:
        """Encode what is to be recorded."""
        turn = self.beginning.turn if self.beginning is not None else None
        if turn is None:
            events, self.outside = codec.split_payloads((self.started,), records.LARGE)
            self.event = _encoder.encode(codec.trimmed(events)[0])
        else:
            self.turn, self.outside = codec.encode_apart(turn, records.LARGE)

    def made(self, row: Row, *, first: bool) -> None:
        """Answer with what the statement says of this start; ``first``: of several for one id, it is the one."""
        _, run_id, created, workflow, taken, created_at = row
        taken = taken and first
        beginning, self.beginning = self.beginning, None
        if beginning is not None and taken:
            beginning.took(records.newborn(self.new, self.started, RunId(run_id), created_at, beginning.turn))
        elif beginning is not None:
            beginning.dropped()
        self.settle(Started(RunId(run_id), created and first, workflow, taken))

    def fail(self, error: Exception | None) -> None:
        """Let nobody have the run from its start."""
        if self.beginning is not None:
            self.beginning.dropped()
            self.beginning = None
        Ask.fail(self, error)


class Births:
    """Writes starts, many at a time."""

    def __init__(self, lanes: Lanes, turns: Lane, hints: Hints) -> None:
        self._lanes = lanes
        self._turns = turns
        self._hints = hints
        self._gathering: Gathering[_Birth] = Gathering("perdure-start", self._write)
        self._unbegun: list[_Birth] = []
        # Each write has one that no other has: those of two processes begin at random, far from each other.
        self._tags = itertools.count(secrets.randbits(62))
        self._loop = asyncio.get_running_loop()
        self.close = self._gathering.close

    async def start(self, new: NewRun, taker: Taker | None) -> Started:
        """Create the run and its turn 0, or return the run that has the key or the id already."""
        birth = _Birth(new, records.started_event(new), taker, answer=self._loop.create_future())
        if not self._unbegun:
            self._loop.call_soon(self._begin)
        self._unbegun.append(birth)
        self._gathering.add(birth)
        started = await birth.answer
        if started.created and not started.taken and not birth.hinted:
            self._hints.send(Hint(queues=frozenset({new.queue}), count=1))
        return started

    def _begin(self) -> None:
        """Take the first turns of all runs that were asked for in this round of the event loop, and pack them."""
        births, self._unbegun = self._unbegun, []
        births = [birth for birth in births if not birth.answer.done()]
        for taker in {id(birth.taker): birth.taker for birth in births}.values():
            own = [birth for birth in births if birth.taker is taker]
            try:
                if taker is not None:
                    beginnings = taker.begin([(birth.new, birth.started) for birth in own])
                    for birth, beginning in zip(own, beginnings, strict=True):
                        birth.beginning = beginning
            except Exception as error:  # noqa: BLE001  # it belongs to those who asked
                for birth in own:
                    birth.fail(error)
                continue
            for birth in own:
                try:
                    birth.pack()
                except PayloadError as error:
                    birth.fail(error)

    async def _write(self, batch: Sequence[_Birth]) -> None:
        """Write a batch. When another process starts one of its ids at the same moment, the next try finds that run."""
        if self._unbegun:
            self._begin()
        batch = [birth for birth in batch if birth.packed and not birth.settled]
        if not batch:
            return
        tag = next(self._tags)
        lost = refused = False
        patience: Patience | None = None
        while True:
            queues = [birth.new.queue for birth in batch if birth.lease is None]
            # A repeat goes without: the hint itself may be what the server does not take.
            free = Hint(queues=frozenset(queues), count=len(queues)) if queues and not lost else NOTHING
            try:
                with self._hints.riding(free) as notice:
                    name, parameters = self._statement(batch, tag, notice, long=refused)
                    rows = None if lost else await self._along(batch, name, parameters)
                    if rows is None:
                        lane = self._lanes.pick(len(batch))
                        rows = await lane.fetch(name, parameters, on_repeat=look_first, patience=patience)
                if rows:
                    for birth in batch:
                        birth.hinted = notice is not None and birth.lease is None
                    break
                refused = True
            except errors.UniqueViolation:
                pass
            except AnswerLostError:
                lost, patience = True, patience or Patience()
            batch = await self._unmade(batch, tag) if lost else batch
            if not batch:
                return
        _settle(batch, rows)

    def _statement(
        self, batch: Sequence[_Birth], tag: int, notice: Notice | None, *, long: bool
    ) -> tuple[str, Parameters]:
        """Return the shortest statement for these starts; ``long``: one that takes all."""
        birth, lease = batch[0], batch[0].lease
        if not long and len(batch) == 1 and not birth.outside:
            if lease is None:
                return "start_one", _parameters_of_one(birth, notice, self._hints.seal)
            if birth.turn is not None and birth.new.key is None and not birth.new.suspended:
                return "start_own", _parameters_of_own(birth, lease, birth.turn, tag)
        return "start", _parameters(batch, tag) | sent_to_some(notice)

    async def _along(self, batch: Sequence[_Birth], name: str, parameters: Parameters) -> list[Row] | None:
        """Write the starts with the turns of those who take them, if turns are about to be written."""
        if all(birth.taker is not None and birth.taker.takes_along(len(batch)) for birth in batch):
            return await self._turns.ride(name, parameters)
        return None

    async def _unmade(self, batch: Sequence[_Birth], tag: int) -> list[_Birth]:
        """Settle the starts that an earlier try has made, whose runs may be closed by now; return the others."""
        rows = await self._lanes.pick(len(batch)).fetch("born", _parameters(batch, tag))
        made = {row[0] for row in rows}
        _settle(batch, rows)
        return [birth for place, birth in enumerate(batch, start=1) if place not in made]


def _settle(batch: Sequence[_Birth], rows: Sequence[Row]) -> None:
    given: set[int] = set()
    for row in sorted(rows):
        batch[row[0] - 1].made(row, first=row[1] not in given)  # a key and an id may name the same run
        given.add(row[1])


def _parameters_of_own(birth: _Birth, lease: Lease, turn: bytes, tag: int) -> Parameters:
    return {**_of_run(birth.new), **fence(lease), "claim": int8(tag), "turn": Bytea(turn)}


def _parameters_of_one(birth: _Birth, notice: Notice | None, seal: Seal) -> Parameters:
    new, announcement = birth.new, None
    assert birth.event is not None
    if notice is not None and new.build is None and not new.suspended:
        announcement = announcing(notice, seal, new, birth.event)
    return {
        **_of_run(new),
        **sent_to_some(announcement or notice),
        "announced": boolean(announcement is not None),
        "key": text(new.key),
        "suspended": boolean(new.suspended),
        "event": Bytea(birth.event),
    }


def _of_run(new: NewRun) -> dict[str, object]:
    return {
        "namespace": text(new.namespace),
        "instance": text(new.id),
        "workflow": text(new.workflow),
        "queue": text(new.queue),
        "build": text(new.build),
        "priority": int4(new.priority),
        "timeout": int8(_microseconds(new.timeout)),
    }


def _parameters(batch: Sequence[_Birth], tag: int) -> dict[str, object]:
    new = [birth.new for birth in batch]
    # One statement has one fence: should several workers of a process want runs, the first one named gets its own.
    lease = next((birth.lease for birth in batch if birth.lease is not None), None)
    outside = [
        (place, ordinal, data)
        for place, birth in enumerate(batch, start=1)
        for ordinal, data in enumerate(birth.outside, start=1)
    ]
    return {
        **(fence(lease) if lease is not None else NOBODY),
        "claim": int8(tag),
        "taken": int4s([int(birth.lease is not None and birth.lease == lease) for birth in batch]),
        "namespaces": texts([run.namespace for run in new]),
        "instances": texts([run.id for run in new]),
        "workflows": texts([run.workflow for run in new]),
        "queues": texts([run.queue for run in new]),
        "keys": texts(column([run.key for run in new])),
        "priorities": int4s([run.priority for run in new]),
        "timeouts": int8s(column([_microseconds(run.timeout) for run in new])),
        "events": byteas(column([birth.event for birth in batch])),
        "turns": byteas(column([birth.turn for birth in batch])),
        "suspended": int4s(column([1 if run.suspended else None for run in new])),
        "builds": texts(column([run.build for run in new])),
        "payload_places": int8s([place for place, _, _ in outside]),
        "payload_ordinals": int4s([ordinal for _, ordinal, _ in outside]),
        "payloads": byteas([data for _, _, data in outside]),
    }


def _microseconds(timeout: float | None) -> int | None:
    return None if timeout is None else round(timeout * 1_000_000)
