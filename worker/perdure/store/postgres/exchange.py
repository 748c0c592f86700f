"""The shortest way from packed parameters to rows: prepared statements, straight through libpq's binding.

What lives here: `Exchange`, for one connection of a lane. What must not: repeating and translating errors
(`connection`). A cursor does the same and costs two to three times as much for each statement, because it looks anew at
the statement, the type of every parameter and the type of every column; ours never change.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import abc, errors
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult

from perdure.store.postgres.queries import Query
from perdure.store.postgres.socket import Socket

CANCEL = 5.0
"""Seconds for which a caller who gives up waits for the server to take notice."""

_BINARY = Format.BINARY
_WELL = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK, ExecStatus.PIPELINE_SYNC)

Row = tuple[Any, ...]


class Exchange:
    """Runs statements on a connection, each prepared at its first use."""

    def __init__(self, connection: psycopg.AsyncConnection[Row]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._prepared: dict[str, bytes] = {}
        self._attempts = itertools.count()
        self._loaders: dict[str, abc.Transformer] = {}
        self._waiting: asyncio.Future[None] | None = None
        self._ended: psycopg.Error | None = None
        self._socket = Socket(connection, self._arrived, self._lost)
        self.close = self._socket.close

    async def run(self, query: Query, arguments: Sequence[bytes | None]) -> list[Row]:
        """Return the rows; raise psycopg's errors as a cursor does."""
        known = query.name in self._prepared
        try:
            self._send(await self._prepare(query), arguments)
            (result,) = await self._answers(1)
        except errors.FeatureNotSupported:
            # A migration changed what the statement returns. The server says so before it does anything.
            if not known:
                raise
            del self._prepared[query.name]
            self._loaders.pop(query.name, None)
            return await self.run(query, arguments)
        return self._rows(query.name, result)

    async def run_together(self, asked: Sequence[tuple[Query, Sequence[bytes | None]]]) -> list[list[Row]]:
        """Run statements in one round trip and one transaction: an error of one is raised, and none is carried out."""
        prepared = [await self._prepare(query) for query, _ in asked]
        self._pgconn.enter_pipeline_mode()
        for name, (_, arguments) in zip(prepared, asked, strict=True):
            self._send(name, arguments)
        self._pgconn.pipeline_sync()
        results = await self._answers(len(asked), synced=True)
        return [self._rows(query.name, result) for (query, _), result in zip(asked, results, strict=True)]

    def _rows(self, name: str, result: PGresult) -> list[Row]:
        if result.ntuples == 0:
            return []
        loaders = self._loaders.get(name)
        if loaders is None:
            loaders = self._loaders[name] = Transformer(self._connection)
            loaders.set_pgresult(result, format=Format.BINARY)
        else:
            loaders.set_pgresult(result, set_loaders=False)
        return loaders.load_rows(0, result.ntuples, tuple)

    def _send(self, prepared: bytes, arguments: Sequence[bytes | None]) -> None:
        self._pgconn.send_query_prepared(prepared, arguments, [_BINARY] * len(arguments), _BINARY)

    async def _prepare(self, query: Query) -> bytes:
        prepared = self._prepared.get(query.name)
        if prepared is None:
            # A name of its own for each attempt: one that was cancelled half-way may have taken its name.
            prepared = f"{query.name} {next(self._attempts)}".encode()
            self._pgconn.send_prepare(prepared, query.statement)
            await self._answers(1)
            self._prepared[query.name] = prepared
        return prepared

    async def _answers(self, count: int, *, synced: bool = False) -> list[PGresult]:
        """Return the answers to so many statements; ``synced``: they were sent together. Raise the first error."""
        parts: list[PGresult | None] = []
        try:
            while self._pgconn.flush():
                self._socket.on_room(self._wake)
                try:
                    await self._more()
                finally:
                    self._socket.enough()
            # Each answer has an end, and so have all together; before that one comes what is refused only then.
            for _ in range(2 * count + 3 * synced):
                if self._pgconn.is_busy():
                    await self._more()
                part = self._pgconn.get_result()
                parts.append(part)
                if part is not None and part.status == ExecStatus.PIPELINE_SYNC:
                    break
        except psycopg.OperationalError:
            _raise_error(parts)  # the server has said why, and hung up
            raise
        except asyncio.CancelledError:
            self.close()
            with contextlib.suppress(psycopg.Error):
                await self._connection.cancel_safe(timeout=CANCEL)
            raise
        if synced:
            self._pgconn.exit_pipeline_mode()
        return _raise_error(parts)[:count]

    def _more(self) -> asyncio.Future[None]:
        """Return what is done when the socket has or takes more."""
        if self._ended is not None:  # while nobody waited: nothing will ever arrive
            raise self._ended
        self._waiting = self._socket.loop.create_future()
        return self._waiting

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _arrived(self) -> None:
        if not self._pgconn.is_busy():
            self._wake()

    def _lost(self, error: psycopg.Error) -> None:
        self._ended = error
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)


def _raise_error(parts: Sequence[PGresult | None]) -> list[PGresult]:
    """Return the answers, or raise what the server has said first; after that it only says that it goes on without."""
    results = [part for part in parts if part is not None]
    for result in results:
        if result.status not in _WELL:
            raise errors.error_from_result(result, encoding="utf-8")
    return results
