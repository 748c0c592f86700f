"""Commands for whoever keeps Perdure running: ``migrate``, ``operator``, ``version``.

What lives here: the way to the module that does the work. What must not: SQL,
Kubernetes.
"""

import importlib
import platform
import sys
from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from perdure.cli import exits, output
from perdure.cli.options import Database, flattened
from perdure.errors import RequestError
from perdure.telemetry import logs


@flattened
def migrate(database: Database) -> None:
    """Bring the database schema up to this release. Safe to repeat, and safe while workers run."""
    from perdure.store.postgres.migrate import migrate as apply_migrations
    from perdure.store.postgres.migrate import required_version

    applied = apply_migrations(database.checked_url())
    now = required_version()
    if applied:
        before = int(applied[0].partition("_")[0]) - 1
        output.out.print(f"migrated from version {before} to {now}: {', '.join(applied)}")
    else:
        output.out.print(f"the schema is at version {now} already")


@flattened
def version() -> None:
    """Print the release of Perdure and the Python it runs on."""
    output.out.print(f"perdure {installed_version('perdure')} (Python {platform.python_version()}, {sys.platform})")


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
