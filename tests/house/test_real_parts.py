"""The real parts that other tests stand on: that PostgreSQL is there, fresh for each test, and gone afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from tests.support.ports import PORTS, free_ports
from tests.support.postgres import EmbeddedServer, Programs, Server, bundled_programs

ROOT = Path(__file__).resolve().parents[2]


def folder_of(dsn: str) -> Path:
    return Path(parse_qs(urlsplit(dsn).query)["host"][0])


def answer(dsn: str, query: str) -> object:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_the_server_answers_and_is_new_enough(postgres_server: Server) -> None:
    assert str(answer(postgres_server.dsn, "SELECT version()")).startswith("PostgreSQL ")
    assert int(str(answer(postgres_server.dsn, "SHOW server_version_num"))) >= 150_000


def test_a_commit_waits_for_its_record(database: str) -> None:
    assert answer(database, "SHOW synchronous_commit") == "on"


def test_each_database_is_empty_and_sees_nothing_of_the_others(postgres_server: Server, database: str) -> None:
    other = postgres_server.create_database()
    try:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("CREATE TABLE note (text text)")
        tables = "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        assert answer(database, tables) == 1
        assert answer(other, tables) == 0
    finally:
        postgres_server.drop_database(other)


def test_a_database_is_dropped_although_somebody_is_still_connected(postgres_server: Server) -> None:
    dsn = postgres_server.create_database()
    with psycopg.connect(dsn, autocommit=True) as connection:
        postgres_server.drop_database(dsn)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(dsn)


@pytest.mark.parametrize("crash", [False, True], ids=["in order", "by a crash"])
def test_what_was_committed_survives_a_restart(own_server: EmbeddedServer, crash: bool) -> None:
    dsn = own_server.create_database()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE note AS SELECT 'kept' AS text")
        own_server.restart(crash=crash)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert answer(dsn, "SELECT text FROM note") == "kept"


def test_a_server_that_is_stopped_leaves_nothing_behind() -> None:
    server = EmbeddedServer()
    folder = folder_of(server.dsn)
    assert folder.is_dir()
    server.stop()
    server.stop()
    assert not folder.exists()


def test_a_server_dies_with_the_process_that_started_it() -> None:
    program = (
        "import sys; from tests.support.postgres import EmbeddedServer; "
        "print(EmbeddedServer().dsn, flush=True); sys.stdin.read()"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    dsn = starter.stdout.readline().strip()
    folder = folder_of(dsn)
    postmaster = int((folder / "data" / "postmaster.pid").read_text().splitlines()[0])
    starter.kill()
    starter.communicate()
    deadline = time.monotonic() + 30
    while folder.exists():
        assert time.monotonic() < deadline, f"{folder} is still there"
        time.sleep(0.05)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)
    assert has_ended(postmaster)


def has_ended(pid: int) -> bool:
    """Tell whether a process has ended, also where nobody collects the orphans of others."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except ProcessLookupError:
        return True
    except FileNotFoundError:
        return sys.platform == "linux"


def test_a_setting_that_postgresql_refuses_is_shown_with_its_reason() -> None:
    with pytest.raises(RuntimeError, match="unrecognized configuration parameter"):
        EmbeddedServer({"no_such_setting": "1"})


def test_a_release_that_is_not_at_hand_is_refused_with_those_that_are() -> None:
    with pytest.raises(RuntimeError, match=r"PostgreSQL 9 is not in the wheel, only \[.*18"):
        EmbeddedServer(major=9)


def test_an_older_release_can_be_asked_for() -> None:
    oldest = min(bundled_programs())
    server = EmbeddedServer(major=oldest)
    try:
        assert int(str(answer(server.dsn, "SHOW server_version_num"))) // 10_000 == oldest
    finally:
        server.stop()


def test_programs_run_from_a_copy_when_their_own_folder_is_closed_to_others(tmp_path: Path) -> None:
    copy: Programs = bundled_programs()[18].moved_to(tmp_path)
    version = subprocess.run([copy.path("initdb"), "--version"], check=True, capture_output=True, text=True).stdout
    assert version.startswith("initdb (PostgreSQL) 18")


def test_a_server_of_somebody_else_is_not_restarted() -> None:
    server = Server("postgresql://someone@example.test/postgres")
    with pytest.raises(RuntimeError, match="EmbeddedServer"):
        server.restart()


def test_a_dsn_that_is_not_a_url_is_refused() -> None:
    with pytest.raises(ValueError, match="postgresql://user@host/database"):
        Server("host=localhost dbname=postgres")


def test_a_port_is_given_to_one_process_of_tests_until_that_ends() -> None:
    few = range(PORTS.stop - 50, PORTS.stop)
    program = (
        "import sys; from tests.support.ports import free_ports; "
        f"print(*free_ports(20, {few!r}), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = {int(port) for port in other.stdout.readline().split()}
        assert len(theirs) == 20
        ours = set(free_ports(20, few))
        assert not ours & theirs
        with pytest.raises(RuntimeError, match="No 20 free ports"):
            free_ports(20, few)
        other.communicate("")
    assert set(free_ports(len(theirs), few)) <= set(few) - ours
