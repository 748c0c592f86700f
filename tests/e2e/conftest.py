"""One cluster and one installation for the whole session; each test leaves both as it found them."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import Cluster, lent_namespace
from tests.e2e.installation import DATABASE, IMAGE, OPERATOR, Installation
from tests.e2e.machine import Machine, find_machine

# Always the same: the resource definitions outlive the release, and belong to one of this namespace from then on.
NAMESPACE = "perdure-e2e"
SHOP = Path(__file__).parent / "shop" / "Dockerfile"

Orders = Callable[..., dict[str, dict[str, Any]]]
Report = Callable[[str], None]


@pytest.fixture(scope="session")
def machine() -> Machine:
    """The machine below the cluster; an error that says what to do where there is none."""
    return find_machine()


@pytest.fixture(scope="session")
def cluster(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A namespace of the cluster."""
    with lent_namespace(machine.kubeconfig, NAMESPACE, tmp_path_factory.mktemp("home")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def installation(
    cluster: Cluster, machine: Machine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """The chart, installed in one command."""
    machine.load_project()
    for tag in ("1", "2"):
        machine.load(SHOP, f"{IMAGE}:{tag}")
    installation = Installation(cluster, machine, tmp_path_factory.mktemp("values"))
    installation.install()
    yield installation
    installation.uninstall()


@pytest.fixture
def shop(installation: Installation) -> Installation:
    """The installation with one worker, everything ready."""
    installation.cluster.until_ready(DATABASE, 1)
    installation.cluster.until_ready(OPERATOR, 1)
    installation.scale(1)
    return installation


_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def orders() -> Orders:
    """Make the inputs of new orders, each with a name that no other has."""

    def make(count: int, **order: Any) -> dict[str, dict[str, Any]]:
        numbers = [next(_numbers) for _ in range(count)]
        return {f"order-{number}": {"order": number, **order} for number in numbers}

    return make


MEASURED = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Report:
    """Take what was measured; it is shown at the end."""
    return pytestconfig.stash.setdefault(MEASURED, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show what was measured."""
    if measured := config.stash.get(MEASURED, []):
        terminalreporter.section("measured")
        for line in measured:
            terminalreporter.write_line(line)
