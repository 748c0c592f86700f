"""Health endpoints: does the process live, does it take work, and what has it counted.

What lives here: the pulse of an event loop, the answers, and the HTTP server
that gives them. What must not: decisions about workers. ``perdure
worker`` starts it.

The server has a thread of its own, because the question that matters most is
asked when the event loop is stuck. Nothing here asks the database: a process
that is restarted because its database is away helps nobody.
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STUCK_AFTER = 30.0
"""Seconds without a sign of life after which an event loop counts as stuck. A lease is given up before."""
BEAT = 0.5


class Pulse:
    """Shows from any thread whether an event loop still turns. It counts as alive until it was started."""

    def __init__(self, stuck_after: float = STUCK_AFTER) -> None:
        self._stuck_after = stuck_after
        self._last = time.monotonic()

    async def beat(self) -> None:
        """Give signs of life until cancelled; run it as a task of the loop that is watched."""
        while True:
            self._last = time.monotonic()
            await asyncio.sleep(BEAT)

    def complaint(self) -> str:
        """Return what is wrong, or nothing."""
        silence = time.monotonic() - self._last
        return f"the event loop has not moved for {silence:.0f} s" if silence > self._stuck_after else ""


@dataclass(frozen=True, slots=True)
class Health:
    """What the endpoints answer: the complaint of each, empty when all is well."""

    not_live: str = ""
    not_ready: str = ""


Metrics = Callable[[str], tuple[str, bytes]]
"""Takes the header ``Accept`` and returns content type and content."""


class HealthServer:
    """Serves ``/livez``, ``/readyz`` and ``/metrics`` from a daemon thread.

    ``ask`` and ``metrics`` are called there, for each request.
    """

    def __init__(self, host: str, port: int, ask: Callable[[], Health], metrics: Metrics) -> None:
        self._server = _Server((host, port), ask, metrics)
        self._thread = threading.Thread(target=self._server.serve_forever, name="perdure-health", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._server.server_address[:2]
        return f"http://[{host!s}]:{port}" if ":" in str(host) else f"http://{host!s}:{port}"

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], ask: Callable[[], Health], metrics: Metrics) -> None:
        self.ask, self.metrics = ask, metrics
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer would look up the name of the host, which can take seconds and is not needed.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10

    def do_GET(self) -> None:  # the name is http.server's
        path = self.path.partition("?")[0]
        if path == "/livez":
            self._answer("live", self.server.ask().not_live)
        elif path == "/readyz":
            self._answer("ready", self.server.ask().not_ready)
        elif path == "/metrics":
            self._send(HTTPStatus.OK, *self.server.metrics(self.headers.get("Accept", "")))
        else:
            self._say(HTTPStatus.NOT_FOUND, {"reason": "ask for /livez, /readyz or /metrics"})

    def _answer(self, word: str, complaint: str) -> None:
        if complaint:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, {word: False, "reason": complaint})
        else:
            self._say(HTTPStatus.OK, {word: True})

    def _say(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(body).encode() + b"\n")

    def _send(self, status: HTTPStatus, content_type: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name is http.server's
        """Say nothing: probes come every few seconds."""
