"""A worker process that another one supervises: ``python -m perdure.cli.child FD``.

What lives here: the child's end of the socket that `supervising` describes. What
must not: anything else; the rest is `serving`.
"""

import os
import select
import signal
import socket
import sys
import threading
import time

import msgspec

from perdure.cli import exits
from perdure.cli.serving import Service, WorkerProcess
from perdure.cli.supervising import Report
from perdure.errors import PerdureError
from perdure.telemetry import logs

REPORT = 1.0
"""Seconds between two lines about how we are."""
GRACE = 10.0
"""Seconds beyond the drain time after which a child without a parent ends itself."""


def main() -> None:
    """Serve as the parent says, until it says stop or is gone."""
    parent = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(parent.fileno(), False)
    with parent.makefile("rb", buffering=0) as lines:
        service = msgspec.json.decode(lines.readline(), type=Service)
    logs.configure(service.log_format, debug=service.debug)
    process = WorkerProcess(service)
    threading.Thread(
        target=_report, args=(parent, process, service.limits.drain), name="perdure-parent", daemon=True
    ).start()
    try:
        process.run()
    except PerdureError as error:
        exits.show(error)
        sys.exit(exits.exit_code(error))


def _report(parent: socket.socket, process: WorkerProcess, drain: float) -> None:
    """Tell the parent how we are; when it is gone, stop, and end by force what does not stop."""
    try:
        while True:
            report = Report(process.health(), process.tally())
            parent.sendall(msgspec.json.encode(report) + b"\n")
            readable, _, _ = select.select([parent], [], [], REPORT)
            if readable and not parent.recv(1):
                break
    except OSError:
        pass  # the parent's end is closed: it is gone
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(drain + GRACE)
    os._exit(1)


if __name__ == "__main__":
    main()
