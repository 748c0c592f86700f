"""The stores that runtime behaviour is shown on."""

import asyncio
from collections.abc import Iterator

import pytest

from perdure.store.postgres.migrate import migrate
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
