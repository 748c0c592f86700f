"""One performance of the scenario: three real processes, a gate before each, and the cuts that were asked for.

What lives here: starting the processes, replacing those that die, winding down. What must not: what the processes do
(`programs`) and whether it went right (`verdict`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final

import psycopg

from tests.failpoints.programs import Part, perform
from tests.support.failpoints import Cut, Gate, Kind

ROLES: Final = ("caller", "helper", "host")
"""In the order in which they are told to stop."""
LIMIT: Final = 90.0
"""Seconds after which a performance is stuck."""

PROCESSES: Final = multiprocessing.get_context("forkserver")
# A process is forked from one that has imported everything; pytest, because each runs the main module's imports.
PROCESSES.set_forkserver_preload(["pytest", "perdure.store.postgres", "tests.failpoints.programs"])


@dataclass
class Performance:
    """What happened."""

    namespace: str
    folder: Path
    cuts: Sequence[Cut]
    made: list[Cut] = field(default_factory=list)
    sent: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    together: set[tuple[str, ...]] = field(default_factory=set)
    killed: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def outcomes(self) -> dict[str, list[Any]]:
        """How the caller saw every run end."""
        outcomes: dict[str, list[Any]] = json.loads((self.folder / "outcomes.json").read_text())
        return outcomes

    @property
    def journal(self) -> list[list[str]]:
        """What the processes wrote down, in order."""
        return [line.split() for line in (self.folder / "journal").read_text().splitlines()]

    def logs(self, lines: int = 60) -> str:
        """Return the last lines of every log."""
        found = []
        for log in sorted(self.folder.glob("*.log")):
            found += [f"--- {log.name}", *log.read_text().splitlines()[-lines:]]
        return "\n".join(found)


class Stuck(Exception):
    """The scenario did not come to its end."""

    def __init__(self, performance: Performance, why: str) -> None:
        super().__init__(why)
        self.performance = performance


class Stage:
    """Three roles on one database. A performance has a namespace of its own, so nothing is cleaned up in between."""

    _numbers = itertools.count()

    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn = dsn
        self._folder = folder

    async def perform(self, *cuts: Cut) -> Performance:
        """Play the scenario once."""
        namespace = f"n{os.getpid()}-{next(self._numbers)}"
        folder = Path(tempfile.mkdtemp(prefix=f"{namespace}-", dir=self._folder))
        (folder / "journal").touch()
        performance = Performance(namespace, folder, cuts)
        began = time.monotonic()
        cast = _Cast(self.dsn, performance)
        try:
            async with asyncio.timeout(LIMIT), cast.present():
                await cast.play()
        except TimeoutError as error:
            raise Stuck(performance, f"not over after {LIMIT:g} s; runs: {await cast.runs()}") from error
        finally:
            performance.seconds = time.monotonic() - began
            for role, gate in cast.gates.items():
                performance.sent[role] = gate.sent
                performance.together |= gate.together
        return performance


class _Cast:
    """The processes of one performance."""

    def __init__(self, dsn: str, performance: Performance) -> None:
        self._dsn = dsn
        self._performance = performance
        self._lease = 1.2 if any(cut.kind.kills for cut in performance.cuts) else 3.0
        self._processes: dict[str, ForkServerProcess] = {}
        self._ended: dict[str, asyncio.Future[None]] = {}
        self._lives: Counter[str] = Counter()
        self._dead: set[int] = set()
        self.gates: dict[str, Gate] = {}

    @contextlib.asynccontextmanager
    async def present(self) -> AsyncIterator[None]:
        """Open the gates; in the end nobody is left."""
        async with contextlib.AsyncExitStack() as stack:
            for role in ROLES:
                cuts, made = self._performance.cuts, self._performance.made
                gate = Gate(self._dsn, role, cuts, made, lambda role=role: self._kill(role))  # type: ignore[misc]  # bound now
                self.gates[role] = await stack.enter_async_context(gate)
            try:
                yield
            except asyncio.CancelledError:  # it takes too long
                for process in self._processes.values():
                    assert process.pid is not None
                    os.kill(process.pid, signal.SIGUSR1)
                await asyncio.sleep(0.5)
                raise
            finally:
                for process in self._processes.values():
                    process.kill()
                await asyncio.gather(*self._ended.values())

    async def play(self) -> None:
        """Let everybody play until the caller is done, then stop the workers, and again if one died over that."""
        for role in ROLES:
            await self._enter(role)
        while "caller" in self._processes:
            await asyncio.wait(self._ended.values(), return_when=asyncio.FIRST_COMPLETED)
            await self._replace_the_dead()
        while self._processes:
            await self._wind_down()

    async def runs(self) -> list[tuple[Any, ...]]:
        """Return where every run stands."""
        return await self._ask(
            "SELECT instance, state, waiting_for, hold_message FROM perdure.run WHERE namespace = %s"
        )

    async def _enter(self, role: str) -> None:
        """Start the process of a role."""
        self._lives[role] += 1
        part = Part(
            role=role,
            url=self.gates[role].dsn,
            namespace=self._performance.namespace,
            folder=self._performance.folder,
            lease=self._lease,
            successor=self._lives[role] > 1,
        )
        process = PROCESSES.Process(target=perform, args=(part,), daemon=True)
        process.start()
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        loop.add_reader(process.sentinel, _end, loop, process.sentinel, ended)
        self._processes[role], self._ended[role] = process, ended

    def _kill(self, role: str) -> None:
        process = self._processes[role]
        assert process.pid is not None
        self._performance.killed.append(process.pid)
        os.kill(process.pid, signal.SIGKILL)

    async def _replace_the_dead(self) -> bool:
        """Take note of those that ended, and start the killed ones again; tell whether there were any."""
        replaced = False
        for role in [role for role, ended in self._ended.items() if ended.done()]:
            process = self._processes.pop(role)
            del self._ended[role]
            process.join()
            if process.pid in self._performance.killed:
                self._dead |= await self._workers(role)
                await self._enter(role)
                replaced = True
            elif process.exitcode:
                raise Stuck(self._performance, f"{role} ended with {process.exitcode}")
        return replaced

    async def _wind_down(self) -> None:
        """Stop the workers in order, once those that died have been found dead; stop early if one dies over that."""
        await self._until(self._only_the_living)
        for role in [role for role in ROLES if role in self._processes]:
            self._processes[role].terminate()
            await self._ended[role]
            if await self._replace_the_dead():
                return

    async def _only_the_living(self) -> bool:
        workers = set().union(*[await self._workers(role) for role in ROLES])
        return len(workers) == len(self._processes) and not workers & self._dead

    async def _workers(self, role: str) -> set[int]:
        query = "SELECT id FROM perdure.worker WHERE namespace = %s AND name = %s"
        return {worker for (worker,) in await self._ask(query, role)}

    async def _until(self, what: Callable[[], Awaitable[bool]]) -> None:
        while True:
            if await what():
                return
            await asyncio.sleep(0.05)

    async def _ask(self, question: str, *more: str) -> list[tuple[Any, ...]]:
        async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as connection:
            cursor = await connection.execute(question.encode(), [self._performance.namespace, *more])
            return await cursor.fetchall()


def _end(loop: asyncio.AbstractEventLoop, sentinel: int, ended: asyncio.Future[None]) -> None:
    loop.remove_reader(sentinel)
    ended.set_result(None)


__all__ = ["ROLES", "Kind", "Performance", "Stage", "Stuck"]
