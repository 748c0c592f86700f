"""The harm that is done: each kind a function that begins and ends one fault.

What lives here: `World` (all that can be harmed), the kinds, and `Fault`, the note of each that was done. What must
not: in which order and how often; `trouble` decides that.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import psycopg

from tests.chaos.disk import SmallDisk
from tests.chaos.fleet import Fleet, Seat
from tests.chaos.network import Network
from tests.support.pgbouncer import PgBouncer
from tests.support.postgres import EmbeddedServer

Runs = frozenset[int]

OWNED: Final = """
SELECT r.id FROM perdure.run r JOIN perdure.worker w ON w.id = r.owner
WHERE r.state = 1 AND (%(name)s::text IS NULL OR w.name = %(name)s)
"""
REGISTERED: Final = """
SELECT extract(epoch FROM registered_at) FROM perdure.worker WHERE name = %s AND registered_at > to_timestamp(%s)
"""
FLUSHING: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
BACKENDS: Final = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'
"""
ALL: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@dataclass
class World:
    """Everything that can be harmed."""

    url: str
    server: EmbeddedServer
    bouncer: PgBouncer
    network: Network
    disk: SmallDisk | None
    fleet: Fleet
    lease: float

    def owned(self, seat: Seat | None = None) -> Runs:
        """Return the runs of one worker, or of all."""
        with suppress(psycopg.OperationalError), psycopg.connect(self.url, autocommit=True) as connection:
            found = connection.execute(OWNED, {"name": seat.name if seat else None}).fetchall()
            return frozenset(run_id for (run_id,) in found)
        return frozenset()  # another fault is on

    def registered(self, seat: Seat, after: float) -> float:
        """Wait until the worker of this seat has registered after a moment; return when, or now if it takes long."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with suppress(psycopg.OperationalError), psycopg.connect(self.url, autocommit=True) as connection:
                found = connection.execute(REGISTERED, [seat.name, after]).fetchone()
                if found is not None:
                    return float(found[0])
            time.sleep(0.05)
        return time.time()

    def cut_flushes(self, wanted: int) -> int:
        """Cut so many connections while they flush; return how many there were within two seconds."""
        cut = 0
        with (
            suppress(psycopg.OperationalError),
            psycopg.connect(self.url) as holder,
            psycopg.connect(self.url, autocommit=True) as killer,
        ):
            holder.execute("LOCK TABLE perdure.history IN EXCLUSIVE MODE")
            deadline = time.monotonic() + 2
            while cut < wanted and time.monotonic() < deadline:
                cut += killer.execute(FLUSHING).rowcount
                time.sleep(0.02)
        return cut

    def kill_backend(self, dice: random.Random) -> int:
        """Kill -9 a process that serves a connection; return how many were there to be killed."""
        with suppress(psycopg.OperationalError), psycopg.connect(self.url, autocommit=True) as connection:
            found = connection.execute(BACKENDS).fetchall()
            with suppress(ProcessLookupError):
                os.kill(dice.choice(found)[0], signal.SIGKILL)
            return len(found)
        return 0

    def execute(self, statement: str) -> int:
        """Run a statement as an administrator; return the number of rows, 0 when nobody answers."""
        with suppress(psycopg.OperationalError), psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(statement.encode()).rowcount
        return 0


class Silence(NamedTuple):
    """A worker that must not record anything after one moment and before another."""

    worker: str
    after: float
    before: float


class Frozen(NamedTuple):
    """When a process had no processor."""

    pid: int
    since: float
    until: float


@dataclass
class Fault:
    """One fault that was done. Times are seconds of `time.time`, which is the database's clock here as well."""

    kind: str
    began: float
    over: float = 0.0
    """From when on things can recover: the end of the fault, or its beginning where others take over from it."""
    ended: float = 0.0
    note: str = ""
    affected: Runs = frozenset()
    recovered: list[float] = field(default_factory=list)
    """For each affected run that had something to do: the seconds until it went on."""
    silence: Silence | None = None
    """What the fault forbids a worker."""
    frozen: Frozen | None = None
    alone: bool = True
    """Whether no other fault was on between its beginning and the end of the recovery."""


Harm = Callable[[World, Fault, random.Random], Awaitable[None]]


async def kill(world: World, fault: Fault, dice: random.Random) -> None:
    """Kill -9 a worker; another one is started in its place a little later."""
    seat = dice.choice(world.fleet.seats)
    fault.note = seat.name
    fault.affected = await asyncio.to_thread(world.owned, seat)
    await asyncio.to_thread(world.fleet.kill, seat)
    fault.over = time.time()
    await asyncio.sleep(dice.uniform(0, world.lease))
    world.fleet.start(seat)


