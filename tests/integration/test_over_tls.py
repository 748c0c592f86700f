"""PostgreSQL over TLS, as every service has it: the statements that Perdure sends past psycopg's cursors as well."""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from perdure import Client, Worker, activity, workflow
from tests.support.kubernetes_certificates import make_certificates
from tests.support.stores import eventually
from tests.support.wire import Wire

LARGE = 1_500_000
TEXTS = {"small": 10, "larger than a record of TLS": 100_000, "large": LARGE}

word = workflow.signal("word", str)


@activity.define
async def repeat(text: str, times: int) -> str:
    return text * times


@workflow.define
async def repeats(times: int) -> int:
    return sum([len(await repeat(text, times)) for text in "abc"])


@workflow.define
async def hears() -> str:
    return await word.receive()


@pytest.fixture
def wire(migrated: str, tmp_path: Path) -> tuple[Wire, str]:
    """Lend a line to a database that is to be encrypted, and what its URL says of that."""
    certificates = make_certificates(tmp_path / "certificates")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server.certificate, certificates.server.key)
    return Wire(migrated, tls=context), f"?sslmode=verify-full&sslrootcert={certificates.authority}"


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_runs_of_all_sizes_complete_and_hints_arrive(
    wire: tuple[Wire, str], run: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def live_through() -> None:
        line, query = wire
        async with (
            line,
            Client.connect(line.dsn(query=query)) as client,
            Client.connect(line.dsn(query=query)) as elsewhere,
            Worker(client, workflows=[repeats, hears], activities=[repeat]),
        ):
            for text, length in TEXTS.items():
                handles = [await elsewhere.start(repeats, length) for _ in range(10 if length < LARGE else 2)]
                async with asyncio.timeout(30):
                    assert {await handle.result() for handle in handles} == {3 * length}, text
            waits = await elsewhere.start(hears)
            await waits.signal(word, LARGE * "x")
            async with asyncio.timeout(30):
                assert await waits.result() == LARGE * "x"
            assert "cannot listen for hints" not in caplog.text
            assert line.encrypted >= 4

    run(live_through())


def test_what_was_carried_out_without_an_answer_is_not_done_twice(wire: tuple[Wire, str]) -> None:
    async def live_through() -> None:
        line, query = wire
        async with line, Client.connect(line.dsn(query=query)) as client:
            line.lose_answer_to("perdure.history")
            handle = await client.start("hears", id="once")
            await eventually(line.has_lost)
            assert [run.run_id for run in await client.list()] == [handle.run_id]

    asyncio.run(live_through())
