"""The script that the pod of the demo database runs, with the programs of a real PostgreSQL."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from tests.chart.golden import objects
from tests.support.cli import Cli, eventually
from tests.support.helm import CHART, Helm
from tests.support.ports import free_ports
from tests.support.postgres import lent_user, programs_for

SCRIPT = (CHART / "files" / "demo-database.sh").read_text()
PASSWORD = 'it\'s a "secret" $HOME'


class Pod:
    """Where the pod's volume would be, and how to reach what it serves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self._user = lent_user()
        self._programs = programs_for(self._user, folder)
        (self.port,) = free_ports(1)

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Lend the pod's process."""
        environment = {
            "PATH": f"{self._programs.path('postgres').parent}:{os.defpath}",
            "LC_ALL": "C",
            "PGDATA": str(self.folder / "postgresql"),
            "PGPORT": str(self.port),
            "PASSWORD": PASSWORD,
        }
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                ["sh", "-euc", SCRIPT],
                env=environment,
                cwd=self.folder,
                stdout=output,
                stderr=output,
                process_group=0,
                user=self._user.pw_uid if self._user else None,
                group=self._user.pw_gid if self._user else None,
                extra_groups=[] if self._user else None,
            )
        try:
            eventually(lambda: self.answers() or self.ended(process), "the database to answer")
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def ended(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, self.log.read_text()
        return False

    def answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def connect(self, password: str = PASSWORD) -> "psycopg.Connection[tuple[object, ...]]":
        address = {"host": "127.0.0.1", "port": self.port, "user": "perdure", "dbname": "perdure"}
        return psycopg.connect(autocommit=True, password=password, **address)  # type: ignore[arg-type]  # any of them


@pytest.fixture
def pod() -> Iterator[Pod]:
    # Not the folder of pytest, which only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="perdure-demo-"))
    try:
        yield Pod(folder)
    finally:
        shutil.rmtree(folder)


def test_it_keeps_what_was_written_and_stops_although_somebody_is_connected(pod: Pod) -> None:
    with pod.running() as process:
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            pod.connect("guess")
        with pod.connect() as connection:
            connection.execute("CREATE TABLE note AS SELECT 'kept' AS text")
            process.terminate()
            assert process.wait(30) == 0
    assert "database system is shut down" in pod.log.read_text()
    with pod.running(), pod.connect() as connection:
        assert connection.execute("SELECT text FROM note").fetchone() == ("kept",)


def test_a_pod_that_died_half_way_through_its_first_start_begins_again(pod: Pod) -> None:
    half = pod.folder / "postgresql.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    if user := lent_user():
        for path in (half, half / "PG_VERSION"):
            os.chown(path, user.pw_uid, user.pw_gid)
    with pod.running(), pod.connect() as connection:
        assert connection.execute("SELECT current_database()").fetchone() == ("perdure",)
    assert not half.exists()


def test_with_a_certificate_authority_in_the_values_a_server_without_encryption_is_refused(
    pod: Pod, helm: Helm, tmp_path: Path
) -> None:
    rendered = helm.out("template", "x", str(CHART), "--set", "postgresql.mode=demo,postgresql.tls.existingSecret=ca")
    (operator,) = (
        each
        for each in objects(rendered)
        if each["kind"] == "Deployment" and each["metadata"]["name"] == "x-perdure-operator"
    )
    with pod.running():
        cli = Cli(f"postgresql://perdure:{quote(PASSWORD, safe='')}@127.0.0.1:{pod.port}/perdure", tmp_path)
        cli.out("migrate")
        for container in ("initContainers", "containers"):
            (spec,) = operator["spec"]["template"]["spec"][container]
            settings = {each["name"]: each["value"] for each in spec["env"] if each["name"].startswith("PG")}
            assert settings.keys() == {"PGSSLMODE", "PGSSLROOTCERT"}
            cli.environment |= settings
            assert "server does not support SSL, but SSL was required" in cli.run("migrate", "--check").stderr
        # The pages say so: whoever writes `sslmode` into the URL gets that.
        cli.environment["PERDURE_URL"] += "?sslmode=disable"
        cli.out("migrate", "--check")
