"""What ends or misleads a whole worker process: runs that kill it, and clocks that are wrong."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path

import psycopg
import pytest

from perdure import Client
from tests.support.cli import Cli, eventually
from tests.support.debian import need

SAMPLES = ("tests.support.bad_input_samples",)
TEN_MINUTES = 600


def phases(cli: Cli) -> dict[str, str]:
    return {run["id"]: run["phase"] for run in cli.json("list", "--limit", "100")}


@pytest.mark.parametrize("killer", ["exits", "crashes"])
def test_a_run_that_kills_its_workers_is_held_and_those_beside_it_complete(cli: Cli, killer: str) -> None:
    for number in range(3):
        cli.out("start", "harmless", "--id", f"before-{number}")
    cli.out("start", killer, "--id", "killer")
    for number in range(3):
        cli.out("start", "harmless", "--id", f"after-{number}")
    # A process that stands still for a lease is taken for dead before it dies: on a busy machine a second is little.
    with cli.worker("--lease", "2", "--processes", "2", modules=SAMPLES) as worker:
        held = cli.until("killer", lambda seen: bool(seen["phase"] == "Stalled"))
        assert held["holdReason"] == "PoisonRun"
        assert "perdure resume killer" in held["holdMessage"]
        eventually(
            lambda: all(phase == "Succeeded" for run, phase in phases(cli).items() if run != "killer"), "the others"
        )
        begun, lost = (len(re.findall(f"worker .* {words} ", worker.text())) for words in ("serves", "lost its lease;"))
        assert begun - lost <= 2 + 6, f"five died, or six with one between:\n{worker.text()}"
        cli.out("start", "harmless", "--id", "later")
        cli.out("result", "later", "--timeout", "30")
    cli.out("resume", "killer")
    assert cli.describe("killer")["phase"] in ("Pending", "Running")
    cli.out("terminate", "killer")


def test_many_large_runs_are_not_in_the_memory_of_a_worker_at_once(cli: Cli) -> None:
    async def start() -> None:
        async with Client.connect(cli.url) as client:
            for number in range(100):
                await client.start("measures", 2_000_000 * "x", id=f"large-{number}")

    asyncio.run(start())
    with cli.worker(modules=SAMPLES) as worker:
        eventually(lambda: list(phases(cli).values()) == 100 * ["Succeeded"], "all of them")
        status = Path(f"/proc/{worker.process.pid}/status").read_text()
    [peak] = re.findall(r"VmHWM:\s*(\d+) kB", status)
    assert int(peak) < 200_000, "less than the inputs together, and it needs 60 MB for itself"


def find_faketime() -> Path | None:
    return next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def in_another_time(cli: Cli, seconds: int) -> Path:
    """Let the wall clocks of the processes that follow be wrong; returns the file by which they jump."""
    clock = cli.folder / "clock"
    clock.write_text(f"{seconds:+d}\n")
    cli.environment |= {
        "LD_PRELOAD": str(need("libfaketime", find_faketime)),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    return clock


def recorded_at(dsn: str, instance: str) -> list[tuple[float, float]]:
    """Return how far from the database's time the turns of a run are, and how long they took from the first one."""
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "SELECT extract(epoch FROM now() - t.time)::float8, extract(epoch FROM t.time - r.created_at)::float8 "
            "FROM perdure.turns t JOIN perdure.run r ON r.id = t.run_id WHERE r.instance = %s ORDER BY t.seq",
            (instance,),
        ).fetchall()


@pytest.mark.parametrize("wrong", [-TEN_MINUTES, TEN_MINUTES], ids=["behind", "ahead"])
def test_a_worker_whose_clock_is_wrong_and_jumps_keeps_time_and_its_lease(cli: Cli, wrong: int) -> None:
    before = time.time()
    clock = in_another_time(cli, wrong)
    with cli.worker("--lease", "2", modules=SAMPLES) as worker:
        worker.until_it_serves()
        cli.out("start", "keeps_time", "--id", "clock-1")
        cli.out("start", "waits_for_ever", "--id", "late-1", "--timeout", "3")
        clock.write_text(f"{-wrong:+d}\n")
        timer, retry, timeout = json.loads(cli.out("result", "clock-1", "--timeout", "60"))
        cli.until("late-1", lambda seen: bool(seen["phase"] == "TimedOut"))
        assert "lost its lease" not in worker.text()
        assert len(re.findall(r"worker .* serves ", worker.text())) == 1
    took = time.time() - before
    assert 2 <= timer <= took
    assert 1 <= retry <= took
    assert 1 <= timeout <= took
    for age, since_start in recorded_at(cli.url, "clock-1") + recorded_at(cli.url, "late-1"):
        assert -1 <= age <= took + 1
        assert -1 <= since_start <= took + 1
    assert recorded_at(cli.url, "late-1")[-1][1] >= 3
