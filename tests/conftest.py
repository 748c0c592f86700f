"""Real parts that every level of tests may ask for.

Only what several levels share is here; a fixture that one folder needs lives in that folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import EmbeddedServer, Server, open_server

END_TO_END = Path(__file__).parent / "e2e"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the end-to-end tests out, which need a cluster of nodes, unless they are asked for by name (`make e2e`)."""
    named = [(config.invocation_params.dir / argument.partition("::")[0]).resolve() for argument in config.args]
    asked_for = any(path == END_TO_END or END_TO_END in path.parents for path in named)
    return True if collection_path == END_TO_END and not asked_for else None


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


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """Lend a server that is this test's alone: it may restart it, crash it, and make roles in it."""
    server = EmbeddedServer()
    try:
        yield server
    finally:
        server.stop()
