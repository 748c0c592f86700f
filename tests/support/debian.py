"""Programs that tests need and that Debian brings: found, or installed where that is allowed.

What lives here: `need` and `on_path`. What must not: knowledge of the programs. A part that is missing is an error,
never a reason to leave a test out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

INSTALL_DEADLINE: Final = 300.0
"""Seconds that the installation of a package may take."""


def on_path(program: str) -> Path | None:
    """Find a program, also where an ordinary user's PATH does not look."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    return Path(found) if found else None


def need(package: str, find: Callable[[], Path | None]) -> Path:
    """Return what ``find`` finds; install the Debian package first when it finds nothing.

    Raises `RuntimeError` that names the package where it cannot be installed: not root, or not Debian.
    """
    found = find()
    if found is not None:
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise RuntimeError(f"the package {package} is missing: install it (Debian, Ubuntu: apt-get install {package})")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", package]):
        done = subprocess.run(
            ["apt-get", *arguments], env=environment, check=False, capture_output=True, timeout=INSTALL_DEADLINE
        )
        if done.returncode != 0:
            raise RuntimeError(f"apt-get {' '.join(arguments)} failed: {done.stderr.decode()[-2000:]}")
    found = find()
    if found is None:
        raise RuntimeError(f"the package {package} is installed and does not have what is needed")
    return found
