"""What is measured about one piece of work: time, CPU by process, transactions and WAL.

What lives here: `Meter`, which reads PostgreSQL and ``/proc`` before and after, and the `Sample` that comes of it.
What must not: imports of Perdure, because the program for DBOS uses this in an environment of its own.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Self

import psycopg

POSTGRES: Final = "postgres"
"""The name of all processes of the server together, where CPU is listed by process."""

TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One measured piece of work. ``cpu`` is in seconds by process, ``latencies`` in milliseconds.

    ``operations`` is what throughput counts: activities, signals, starts. ``commits`` are transactions that wrote.
    ``extra`` has what only this scenario knows.
    """

    operations: int
    seconds: float
    p50: float | None = None
    p99: float | None = None
    cpu: dict[str, float] = field(default_factory=dict)
    commits: int = 0
    wal: int = 0
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.operations / self.seconds if self.seconds else 0.0

    def to_json(self) -> str:
        """Return one line for the process that asked."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read what `to_json` wrote."""
        return cls(**json.loads(line))


@functools.cache
def text(size: int) -> str:
    """Return a text of ``size`` characters that PostgreSQL cannot make much smaller; always the same one."""
    return base64.b64encode(random.Random(size).randbytes(size * 3 // 4 + 3)).decode()[:size]


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the value below which ``share`` (0 to 1) of the values lie; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def process_cpu(pid: int, *, children: bool = False) -> float:
    """Return the CPU seconds of a process; with ``children`` those of children that have ended, too."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return sum(int(ticks) for ticks in fields[11 : 15 if children else 13]) / TICKS


def resident(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def child_processes(parent: int) -> list[int]:
    """Return the processes that ``parent`` started and that live."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(") ")[2].split()
            except OSError:  # it ended while we looked
                continue
            if int(fields[1]) == parent:
                found.append(int(entry.name))
    return found


@dataclass(frozen=True)
class Reading:
    """Counters at one moment."""

    at: float
    wal: int
    transactions: int
    postgres: float
    cpu: dict[str, float]


class Meter:
    """Reads the counters of a server and of the processes that are measured.

    ``dsn`` should name a database in which nothing is measured. ``processes`` maps names to process ids; the caller's
    own process belongs to them if it is part of the work.
    """

    def __init__(self, dsn: str, processes: dict[str, int]) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._processes = processes
        self._postmaster = self._parent_of_backends()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def read(self) -> Reading:
        """Return all counters now."""
        row = self._connection.execute(
            "SELECT pg_current_wal_insert_lsn() - '0/0', pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
        ).fetchone()
        assert row is not None
        own = {name: process_cpu(pid) for name, pid in self._processes.items()}
        return Reading(time.perf_counter(), int(row[0]), int(row[1]), self._server_cpu(), own)

    def sample(self, before: Reading, operations: int, latencies: Sequence[float] = (), **extra: float) -> Sample:
        """Return what happened since ``before``; seconds ``paused`` on purpose do not count as time."""
        now = self.read()
        cpu = {name: seconds - before.cpu[name] for name, seconds in now.cpu.items()}
        cpu[POSTGRES] = now.postgres - before.postgres
        return Sample(
            operations=operations,
            seconds=now.at - before.at - extra.get("paused", 0.0),
            p50=percentile(latencies, 0.50),
            p99=percentile(latencies, 0.99),
            cpu=cpu,
            commits=now.transactions - before.transactions,
            wal=now.wal - before.wal,
            extra=extra,
        )

    def transactions(self, dsn: str) -> int:
        """Return the transactions so far in the database of ``dsn``; the server counts up to a few seconds late."""
        name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
        query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s"
        row = self._connection.execute(query, [name]).fetchone()
        assert row is not None
        return int(row[0])

    def _parent_of_backends(self) -> int:
        row = self._connection.execute("SELECT pg_backend_pid()").fetchone()
        assert row is not None
        return int(Path(f"/proc/{row[0]}/stat").read_text().rpartition(") ")[2].split()[1])

    def _server_cpu(self) -> float:
        total = process_cpu(self._postmaster, children=True)
        for pid in child_processes(self._postmaster):
            try:
                total += process_cpu(pid)
            except OSError:  # it ended while we looked, and counts with its parent from now on
                continue
        return total
