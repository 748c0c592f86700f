"""Real parts that every level of tests may ask for.

Only what several levels share is here; a fixture that one folder needs lives in that folder.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.postgres import Server, open_server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """Lend the session's PostgreSQL server; a test leaves it running, as it found it."""
    server = open_server()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def database(postgres_server: Server) -> Iterator[str]:
    """Lend the DSN of a database that is empty and this test's alone."""
    dsn = postgres_server.create_database()
    try:
        yield dsn
    finally:
        postgres_server.drop_database(dsn)
