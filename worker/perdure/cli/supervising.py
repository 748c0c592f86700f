"""Several worker processes under one: ``perdure worker --processes``.

What lives here: starting children, starting them again, stopping them, and what
they say about themselves. What must not: workers; a child is a `WorkerProcess`
like any other, started by `child`.

Parent and child hold the two ends of a socket. The parent sends the `Service`,
the child answers with a `Report`, a line a second. When the parent dies the
child reads the end of the stream, whatever killed the parent, and stops.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

import msgspec

from perdure.cli.exits import ExitCode
from perdure.cli.serving import Service, Stop
from perdure.runtime.health import Health, HealthServer
from perdure.telemetry.tally import Tally, total

logger = logging.getLogger("perdure.worker")

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
"""Seconds before a child that died is started again: from the first to the last, doubling."""
SETTLED = 60.0
"""A child that lived this long is started again without delay."""
GRACE = 10.0
"""Seconds that a child may take beyond its drain time."""
SILENT = 30.0
"""Seconds without a line after which a child counts as stuck."""
HOPELESS = frozenset({ExitCode.USAGE, ExitCode.STORE_UNAVAILABLE})
"""What a child says when starting it again cannot help."""


LONGEST_LINE = 16 * 1024 * 1024

STARTING = Health(not_ready="is starting")


@dataclass(frozen=True, slots=True)
class Report:
    """What a child says about itself."""

    health: Health
    tally: Tally


class Child:
    """One process and what it said last."""

    def __init__(self, number: int, service: Service) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # A process group of its own: Ctrl-C on a terminal would reach it twice, and the second time kills.
            self.process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
                [sys.executable, "-m", "perdure.cli.child", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                process_group=0,
                stdin=subprocess.DEVNULL,
            )
        ours.sendall(msgspec.json.encode(service) + b"\n")
        self.number = number
        self.socket = ours
        self.health = STARTING
        self.tally = Tally()
        self.heard = time.monotonic()

    async def listen(self) -> None:
        """Read what it says until its end closes."""
        reader, writer = await asyncio.open_connection(sock=self.socket, limit=LONGEST_LINE)
        try:
            while line := await reader.readline():
                report = msgspec.json.decode(line, type=Report)
                self.health, self.tally = report.health, report.tally
                self.heard = time.monotonic()
        except ConnectionError:
            pass  # it was killed in the middle of a line
        finally:
            writer.close()

    async def ended(self) -> int:
        """Wait for the end of the process and return its exit code."""
        await self.listen()
        return await asyncio.to_thread(self.process.wait)  # its socket is closed: this is its last moment


class Supervisor:
    """Keeps a number of children alive until a signal comes."""

    def __init__(self, service: Service, processes: int) -> None:
        self._service = service
        self._numbers = range(1, processes + 1)
        self._children: dict[int, Child] = {}
        self._past = Tally()
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = Stop(self._begin_to_stop, self._kill)
        self._code = 0

    def health(self) -> Health:
        """Return how the children are, all in one; called from the thread of the health server."""
        complaints = [(number, self._health_of(number)) for number in self._numbers]
        return Health(
            not_live="; ".join(f"process {number} {said.not_live}" for number, said in complaints if said.not_live),
            not_ready="; ".join(f"process {number} {said.not_ready}" for number, said in complaints if said.not_ready),
        )

    def tally(self) -> Tally:
        """Return what all children have counted, those that have ended too: a counter must not fall."""
        return total([self._past, *(child.tally for child in list(self._children.values()))])

    def run(self, health: HealthServer | None = None) -> int:
        """Serve until a signal comes, then drain all children. Returns the exit code."""
        self._stop.install()
        if health is not None:
            health.start()
            logger.info("health endpoints: %s/livez, /readyz and /metrics", health.url)
        asyncio.run(self._supervise())
        return self._code

    async def _supervise(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._stop.wanted:
            return
        async with asyncio.TaskGroup() as group:
            for number in self._numbers:
                group.create_task(self._keep(number))

    async def _keep(self, number: int) -> None:
        """Start one child again and again."""
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            born = time.monotonic()
            child = self._children[number] = Child(number, self._service)
            code = await child.ended()
            self._past, child.tally = total([self._past, child.tally.past()]), Tally()
            if self._stopping.is_set():
                return
            if code in HOPELESS:
                self._code = code
                self._drain()
                return
            if time.monotonic() - born > SETTLED:
                pause = FIRST_PAUSE
            logger.error(
                "process %d (pid %d) %s; starting it again in %g s", number, child.process.pid, _end(code), pause
            )
            child.health = Health(not_ready=f"{_end(code)} and is started again")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(LONGEST_PAUSE, pause * 2)

    def _health_of(self, number: int) -> Health:
        child = self._children.get(number)
        if child is None:
            return STARTING
        silence = time.monotonic() - child.heard
        if silence > SILENT and child.process.returncode is None:
            text = f"has said nothing for {silence:.0f} s"
            return Health(not_live=text, not_ready=text)
        return child.health

    def _begin_to_stop(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        """Ask every child to stop; each gives its runs back. Those that do not end in time are killed."""
        self._stopping.set()
        if self._loop is not None:
            self._loop.call_later(self._service.limits.drain + GRACE, self._kill)
        for child in self._children.values():
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)

    def _kill(self) -> None:
        """End what is left of them."""
        for child in self._children.values():
            if child.process.poll() is None:
                child.process.kill()


def _end(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
