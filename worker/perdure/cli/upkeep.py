"""Commands for whoever keeps Perdure running: ``migrate``, ``operator``, ``version``.

What lives here: the way to the module that does the work, and the patience of ``migrate``. What must not: SQL,
Kubernetes.
"""

import asyncio
import importlib
import platform
import signal
import sys
import time
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from perdure import __version__
from perdure.cli import exits, output
from perdure.cli.options import Database, flattened, seconds_option
from perdure.client import Client
from perdure.errors import RequestError, SchemaVersionError, StoreUnavailableError
from perdure.telemetry import logs

PAUSE = 1.0
"""Seconds between two tries of a command that waits."""

T = TypeVar("T")


@flattened
def migrate(
    database: Database,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing: succeed if the schema is what this release needs.")
    ] = False,
    wait: Annotated[
        float | None,
        seconds_option("Try for so long to reach the database and, with --check, to find the schema."),
    ] = None,
) -> None:
    """Bring the database schema up to this release. Safe to repeat, and safe while workers run.

    It needs a role that may create tables; with --check, one that may read them.
    """
    from perdure.store.postgres.migrate import migrate as apply_migrations
    from perdure.store.postgres.migrate import required_version

    url = database.checked_url()
    if check:
        _patiently(lambda: asyncio.run(_look(url)), wait)
        output.out.print("the schema is what this release needs")
        return
    applied = _patiently(lambda: apply_migrations(url), wait)
    now = required_version()
    if applied:
        before = int(applied[0].partition("_")[0]) - 1
        output.out.print(f"migrated from version {before} to {now}: {', '.join(applied)}")
    else:
        output.out.print(f"the schema is at version {now} already")


async def _look(url: str) -> None:
    async with Client.connect(url):
        pass


def _patiently(step: Callable[[], T], seconds: float | None) -> T:
    """Return what ``step`` returns, trying again for so long while the database or its schema is not there yet."""
    # The first process of a container is deaf to SIGTERM unless it says what to do.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    deadline = time.monotonic() + (seconds or 0)
    said = ""
    while True:
        try:
            return step()
        except (StoreUnavailableError, SchemaVersionError) as error:
            if time.monotonic() + PAUSE > deadline:
                raise
            if str(error) != said:
                said = str(error)
                output.note(f"waiting: {said}")
        time.sleep(PAUSE)


@flattened
def version() -> None:
    """Print the release of Perdure and the Python it runs on."""
    output.out.print(f"perdure {__version__} (Python {platform.python_version()}, {sys.platform})")


@flattened
def operator(
    database: Database,
    namespaces: Annotated[
        list[str] | None,
        typer.Option(
            "--namespace",
            "-n",
            metavar="NAME",
            help="Serve this Kubernetes namespace only; repeatable. Default: PERDURE_WATCH_NAMESPACES, or all.",
            show_default=False,
        ),
    ] = None,
    log_format: Annotated[
        logs.LogFormat, typer.Option(envvar=logs.VARIABLE, help="Log records as text or as JSON, one object a line.")
    ] = logs.LogFormat.TEXT,
) -> None:
    """Run the Kubernetes operator: WorkflowInstance objects in, their status out.

    In a pod it finds the cluster by itself, elsewhere by KUBECONFIG. Of several operators one is active, the others
    stand by. PERDURE_OPERATOR_HEALTH=HOST:PORT serves /livez, /readyz and /metrics.
    """
    try:
        # By name: the operator stands on top of this library and may see it, never the other way round.
        program = importlib.import_module("perdure_operator.main")
    except ImportError as error:
        message = f"the operator is not installed ({error}): pip install 'perdure[operator]'"
        raise RequestError(message) from None
    program.run(database.checked_url(), namespaces=namespaces, log_format=log_format, debug=exits.debugging())
