"""The worker processes of the chaos: started, killed, frozen, and asked how they ended.

What lives here: `Fleet` and `Seat`. What must not: when harm is done; `faults` decides that.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.chaos.workflows import FAR, JOURNAL
from tests.support import debian
from tests.support.leash import Leash

ROOT: Final = Path(__file__).parents[2]
STOP_DEADLINE: Final = 60.0
"""Seconds that a worker may take to end after SIGTERM."""

FOUL = re.compile(r"Traceback|never retrieved|a loop of the worker failed|Fatal Python|coroutine .* was never awaited")
"""What no worker may ever say, whatever happens to it."""
FORGETFUL = "the database lacks what it had confirmed"
"""What a worker may say only when a server has lost something."""


@dataclass
class Seat:
    """A place in the fleet: which way its worker reaches the database, and what else is particular about it."""

    name: str
    url: str
    way: str
    far: bool = False
    clock: Path | None = None
    """The file that says by how many seconds its wall clock is off; None: it tells the time."""
    process: subprocess.Popen[bytes] = field(init=False)


class Fleet:
    """One worker a seat."""

    def __init__(self, seats: Sequence[Seat], folder: Path, lease: float) -> None:
        self.seats: Final = list(seats)
        self.journal: Final = folder / "journal"
        self.journal.touch()
        self._folder: Final = folder
        self._lease: Final = lease
        self._leash: Final = Leash()
        self._expected_to_end: set[int] = set()
        self._all: list[subprocess.Popen[bytes]] = []
        for seat in self.seats:
            self.start(seat)

    def log(self, seat: Seat) -> Path:
        """Return where the workers of this seat write their log."""
        return self._folder / f"{seat.name}.log"

    def start(self, seat: Seat) -> None:
        """Start a worker in this seat."""
        command = [sys.executable, "-m", "perdure.cli", "worker", "tests.chaos.workflows"]
        command += ["--name", seat.name, "--lease", str(self._lease), "--max-runs", "80", "--max-activities", "40"]
        command += ["--queue", "default", *(["--queue", FAR] if seat.far else [])]
        environment = {**os.environ, "PERDURE_URL": seat.url, JOURNAL: str(self.journal)}
        if seat.clock is not None:
            environment |= {
                "LD_PRELOAD": str(libfaketime()),
                "FAKETIME_TIMESTAMP_FILE": str(seat.clock),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        with self.log(seat).open("ab") as log:
            seat.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, process_group=self._leash.group
            )
        self._all.append(seat.process)

    def kill(self, seat: Seat) -> None:
        """End the worker of this seat without a warning."""
        self._expected_to_end.add(seat.process.pid)
        seat.process.kill()
        seat.process.wait()

    def freeze(self, seat: Seat) -> None:
        """Take the processor away from the worker of this seat."""
        seat.process.send_signal(signal.SIGSTOP)

    def thaw(self, seat: Seat) -> None:
        """Let it go on."""
        seat.process.send_signal(signal.SIGCONT)

    def stop(self) -> list[str]:
        """Stop all in order; return what was not as it has to be."""
        complaints = [
            f"worker process {process.pid} ended by itself with code {process.returncode}"
            for process in self._all
            if process.poll() is not None and process.pid not in self._expected_to_end
        ]
        running = [seat for seat in self.seats if seat.process.poll() is None]
        for seat in running:
            seat.process.terminate()
        for seat in running:
            try:
                code = seat.process.wait(STOP_DEADLINE)
            except subprocess.TimeoutExpired:
                complaints.append(f"{seat.name} did not stop within {STOP_DEADLINE:g} s")
                continue
            if code != 0:
                complaints.append(f"{seat.name} stopped with code {code}")
        self._leash.let_go()
        return complaints + [complaint for seat in self.seats for complaint in self._foul(seat)]

    def forgetful(self) -> list[str]:
        """Return in which seats a worker found that its server had forgotten something."""
        return [seat.name for seat in self.seats if FORGETFUL in self.log(seat).read_text(errors="replace")]

    def _foul(self, seat: Seat) -> list[str]:
        log = self.log(seat).read_text(errors="replace")
        return [
            f"the log of {seat.name} says at {found.start()}: {log[max(0, found.start() - 200) : found.start() + 1500]}"
            for found in list(FOUL.finditer(log))[:3]
        ]


def libfaketime() -> Path:
    """Return the library that lends a process another wall clock; install it where it is missing."""
    return debian.need("libfaketime", lambda: next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None))
