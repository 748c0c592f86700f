"""Real parts that every level of tests may ask for.

Only what several levels share is here; a fixture that one folder needs lives in that folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import EmbeddedServer, Server, open_server

TESTS = Path(__file__).parent
END_TO_END = TESTS / "e2e"

LONGEST = (
    "failpoints/test_every_statement.py",
    "operator/test_bad_objects.py",
    "operator/test_restored.py",
    "integration/test_bad_input_processes.py",
    "chart/test_life.py",
    "integration/test_cli_suspending.py",
    "operator/test_operator_outages.py",
    "operator/test_operator_metrics.py",
    "operator/test_converging.py",
    "conformance/test_model.py",
)
"""The modules that take longest, which begin first: one that began last would have a core to itself for minutes."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the end-to-end tests out, which need a cluster of nodes, unless they are asked for by name (`make e2e`)."""
    named = [(config.invocation_params.dir / argument.partition("::")[0]).resolve() for argument in config.args]
    asked_for = any(path == END_TO_END or END_TO_END in path.parents for path in named)
    return True if collection_path == END_TO_END and not asked_for else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put `LONGEST` before all others, which stay in their random order."""
    if missing := [name for name in LONGEST if not (TESTS / name).is_file()]:
        message = f"tests/conftest.py names modules that are not there any more: {', '.join(missing)}"
        raise pytest.UsageError(message)
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


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
