"""PgBouncer in transaction mode in front of a PostgreSQL of the tests: Debian's package, a real process.

What lives here: `PgBouncer`, which can be stopped, killed and started. What must not: knowledge of the stores.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tests.support import debian
from tests.support.leash import Leash

DEADLINE: Final = 30.0
"""Seconds that it may take to answer, or to stop."""

# Everything else is PgBouncer's default. It waits 15 s after a failed login, that is after each restart of PostgreSQL.
CONFIGURATION: Final = """\
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
max_client_conn = 500
server_login_retry = 1
logfile = {folder}/log
pidfile = {folder}/pid
"""


def program() -> Path:
    """Return where PgBouncer is; install it where it is missing."""
    return debian.need("pgbouncer", lambda: _found("pgbouncer") or _found("/usr/sbin/pgbouncer"))


def _found(name: str) -> Path | None:
    path = shutil.which(name)
    return Path(path) if path is not None else None


class PgBouncer:
    """A pooler for every database of the server that ``dsn`` names. It ends with the process that started it."""

    def __init__(self, dsn: str) -> None:
        self._program: Final = program()
        self._folder: Final = Path(tempfile.mkdtemp(prefix="perdure-pgbouncer-"))
        self._port: Final = _free_port()
        target = conninfo_to_dict(dsn)
        self._user: Final = str(target.get("user") or "postgres")
        # It refuses to run as root, so root lends it the user that owns nothing.
        self._runs_as: Final = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        configuration = CONFIGURATION.format(
            host=target.get("host") or "127.0.0.1", port=target.get("port") or 5432, user=self._user,
            listen=self._port, folder=self._folder,
        )  # fmt: skip
        (self._folder / "pgbouncer.ini").write_text(configuration)
        if self._runs_as is not None:
            os.chown(self._folder, self._runs_as.pw_uid, self._runs_as.pw_gid)
        self._leash: Final = Leash(afterwards=[["rm", "-rf", str(self._folder)]])
        self._process: subprocess.Popen[bytes] | None = None
        self._database = str(target.get("dbname") or "postgres")
        try:
            self.start()
        except BaseException:
            self.stop()
            raise

    def dsn(self, database: str) -> str:
        """Return the URL of a database by way of the pooler; it does not say that there is one."""
        return f"postgresql://{quote(self._user)}@127.0.0.1:{self._port}/{quote(database)}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(
            [self._program, "-q", self._folder / "pgbouncer.ini"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            process_group=self._leash.group,
            user=self._runs_as.pw_uid if self._runs_as else None,
            group=self._runs_as.pw_gid if self._runs_as else None,
            extra_groups=[] if self._runs_as else None,
        )
        deadline = time.monotonic() + DEADLINE
        while True:
            # Its own database answers whether or not there is a PostgreSQL behind it.
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=1):
                    return
            except OSError as refused:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PgBouncer did not start:\n{self._log()}") from refused
                time.sleep(0.02)

    def halt(self, *, crash: bool = False) -> None:
        """Stop it at once, with every connection that it holds; with ``crash`` it is killed."""
        if self._process is not None:
            if crash:
                self._process.kill()
            else:
                self._process.terminate()
            self._process.wait(DEADLINE)
            self._process = None

    def stop(self) -> None:
        """Stop it and remove its folder; a second call does nothing."""
        self.halt(crash=True)
        self._leash.let_go()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _log(self) -> str:
        log = self._folder / "log"
        return log.read_text(errors="replace")[-4000:] if log.exists() else "(no log)"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def answers(dsn: str) -> bool:
    """Tell whether a statement goes through."""
    try:
        with psycopg.connect(dsn, autocommit=True, connect_timeout=5) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False
