"""A server that takes over and has not received the last moments: what workers were told is recorded is not there."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest

from perdure import Client, Limits, Worker, activity, workflow
from perdure.store.postgres.migrate import migrate
from perdure.workflow import Workflow
from tests.support.pgbouncer import PgBouncer
from tests.support.postgres import EmbeddedServer
from tests.support.standby import Standby, standby
from tests.support.world import eventually, run_async, types

LIMITS = Limits(lease=3.0)
FAR = "far"

performed: list[str] = []
gates: dict[str, asyncio.Event] = {}


@pytest.fixture(autouse=True)
def _nothing_performed() -> None:
    performed.clear()
    gates.clear()


@pytest.fixture
def follower() -> Iterator[Standby]:
    with standby() as lent:
        yield lent


@activity.define
async def pass_through(gate: str) -> str:
    performed.append(gate)
    await gates.setdefault(gate, asyncio.Event()).wait()
    return gate


@workflow.define
async def two_steps() -> list[str]:
    return [await pass_through("first"), await pass_through("second")]


@workflow.define
async def one_step() -> str:
    return await pass_through("only")


@workflow.define
async def far_step() -> str:
    return await pass_through.options(queue=FAR)("far")


async def begun(*gates_passed: str) -> None:
    async def reached() -> bool:
        return performed == list(gates_passed)

    await eventually(reached)


def serving(client: Client, name: str, queue: str = "default") -> Worker:
    workflows: list[Workflow[[], Any]] = [two_steps, one_step, far_step]
    return Worker(client, workflows=workflows, activities=[pass_through], queues=[queue], limits=LIMITS, name=name)


def migrated(server: Standby | EmbeddedServer) -> str:
    url = server.database() if isinstance(server, Standby) else server.create_database()
    migrate(url)
    return url


@pytest.fixture(params=["straight", "pooled"])
def url(request: pytest.FixtureRequest, follower: Standby) -> Iterator[str]:
    """Lend the way to a database on both servers. Behind the pooler nobody's connection breaks in a failover."""
    straight = migrated(follower)
    if request.param == "straight":
        yield straight
        return
    bouncer = PgBouncer(follower.one_address(straight))
    yield bouncer.dsn(urlsplit(straight).path.removeprefix("/"))
    bouncer.stop()


def test_a_run_in_the_middle_goes_on_after_the_last_step_that_is_there(follower: Standby, url: str) -> None:
    @run_async
    async def live_through() -> None:
        async with Client.connect(url) as client, serving(client, "worker"):
            handle = await client.start(two_steps)
            result = asyncio.create_task(handle.result())
            await begun("first")
            await asyncio.to_thread(follower.cut_off)
            gates["first"].set()
            await begun("first", "second")
            await asyncio.to_thread(follower.fail_over)
            gates["second"].set()
            assert await result == ["first", "second"]
            history = await handle.history()
            assert [event.id for event in history] == list(range(1, len(history) + 1))
            assert types(history).count("ActivityCompleted") == 2
            later = await client.start(one_step)
            assert (later.run_id or 0) > 10_000, "numbers of runs that were lost do not come again"
            await later.terminate()

    live_through()
    assert performed[:4] == ["first", "second", "first", "second"], "the end of the first step was lost"


def test_a_run_whose_end_was_lost_is_brought_to_its_end_again(follower: Standby, url: str) -> None:
    @run_async
    async def live_through() -> None:
        async with Client.connect(url) as client, Client.connect(url) as other, serving(other, "worker"):
            handle = await client.start(one_step, id="run")
            await begun("only")
            await asyncio.to_thread(follower.cut_off)
            gates["only"].set()
            assert await handle.result() == "only"
            first_end = (await handle.describe()).closed_at
            await asyncio.to_thread(follower.fail_over)
            assert await handle.result() == "only"
            second_end = (await handle.describe()).closed_at
            assert first_end is not None
            assert second_end is not None
            assert second_end > first_end, "the first one was forgotten"

    live_through()
    assert performed == ["only", "only"]


def test_a_task_whose_answer_was_lost_is_carried_out_again(follower: Standby, url: str) -> None:
    @run_async
    async def live_through() -> None:
        async with AsyncExitStack() as stack:
            client, here, there = [await stack.enter_async_context(Client.connect(url)) for _ in range(3)]
            await stack.enter_async_context(serving(here, "here"))
            await stack.enter_async_context(serving(there, "there", FAR))
            handle = await client.start(far_step)
            await begun("far")
            await asyncio.to_thread(follower.cut_off)
            gates["far"].set()
            assert await handle.result() == "far"
            await asyncio.to_thread(follower.fail_over)
            assert not (await handle.describe()).state.closed, "its end is forgotten"
            assert await handle.result() == "far"

    live_through()
    assert performed == ["far", "far"]


def test_a_server_that_was_started_again_and_has_everything_disturbs_nobody() -> None:
    server = EmbeddedServer()

    @run_async
    async def live_through() -> None:
        async with Client.connect(migrated(server)) as client, serving(client, "worker") as worker:
            handle = await client.start(two_steps)
            await begun("first")
            await asyncio.to_thread(server.restart, crash=True)
            gates["first"].set()
            await begun("first", "second")
            gates["second"].set()
            assert await handle.result() == ["first", "second"]
            assert worker.tally().leases_lost == 0

    try:
        live_through()
    finally:
        server.stop()
    assert performed == ["first", "second"]
