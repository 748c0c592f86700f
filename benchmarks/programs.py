"""Starting the programs that are measured, and asking them.

What lives here: subprocesses and what they answer. What must not: knowledge of scenarios.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.measure import Sample
from benchmarks.talk import ANSWER, Setup

ROOT: Final = Path(__file__).resolve().parents[1]
DEADLINE: Final = 600.0
"""Seconds that one answer may take."""


class ProgramError(Exception):
    """A measured program failed; the message has what it printed."""


class Program:
    """A measured program in a process of its own; leaving the context ends it in order."""

    def __init__(self, module: str, setup: Setup, *, python: str = sys.executable) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
        self._name = module
        self._process = subprocess.Popen(
            [python, "-m", module, json.dumps(asdict(setup))],
            cwd=ROOT,
            # The code beside these benchmarks is measured, whatever is installed.
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "worker")])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.pid = self._process.pid
        self._hear("start")

    def ask(self, scenario: str, arguments: Mapping[str, Any]) -> Sample:
        """Have one scenario carried out. Raises `ProgramError`."""
        self.tell(json.dumps({"scenario": scenario, "arguments": arguments}))
        return Sample.from_json(self._hear(scenario))

    def tell(self, line: str) -> None:
        """Send one line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """End the process at once, without a word to anybody."""
        self._process.kill()
        self._process.wait()

    def _hear(self, what: str) -> str:
        assert self._process.stdout is not None
        watchdog = threading.Timer(DEADLINE, self._process.kill)
        watchdog.start()
        try:
            for line in self._process.stdout:
                if line.startswith(ANSWER):
                    return line.removeprefix(ANSWER)
        finally:
            watchdog.cancel()
        code = self._process.wait()
        self._errors.seek(0)
        printed = self._errors.read().decode(errors="replace")[-4000:]
        raise ProgramError(f"{self._name} ended with {code} at {what}:\n{printed}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        if kind is not None:
            self.kill()
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
        self._errors.close()