async def freeze(world: World, fault: Fault, dice: random.Random) -> None:
    """Freeze a worker past its lease: others take over, and what it does when it thaws must not count."""
    seat = await _frozen(world, fault, dice, dice.uniform(1.3, 2.0))
    # It may not have recorded anything between the end of its lease and its next registration.
    back = await asyncio.to_thread(world.registered, seat, fault.began + world.lease)
    fault.silence = Silence(seat.name, fault.over + world.lease, back)


async def falter(world: World, fault: Fault, dice: random.Random) -> None:
    """Freeze a worker for less than its lease: it goes on with its runs."""
    await _frozen(world, fault, dice, dice.uniform(0.1, 0.5))
    fault.over = time.time()


async def _frozen(world: World, fault: Fault, dice: random.Random, leases: float) -> Seat:
    seat = dice.choice(world.fleet.seats)
    fault.note = f"{seat.name} for {leases * world.lease:.1f} s"
    fault.affected = await asyncio.to_thread(world.owned, seat)
    fault.over = time.time()
    world.fleet.freeze(seat)
    await asyncio.sleep(leases * world.lease)
    fault.frozen = Frozen(seat.process.pid, fault.over, time.time())
    world.fleet.thaw(seat)
    return seat


async def change_clock(world: World, fault: Fault, dice: random.Random) -> None:
    """Set the wall clock of a worker forward or back by up to ten minutes."""
    seat = dice.choice([seat for seat in world.fleet.seats if seat.clock is not None])
    offset = dice.randint(-600, 600)
    fault.note = f"{seat.name} by {offset:+} s"
    fault.affected = await asyncio.to_thread(world.owned, seat)
    assert seat.clock is not None
    seat.clock.write_text(f"{offset:+}\n")


async def stop_postgres(world: World, fault: Fault, dice: random.Random) -> None:
    """Stop PostgreSQL in order ("fast") and start it again after up to a lease and a half."""
    await _halted(world, fault, dice, crash=False)


async def crash_postgres(world: World, fault: Fault, dice: random.Random) -> None:
    """Stop PostgreSQL at once ("immediate"): it has to recover from its log when it is started again."""
    await _halted(world, fault, dice, crash=True)


async def _halted(world: World, fault: Fault, dice: random.Random, *, crash: bool) -> None:
    pause = dice.uniform(0, 1.5 * world.lease)
    fault.note = f"down for {pause:.1f} s"
    fault.affected = await asyncio.to_thread(world.owned)
    await asyncio.to_thread(world.server.halt, crash=crash)
    await asyncio.sleep(pause)
    await asyncio.to_thread(world.server.launch)


async def freeze_postgres(world: World, fault: Fault, dice: random.Random) -> None:
    """Freeze every process of PostgreSQL, for longer than a lease now and then: no connection breaks."""
    pause = dice.uniform(0.2, 1.5 * world.lease)
    fault.note = f"for {pause:.1f} s"
    fault.affected = await asyncio.to_thread(world.owned)
    await asyncio.to_thread(world.server.freeze)
    try:
        await asyncio.sleep(pause)
    finally:
        world.server.thaw()


async def kill_backend(world: World, fault: Fault, dice: random.Random) -> None:
    """Kill -9 a process of PostgreSQL that serves a connection: it ends all of them and recovers by itself."""
    fault.affected = await asyncio.to_thread(world.owned)
    fault.note = f"one of {await asyncio.to_thread(world.kill_backend, dice)}"


async def lock_table(world: World, fault: Fault, dice: random.Random) -> None:
    """Lock one of the tables against everybody, for longer than a lease now and then, as a migration by hand may."""
    table = dice.choice(("worker", "run", "history", "inbox", "task"))
    pause = dice.uniform(0.2, 1.5 * world.lease)
    fault.note = f"{table} for {pause:.1f} s"
    fault.affected = await asyncio.to_thread(world.owned)
    with suppress(psycopg.OperationalError):  # another fault cuts it
        async with await psycopg.AsyncConnection.connect(world.url) as holder:
            await holder.execute(f"LOCK TABLE perdure.{table} IN ACCESS EXCLUSIVE MODE".encode())
            await asyncio.sleep(pause)


async def refuse_writes(world: World, fault: Fault, dice: random.Random) -> None:
    """Take no more writes, as a service does whose disk is nearly full; who is connected is sent away."""
    pause = dice.uniform(0.2, 1.5 * world.lease)
    fault.note = f"for {pause:.1f} s"
    fault.affected = await asyncio.to_thread(world.owned)
    await asyncio.to_thread(world.server.refuse_writes, world.url)
    await asyncio.to_thread(world.execute, ALL)
    await asyncio.sleep(pause)
    await asyncio.to_thread(world.server.take_writes, world.url)


