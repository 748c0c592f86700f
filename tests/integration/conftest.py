"""The stores that runtime behaviour is shown on, and the command line on a database."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.store.postgres.migrate import migrate
from tests.support.cli import Cli, WorkerProgram
from tests.support.world import World


@pytest.fixture(params=["memory", "postgres"])
def world(request: pytest.FixtureRequest) -> World:
    """Lend a world: once in memory, once on PostgreSQL."""
    if request.param == "memory":
        return World("memory://")
    dsn = request.getfixturevalue("migrated")
    return World(dsn)


@pytest.fixture
def migrated(database: str) -> Iterator[str]:
    """Lend the DSN of a database with the schema in place."""
    migrate(database)
    yield database
    asyncio.set_event_loop(None)


@pytest.fixture
def cli(migrated: str, tmp_path: Path) -> Cli:
    """The command line, on a database with the schema in place."""
    return Cli(migrated, tmp_path)


@pytest.fixture
def worker(cli: Cli) -> Iterator[WorkerProgram]:
    """A worker that serves."""
    with cli.worker() as running:
        running.until_it_serves()
        yield running
