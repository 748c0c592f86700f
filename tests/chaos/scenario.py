"""One chaos from beginning to end: what it stands on, its load and its trouble, then the verdict.

What lives here: `Plan`, `go_through` and `Outcome`. What must not: options of the command line and rendering. The
short test and ``make chaos`` both call `go_through`.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote, urlsplit

from perdure import Client
from perdure.store.postgres.migrate import migrate
from tests.chaos import verdict
from tests.chaos.clients import Load
from tests.chaos.disk import SmallDisk
from tests.chaos.faults import Fault, World
from tests.chaos.fleet import Fleet, Seat
from tests.chaos.network import Network
from tests.chaos.trouble import Trouble
from tests.support.pgbouncer import PgBouncer
from tests.support.postgres import TEST_SETTINGS, EmbeddedServer

SETTINGS: Final = MappingProxyType(
    {**TEST_SETTINGS, "fsync": "on", "full_page_writes": "on", "shared_buffers": "256MB"}
)
"""As in production: what was acknowledged is on the disk."""

LONGEST: Final = 10
"""How many of the longest waits are kept."""

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long, how much, and which faults. The load ends with ``seconds`` or ``runs``, whichever is first."""

    seed: int
    seconds: float
    runs: int
    in_flight: int = 400
    lease: float = 3.0
    apart: bool = False
    """Whether each fault has time to itself."""


@dataclass
class Outcome:
    """What came of it."""

    plan: Plan
    faults: list[Fault] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    runs: int = 0
    events: int = 0
    attempts: int = 0
    repeated_calls: int = 0
    seconds: float = 0.0
    longest_waits: list[verdict.Wait] = field(default_factory=list)
    steps_by_second: Counter[int] = field(default_factory=Counter)
    """Recorded ends of activities, by the second in which their turn began."""


async def go_through(plan: Plan, folder: Path, tell: Tell) -> Outcome:
    """Live through it; files of the workers go to ``folder``."""
    outcome = Outcome(plan)
    offset = time.time() - time.monotonic()
    async with AsyncExitStack() as stack:
        world = await _build(plan, folder, stack)
        started = time.monotonic()
        load = await _let_loose(plan, world, outcome, tell, stack)
        outcome.seconds = time.monotonic() - started
        tell(f"{load.finished} runs ended in {outcome.seconds:.1f} s; now the verdict")
        outcome.runs, outcome.repeated_calls = len(load.started), load.repeated
        outcome.complaints += load.complaints
        outcome.complaints += await asyncio.to_thread(world.fleet.stop)
        outcome.complaints += [f"{name} missed something that is there" for name in world.fleet.forgetful()]
        outcome.complaints += verdict.check_leftovers(world.url)
        frozen = [fault.frozen for fault in outcome.faults if fault.frozen is not None]
        attempts = verdict.Attempts.read(world.fleet.journal, offset, frozen)
        outcome.attempts = sum(map(len, attempts.begun.values()))
        await _judge(world, load, attempts, outcome)
    return outcome


async def _build(plan: Plan, folder: Path, stack: AsyncExitStack) -> World:
    """Start the server, everything around it, and the workers."""
    parts = stack.enter_context(_parts())
    server, disk = parts
    url = server.create_database()
    migrate(url)
    disk.move(url)
    bouncer = PgBouncer(url)
    stack.callback(bouncer.stop)
    network = await stack.enter_async_context(Network(url))
    clock = folder / "clock"
    clock.write_text("+600\n")
    pooled = bouncer.dsn(unquote(urlsplit(url).path.removeprefix("/")))
    seats = [
        Seat("straight", url, "socket"),
        Seat("wrong-clock", url, "socket", far=True, clock=clock),
        Seat("pooled", pooled, "pgbouncer", far=True),
        Seat("pooled-too", f"{pooled}?pgbouncer=true", "pgbouncer"),
        Seat("remote", network.dsn(), "network", far=True),
    ]
    fleet = Fleet(seats, folder, plan.lease)
    stack.callback(fleet.stop)
    return World(url, server, bouncer, network, disk, fleet, plan.lease)


@contextmanager
def _parts() -> Iterator[tuple[EmbeddedServer, SmallDisk]]:
    """Lend the server and the disk that some of its tables are on, which outlives the server."""
    with ExitStack() as stack:
        disk = SmallDisk()
        stack.callback(disk.remove)
        server = EmbeddedServer(SETTINGS)
        stack.callback(server.stop)
        yield server, disk


async def _let_loose(plan: Plan, world: World, outcome: Outcome, tell: Tell, stack: AsyncExitStack) -> Load:
    """Load and trouble at the same time; then peace, in which everything has to end."""
    urls = [world.url, world.fleet.seats[2].url, world.network.dsn()]
    clients = [await stack.enter_async_context(Client.connect(url)) for url in urls]
    load = Load(clients, plan.runs, plan.in_flight, plan.seed)
    trouble = Trouble(world, plan.seed, tell, apart=plan.apart)
    outcome.faults = trouble.done
    loading = asyncio.create_task(load.run())
    await load.warm.wait()
    troubling = asyncio.create_task(trouble.run())
    await asyncio.wait({loading, troubling}, timeout=plan.seconds, return_when=asyncio.FIRST_COMPLETED)
    load.stop()
    trouble.stop()
    await troubling
    await loading
    await load.end()
    return load


async def _judge(world: World, load: Load, attempts: verdict.Attempts, outcome: Outcome) -> None:
    affecting = verdict.by_run(outcome.faults)
    silences = [fault.silence for fault in outcome.faults if fault.silence is not None]
    async with Client.connect(world.url) as client:
        for handle in load.started.values():
            assert handle.run_id is not None
            history = await client.handle(handle.id, run_id=handle.run_id).history()
            outcome.complaints += verdict.check_history(handle.run_id, history, attempts)
            outcome.complaints += verdict.check_silences(handle.run_id, history, silences)
            outcome.longest_waits.append(verdict.longest_wait(handle.run_id, history))
            verdict.measure_recovery(history, affecting.get(handle.run_id, ()))
            outcome.events += len(history)
            outcome.steps_by_second.update(
                int(event.time.timestamp()) for event in history if event.type == "ActivityCompleted"
            )
    outcome.longest_waits = sorted(outcome.longest_waits, reverse=True)[:LONGEST]
    verdict.mark_company(outcome.faults)
