"""The line of the lease thread: a blocking connection beside the lanes of the event loop.

What lives here: `LeaseLine`. What must not: knowledge of leases. The lease thread comes here by way of the store.
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Generator
from time import monotonic
from typing import Any

import psycopg
from psycopg import errors

from perdure.store.postgres import arrays
from perdure.store.postgres.address import Address, refuses_options, unavailable
from perdure.store.postgres.connection import GONE, Parameters, Pooler, Row, arguments_of, settings, translated
from perdure.store.postgres.queries import QUERIES, Query


class _Connection(psycopg.Connection[Row]):
    """Waits for an answer ``until`` a moment.

    Else it would wait for ever: nobody hears from a server that stands still, and nobody hears that it is gone.
    """

    until = float("inf")

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Wait for what goes on on the connection; raise psycopg's ``OperationalError`` when the time is over."""
        return super().wait(self._in_time(gen), *args, **kwargs)

    def _in_time(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Go through ``gen``; whoever waits for it comes by ten times a second."""
        try:
            wanted = next(gen)
            while True:
                found = yield wanted
                if not found and monotonic() >= self.until:
                    message = "it does not answer"
                    raise psycopg.OperationalError(message)
                wanted = gen.send(found)
        except StopIteration as end:
            return end.value


class LeaseLine:
    """The connection of the lease thread: blocking, and quick to say that nobody answers."""

    def __init__(self, address: Address, pooler: Pooler, statements: Counter[str]) -> None:
        self._address = address
        self._pooler = pooler
        self._statements = statements
        self._lock = threading.Lock()
        self._connection: _Connection | None = None
        self.unanswered = False
        """Whether a statement since the last look may have been carried out without an answer."""

    def fetch(self, name: str, parameters: Parameters, within: float) -> list[Row]:
        """Run the query; on a lost connection once more on a new one, then raise `StoreUnavailableError`.

        It is raised, too, when there is no answer ``within`` seconds.
        """
        query = QUERIES[name]
        until = monotonic() + within
        with self._lock:
            kept = self._connection is not None
            try:
                try:
                    return self._run(query, parameters, until)
                except psycopg.OperationalError:
                    self.unanswered = True
                    if not kept or (self._connection is not None and not self._connection.closed):
                        raise
                    return self._run(query, parameters, until)
            except (psycopg.OperationalError, *GONE) as error:
                if self._pooler.present and isinstance(error, errors.ReadOnlySqlTransaction):
                    self._dismiss()
                self._drop()
                raise unavailable(self._address, error) from error
            except psycopg.Error as error:
                raise translated(error, query) from error

    def close(self) -> None:
        """Close the connection; who waits for an answer there gets none."""
        connection = self._connection
        if connection is not None:
            connection.until = 0.0
        with self._lock:
            self._drop()

    def _run(self, query: Query, parameters: Parameters, until: float) -> list[Row]:
        if self._connection is None or self._connection.closed:
            self._connection = self._open()
        self._statements[query.name] += 1
        self._connection.until = until
        with psycopg.RawCursor(self._connection) as cursor:
            cursor.execute(query.statement, arguments_of(query, parameters), binary=True)
            return cursor.fetchall()

    def _open(self) -> _Connection:
        conninfo, threshold = settings(self._address, self._pooler, hot=True)
        try:
            connection = _Connection.connect(conninfo, autocommit=True, prepare_threshold=threshold)
        except psycopg.OperationalError as error:
            if self._pooler.present or not refuses_options(error):
                raise
            self._pooler.present = True
            return self._open()
        arrays.register(connection)
        return connection

    def _dismiss(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.execute(QUERIES["dismiss"].statement)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()
