"""The stages of the suite: every behaviour is shown in memory and on PostgreSQL."""

from __future__ import annotations

import pytest

from perdure.store.postgres import migrate
from tests.support.stores import MemoryStage, PostgresStage, Stage


@pytest.fixture(params=["memory", "postgres"])
def stage(request: pytest.FixtureRequest) -> Stage:
    """Lend a stage with nothing in it."""
    if request.param == "memory":
        return MemoryStage()
    dsn: str = request.getfixturevalue("database")
    migrate(dsn)
    return PostgresStage(dsn)
