"""Helm for tests: the program on PATH if it is a Helm 4, else one built from its Go module.

`Helm` runs it as a user would, but without any setting, cache or plugin of the user's. The chart's tests and those of
the node call it; `python -m tests.support.helm` builds it beforehand and prints where it is.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.kubernetes_programs import ProgramsError, program_command
from tests.support.tool import Tool

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "perdure"


@functools.cache
def helm_program() -> Path:
    """Return a Helm 4, built first where PATH has none."""
    on_path = shutil.which("helm")
    if on_path:
        answer = subprocess.run([on_path, "version", "--short"], capture_output=True, text=True, check=False)
        if answer.stdout.startswith("v4."):
            return Path(on_path)
    return Path(program_command("helm")[0])


class Helm(Tool):
    """Helm commands, for the cluster of a kubeconfig or for none; what Helm keeps on disk goes below `folder`."""

    def __init__(self, folder: Path, kubeconfig: Path | None = None, namespace: str = "default") -> None:
        self.folder = folder
        super().__init__(
            {
                "PATH": os.environ.get("PATH", os.defpath),
                "HOME": str(folder),
                "KUBECONFIG": str(kubeconfig or folder / "no-kubeconfig"),
                "HELM_NAMESPACE": namespace,
                **{f"HELM_{kind}_HOME": str(folder / f"helm-{kind.lower()}") for kind in ("CACHE", "CONFIG", "DATA")},
            }
        )

    def command(self, *arguments: str) -> list[str]:
        """Return a command line of Helm."""
        return [str(helm_program()), *arguments]

    def json(self, *arguments: str) -> Any:
        """Run a command that has to succeed and return the JSON that it prints."""
        return json.loads(self.out(*arguments, "--output", "json"))


def main() -> int:
    """Build Helm if it is not there yet, and print where it is."""
    try:
        print(helm_program())
    except ProgramsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
