"""A worker that was frozen past its lease: what it was about to do is done by others and not by it."""

import asyncio
from collections import Counter
from pathlib import Path

import psycopg

from perdure import Client
from perdure.store.postgres.migrate import migrate
from tests.chaos.fleet import Fleet, Seat
from tests.chaos.workflows import expected, steps
from tests.support.stores import eventually
from tests.support.world import run_async

LEASE = 2.0
WAITING = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


def test_a_worker_that_thaws_after_its_lease_begins_nothing_that_others_have_done(
    database: str, tmp_path: Path
) -> None:
    migrate(database)
    stale, other = Seat("stale", database, "socket"), Seat("other", database, "socket")
    fleet = Fleet([stale], tmp_path, LEASE)

    @run_async
    async def live_through() -> None:
        async with Client.connect(database) as client:
            await frozen_in_the_middle_of_a_flush(client)
            fleet.seats.append(other)
            fleet.start(other)
            async with asyncio.timeout(30):
                assert await client.handle("run").result() == expected(2)
            fleet.thaw(stale)

            async def lost() -> bool:
                return "lost its lease" in fleet.log(stale).read_text()

            await eventually(lost)

    async def frozen_in_the_middle_of_a_flush(client: Client) -> None:
        async def waiting() -> bool:
            with psycopg.connect(database) as looker:
                return looker.execute(WAITING).fetchone() == (1,)

        async def begun() -> bool:
            # The first flush of a connection is prepared first, which would wait for the lock as well.
            return len(fleet.journal.read_text().splitlines()) > 1

        with psycopg.connect(database) as holder:
            await client.start(steps, 2, id="run")
            await eventually(begun)
            holder.execute("LOCK TABLE perdure.history IN EXCLUSIVE MODE")
            await eventually(waiting)
            fleet.freeze(stale)
        # The flush is carried out now; its answer waits for the worker to thaw.

    try:
        live_through()
    finally:
        complaints = fleet.stop()
    assert not complaints
    ran = Counter(tuple(line.split()[3:]) for line in fleet.journal.read_text().splitlines())
    assert set(ran.values()) == {1}, fleet.journal.read_text()
