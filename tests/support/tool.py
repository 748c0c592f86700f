"""Programs that a test runs to their end, as their users do.

What lives here: `Tool`, one program with an environment of its own. What must not: which program that is; the helpers
of Helm and of clusters say so.
"""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

COMMAND_TIMEOUT = 600.0


class CommandError(RuntimeError):
    """A command failed; the message carries what it said."""


class Tool(ABC):
    """A program; nothing that the user's environment says reaches it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    @abstractmethod
    def command(self, *arguments: str) -> list[str]:
        """Return a command line."""

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever that is."""
        return subprocess.run(
            self.command(*arguments),
            env=self._environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT,
            check=False,
        )

    def out(self, *arguments: str, stdin: str = "") -> str:
        """Run a command that has to succeed and return its stdout."""
        done = self.run(*arguments, stdin=stdin)
        if done.returncode != 0:
            words = " ".join((Path(self.command()[0]).name, *arguments))
            message = f"`{words}` ended with {done.returncode}:\n{done.stderr}{done.stdout}"
            raise CommandError(message)
        return done.stdout
