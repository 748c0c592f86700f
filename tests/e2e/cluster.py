"""kubectl and helm against the cluster of the tests, and the one wait that they all use.

What lives here: `Cluster`. What must not: knowledge of the product. Unlike `tests.support.kubernetes` it asks only what
a user of any cluster can ask.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tests.support.helm import Helm
from tests.support.kubernetes_programs import program_command
from tests.support.tool import CommandError, Tool

DEADLINE = 180.0

T = TypeVar("T")


def until(look: Callable[[], T], what: str, deadline: float = DEADLINE) -> T:
    """Look until there is something to see, and return it; a cluster that does not answer is not there yet."""
    end = time.monotonic() + deadline
    trouble = ""
    while True:
        try:
            if seen := look():
                return seen
        except CommandError as error:
            trouble = str(error)
        if time.monotonic() > end:
            message = f"waited {deadline:g} s for {what}; {trouble}"
            raise AssertionError(message)
        time.sleep(0.1)


class Cluster(Tool):
    """One namespace of a cluster."""

    def __init__(self, kubeconfig: Path, namespace: str, folder: Path) -> None:
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        self.helm = Helm(folder, kubeconfig, namespace)
        path = os.environ.get("PATH", os.defpath)
        super().__init__({"PATH": path, "HOME": str(folder), "KUBECONFIG": str(kubeconfig)})

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of kubectl."""
        return [*program_command("kubectl"), "--namespace", self.namespace, *arguments]

    def json(self, *arguments: str) -> dict[str, Any]:
        """Run a kubectl command and return the object that it prints."""
        found: dict[str, Any] = json.loads(self.out(*arguments, "-o", "json"))
        return found

    def apply(self, *documents: dict[str, Any]) -> None:
        """Apply documents as a user applies a file."""
        self.out("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))

    def get(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        """Return the objects of a kind."""
        found: list[dict[str, Any]] = self.json("get", kind, "--selector", selector)["items"]
        return found

    def pods(self, selector: str) -> dict[str, dict[str, Any]]:
        """Return the pods that run and are not being ended, by name."""
        return {
            pod["metadata"]["name"]: pod
            for pod in self.get("pods", selector)
            if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
        }

    def until_ready(self, selector: str, count: int) -> set[str]:
        """Wait until exactly so many pods are there, each of them ready; return their names."""

        def look() -> set[str]:
            pods = self.get("pods", selector)
            ready = {pod["metadata"]["name"] for pod in pods if is_ready(pod)}
            return ready if len(ready) == len(pods) == count else set()

        if count == 0:
            until(lambda: not self.get("pods", selector), f"no pods of {selector}")
            return set()
        return until(look, f"{count} ready pods of {selector}")

    @contextmanager
    def forward(self, target: str, port: int) -> Iterator[int]:
        """Lend a port of this machine that leads to a port of a pod."""
        with subprocess.Popen(
            self.command("port-forward", target, f":{port}", "--address=127.0.0.1"),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                said = process.stdout.readline()
                found = re.search(r"127\.0\.0\.1:(\d+)", said)
                if not found:
                    raise CommandError(said)
                yield int(found[1])
            finally:
                process.kill()


@contextmanager
def lent_namespace(kubeconfig: Path, name: str, folder: Path) -> Iterator[Cluster]:
    """Lend a namespace that is empty, and in which only pods under the strictest profile are let in."""
    cluster = Cluster(kubeconfig, name, folder)
    # What a session left that was killed.
    cluster.out("delete", "namespace", name, "--ignore-not-found")
    cluster.out("create", "namespace", name)
    cluster.out("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    # A controller makes it a moment after its namespace; until then no pod is let in that somebody applies.
    cluster.out("wait", "--for=create", "serviceaccount/default", "--timeout=60s")
    yield cluster
    # Its end takes as long as its pods have for theirs, and nobody needs it.
    cluster.out("delete", "namespace", name, "--wait=false")


def is_ready(pod: dict[str, Any]) -> bool:
    """Tell whether a pod takes work."""
    conditions = pod["status"].get("conditions", ())
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
