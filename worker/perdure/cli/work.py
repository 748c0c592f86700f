"""The command ``perdure worker``.

What lives here: its options. What must not: what a worker process does
(`serving`), or several (`supervising`).
"""

import dataclasses
import os
from typing import Annotated

import typer

from perdure.cli import exits
from perdure.cli.options import Target, flattened, seconds_option
from perdure.cli.serving import Service, WorkerProcess
from perdure.cli.supervising import Supervisor
from perdure.client import DEFAULT_NAMESPACE
from perdure.errors import RequestError
from perdure.runtime.health import HealthServer
from perdure.runtime.limits import Limits
from perdure.telemetry import logs
from perdure.telemetry.tally import Tally

_DEFAULTS = Limits()


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """How a worker works."""

    queues: Annotated[
        list[str] | None,
        typer.Option("--queue", "-q", metavar="NAME", help="A task queue to serve; repeatable. Default: default."),
    ] = None
    processes: Annotated[
        int,
        typer.Option(
            help="Worker processes. One that dies is started again; a signal drains them all.", min=1, max=256
        ),
    ] = 1
    lease: Annotated[float, seconds_option("Others take the runs over when the worker is silent for this long.")] = (
        _DEFAULTS.lease
    )
    drain: Annotated[float, seconds_option("How long attempts may go on after SIGTERM.")] = _DEFAULTS.drain
    max_runs: Annotated[int, typer.Option(help="Runs in memory, for each process.", min=1)] = _DEFAULTS.runs
    max_activities: Annotated[int, typer.Option(help="Activities on the event loop, for each process.", min=1)] = (
        _DEFAULTS.activities
    )
    threads: Annotated[
        int, typer.Option(help="Threads for activities that are not async, for each process.", min=1)
    ] = _DEFAULTS.threads
    max_turn: Annotated[
        float, seconds_option("A turn that computes for longer is interrupted, and its run is held.")
    ] = _DEFAULTS.turn
    max_payload: Annotated[
        int, typer.Option(help="Bytes of JSON that a result or the input of an activity may have.", min=1)
    ] = _DEFAULTS.payload
    health_port: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:]PORT",
            help="Serve /livez, /readyz and /metrics here, for all processes together; 0 takes a free port.",
            show_default=False,
        ),
    ] = None
    name: Annotated[
        str | None,
        typer.Option(
            envvar="POD_NAME",
            help="What people call this worker; its processes share it. Default: host and process.",
            show_default=False,
        ),
    ] = None
    build_id: Annotated[
        str | None, typer.Option(help="What the code is called. Default: a fingerprint of it.", show_default=False)
    ] = None
    log_format: Annotated[
        logs.LogFormat, typer.Option(envvar=logs.VARIABLE, help="Log records as text or as JSON, one object a line.")
    ] = logs.LogFormat.TEXT


@flattened
def worker(
    modules: Annotated[
        list[str],
        typer.Argument(
            metavar="MODULE...",
            help="Modules by dotted name or path, such as shop.orders or shop/orders.py.",
            show_default=False,
        ),
    ],
    options: WorkerOptions,
    target: Target,
) -> None:
    """Run the workflows and activities of Python modules.

    Every function at the top level of a module that @workflow.define or @activity.define decorates is served, also
    those that it imports. The current folder is searched first.

    SIGTERM and Ctrl-C give the runs back to others, at once where no attempt is under way, and exit with 0; a second
    signal exits without waiting. A worker that is killed is replaced after its lease, or when it is started again in
    the same pod (POD_NAME).

    /livez tells whether the event loops turn and never depends on the database; /readyz answers 503 with the reason
    unless every process takes work; /metrics is for Prometheus.
    """
    address = _address(options.health_port)
    service = Service(
        modules=tuple(modules),
        url=target.checked_url(),
        namespace=target.namespace or DEFAULT_NAMESPACE,
        queues=tuple(options.queues or ("default",)),
        name=options.name,
        build_id=options.build_id,
        limits=Limits(
            runs=options.max_runs,
            activities=options.max_activities,
            threads=options.threads,
            lease=options.lease,
            drain=options.drain,
            turn=options.max_turn,
            payload=options.max_payload,
        ),
        log_format=options.log_format,
        alone=options.processes == 1 and options.name is not None and options.name == os.environ.get("POD_NAME"),
        debug=exits.debugging(),
    )
    logs.configure(service.log_format, debug=service.debug)
    if options.processes == 1:
        process = WorkerProcess(service)
        process.run(_health_server(address, process))
    else:
        supervisor = Supervisor(service, options.processes)
        raise typer.Exit(supervisor.run(_health_server(address, supervisor)))


def _address(text: str | None) -> tuple[str, int] | None:
    """Read ``8080``, ``127.0.0.1:8080`` or ``[::1]:8080``; a port alone is open to all: kubelets ask from outside."""
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        message = f"--health-port takes PORT or HOST:PORT, not {text!r}"
        raise RequestError(message)
    return host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port)  # noqa: S104  # see above


def _health_server(address: tuple[str, int] | None, asked: WorkerProcess | Supervisor) -> HealthServer | None:
    if address is None:
        return None
    try:
        return HealthServer(*address, asked.health, lambda accept: _page(asked.tally(), accept))
    except OSError as error:
        message = f"cannot listen on {address[0]}:{address[1]} for --health-port: {error.strerror or error}"
        raise RequestError(message) from None


def _page(tally: Tally, accept: str) -> tuple[str, bytes]:
    from perdure.telemetry import prometheus  # a fifth of a second that a worker nobody scrapes need not spend

    return prometheus.page(prometheus.worker_metrics(tally), accept)
