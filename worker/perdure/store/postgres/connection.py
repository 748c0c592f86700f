"""A lane: one connection that carries one statement at a time and survives the loss of its server.

What lives here: `Lane` for the event loop, and what it has in common with the lease thread's `line`. What must not:
knowledge of what the statements mean. Every statement may be repeated, so a lane repeats it after a lost connection.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

import psycopg
from psycopg import errors
from psycopg.pq import PipelineStatus, TransactionStatus

from perdure.errors import SchemaVersionError, StoreError
from perdure.store.postgres import arrays
from perdure.store.postgres.address import Address, refuses_options, unavailable
from perdure.store.postgres.arrays import text
from perdure.store.postgres.exchange import Exchange
from perdure.store.postgres.queries import QUERIES, Query

Row = tuple[Any, ...]
Parameters = Mapping[str, object]
Asked = tuple[Query, list[Any]]

PATIENCE = 15.0
"""Seconds for which a lane tries to reach its server again before it says that it cannot."""
RIDE = 0.003
"""Seconds for which a statement waits for another one to go along with."""
GIVES_UP = 170_000
"""The first version of a server that gives up a transaction of which it has received only a part. Two statements that
are sent together take locks when the first has arrived, and their sender may vanish or freeze at that moment."""
TRANSACTION = 60
"""Seconds after which it does."""
ONE_SEND = 16_384
"""Bytes that the operating system takes at once: a sender that freezes has sent all of them or nothing. More than that
goes to servers from `GIVES_UP` on only; one whose sender vanishes finds it out by itself."""
FIRST_PAUSE = 0.02
LONGEST_PAUSE = 1.0

_IDLE = TransactionStatus.IDLE
_OFF = PipelineStatus.OFF

_COLLISIONS = (errors.DeadlockDetected, errors.SerializationFailure)
_SHORT = (
    errors.DiskFull, errors.OutOfMemory, errors.IoError, errors.LockNotAvailable, errors.QueryCanceled,
    errors.ProgramLimitExceeded,
)  # fmt: skip
"""The server lacks something, or somebody is in its way; a moment later it may do what it is asked."""
_TOO_LARGE = ("_bt_check_third_page", "index_form_tuple_context", "index_form_tuple")
"""Where it refuses what no index takes, by the code of a full NOTIFY queue and of transactions that have run out."""
GONE = (
    errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow, errors.IdleSessionTimeout,
    errors.ReadOnlySqlTransaction,
)  # fmt: skip
"""The server is going, or is not the one that takes writes any more: the address may lead to another one."""
_SCHEMA = (errors.UndefinedTable, errors.UndefinedColumn, errors.InvalidSchemaName)


class Pooler:
    """Whether there is a pooler: said in the URL, or found out from its refusal. Shared by the lanes of a store."""

    def __init__(self, address: Address) -> None:
        self.present = address.pooler


def settings(address: Address, pooler: Pooler, *, hot: bool) -> tuple[str, int | None]:
    """Return the conninfo and the number of uses after which a statement is prepared."""
    if pooler.present:
        return address.conninfo, None
    return address.with_settings(hot=hot), 1


def arguments_of(query: Query, parameters: Parameters) -> list[Any]:
    """Return the parameters in the order of their numbers in the statement."""
    return [parameters[name] for name in query.parameters]


def _quiet(connection: psycopg.AsyncConnection[Row]) -> bool:
    """Whether it is connected and can be trusted; a statement that was cancelled half-way leaves one that cannot."""
    pgconn = connection.pgconn
    return pgconn.transaction_status == _IDLE and pgconn.pipeline_status == _OFF


def translated(error: psycopg.Error, query: Query) -> Exception:
    """Return what a caller should see; errors in data go to the caller as they are."""
    if isinstance(error, psycopg.DataError | psycopg.IntegrityError | errors.ProgramLimitExceeded):
        return error
    if isinstance(error, _SCHEMA):
        return SchemaVersionError(f"{query.name}: {error}; the schema is not this release's: run `perdure migrate`")
    return StoreError(f"{query.name}: {' '.join(str(error).split())}")


class AnswerLostError(Exception):
    """A statement may have been carried out."""


def look_first() -> Parameters:
    """Keep a lane from repeating a statement: its ``on_repeat`` for those that must look first."""
    raise AnswerLostError


class Patience:
    """For how long something is tried again, and the pauses between: one for all the statements that it takes."""

    def __init__(self, seconds: float | None = None, *, since: float | None = None) -> None:
        self._until = (monotonic() if since is None else since) + (PATIENCE if seconds is None else seconds)
        self._pause = FIRST_PAUSE

    async def wait(self) -> bool:
        """Wait before the next try; False, at once, when there is to be none."""
        pause, self._pause = self._pause, min(LONGEST_PAUSE, self._pause * 2)
        if monotonic() + pause > self._until:
            return False
        await asyncio.sleep(pause)
        return True


@dataclass(frozen=True, slots=True, eq=False)
class _Passenger:
    """A statement that goes along with the next one of a lane. ``rows`` is None when it was not carried out."""

    query: Query
    parameters: Parameters
    rows: asyncio.Future[list[Row] | None]

    @property
    def asked(self) -> Asked:
        """What to run."""
        return self.query, arguments_of(self.query, self.parameters)

    def settle(self, rows: list[Row] | None) -> None:
        """Answer, if somebody still waits."""
        if not self.rows.done():
            self.rows.set_result(rows)

    def lose(self) -> None:
        """Let it be looked up whether it was carried out."""
        if not self.rows.done():
            self.rows.set_exception(AnswerLostError())


class Lane:
    """One connection on the event loop. Statements wait for each other; use several lanes for several concerns.

    ``hot`` lanes fix their plans; on others the server may plan statements by their values. Two statements may `ride`
    together on a lane of ``pairs``.
    """

    def __init__(
        self, address: Address, pooler: Pooler, statements: Counter[str], *, hot: bool, pairs: bool = False
    ) -> None:
        self._address = address
        self._pooler = pooler
        self._statements = statements
        self._hot = hot
        self._pairs = pairs
        self._turn = asyncio.Lock()
        self._connection: psycopg.AsyncConnection[Row] | None = None
        self._exchange: Exchange | None = None
        self._passenger: _Passenger | None = None

    @property
    def at_hand(self) -> bool:
        """Whether it is connected, and a statement would go out at once."""
        return self._connection is not None and not self._turn.locked()

    async def fetch(
        self,
        name: str,
        parameters: Parameters,
        *,
        on_repeat: Callable[[], Parameters] | None = None,
        patience: Patience | None = None,
    ) -> list[Row]:
        """Run the query ``name`` and return its rows.

        After a lost connection it is run again, with the parameters that ``on_repeat`` returns. Raises
        `StoreUnavailableError` when ``patience`` is over (`PATIENCE` seconds of its own by default), psycopg's
        ``DataError`` and ``IntegrityError`` as they are, and `StoreError` for everything else that the server may say.
        """
        query = QUERIES[name]
        began = monotonic()
        await self._turn.acquire()  # as a context manager it would take two more calls each way
        try:
            while True:
                try:
                    connection = self._connection
                    if connection is None or not _quiet(connection):
                        connection = await self._connect()
                    return await self._run(connection, query, parameters)
                except psycopg.Error as error:
                    if not await self._lost(error):
                        raise translated(error, query) from error
                    patience = patience or Patience(since=began)
                    if not await patience.wait():
                        raise unavailable(self._address, error) from error
                parameters = parameters if on_repeat is None else on_repeat()
        finally:
            self._turn.release()

    async def ride(self, name: str, parameters: Parameters) -> list[Row] | None:
        """Run the query together with the next statement of this lane, in its transaction, and return its rows.

        None when it was not carried out: no statement came soon, another one rides with it, the two together were
        refused, a pooler is in the way, or they are too large for an old server. Raises `AnswerLostError` when the
        connection was lost.
        """
        assert self._pairs
        if self._passenger is not None or self._exchange is None:
            return None
        loop = asyncio.get_running_loop()
        passenger = self._passenger = _Passenger(QUERIES[name], parameters, loop.create_future())
        leaving = loop.call_later(RIDE, self._leave, passenger)
        try:
            return await passenger.rows
        finally:
            leaving.cancel()
            self._leave(passenger)

    def _leave(self, passenger: _Passenger) -> None:
        if self._passenger is passenger:  # not under way yet
            self._passenger = None
            passenger.settle(None)

    async def close(self) -> None:
        """Close the connection; a later statement opens a new one."""
        connection, self._connection = self._connection, None
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                await connection.close()

    async def _run(self, connection: psycopg.AsyncConnection[Row], query: Query, parameters: Parameters) -> list[Row]:
        self._statements[query.name] += 1
        if self._exchange is not None:
            passenger, self._passenger = self._passenger, None
            asked = query, arguments_of(query, parameters)
            if passenger is not None and not self._may_go_along(passenger, asked):
                passenger.settle(None)
                passenger = None
            return await (self._exchange.run(*asked) if passenger is None else self._run_with(passenger, asked))
        async with psycopg.AsyncRawCursor(connection) as cursor:
            await cursor.execute(query.statement, arguments_of(query, parameters), binary=True)
            return await cursor.fetchall() if cursor.description else []

    @property
    def _gives_up(self) -> bool:
        return self._connection is not None and self._connection.info.server_version >= GIVES_UP

    def _may_go_along(self, passenger: _Passenger, asked: Asked) -> bool:
        return self._gives_up or sum(len(value or b"") for value in (*asked[1], *passenger.asked[1])) <= ONE_SEND

    async def _run_with(self, passenger: _Passenger, asked: Asked) -> list[Row]:
        """Run both; when they are refused, the passenger is left behind."""
        assert self._connection is not None
        assert self._exchange is not None
        try:
            self._statements[passenger.query.name] += 1
            rows, found = await self._exchange.run_together([asked, passenger.asked])
        except psycopg.Error as error:
            if self._connection.closed or isinstance(error, GONE):
                passenger.lose()
                raise
            passenger.settle(None)
            return await self._exchange.run(*asked)
        except BaseException:
            passenger.lose()
            raise
        passenger.settle(found)
        return rows

    async def _connect(self) -> psycopg.AsyncConnection[Row]:
        await self.close()
        conninfo, threshold = settings(self._address, self._pooler, hot=self._hot)
        try:
            connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True, prepare_threshold=threshold)
        except psycopg.OperationalError as error:
            if self._pooler.present or not refuses_options(error):
                raise
            self._pooler.present = True
            return await self._connect()
        arrays.register(connection)
        self._connection = connection
        self._exchange = Exchange(connection) if threshold is not None else None
        if self._exchange is not None and self._hot:
            await self._exchange.run(QUERIES["wait_for_disk"], [])
            if self._pairs and self._gives_up:
                await self._exchange.run(QUERIES["give_up"], [text(f"{TRANSACTION}s")])
        return connection

    async def _lost(self, error: psycopg.Error) -> bool:
        """Tell whether to run the statement again, on a new connection if need be."""
        if isinstance(error, _COLLISIONS + _SHORT) and error.diag.source_function not in _TOO_LARGE:
            return True
        connection = self._connection
        if connection is not None and not connection.closed:
            if not isinstance(error, GONE):
                return False
            if self._pooler.present and isinstance(error, errors.ReadOnlySqlTransaction):
                with contextlib.suppress(psycopg.Error):  # it ends the connection before it answers
                    await connection.execute(QUERIES["dismiss"].statement)
        await self.close()
        return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError, *GONE))


class Lanes:
    """The lane of a concern, and others that it may use.

    What goes one after the other goes faster on one lane: a server process that has just worked has everything at
    hand. So a statement about one thing takes another lane while that is free; larger ones would keep it from its own.
    """

    def __init__(self, own: Lane, *others: Lane) -> None:
        self._own = own
        self._others = others

    def pick(self, things: int) -> Lane:
        """Return the lane for a statement about so many things."""
        if things == 1:
            for lane in self._others:
                if lane.at_hand:
                    return lane
        return self._own
