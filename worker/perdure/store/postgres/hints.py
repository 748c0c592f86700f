"""Hints between processes: NOTIFY, coalesced and off the write path, and LISTEN on a connection of its own.

What lives here: `Hints`. What must not: anything that correctness depends on, for a hint that is lost costs a poll; and
the form of what is sent (`notices`).

Each audience has a channel, and so has each worker: PostgreSQL sends a process what comes on channels that it listens
to, and wakes it for nothing else. A worker need not know of each of thousands of runs that close, or that start.
"""

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from time import monotonic
from typing import Any

import psycopg
from msgspec.structs import replace
from psycopg.pq import ExecStatus, TransactionStatus

from perdure.ending import end
from perdure.errors import StoreError
from perdure.model.hints import NOTHING, Audience, Hint
from perdure.model.runs import WorkerId
from perdure.store.postgres import arrays
from perdure.store.postgres.address import Address, unavailable
from perdure.store.postgres.connection import Lane, Patience, Pooler
from perdure.store.postgres.fleets import Fleets
from perdure.store.postgres.notices import Notice, channel_of, channel_to, decoded, encoded
from perdure.store.postgres.sealing import Seal
from perdure.store.postgres.socket import Socket

PAUSE = 0.002
SHARE = 0.2
"""Least seconds between two NOTIFYs, and the most of its time that a process sends them: each takes a lock that all
databases of the server share, and takes longer when others want it too."""

AT_ONCE = 1.0
"""Seconds that hints may take that are still to be sent at the end."""

_NO_RIDE: AbstractContextManager[None] = contextlib.nullcontext()


class Hints:
    """Sends hints soon and receives those of others; listeners of this process are told at once."""

    def __init__(self, address: Address, pooler: Pooler, lane: Lane) -> None:
        self._address = address
        self._pooler = pooler
        self._lane = lane
        self._fleets = Fleets(lane, random.Random(), self._leave)
        self._sender = secrets.token_hex(6)
        self.seal: Seal
        """What announcements are sealed with; the store has it from the database before anything else."""
        self._waiting = NOTHING
        self._task: asyncio.Task[None] | None = None
        self._listeners: set[asyncio.Queue[Hint | Exception]] = set()
        self._audiences: set[Audience] = set()
        self._channels: dict[str, Hint] = {}
        """What is listened to, with what to say as soon as it is: what came before was not heard."""
        self._ears: set[_Ear] = set()
        self._riding = False
        self._free_at = 0.0

    def send(self, hint: Hint) -> None:
        """Wake listeners here now and elsewhere within some milliseconds."""
        self._tell(hint)
        self._waiting |= hint
        if self._task is None:
            self._task = asyncio.create_task(self._send_all(), name="perdure-notify")

    def riding(self, hint: Hint) -> AbstractContextManager[Notice | None]:
        """Hand the hint to a statement that sends it with its own commit.

        None when there is nothing to send, or so much that the hint has to wait: then it is for `send`.
        """
        return _NO_RIDE if hint == NOTHING else self._riding_along(hint)

    @contextlib.contextmanager
    def _riding_along(self, hint: Hint) -> Iterator[Notice | None]:
        free = self._task is None and not self._riding and monotonic() >= self._free_at
        notices = self._encoded(hint) if free else []
        if len(notices) != 1:
            yield None
            return
        began_at, self._riding = monotonic(), True
        try:
            yield notices[0]
        finally:
            self._riding = False
            self._rest(began_at)
        self._tell(hint)

    def hear(self, audience: Audience) -> None:
        """Let those who listen hear what is for this audience, too."""
        self._audiences.add(audience)
        self._hear(channel_of(audience), NOTHING)

    def hear_of_work(self, worker: WorkerId, queues: Collection[str]) -> None:
        """Let those who listen hear what is for a worker of this process, too."""
        self._fleets.own.add(worker)
        work = frozenset(queues)
        self._hear(channel_to(worker), Hint(queues=work, tasks=work, workers=frozenset({worker})))

    async def listen(self) -> AsyncIterator[Hint]:
        """Yield hints; raise `StoreError` when a pooler is in the way, `StoreUnavailableError` on a lost connection."""
        if self._pooler.present:
            message = "LISTEN does not work through PgBouncer; wake-ups come by polling"
            raise StoreError(message)
        queue: asyncio.Queue[Hint | Exception] = asyncio.Queue()
        self._listeners.add(queue)
        pump = asyncio.create_task(self._pump(queue), name="perdure-listen")
        try:
            while True:
                hint = await queue.get()
                if isinstance(hint, Exception):
                    raise hint
                yield hint
        finally:
            self._listeners.discard(queue)
            await end([pump])

    async def close(self) -> None:
        """Send what waits, if that goes at once."""
        if self._task is not None:
            with contextlib.suppress(StoreError, TimeoutError):
                async with asyncio.timeout(AT_ONCE):
                    await self._task
        await self._fleets.close()

    async def _send_all(self) -> None:
        try:
            while self._waiting != NOTHING:
                await asyncio.sleep(self._free_at - monotonic())
                notices, self._waiting = self._encoded(self._waiting), NOTHING
                said = [(channel, notice.payload) for notice in notices for channel in notice.channels]
                if not said:
                    continue
                channels, payloads = zip(*said, strict=True)
                began_at = monotonic()
                with contextlib.suppress(StoreError):  # lost hints cost a poll
                    parameters = {"channels": arrays.texts(channels), "payloads": arrays.texts(payloads)}
                    await self._lane.fetch("notify", parameters, patience=Patience(0))
                self._rest(began_at)
        finally:
            self._task = None

    def _encoded(self, hint: Hint) -> list[Notice]:
        elsewhere = hint.workers - self._fleets.own
        return encoded(self._sender, replace(hint, workers=elsewhere), self._fleets.few(hint))

    def _hear(self, channel: str, at_first: Hint) -> None:
        self._channels[channel] = at_first
        for ear in self._ears:
            ear.turn_to(self._channels)

    def _leave(self, gone: Iterable[WorkerId]) -> None:
        """Let nobody hear any more what is for workers of this process that are no more."""
        for worker in gone:
            self._channels.pop(channel_to(worker), None)
        for ear in self._ears:
            ear.turn_to(self._channels)

    def _tell(self, hint: Hint) -> None:
        heard = hint.only(self._audiences)
        if heard != NOTHING:
            for listener in self._listeners:
                listener.put_nowait(heard)

    def _rest(self, began_at: float) -> None:
        now = monotonic()
        self._free_at = now + max(PAUSE, (now - began_at) * (1 / SHARE - 1))

    async def _pump(self, queue: asyncio.Queue[Hint | Exception]) -> None:
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def hear(channel: str, payload: str | None) -> None:
            at_first = self._channels.get(channel)
            hint = at_first if payload is None else decoded(self._sender, self.seal, channel, payload)
            if hint is not None and hint != NOTHING:
                queue.put_nowait(hint)

        try:
            connection = await psycopg.AsyncConnection.connect(self._address.conninfo, autocommit=True)
            ear = _Ear(connection, hear, lost)
            self._ears.add(ear)
            try:
                ear.turn_to(self._channels)
                await lost
            finally:
                self._ears.discard(ear)
                ear.close()
                await connection.close()  # as a context manager it would try to roll a LISTEN back that is under way
        except (psycopg.Error, OSError) as error:
            queue.put_nowait(unavailable(self._address, error))


