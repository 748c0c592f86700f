"""The program `perdure` as a person or a script runs it: real processes, real exit codes.

`Cli` runs commands, `WorkerProgram` is a worker in the background whose log can be read. Nothing of the library is
imported here: what tests see of it, they see through the program.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(sysconfig.get_path("scripts")) / "perdure"
SAMPLES = "tests.support.cli_samples"
DEADLINE = 120.0
"""Seconds after which something will not happen any more; some machines are four times slower than others."""

T = TypeVar("T")


def eventually(look: Callable[[], T], what: str) -> T:
    """Look until there is something to see, and return it."""
    deadline = time.monotonic() + DEADLINE
    while not (seen := look()):
        assert time.monotonic() < deadline, f"waited {DEADLINE:g} s for {what}"
        time.sleep(0.02)
    return seen


class WorkerProgram:
    """A running `perdure worker`; its stderr is in `log`."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=stderr)

    def text(self) -> str:
        return self.log.read_text()

    def until(self, pattern: str, times: int = 1) -> list[str]:
        """Wait until the log has `pattern` so many times; return what its group matched."""

        def look() -> list[str]:
            found = re.findall(pattern, self.text())
            assert len(found) >= times or self.process.poll() is None, f"the worker ended:\n{self.text()}"
            return found if len(found) >= times else []

        return eventually(look, f"{pattern!r} in the log of a worker, which says:\n{self.text()}")

    def until_it_serves(self, processes: int = 1) -> None:
        self.until("worker .* serves ", processes)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def exit_code(self) -> int:
        return self.process.wait(DEADLINE)

    def probe(self, path: str) -> tuple[int, dict[str, Any]]:
        """Ask a health endpoint for its status and body."""
        base = self.until(r"health endpoints: (http://\S+)/livez")[0].replace("0.0.0.0", "127.0.0.1")
        try:
            with urllib.request.urlopen(base + path, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, json.load(refused)


class Cli:
    """The commands, against one database; samples work in `folder`."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self._workers = 0
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")},
            "PERDURE_URL": url,
            "PERDURE_SAMPLES": str(folder),
        }

    def run(
        self, *arguments: str, stdin: str | None = None, url: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever that is."""
        environment = self.environment | ({"PERDURE_URL": url} if url is not None else {})
        return subprocess.run(
            [PROGRAM, *arguments],
            cwd=ROOT,
            env=environment,
            input=stdin,
            check=False,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )

    def out(self, *arguments: str, stdin: str | None = None) -> str:
        """Run a command that has to succeed and return its stdout."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def json(self, *arguments: str) -> list[dict[str, Any]]:
        """Run a command and return the objects that it prints, one a line."""
        return [json.loads(line) for line in self.out(*arguments, "--json").splitlines()]

    def describe(self, instance: str) -> dict[str, Any]:
        return self.json("describe", instance)[0]

    def types(self, instance: str) -> list[str]:
        return [event["type"] for event in self.json("history", instance)]

    def until(self, instance: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until `holds` is true of what describe says."""

        def look() -> dict[str, Any]:
            seen = self.describe(instance)
            return seen if holds(seen) else {}

        return eventually(look, f"{instance}, which is {self.describe(instance)}")

    @contextmanager
    def worker(
        self, *options: str, modules: Sequence[str] = (SAMPLES,), url: str | None = None
    ) -> Iterator[WorkerProgram]:
        """Lend a worker in the background; it is killed at the end if it still runs."""
        self._workers += 1
        environment = self.environment | ({"PERDURE_URL": url} if url is not None else {})
        log = self.folder / f"worker-{self._workers}.log"
        worker = WorkerProgram([str(PROGRAM), "worker", *modules, *options], environment, log)
        try:
            yield worker
        finally:
            worker.process.kill()
            worker.process.wait()

    def lines(self, name: str) -> list[str]:
        """Return what activities have written to a file."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def open_gate(self, name: str) -> None:
        """Let the activity that waits at this gate go on."""
        (self.folder / name).touch()
