"""`perdure migrate` where nobody can be asked to try again: in a container that starts before its database."""

import subprocess
from pathlib import Path

import psycopg

from tests.support.cli import DEADLINE, PROGRAM, ROOT, Cli
from tests.support.postgres import EmbeddedServer


def test_a_check_says_whether_the_schema_is_there_and_changes_nothing(database: str, tmp_path: Path) -> None:
    cli = Cli(database, tmp_path)
    for _ in range(2):
        missing = cli.run("migrate", "--check")
        assert missing.returncode == 4
        assert "has no Perdure schema" in missing.stderr
    cli.out("migrate")
    assert "the schema is what this release needs" in cli.out("migrate", "--check")


def test_it_waits_for_a_database_that_is_not_up_yet(own_server: EmbeddedServer, tmp_path: Path) -> None:
    cli = Cli(own_server.create_database(), tmp_path)
    own_server.halt()
    assert cli.run("migrate", "--wait", "0.1").returncode == 4
    with subprocess.Popen(
        [PROGRAM, "migrate", "--wait", "1m"], cwd=ROOT, env=cli.environment, stderr=subprocess.PIPE, text=True
    ) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline().startswith("waiting: PostgreSQL at ")
        own_server.launch()
        assert waiting.wait(DEADLINE) == 0
    cli.out("migrate", "--check")


def test_a_role_that_may_only_read_is_told_so_unless_there_is_nothing_to_do(
    own_server: EmbeddedServer, tmp_path: Path
) -> None:
    url = own_server.create_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE reader LOGIN")
        reader = Cli(url.replace("postgres@", "reader@"), tmp_path)
        refused = reader.run("migrate")
        assert refused.returncode == 2
        assert "with a role that may create tables" in refused.stderr
        Cli(url, tmp_path).out("migrate")
        connection.execute("GRANT USAGE ON SCHEMA perdure TO reader")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA perdure TO reader")
    assert "already" in reader.out("migrate")
