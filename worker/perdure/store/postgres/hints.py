"""Hints between processes: NOTIFY, coalesced and off the write path, and LISTEN on a connection of its own.

What lives here: `Hints`. What must not: anything that correctness depends on. A hint that is lost costs a poll.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from itertools import islice

import msgspec
import psycopg

from perdure.ending import end
from perdure.errors import StoreError
from perdure.model.runs import Hint, WorkerId
from perdure.store.postgres import arrays
from perdure.store.postgres.address import Address, unavailable
from perdure.store.postgres.connection import Lane, Pooler
from perdure.store.postgres.socket import Socket

PAUSE = 0.002
SHARE = 0.2
"""Least seconds between two NOTIFYs, and the most of its time that a process sends them: each takes a lock that all
databases of the server share, and takes longer when others want it too."""
MOST_NAMES = 50
LONGEST_NAME = 100
"""Most queues, or workers, in one payload, which must stay below 8,000 bytes."""


class _Payload(msgspec.Struct, omit_defaults=True, array_like=True):
    sender: str
    queues: list[str] = []
    workers: list[int] = []
    closed: bool = False
    changed: bool = False
    tasks: list[str] = []


_decoder = msgspec.json.Decoder(_Payload)

NOTHING = Hint()


class Hints:
    """Sends hints soon and receives those of others; listeners of this process are told at once."""

    def __init__(self, address: Address, pooler: Pooler, lane: Lane) -> None:
        self._address = address
        self._pooler = pooler
        self._lane = lane
        self._sender = secrets.token_hex(6)
        self._waiting = Hint()
        self._task: asyncio.Task[None] | None = None
        self._listeners: set[asyncio.Queue[Hint | Exception]] = set()
        self._riding = False
        self._free_at = 0.0

    def send(self, hint: Hint) -> None:
        """Wake listeners here now and elsewhere within some milliseconds."""
        self._tell(hint)
        self._waiting |= hint
        if self._task is None:
            self._task = asyncio.create_task(self._send_all(), name="perdure-notify")

    @contextlib.contextmanager
    def riding(self, hint: Hint) -> Iterator[str | None]:
        """Hand the payload to a statement that sends it with its own commit.

        None when there is nothing to send, or so much that the hint has to wait: then it is for `send`.
        """
        if hint == NOTHING:
            yield None
            return
        free = self._task is None and not self._riding and time.monotonic() >= self._free_at
        payloads = _encoded(self._sender, hint) if free else []
        if len(payloads) != 1:
            yield None
            return
        began_at, self._riding = time.monotonic(), True
        try:
            yield payloads[0]
        finally:
            self._riding = False
            self._rest(began_at)
        self._tell(hint)

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
            with contextlib.suppress(StoreError):
                await self._task

    async def _send_all(self) -> None:
        try:
            while self._waiting != NOTHING:
                await asyncio.sleep(self._free_at - time.monotonic())
                payloads = _encoded(self._sender, self._waiting)
                self._waiting = Hint()
                began_at = time.monotonic()
                with contextlib.suppress(StoreError):  # lost hints cost a poll
                    await self._lane.fetch("notify", {"payloads": arrays.texts(payloads)}, patience=0)
                self._rest(began_at)
        finally:
            self._task = None

    def _tell(self, hint: Hint) -> None:
        for listener in self._listeners:
            listener.put_nowait(hint)

    def _rest(self, began_at: float) -> None:
        now = time.monotonic()
        self._free_at = now + max(PAUSE, (now - began_at) * (1 / SHARE - 1))

    async def _pump(self, queue: asyncio.Queue[Hint | Exception]) -> None:
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def hear(payload: str) -> None:
            hint = _decoded(self._sender, payload)
            if hint is not None:
                queue.put_nowait(hint)

        def arrived() -> None:
            while (notice := pgconn.notifies()) is not None:
                hear(notice.extra.decode("utf-8", "replace"))

        try:
            async with await psycopg.AsyncConnection.connect(self._address.conninfo, autocommit=True) as connection:
                pgconn = connection.pgconn
                connection.add_notify_handler(lambda notice: hear(notice.payload))  # with the answer to LISTEN
                await connection.execute("LISTEN perdure")
                socket = Socket(connection, arrived, lost.set_exception)
                try:
                    arrived()
                    await lost
                finally:
                    socket.close()
        except (psycopg.Error, OSError) as error:
            queue.put_nowait(unavailable(self._address, error))


def _encoded(sender: str, hint: Hint) -> list[str]:
    """Return as few payloads as say all of it."""
    queues, tasks = iter(_short(hint.queues)), iter(_short(hint.tasks))
    workers = iter(sorted(int(worker) for worker in hint.workers))
    payload = _Payload(sender, closed=hint.closed, changed=hint.changed)
    payloads: list[str] = []
    while True:
        payload.queues = list(islice(queues, MOST_NAMES))
        payload.tasks = list(islice(tasks, MOST_NAMES - len(payload.queues)))
        payload.workers = list(islice(workers, MOST_NAMES))
        if not (payload.queues or payload.tasks or payload.workers or payload.closed or payload.changed):
            return payloads
        payloads.append(msgspec.json.encode(payload).decode())
        payload = _Payload(sender)


def _short(names: frozenset[str]) -> list[str]:
    """Leave out names that would fill a payload: those queues are polled."""
    return sorted(name for name in names if len(msgspec.json.encode(name)) <= LONGEST_NAME)


def _decoded(sender: str, payload: str) -> Hint | None:
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
    )
