"""A PostgreSQL server that follows another one, and takes over from it.

What lives here: `Standby`, which streams asynchronously, as PostgreSQL does unless it is told otherwise: what the
primary confirmed in the last moments may be missing there. What must not: anything of Perdure.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote, urlsplit

import psycopg

from tests.support.postgres import START_DEADLINE, TEST_SETTINGS, EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RECEIVING: Final = "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')"


class Standby(EmbeddedServer):
    """A copy of ``primary`` that keeps up with it until it is `cut_off`."""

    def __init__(self, primary: EmbeddedServer, settings: Mapping[str, str] = TEST_SETTINGS) -> None:
        self._primary: Final = primary
        super().__init__(settings)
        self._address: Final = self._home / "whichever"
        self._point_to(primary)
        self._until(RECEIVING, True)

    def database(self) -> str:
        """Create a database on both servers; return a DSN that leads to whichever takes writes."""
        parts = urlsplit(self._primary.create_database())
        hosts = ",".join(quote(str(folder(server)), safe="") for server in (self._primary, self))
        return f"{parts.scheme}://{parts.netloc}{parts.path}?host={hosts}&target_session_attrs=read-write"

    def one_address(self, database: str) -> str:
        """Return a DSN of the database with one address, which moves to the standby with the writes."""
        parts = urlsplit(database)
        return f"{parts.scheme}://{parts.netloc}{parts.path}?host={quote(str(self._address), safe='')}"

    def cut_off(self) -> None:
        """Receive nothing more; what the primary has confirmed until now is there."""
        with psycopg.connect(self._primary.dsn, autocommit=True) as connection:
            confirmed = connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
        assert confirmed is not None
        self._until(f"SELECT pg_last_wal_receive_lsn() >= '{confirmed[0]}'", True)
        self._execute("ALTER SYSTEM SET primary_conninfo = ''")
        self._execute("SELECT pg_reload_conf()")
        self._until(RECEIVING, False)

    def fail_over(self) -> None:
        """Lose the primary and go on without it."""
        self._primary.halt(crash=True)
        self._execute("SELECT pg_promote()")
        self._point_to(self)

    def _point_to(self, server: EmbeddedServer) -> None:
        self._address.unlink(missing_ok=True)
        self._address.symlink_to(folder(server))

    def _initialise(self) -> None:
        options = ("--dbname", self._primary.dsn, "--checkpoint=fast", "--no-sync", "--write-recovery-conf")
        if self._spawn("pg_basebackup", "--pgdata", str(self._home / "data"), *options).wait(START_DEADLINE):
            raise RuntimeError(f"pg_basebackup failed:\n{self._log()}")

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement.encode())

    def _until(self, query: str, wanted: object) -> None:
        deadline = time.monotonic() + START_DEADLINE
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            while connection.execute(query.encode()).fetchone() != (wanted,):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"not {wanted} within {START_DEADLINE:g} s: {query}\n{self._log()}")
                time.sleep(0.02)


def folder(server: EmbeddedServer) -> Path:
    """Return where the socket of a server is."""
    return Path(unquote(urlsplit(server.dsn).query.removeprefix("host=")))


@contextlib.contextmanager
def standby() -> Iterator[Standby]:
    """Lend a standby with its primary."""
    with contextlib.ExitStack() as stack:
        primary = EmbeddedServer()
        stack.callback(primary.stop)
        follower = Standby(primary)
        stack.callback(follower.stop)
        yield follower
