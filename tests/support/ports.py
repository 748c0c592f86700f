"""Ports for the servers that tests start.

What lives here: `free_ports`. What must not: what listens on them.
"""

from __future__ import annotations

import random
import socket
from typing import Final

PORTS: Final = range(20_000, 30_000)
"""Below those that Linux gives to outgoing connections and above most services: the port of a server that was stopped
is still free when it starts again."""


def free_ports(count: int, ports: range = PORTS) -> list[int]:
    """Return ports of the loopback address that nobody listens on and that no process of tests has been given."""
    found: list[int] = []
    # Not the shared generator: tests seed it, and two runs with one seed would fight for the same ports.
    for port in random.SystemRandom().sample(ports, len(ports)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if _reserved(port):
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"No {count} free ports between {ports.start} and {ports.stop} on 127.0.0.1.")


def _reserved(port: int) -> bool:
    """Reserve the port until this process ends; tell whether it was free.

    It may be a while until somebody listens on it.
    """
    with socket.socket(socket.AF_UNIX) as name:
        try:
            name.bind(f"\0perdure-test-port-{port}")
        except OSError:
            return False
        name.detach()  # left open, so that the system forgets the name when the process ends
    return True
