"""Programs for tests that come by `go install`: built once, kept outside the repository.

`go_program` is what `helm.py` calls, and whatever else needs a program of one Go module. The control plane, which is a
module of ours, is the business of `kubernetes_programs.py`; which Go is good enough is decided there for both.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.support.kubernetes_programs import ProgramsError, _installed_go, _locked, find_go


def go_program(package: str, version: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the program of a package, such as `helm.sh/helm/v4/cmd/helm`, built if this version is not there yet.

    It is kept under `$XDG_CACHE_HOME/perdure/programs/<name>-<version>`. Processes that ask at the same time wait for
    one of them to build it.
    """
    name = package.rpartition("/")[2]
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perdure" / "programs"
    program = cache / f"{name}-{version}" / name
    if program.exists():
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    with _locked(program.with_name("lock")):
        if not program.exists():
            _install(package, version, program, environment)
    return program


def _install(package: str, version: str, program: Path, environment: Mapping[str, str]) -> None:
    go = find_go(_installed_go(environment), environment)
    print(f"Building {program.name} {version} with {go}; the first time takes minutes.", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        # A workspace, flags or a target that the user set for other work must not change this program.
        own = {"GOWORK": "off", "GOFLAGS": "-trimpath", "GOBIN": folder, "CGO_ENABLED": "0"}
        answer = subprocess.run(
            [str(go), "install", "-ldflags", "-s -w", f"{package}@{version}"],
            cwd=folder,
            env={**environment, **own},
            check=False,
            capture_output=True,
            text=True,
        )
        if answer.returncode != 0:
            tail = "\n".join(answer.stderr.splitlines()[-40:])
            raise ProgramsError(f"`go install {package}@{version}` failed. The end of what it said:\n{tail}")
        # Whoever finds the program finds a whole one, also when this process dies half-way.
        (Path(folder) / program.name).replace(program)
