"""What the probes of the operator's pod are told, and Prometheus.

What lives here: `Health`, a server with ``/livez``, ``/readyz`` and ``/metrics``. What must not: effects on anything
else. `main` runs one for the whole life of the process.

``/livez``, of old also ``/healthz``, (restart me) looks at this process alone: an outage of the database or of the API
server must not restart it. ``/readyz`` (I do my work, or stand by for it) also asks for both.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable

logger = logging.getLogger("perdure.operator")

Metrics = Callable[[str], tuple[str, bytes]]
"""Takes the header ``Accept`` and returns content type and content."""
Checks = Callable[[], dict[str, str]]
"""Returns what is wrong, by name; empty when all is well."""


class Health:
    """Answers probes on ``address`` (``host:port``, ``:port``; port 0 takes a free one and logs it)."""

    def __init__(self, address: str, live: Checks, ready: Checks, role: Callable[[], str], metrics: Metrics) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host or None, int(port)
        self._checks = {"/livez": live, "/healthz": live, "/readyz": ready}
        self._role = role
        self._metrics = metrics

    async def run(self) -> None:
        """Answer until cancelled."""
        server = await asyncio.start_server(self._answer, self._host, self._port)
        for socket in server.sockets[:1]:
            logger.info(
                "probes are answered on port %d: /livez and /readyz, with /metrics beside them", socket.getsockname()[1]
            )
        async with server:
            await server.serve_forever()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(5):
                request = (await reader.readline()).split()
                accept = ""
                while line := (await reader.readline()).strip():
                    name, _, value = line.decode("latin-1").partition(":")
                    accept = value.strip() if name.lower() == "accept" else accept
                writer.write(self._response(request[1].decode() if len(request) > 1 else "", accept))
                await writer.drain()
        except (TimeoutError, OSError, ValueError):
            pass  # whoever asked has gone away or does not speak HTTP
        finally:
            writer.close()

    def _response(self, path: str, accept: str) -> bytes:
        path = path.partition("?")[0]
        if path == "/metrics":
            return _http("200 OK", *self._metrics(accept))
        check = self._checks.get(path)
        if check is None:
            return _json("404 Not Found", {"paths": sorted([*self._checks, "/metrics"])})
        wrong = check()
        body = {"status": "failing" if wrong else "ok", "role": self._role(), "wrong": wrong}
        return _json("503 Service Unavailable" if wrong else "200 OK", body)


def _json(status: str, body: object) -> bytes:
    return _http(status, "application/json", json.dumps(body).encode() + b"\n")


def _http(status: str, content_type: str, content: bytes) -> bytes:
    head = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(content)}",
        "Connection: close",
    ]
    return "\r\n".join([*head, "", ""]).encode() + content


async def every(seconds: float, step: Callable[[], Awaitable[None]]) -> None:
    """Take a step now and then."""
    while True:
        await step()
        await asyncio.sleep(seconds)


def late(reached_at: float | None, limit: float) -> bool:
    """Tell whether something was last reached too long ago, or never."""
    return reached_at is None or time.monotonic() - reached_at > limit
