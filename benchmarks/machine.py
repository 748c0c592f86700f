"""What the numbers were measured on: processor, memory, disk, versions.

What lives here: a look at the machine. What must not: names and paths of it.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import psycopg

from benchmarks.environment import dbos_python


def describe(dsn: str, settings: Mapping[str, str]) -> dict[str, str]:
    """Return what a reader needs to know, by name."""
    return {
        "machine": f"{processor()}, {os.cpu_count()} cores, {memory()} GB, {platform.system()} {platform.release()}",
        "disk": f"fdatasync of 8 kB takes {sync_time() * 1e6:.0f} µs (median)",
        "PostgreSQL": f"{server_version(dsn)}, on the same cores, through a Unix socket; "
        + ", ".join(f"{name} = {value}" for name, value in settings.items())
        + ", fsync and synchronous_commit on, everything else as it comes",
        "Python": f"{platform.python_version()}; " + ", ".join(versions("perdure", "psycopg", "msgspec", "uvloop")),
        "DBOS": f"{dbos_version()} in an environment of its own, settings as they come",
        "load": load(),
    }


def load() -> str:
    """Return how busy the machine is with other work, and what that means."""
    average = os.getloadavg()[0]
    said = f"{average:.1f} when the run began (average of a minute)"
    if average < (os.cpu_count() or 1) / 2:
        return said
    return f"{said}: **other work was going on**, so rates are too low and ratios of rates and latencies are blurred"


def processor() -> str:
    """Return the name of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def memory() -> int:
    """Return the size of the memory in GB."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def sync_time() -> float:
    """Return the seconds that one small write takes to be durable where the server keeps its data."""
    times = []
    with tempfile.TemporaryFile() as file:
        for _ in range(200):
            file.write(bytes(8192))
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def server_version(dsn: str) -> str:
    """Return the release of the server."""
    with psycopg.connect(dsn) as connection:
        return str(connection.info.server_version // 10_000) + f".{connection.info.server_version % 10_000}"


def versions(*names: str) -> list[str]:
    """Return the releases of distributions that are installed here."""
    found = []
    for name in names:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def dbos_version() -> str:
    """Return the release of DBOS in its environment."""
    program = "import importlib.metadata as m; print(m.version('dbos'))"
    return subprocess.run([dbos_python(), "-c", program], check=True, capture_output=True, text=True).stdout.strip()