class _Ear:
    """A connection that listens.

    ``hear`` is called with each channel and payload, and with a channel and None when it is listened to from now on;
    ``lost`` gets the error that ends it.
    """

    def __init__(
        self,
        connection: psycopg.AsyncConnection[Any],
        hear: Callable[[str, str | None], None],
        lost: asyncio.Future[None],
    ) -> None:
        self._pgconn = connection.pgconn
        self._hear = hear
        self._lost = lost
        self._wanted: set[str] = set()
        self._asked: set[str] = set()
        self._heard: set[str] = set()
        self._socket = Socket(connection, self._arrived, self._fail)
        self.close = self._socket.close

    def turn_to(self, channels: Iterable[str]) -> None:
        """Listen to these channels and to no others."""
        self._wanted = set(channels)
        self._ask()

    def _ask(self) -> None:
        changes = [f"LISTEN {channel}" for channel in sorted(self._wanted - self._asked)]
        changes += [f"UNLISTEN {channel}" for channel in sorted(self._asked - self._wanted)]
        if changes and self._pgconn.transaction_status == TransactionStatus.IDLE:  # or else with the answer
            self._asked = set(self._wanted)
            self._heard &= self._asked
            try:
                self._pgconn.send_query("; ".join(changes).encode())
                self._pgconn.flush()
            except psycopg.Error as error:  # it concerns those who listen, not somebody who wants to hear more
                self._fail(error)

    def _arrived(self) -> None:
        while not self._pgconn.is_busy() and (result := self._pgconn.get_result()) is not None:
            if result.status != ExecStatus.COMMAND_OK:
                self._fail(psycopg.errors.error_from_result(result, encoding="utf-8"))
        while (notice := self._pgconn.notifies()) is not None:
            self._hear(notice.relname.decode(), notice.extra.decode("utf-8", "replace"))
        if self._pgconn.transaction_status == TransactionStatus.IDLE:
            for channel in self._asked - self._heard:
                self._heard.add(channel)
                self._hear(channel, None)
        self._ask()

    def _fail(self, error: psycopg.Error) -> None:
        if not self._lost.done():
            self._lost.set_exception(error)
