"""A server that ends with a statement unread, as at an immediate stop, on each event loop that workers run on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import uvloop

from perdure.store.postgres import PostgresStore, migrate
from tests.support.postgres import EmbeddedServer
from tests.support.stores import LIMIT, eventually, new_run

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

ON_BOTH_LOOPS = pytest.mark.parametrize(
    "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


def freeze(dsn: str) -> int:
    """Freeze the one server process of a database that has started a run; return its number."""
    with psycopg.connect(dsn) as connection:
        ((pid,),) = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND query LIKE '%INSERT INTO perdure.run (%'"
        ).fetchall()
    os.kill(pid, signal.SIGSTOP)
    return int(pid)


def end_at_once(pid: int) -> None:
    """End a frozen server process as an immediate stop does; the event loop sees all that comes of it together."""
    os.kill(pid, signal.SIGQUIT)
    os.kill(pid, signal.SIGCONT)
    while _runs(pid):
        time.sleep(0.001)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def start_while_the_server_ends(server: EmbeddedServer, input_bytes: int) -> None:
    """Start a run while the server does not read, and end the server then."""
    dsn = server.create_database()
    migrate(dsn)
    store = await PostgresStore.connect(dsn)
    try:
        async with asyncio.timeout(LIMIT):
            await store.start(new_run("order-1"))
            pid = freeze(dsn)
            before = store.statements.total()

            async def sent() -> bool:
                return store.statements.total() > before

            start = asyncio.create_task(store.start(new_run("order-2", input=b"7" * input_bytes)))
            await eventually(sent)
            end_at_once(pid)
            assert (await start).created
    finally:
        await store.close()


@ON_BOTH_LOOPS
@pytest.mark.parametrize("input_bytes", [10, 3_000_000], ids=["sent", "half sent"])
def test_a_statement_that_the_server_never_read_is_sent_again(
    own_server: EmbeddedServer, loop_factory: LoopFactory, input_bytes: int
) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(start_while_the_server_ends(own_server, input_bytes))
