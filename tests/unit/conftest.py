"""What tests of the PostgreSQL store share."""

from __future__ import annotations

import pytest

from perdure.store.postgres import migrate
from tests.support.stores import PostgresStage


@pytest.fixture
def stage(database: str) -> PostgresStage:
    """Lend a stage on PostgreSQL with nothing in it."""
    migrate(database)
    return PostgresStage(database)
