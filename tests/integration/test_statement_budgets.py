"""How many statements PostgreSQL sees: the budgets of the store, counted and not timed."""

import asyncio
from collections import Counter

from perdure import Client, Limits, Worker, activity, workflow
from perdure.runtime import claiming, tenure
from tests.support.world import eventually, run_async


@activity.define
async def step(number: int) -> int:
    return number + 1


@workflow.define
async def sequence(count: int) -> int:
    number = 0
    for _ in range(count):
        number = await step(number)
    return number


async def settled(client: Client) -> None:
    """Wait until no statement is under way and the worker has looked for work once."""

    async def looked() -> bool:
        return bool(client.store.statements["claim"])  # type: ignore[attr-defined]  # the PostgreSQL store counts

    await eventually(looked)


@run_async
async def test_a_start_is_one_statement(migrated: str) -> None:
    async with Client.connect(migrated) as client:
        statements = client.store.statements  # type: ignore[attr-defined]
        statements.clear()
        await client.start(sequence, 3)
        beside = {"fleets", "notify"}  # whom to tell of it, and telling them
        assert {name: n for name, n in statements.items() if name not in beside} == {"start_one": 1}


@run_async
async def test_sequential_activities_alone_cost_one_commit_each_and_two_more(migrated: str) -> None:
    count = 20
    async with Client.connect(migrated) as client, Worker(client, workflows=[sequence], activities=[step]):
        await settled(client)
        statements = client.store.statements  # type: ignore[attr-defined]
        handle = await client.start(sequence, count)
        statements.clear()
        assert await handle.result() == count
        assert count <= statements["turn_one"] + statements["close_one"] <= count + 1, "each step before the next"
        assert statements["close_one"] == 1


@run_async
async def test_a_run_for_an_idle_worker_elsewhere_is_claimed_with_its_first_turn(migrated: str) -> None:
    async with (
        Client.connect(migrated) as client,
        Client.connect(migrated) as other,
        Worker(other, workflows=[sequence], activities=[step]),
    ):
        await settled(other)
        statements = other.store.statements  # type: ignore[attr-defined]

        async def announced() -> bool:
            statements.clear()
            handle = await client.start(sequence, 3)
            assert await handle.result() == 3
            return bool(statements["claim_announced"])

        await eventually(announced)  # the first may come before the worker listens
        assert (statements["turn_one"], statements["close_one"]) == (2, 1)


@run_async
async def test_runs_in_flight_share_their_commits(migrated: str) -> None:
    count, width = 10, 40
    async with Client.connect(migrated) as client:
        handles = [await client.start(sequence, count, id=f"s{number}") for number in range(width)]
        async with Worker(client, workflows=[sequence], activities=[step]):
            await asyncio.gather(*(handle.result() for handle in handles))
            sent = client.store.statements  # type: ignore[attr-defined]
            flushes = sum(sent[name] for name in ("flush_turns", "turn_one", "close_one", "flush"))
    turns = width * (count + 1)
    assert flushes < turns / 8, f"{turns} turns in {flushes} flushes"


@run_async
async def test_an_idle_worker_sends_at_most_one_statement_a_second(migrated: str) -> None:
    seconds = 10
    async with Client.connect(migrated) as client, Worker(client, workflows=[sequence], activities=[step]):
        await settled(client)
        await asyncio.sleep(1)
        statements = client.store.statements  # type: ignore[attr-defined]
        statements.clear()
        await asyncio.sleep(seconds)
        assert sum(statements.values()) <= seconds, dict(statements)


def test_the_intervals_add_up_to_less_than_one_statement_a_second() -> None:
    beats = 3 / Limits().lease
    looks = 1 / claiming.CLAIM_POLL + 1 / tenure.TASK_POLL + 3 / tenure.RECOVER_POLL
    assert beats + looks <= 0.9


@run_async
async def test_a_worker_that_no_hint_can_reach_looks_more_often(migrated: str) -> None:
    behind = f"{migrated}{'&' if '?' in migrated else '?'}pgbouncer=true"
    async with Client.connect(behind) as client, Worker(client, workflows=[sequence], activities=[step]):
        await settled(client)

        statements = client.store.statements  # type: ignore[attr-defined]
        before = Counter(statements)

        async def looked_on_and_on() -> bool:
            return bool(min((statements - before)[name] for name in ("claim", "claim_tasks")) >= 4)

        await eventually(looked_on_and_on, longest=15)  # a poll of 8 s comes to two


@workflow.define
async def all_at_once(width: int) -> int:
    return sum(await asyncio.gather(*(step(number) for number in range(width))))


@run_async
async def test_a_worker_takes_as_many_tasks_at_a_time_as_it_has_places(migrated: str) -> None:
    """Its activities are ``async``: how many threads there are for others is nothing to them."""
    width, limits = 900, Limits(activities=100, threads=1)
    async with Client.connect(migrated) as client:
        async with Worker(client, workflows=[all_at_once], activities=[step], limits=limits):
            handle = await client.start(all_at_once, width)
            assert await handle.result() == width * (width + 1) // 2
        claims = client.store.statements["claim_tasks"]  # type: ignore[attr-defined]
    through_the_table = width - 3 * 100
    assert claims <= through_the_table / 20, "with room for one it would be one at a time"


@run_async
async def test_a_worker_without_activities_leaves_all_tasks_to_others(migrated: str) -> None:
    """It used to take them, find that it does not know them, and offer them again seconds later."""
    async with Client.connect(migrated) as there, Client.connect(migrated) as elsewhere:
        async with Worker(there, workflows=[all_at_once]), Worker(elsewhere, activities=[step]):
            handle = await there.start(all_at_once, 300)
            assert await handle.result() == 300 * 301 // 2
        assert there.store.statements["claim_tasks"] == 0  # type: ignore[attr-defined]
        assert "ActivityAttemptFailed" not in [event.type for event in await handle.history()]
