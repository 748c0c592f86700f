"""The environment that DBOS is measured in: its own, from its own lock.

What lives here: making ``.venv-bench``. What must not: anything that runs in it.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.programs import ROOT

LOCK: Final = ROOT / "benchmarks" / "requirements-dbos.lock"
FOLDER: Final = ROOT / ".venv-bench"


def dbos_python() -> str:
    """Return the interpreter of an environment that has what the lock says; make it first where it is missing."""
    python = FOLDER / "bin" / "python"
    mark = FOLDER / f".ready-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]}"
    if not mark.exists():
        print(f"Installing {LOCK.name} into {FOLDER.name}", flush=True)
        uv = Path(sys.executable).with_name("uv")
        _run(uv, "venv", "--quiet", "--clear", "--seed", "--system-certs", "--python", sys.executable, FOLDER)
        wanted = ("--require-hashes", LOCK)
        try:
            _run(uv, "pip", "sync", "--quiet", "--system-certs", "--python", python, *wanted)
        except subprocess.CalledProcessError:
            print("uv could not install the lock; trying pip", flush=True)
            options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes")
            _run(python, "-m", "pip", "install", *options, "--requirement", LOCK)
        mark.touch()
    return str(python)


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, cwd=ROOT)
