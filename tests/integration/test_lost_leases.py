"""A worker whose lease goes at a bad moment registers again, and does not end."""

import psycopg

from perdure import Client, Worker, workflow
from tests.support.world import run_async

EXPIRED_AT_BIRTH = """
CREATE FUNCTION expire_at_birth() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.expires_at := clock_timestamp() - interval '1 second'; RETURN NEW; END $$;
CREATE TRIGGER expire_the_first BEFORE INSERT ON perdure.worker
FOR EACH ROW WHEN (NEW.id = 1) EXECUTE FUNCTION expire_at_birth();
"""


@workflow.define
async def short() -> str:
    return "done"


@run_async
async def test_a_worker_that_loses_its_lease_while_it_registers_registers_again(migrated: str) -> None:
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute(EXPIRED_AT_BIRTH)
    async with Client.connect(migrated) as client, Worker(client, workflows=[short]):
        assert await (await client.start(short)).result() == "done"
        ((worker, _, _),) = await client.store.workers("default")
        assert worker == 2
