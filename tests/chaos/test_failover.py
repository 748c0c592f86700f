"""Another server takes over that lacks the last of what the first one had confirmed, within the lease of the workers.

What was lost with the server is lost, and whoever was told of it has to ask again. Everything else goes on: the workers
remember more than the database knows, and must not record what comes after what is missing.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg

from perdure import Client, WorkflowHandle
from perdure.errors import WorkflowClosedError, WorkflowNotFoundError
from perdure.model.events import SignalReceived
from perdure.model.payload import encode
from perdure.store.postgres.migrate import migrate
from tests.chaos import verdict
from tests.chaos.fleet import Fleet, Seat
from tests.chaos.workflows import LETTERS, expected, go, letter, letters, shape
from tests.support.standby import Standby, standby
from tests.support.stores import eventually
from tests.support.world import run_async

LEASE = 60.0
"""Longer than all of this takes: no lease that runs out saves anybody."""
EARLY = range(200)
LATE = range(200, 240)
"""Runs that are started when the standby does not hear of anything any more."""


async def start(client: Client, number: int) -> WorkflowHandle[object]:
    handle: WorkflowHandle[object] = await client.start(shape(number), number, id=f"run-{number}")
    return handle


async def write(client: Client, number: int) -> None:
    """Send the letters of a run; one that has arrived already counts once."""
    for name, payload in [(letter.name, place) for place in range(LETTERS)] + [(go.name, number)]:
        message = SignalReceived(name, encode(payload, name), f"{number}/{name}/{payload}")
        await client.deliver(f"run-{number}", message)


async def finish(client: Client, number: int) -> bool:
    """See a run to its end, starting it if it is not there; return whether it was."""
    found = True
    try:
        await client.handle(f"run-{number}").describe()
    except WorkflowNotFoundError:
        found = False
        await start(client, number)
    if shape(number) is letters:
        with contextlib.suppress(WorkflowClosedError):
            await write(client, number)
    assert await client.handle(f"run-{number}").result() == expected(number)
    return found


@contextlib.asynccontextmanager
async def served(url: str, folder: Path) -> AsyncIterator[Fleet]:
    """Have two worker processes, which must end well."""
    fleet = Fleet([Seat(name, url, "socket", far=True) for name in ("one", "two")], folder, LEASE)
    try:
        yield fleet
    finally:
        complaints = await asyncio.to_thread(fleet.stop)
    assert not complaints, "\n".join(complaints)


def closed(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT count(*) FROM perdure.run WHERE state >= 10").fetchone()
    assert row is not None
    return int(row[0])


@run_async
async def lose_the_end(follower: Standby, url: str, folder: Path) -> None:
    async def more_have_closed(number: int) -> None:
        async def have() -> bool:
            return await asyncio.to_thread(closed, url) >= number

        await eventually(have)

    async with served(url, folder) as fleet, Client.connect(url) as client:
        early = [await start(client, number) for number in EARLY]
        waiting = [asyncio.create_task(handle.result()) for handle in early if shape(int(handle.id[4:])) is not letters]
        await more_have_closed(20)
        await asyncio.to_thread(follower.cut_off)
        late = [await start(client, number) for number in LATE]
        await more_have_closed(closed(url) + 20)
        await asyncio.to_thread(follower.fail_over)
        found = await asyncio.gather(*(finish(client, number) for number in (*EARLY, *LATE)))
        assert found == [True] * len(EARLY) + [False] * len(LATE)
        assert len(await asyncio.gather(*waiting)) == len(waiting)
        for handle in late:
            assert await given_up(handle)
        assert fleet.forgetful(), "somebody has found out"


async def given_up(handle: WorkflowHandle[object]) -> bool:
    """Tell whether a run that the database has forgotten is said to be gone: its number may be another one's now."""
    try:
        await handle.result()
    except WorkflowNotFoundError:
        return True
    return False


def test_what_is_still_there_goes_on_after_a_failover_that_lost_the_end(tmp_path: Path) -> None:
    with standby() as follower:
        url = follower.database()
        migrate(url)
        lose_the_end(follower, url, tmp_path)
        assert not verdict.check_leftovers(url)
