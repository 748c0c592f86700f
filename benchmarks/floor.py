"""The floor: the rows that a scenario recorded, written by a loop that does nothing else.

What lives here: the table, the fence, the statement, and the loop. What must not: an engine; see `core` for the next
floor up. Rows have the bytes that Perdure's had, batches the size that its batches had.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import psycopg

from benchmarks.measure import text
from perdure.store.postgres import arrays

TABLES: Final = """
CREATE TABLE worker (id bigint PRIMARY KEY, epoch bigint NOT NULL, expires_at timestamptz NOT NULL);
INSERT INTO worker VALUES (1, 1, now() + interval '1 day');
CREATE TABLE history (
    run_id bigint NOT NULL, seq integer NOT NULL, events bytea NOT NULL, PRIMARY KEY (run_id, seq)
);
"""

INSERT: Final = """
WITH fence AS MATERIALIZED (
    SELECT id FROM worker WHERE id = 1 AND epoch = 1 AND expires_at > clock_timestamp() FOR KEY SHARE
), recorded AS (
    INSERT INTO history SELECT t.* FROM fence, unnest($1::bigint[], $2::integer[], $3::bytea[]) AS t
)
SELECT id FROM fence
"""


class Fenced(Exception):
    """Somebody else owns the runs."""


async def connect(dsn: str) -> psycopg.AsyncConnection[Any]:
    """Return a connection to an empty database, with the tables made."""
    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True, prepare_threshold=1)
    await connection.execute(TABLES.encode())
    arrays.register(connection)
    return connection


def parameters(turns: Sequence[tuple[int, int, bytes]]) -> list[object]:
    """Return the rows as three binary arrays."""
    return [
        arrays.int8s([run for run, _, _ in turns]),
        arrays.int4s([seq for _, seq, _ in turns]),
        arrays.byteas([row for _, _, row in turns]),
    ]


async def write_rows(connection: psycopg.AsyncConnection[Any], runs: range, size: int, batch: int) -> None:
    """Write a row of ``size`` bytes for each of ``runs``, ``batch`` at a time, each batch durable before the next."""
    row = (b"\x01" + text(size).encode())[:size]
    for first in range(0, len(runs), batch):
        turns = [(number, 0, row) for number in runs[first : first + batch]]
        async with psycopg.AsyncRawCursor(connection) as cursor:
            await cursor.execute(INSERT, parameters(turns), binary=True)
            if await cursor.fetchone() is None:
                raise Fenced