async def cut_flushes(world: World, fault: Fault, dice: random.Random) -> None:
    """Cut connections in the middle of their flush with `pg_terminate_backend`; a lock holds the flushes up there."""
    fault.affected = await asyncio.to_thread(world.owned)
    cut = await asyncio.to_thread(world.cut_flushes, dice.randint(1, 4))
    fault.note = f"{cut} cut"


async def cut_everything(world: World, fault: Fault, dice: random.Random) -> None:
    """Cut every connection to the database."""
    fault.affected = await asyncio.to_thread(world.owned)
    fault.note = f"{await asyncio.to_thread(world.execute, ALL)} cut"


async def fill_disk(world: World, fault: Fault, dice: random.Random) -> None:
    """Fill the disk of the history for a while."""
    assert world.disk is not None
    fault.affected = await asyncio.to_thread(world.owned)
    await asyncio.to_thread(world.disk.fill)
    pause = dice.uniform(0.5, 1.5 * world.lease)
    fault.note = f"full for {pause:.1f} s"
    await asyncio.sleep(pause)
    await asyncio.to_thread(world.disk.free)


async def restart_bouncer(world: World, fault: Fault, dice: random.Random) -> None:
    """Stop PgBouncer or kill it, and start it again."""
    crash = dice.random() < 0.5
    pause = dice.uniform(0, world.lease / 2)
    fault.note = f"{'killed' if crash else 'stopped'} for {pause:.1f} s"
    fault.affected = await _owned_by_way_of(world, "pgbouncer")
    await asyncio.to_thread(world.bouncer.halt, crash=crash)
    await asyncio.sleep(pause)
    await asyncio.to_thread(world.bouncer.start)


async def cut_network(world: World, fault: Fault, dice: random.Random) -> None:
    """Take the network away, for longer than a lease now and then."""
    fault.affected = await _owned_by_way_of(world, "network")
    pause = dice.uniform(0, 1.5 * world.lease)
    fault.note = f"down for {pause:.1f} s"
    await world.network.go_down()
    await asyncio.sleep(pause)
    world.network.come_up()


async def hold_network_up(world: World, fault: Fault, dice: random.Random) -> None:
    """Let nothing through, without a word, for longer than a lease now and then; then everything that waited."""
    fault.affected = await _owned_by_way_of(world, "network")
    pause = dice.uniform(0.2, 1.5 * world.lease)
    fault.note = f"silent for {pause:.1f} s"
    world.network.hold_up()
    await asyncio.sleep(pause)
    world.network.let_through()


async def slow_network_down(world: World, fault: Fault, dice: random.Random) -> None:
    """Make everything take longer on its way."""
    fault.affected = await _owned_by_way_of(world, "network")
    world.network.delay = dice.uniform(0.02, 0.2)
    fault.note = f"by {world.network.delay * 1000:.0f} ms each way"
    await asyncio.sleep(dice.uniform(0.5, world.lease))
    world.network.delay = 0.0


async def lose_answers(world: World, fault: Fault, dice: random.Random) -> None:
    """Cut the line between a statement and its answer, a few times: what was committed is asked for again."""
    fault.affected = await _owned_by_way_of(world, "network")
    lost = world.network.lost
    for _ in range(5):
        world.network.lose_an_answer()
        await asyncio.sleep(dice.uniform(0.02, 0.1))
    fault.note = f"{world.network.lost - lost} lost"


async def _owned_by_way_of(world: World, way: str) -> Runs:
    seats = [seat for seat in world.fleet.seats if seat.way == way]
    return frozenset().union(*[await asyncio.to_thread(world.owned, seat) for seat in seats])


WORKER_HARM: Final[dict[str, Harm]] = {
    "worker killed (kill -9)": kill,
    "worker frozen past its lease": freeze,
    "worker frozen for less than its lease": falter,
    "worker's wall clock changed": change_clock,
}
OUTSIDE_HARM: Final[dict[str, Harm]] = {
    "PostgreSQL stopped (fast)": stop_postgres,
    "PostgreSQL stopped (immediate)": crash_postgres,
    "PostgreSQL frozen": freeze_postgres,
    "process of PostgreSQL killed (kill -9)": kill_backend,
    "PostgreSQL takes no writes": refuse_writes,
    "table locked": lock_table,
    "flushes cut (pg_terminate_backend)": cut_flushes,
    "all connections cut": cut_everything,
    "disk full": fill_disk,
    "PgBouncer restarted": restart_bouncer,
    "network down": cut_network,
    "network silent": hold_network_up,
    "network slow": slow_network_down,
    "answers lost": lose_answers,
}
