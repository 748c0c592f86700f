"""Power over the machine below the cluster: images without a registry, and outages of its own programs.

What lives here: `OwnNode`, for the cluster of `make cluster-up`, and `KindNode`, for one of kind. What must not:
anything that a user of a cluster can do; `cluster` has that.
"""

import os
import subprocess
import uuid
from pathlib import Path
from typing import Any, Protocol

from tests.image import images
from tests.node import servers
from tests.node.images import load
from tests.node.place import KUBECONFIG
from tests.node.volumes import offer_free_volume

ROOT = Path(__file__).resolve().parents[2]


class Machine(Protocol):
    """What the tests do to the node."""

    kubeconfig: Path
    database_image: str
    """An image with the programs of PostgreSQL, which the node has or can pull."""

    def load_project(self) -> None:
        """Make the project's image from the code as it is now and put it on the node."""

    def load(self, dockerfile: Path, name: str) -> None:
        """Make an image from a Dockerfile, with its folder as the context, and put it on the node."""

    def database_values(self) -> dict[str, Any]:
        """Return values of the chart for the demo database; where it takes a volume, one is free then."""

    def stop_api_server(self) -> None:
        """End the API server."""

    def start_api_server(self) -> None:
        """Start the API server again."""

    def restart(self, program: str) -> None:
        """End the kubelet or containerd and start it again; the processes in pods are not touched."""


class OwnNode:
    """The cluster of `make cluster-up`."""

    kubeconfig = KUBECONFIG
    database_image = images.POSTGRESQL

    def load_project(self) -> None:
        load(images.perdure())

    def load(self, dockerfile: Path, name: str) -> None:
        load(images.user(dockerfile, dockerfile.parent, name))

    def database_values(self) -> dict[str, Any]:
        offer_free_volume(f"e2e-{uuid.uuid4().hex[:8]}")
        repository, _, tag = self.database_image.rpartition(":")
        return {"image": {"repository": repository, "tag": tag}}

    def stop_api_server(self) -> None:
        servers.stop("kube-apiserver")

    def start_api_server(self) -> None:
        servers.start("kube-apiserver")

    def restart(self, program: str) -> None:
        servers.stop(program)
        servers.start(program)


class KindNode:
    """A cluster of kind, whose node is a container."""

    database_image = "postgres:18"

    def __init__(self, kubeconfig: Path, cluster: str) -> None:
        self.kubeconfig = kubeconfig
        self._cluster = cluster

    def load_project(self) -> None:
        self.load(ROOT / "Dockerfile", images.NAME.rpartition("/")[2])

    def load(self, dockerfile: Path, name: str) -> None:
        run("docker", "build", "--tag", name, "--file", str(dockerfile), str(dockerfile.parent))
        run("kind", "load", "docker-image", "--name", self._cluster, name)

    def database_values(self) -> dict[str, Any]:
        return {}

    # The kubelet starts the API server as long as this file is where it looks.
    def stop_api_server(self) -> None:
        self._inside("mv", "/etc/kubernetes/manifests/kube-apiserver.yaml", "/etc/kubernetes/")

    def start_api_server(self) -> None:
        self._inside("mv", "/etc/kubernetes/kube-apiserver.yaml", "/etc/kubernetes/manifests/")

    def restart(self, program: str) -> None:
        self._inside("systemctl", "restart", program)

    def _inside(self, *command: str) -> None:
        run("docker", "exec", f"{self._cluster}-control-plane", *command)


def find_machine() -> Machine:
    """Return the machine of the cluster that KUBECONFIG names or, without it, of `make cluster-up`.

    Raises `RuntimeError` that says what to do where there is none.
    """
    named = os.environ.get("KUBECONFIG")
    if named and Path(named) != KUBECONFIG:
        context = run("kubectl", "config", "current-context", f"--kubeconfig={named}").strip()
        if not context.startswith("kind-"):
            message = f"KUBECONFIG={named} is at {context}, and these tests break their node: name a cluster of kind"
            raise RuntimeError(message)
        return KindNode(Path(named), context.removeprefix("kind-"))
    if not KUBECONFIG.exists():
        message = "there is no cluster: run `make cluster-up` (Linux, root), or `make kind-up` and set KUBECONFIG"
        raise RuntimeError(message)
    return OwnNode()


def run(*command: str) -> str:
    """Run a command and return what it printed; raise `RuntimeError` with what it said if it fails."""
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        message = f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stderr}"
        raise RuntimeError(message)
    return done.stdout
