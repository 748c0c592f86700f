"""Backups of databases, with the programs that come with PostgreSQL."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.postgres import bundled_programs


def dump(dsn: str, file: Path) -> None:
    """Write everything that is in a database to a file."""
    _run("pg_dump", "--format=custom", f"--file={file}", f"--dbname={dsn}")


def restore(file: Path, dsn: str) -> None:
    """Fill an empty database from a file."""
    _run("pg_restore", "--exit-on-error", "--no-owner", f"--dbname={dsn}", str(file))


def _run(program: str, *arguments: str) -> None:
    programs = bundled_programs()
    # A newer release reads and writes what an older server has.
    command = [str(programs[max(programs)].path(program)), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
