"""A stage on which the statements of one store can be stopped in their middle, by locks.

What lives here: `GatedStage`, and `gated_stage`, which makes one. What must not: the races; tests stop there what they
want to see meet something else.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import psycopg

from perdure.store.postgres import PostgresStore, migrate
from tests.support.stores import PostgresStage, eventually

GATE = 4711
"""The advisory lock at which statements of the gated role wait, after their snapshot was taken."""
WAIT = f"BEGIN PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN true; END"

Connection = psycopg.AsyncConnection[tuple[object, ...]]


class GatedStage(PostgresStage):
    """A stage with a second store whose statements can be stopped when they look at the workers.

    It is a row-level policy that stops them: it runs inside the statement, and binds only the role of that store.
    """

    def __init__(self, dsn: str, role: str) -> None:
        super().__init__(dsn)
        self._role = role

    async def gated(self) -> PostgresStore:
        """Return a store that stops at the gate."""
        plain = self.dsn
        self.dsn += f"{'&' if '?' in plain else '?'}options=-c%20role%3D{self._role}"
        try:
            return await self.another()
        finally:
            self.dsn = plain

    @asynccontextmanager
    async def aside(self) -> AsyncIterator[Connection]:
        """Lend a connection with a transaction that is open until `commit` or `rollback`."""
        async with await psycopg.AsyncConnection.connect(self.dsn) as connection:
            yield connection

    @asynccontextmanager
    async def gate(self) -> AsyncIterator[None]:
        """Keep the gate closed meanwhile."""
        async with self.aside() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", [GATE])
            yield

    async def stopped(self, statements: int = 1) -> None:
        """Wait until so many statements wait for a lock."""

        async def are_waiting() -> bool:
            mine = "datname = current_database() AND wait_event_type = 'Lock'"
            ((waiting,),) = await self.execute(f"SELECT count(*) FROM pg_stat_activity WHERE {mine}")
            return bool(waiting >= statements)

        await eventually(are_waiting)


@contextmanager
def gated_stage(database: str) -> Iterator[GatedStage]:
    """Lend a stage with a gate, on an empty database."""
    migrate(database)
    role = f"perdure_test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in (
            f"CREATE ROLE {role}",
            f"GRANT USAGE ON SCHEMA perdure TO {role}",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA perdure TO {role}",
            f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA perdure TO {role}",
            f"CREATE FUNCTION gate() RETURNS boolean LANGUAGE plpgsql AS '{WAIT}'",
            "ALTER TABLE perdure.worker ENABLE ROW LEVEL SECURITY",
            f"CREATE POLICY gate ON perdure.worker TO {role} USING (public.gate())",
        ):
            connection.execute(statement.encode())
        yield GatedStage(database, role)
        connection.execute(f"DROP OWNED BY {role}".encode())
        connection.execute(f"DROP ROLE {role}".encode())
