"""The shortest way from packed parameters to rows: prepared statements, straight through libpq's binding.

What lives here: `Exchange`, for one connection of a lane. What must not: repeating and translating errors
(`connection`). A cursor does the same and costs two to three times as much for each statement, because it looks anew at
the statement, the type of every parameter and the type of every column; ours never change.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import abc, errors, generators
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult

from perdure.store.postgres.queries import Query

Row = tuple[Any, ...]


class Exchange:
    """Runs statements on a connection, each prepared at its first use."""

    def __init__(self, connection: psycopg.AsyncConnection[Row]) -> None:
        self._connection = connection
        self._prepared: dict[str, bytes] = {}
        self._attempts = itertools.count()
        self._loaders: dict[str, abc.Transformer] = {}

    async def run(self, query: Query, arguments: Sequence[bytes | None]) -> list[Row]:
        """Return the rows; raise psycopg's errors as a cursor does."""
        name, connection = query.name, self._connection
        async with connection.lock:
            known = name in self._prepared
            try:
                result = await self._execute(query, arguments)
            except errors.FeatureNotSupported:
                # A migration changed what the statement returns. The server says so before it does anything.
                if not known:
                    raise
                del self._prepared[name]
                self._loaders.pop(name, None)
                result = await self._execute(query, arguments)
        if result.ntuples == 0:
            return []
        loaders = self._loaders.get(name)
        if loaders is None:
            loaders = self._loaders[name] = Transformer(connection)
            loaders.set_pgresult(result, format=Format.BINARY)
        else:
            loaders.set_pgresult(result, set_loaders=False)
        return loaders.load_rows(0, result.ntuples, tuple)

    async def _execute(self, query: Query, arguments: Sequence[bytes | None]) -> PGresult:
        pgconn, prepared = self._connection.pgconn, self._prepared.get(query.name)
        if prepared is None:
            # A name of its own for each attempt: one that was cancelled half-way may have taken its name.
            prepared = f"{query.name} {next(self._attempts)}".encode()
            pgconn.send_prepare(prepared, query.statement)
            await self._answer()
            self._prepared[query.name] = prepared
        formats = [Format.BINARY] * len(arguments)
        pgconn.send_query_prepared(prepared, arguments, formats, Format.BINARY)
        return await self._answer()

    async def _answer(self) -> PGresult:
        results: list[PGresult] = await self._connection.wait(generators.execute(self._connection.pgconn))
        result = results[-1]
        if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            raise errors.error_from_result(result, encoding="utf-8")
        return result
