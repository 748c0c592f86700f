"""Real worker processes that are killed, frozen and cut off: every run ends right and nothing is doubled."""

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from perdure import Client, WorkflowHandle
from perdure.model.events import ActivityCompleted, ActivityFailed, SideEffectRecorded, TimerFired
from perdure.model.runs import HistoryEvent
from perdure.store.postgres.migrate import migrate
from tests.support.postgres import EmbeddedServer, Server
from tests.support.world import run_async

ROOT = Path(__file__).parents[2]
RUNS = int(os.environ.get("CHAOS_RUNS", "300"))
WORKERS = 3
LEASE = 2


@pytest.fixture
def server() -> Iterator[Server]:
    """Lend a PostgreSQL of the test's own: it is restarted."""
    server = EmbeddedServer()
    yield server
    server.stop()


class Fleet:
    """Worker processes."""

    def __init__(self, url: str, journal: Path, log: Path) -> None:
        self._command = [sys.executable, "-m", "perdure.cli", "worker", "tests.chaos.workflows", "--lease", str(LEASE)]
        self._environment = {**os.environ, "PERDURE_URL": url, "CHAOS_JOURNAL": str(journal)}
        self._log = log
        self.processes = [self._spawn() for _ in range(WORKERS)]

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(self._command, cwd=ROOT, env=self._environment, stdout=log, stderr=log)

    def kill(self, place: int) -> None:
        """Kill one without a warning and start another."""
        self.processes[place].kill()
        self.processes[place].wait()
        self.processes[place] = self._spawn()

    def stop(self) -> None:
        """Stop all; each that had begun to serve has to end with exit code 0."""
        serving = {int(pid) for pid in re.findall(r"worker[^ ]*\[(\d+)\]: worker .* serves ", self._log.read_text())}
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        codes = {process.pid: process.wait(30) for process in self.processes}
        assert not [pid for pid in serving & set(codes) if codes[pid] != 0], self._log.read_text()[-4000:]


async def trouble(fleet: Fleet, server: Server, url: str, dice: random.Random, until: asyncio.Event) -> Counter[str]:
    """Do harm until told to stop; return what was done."""
    done: Counter[str] = Counter()
    while not until.is_set():
        what = dice.choice(["kill", "kill", "freeze", "cut", "restart"])
        if done[what] >= 3:
            what = "kill"
        done[what] += 1
        victim = dice.randrange(WORKERS)
        match what:
            case "kill":
                await asyncio.to_thread(fleet.kill, victim)
            case "freeze":
                fleet.processes[victim].send_signal(signal.SIGSTOP)
                await asyncio.sleep(LEASE * 1.5)
                fleet.processes[victim].send_signal(signal.SIGCONT)
            case "cut":
                await asyncio.to_thread(cut_connections, url)
            case "restart":
                await asyncio.to_thread(server.restart, crash=dice.random() < 0.5)
        try:
            async with asyncio.timeout(dice.uniform(0.2, 1.5)):
                await until.wait()
        except TimeoutError:
            pass
    return done


def cut_connections(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )


def check_history(history: list[HistoryEvent]) -> None:
    """No gap, no double: ids count up, and each activity, timer and side effect ends at most once."""
    assert [event.id for event in history] == list(range(1, len(history) + 1))
    ended = Counter(
        (type(event.event).__name__, event.event.seq)
        for event in history
        if isinstance(event.event, ActivityCompleted | ActivityFailed | TimerFired | SideEffectRecorded)
    )
    assert not [key for key, times in ended.items() if times > 1]
    assert history[-1].type == "WorkflowExecutionCompleted"


@pytest.mark.parametrize("seed", [int(os.environ.get("CHAOS_SEED", "1"))])
def test_every_run_ends_right_whatever_happens_to_the_workers(server: Server, tmp_path: Path, seed: int) -> None:
    url = server.create_database()
    migrate(url)
    journal, log = tmp_path / "journal", tmp_path / "workers.log"
    journal.touch()
    fleet = Fleet(url, journal, log)

    @run_async
    async def live_through() -> None:
        dice = random.Random(seed)
        async with Client.connect(url) as client:
            stop = asyncio.Event()
            harm = asyncio.create_task(trouble(fleet, server, url, dice, stop))
            handles = [await client.start("journey", number, id=f"j{number}") for number in range(RUNS)]
            for number, handle in enumerate(handles):
                if number % 3:
                    await handle.signal("go", number)
            started = time.monotonic()
            results = await asyncio.gather(*(handle.result() for handle in handles))
            stop.set()
            print(f"{RUNS} runs through {dict(await harm)} in {time.monotonic() - started:.1f} s")
            for number, result in enumerate(results):
                assert result["results"] == [number * 1000 + step for step in range(10)]
                assert result["signalled"] == (number if number % 3 else -1)
            await check(handles)

    async def check(handles: list[WorkflowHandle[object]]) -> None:
        for handle in handles:
            check_history(await handle.history())

    try:
        live_through()
    finally:
        fleet.stop()
    ran = Counter(line.split()[0] for line in journal.read_text().splitlines())
    assert len(ran) == RUNS * 10, "every step ran"
