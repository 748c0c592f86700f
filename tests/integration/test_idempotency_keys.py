"""What tells a step apart from all others in the outside world, which several databases may talk to."""

import pytest

from perdure import Client, RetryPolicy, Worker, activity, workflow
from perdure.store.postgres.migrate import migrate
from tests.support.postgres import Server
from tests.support.world import run_async

attempts: list[tuple[int, str]] = []


@activity.define(retry=RetryPolicy(initial_interval=0.01))
async def charge() -> str:
    info = activity.info()
    attempts.append((info.attempt, info.idempotency_key))
    if info.attempt == 1:
        raise ConnectionError
    return info.idempotency_key


@workflow.define
async def order() -> list[str]:
    return [await charge(), await charge.options(queue="payments")()]


async def keys_of(client: Client) -> list[str]:
    async with (
        client,
        Worker(client, workflows=[order], activities=[charge]),
        Worker(client, activities=[charge], queues=["payments"]),
    ):
        handle = await client.start(order)
        keys: list[str] = await handle.result()
        assert [key.split("/")[1:] for key in keys] == [[str(handle.run_id), key.split("/")[2]] for key in keys]
        return keys


@pytest.mark.parametrize("where", ["memory", "postgres"])
def test_two_databases_give_no_key_twice_and_every_attempt_of_a_step_has_the_same(
    where: str, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue("postgres_server")
    databases = [server.create_database() for _ in range(2)] if where == "postgres" else []
    for database in databases:
        migrate(database)

    @run_async
    async def serve() -> None:
        attempts.clear()
        keys = [key for url in databases or ["memory://"] * 2 for key in await keys_of(Client.connect(url))]
        assert len(set(keys)) == 4
        assert len({key.partition("/")[0] for key in keys}) == 2
        assert sorted(attempts) == sorted([(1, key) for key in keys] + [(2, key) for key in keys])
        if databases:
            assert (await keys_of(Client.connect(databases[0])))[0].partition("/")[0] == keys[0].partition("/")[0]

    try:
        serve()
    finally:
        for database in databases:
            server.drop_database(database)
