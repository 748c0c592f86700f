"""Many runs without the time that it takes to run them: copies of one, made by the server.

What lives here: the copying. What must not: knowledge of columns; a copy has whatever the original has.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql


def copy_run(connection: psycopg.Connection[Any], instance: str, count: int) -> None:
    """Copy an open run with its history ``count`` times, then bring the statistics up to date."""
    own = sql.SQL(", ").join(map(sql.Identifier, _columns(connection, "run", "id", "instance")))
    rest = sql.SQL(", ").join(map(sql.Identifier, _columns(connection, "history", "run_id")))
    of_original = sql.SQL(", ").join(
        sql.SQL("h.") + sql.Identifier(name) for name in _columns(connection, "history", "run_id")
    )
    connection.execute(
        sql.SQL(
            "INSERT INTO perdure.run (id, instance, {own}) SELECT nextval('perdure.run_id'), 'copy-' || n, {own}"
            " FROM perdure.run, generate_series(1, %(count)s) AS n WHERE instance = %(instance)s"
        ).format(own=own),
        {"count": count, "instance": instance},
    )
    connection.execute(
        sql.SQL(
            "INSERT INTO perdure.history (run_id, {rest}) SELECT copy.id, {of_original}"
            " FROM perdure.run AS copy, perdure.run AS original JOIN perdure.history AS h ON h.run_id = original.id"
            " WHERE original.instance = %(instance)s AND copy.instance LIKE 'copy-%%'"
        ).format(rest=rest, of_original=of_original),
        {"instance": instance},
    )
    connection.execute("VACUUM ANALYZE perdure.run, perdure.history")


def _columns(connection: psycopg.Connection[Any], table: str, *without: str) -> list[str]:
    rows = connection.execute(
        "SELECT column_name FROM information_schema.columns"
        " WHERE table_schema = 'perdure' AND table_name = %s ORDER BY ordinal_position",
        [table],
    )
    return [name for (name,) in rows if name not in without]
