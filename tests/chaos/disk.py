"""A small disk of its own for some tables of PostgreSQL, which can be full: a real ENOSPC.

What lives here: `SmallDisk`, a file system in memory that is mounted for the time of a test, and the move of tables to
it. What must not: when it is filled; `faults` decides that. Mounting needs root on Linux; everything else is an error.
"""

import os
import pwd
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from tests.support.leash import Leash

ROOM: Final = 8 << 30
"""Bytes that the file system may grow to while it is not full; it takes only what is written."""
TABLES: Final = ("history", "payload", "inbox")
"""What is moved there: what every turn writes to."""


class SmallDisk:
    """A mounted file system. It is gone, whatever happens, when the process that mounted it ends."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise RuntimeError("a full disk needs root on Linux: it is a file system that is mounted for the test")
        self._folder: Final = Path(tempfile.mkdtemp(prefix="perdure-disk-"))
        self._leash: Final = Leash(afterwards=[["umount", "--lazy", str(self._folder)], ["rmdir", str(self._folder)]])
        self._mount(f"size={ROOM},mode=755")
        owner = pwd.getpwnam("nobody")
        self._place: Final = self._folder / "tablespace"
        self._place.mkdir(mode=0o700)
        os.chown(self._place, owner.pw_uid, owner.pw_gid)

    def move(self, url: str) -> None:
        """Move tables of the database that ``url`` names to this disk."""
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(str(self._place)))
            for table in TABLES:
                connection.execute(sql.SQL("ALTER TABLE perdure.{} SET TABLESPACE small").format(sql.Identifier(table)))
            indexes = "SELECT indexname FROM pg_indexes WHERE schemaname = 'perdure' AND tablename = ANY (%s)"
            for (name,) in connection.execute(indexes, [list(TABLES)]).fetchall():
                connection.execute(sql.SQL("ALTER INDEX perdure.{} SET TABLESPACE small").format(sql.Identifier(name)))

    def fill(self) -> None:
        """Leave no room: the disk becomes as large as what is on it."""
        while True:
            state = os.statvfs(self._folder)
            try:
                self._mount(f"remount,size={(state.f_blocks - state.f_bfree) * state.f_frsize}")
            except subprocess.CalledProcessError:
                continue  # somebody wrote in between
            return

    def free(self) -> None:
        """Make room again."""
        self._mount(f"remount,size={ROOM}")

    def remove(self) -> None:
        """Unmount it; the server that had tables on it has stopped. A second call does nothing."""
        self._leash.let_go()

    def _mount(self, options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "perdure-chaos", str(self._folder)]
        subprocess.run(command, check=True, capture_output=True)
