"""Another server takes over that lacks the last of what the first one had confirmed, within the lease of the workers.

What was lost with the server is lost, and whoever was told of it has to ask again. Everything else goes on: the workers
remember more than the database knows, and must not record what comes after what is missing.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from perdure import Client
from perdure.errors import WorkflowNotFoundError
from perdure.model.events import SignalReceived
from perdure.model.payload import encode
from perdure.store.postgres.migrate import migrate
from tests.chaos import verdict
from tests.chaos.fleet import Fleet, Seat
from tests.chaos.workflows import LETTERS, expected, go, letter, letters, shape
from tests.support.postgres import EmbeddedServer
from tests.support.standby import Standby
from tests.support.stores import eventually
from tests.support.world import run_async

LEASE = 60.0
"""Longer than the failover takes: the leases do not save anybody."""
RUNS = 200
LATER = range(RUNS, RUNS + 40)


@dataclass
class Pair:
    """Two servers, the database on both, and the address of whichever takes writes."""

    primary: EmbeddedServer
    standby: Standby
    url: str

    def fail_over(self) -> None:
        """Lose the primary and go on with the standby."""
        self.primary.halt(crash=True)
        self.standby.promote()


@pytest.fixture
def pair() -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        primary = EmbeddedServer()
        stack.callback(primary.stop)
        standby = Standby(primary)
        stack.callback(standby.stop)
        database = primary.create_database()
        url = standby.either(database)
        migrate(url)
        yield Pair(primary, standby, url)


async def closed(url: str, number: int) -> bool:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        found = await connection.execute("SELECT count(*) FROM perdure.run WHERE state >= 10")
        row = await found.fetchone()
        return row is not None and row[0] >= number


async def start(client: Client, number: int) -> None:
    await client.start(shape(number), number, id=f"run-{number}")


async def write(client: Client, number: int) -> None:
    """Send the letters of a run; one that has arrived already counts once."""
    for name, payload in [(letter.name, place) for place in range(LETTERS)] + [(go.name, number)]:
        message = SignalReceived(name, encode(payload, name), f"{number}/{name}/{payload}")
        await client.deliver(f"run-{number}", message)


async def finish(client: Client, number: int) -> bool:
    """See a run to its end, starting it if it is not there; return whether it was."""
    try:
        await client.handle(f"run-{number}").describe()
        found = True
    except WorkflowNotFoundError:
        await start(client, number)
        found = False
    if shape(number) is letters:
        with contextlib.suppress(WorkflowNotFoundError):  # has ended
            await write(client, number)
    assert await client.handle(f"run-{number}").result() == expected(number)
    return found


@contextlib.asynccontextmanager
async def served_by(url: str, folder: Path) -> AsyncIterator[Fleet]:
    """Have two worker processes; they must end well."""
    fleet = Fleet([Seat(name, url, "socket", far=True) for name in ("one", "two")], folder, LEASE)
    try:
        yield fleet
    finally:
        complaints = await asyncio.to_thread(fleet.stop)
        assert not complaints, "\n".join(complaints)


def test_what_the_database_still_has_goes_on_after_a_failover_that_lost_the_end(pair: Pair, tmp_path: Path) -> None:
    @run_async
    async def live_through() -> None:
        async with served_by(pair.url, tmp_path), Client.connect(pair.url) as client:
            await asyncio.gather(*(start(client, number) for number in range(RUNS)))
            await eventually(lambda: closed(pair.url, 20))
            await asyncio.to_thread(pair.standby.cut_off)
            await asyncio.gather(*(start(client, number) for number in LATER))
            await eventually(lambda: closed(pair.url, 60))
            await asyncio.to_thread(pair.fail_over)
            numbers = [*range(RUNS), *LATER]
            found = dict(zip(numbers, await asyncio.gather(*(finish(client, n) for n in numbers)), strict=True))
            assert all(found[number] for number in range(RUNS))
            assert not any(found[number] for number in LATER)

    live_through()
    assert not verdict.check_leftovers(pair.url)
