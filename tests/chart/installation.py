"""A release on a cluster without nodes: its objects are real, and its containers run as processes of this machine.

`Installation` does for a container what a kubelet would: command, arguments and environment come from the object that
the API server has, secrets are read where they are referred to, and the service account is the pod's own. Only the
port is another one, because all processes share this machine.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.support.cli import PROGRAM, ROOT, eventually
from tests.support.helm import CHART, Helm
from tests.support.instances import Instances
from tests.support.kubernetes import ControlPlane

WORKFLOWS = "tests.operator.workflows"


class Container:
    """A container that runs; what it says is in `log`."""

    def __init__(self, spec: Mapping[str, Any], environment: Mapping[str, str], log: Path) -> None:
        self.spec = spec
        self.log = log
        words = [*spec["command"], *spec.get("args", ())]
        programs = {"perdure": str(PROGRAM), "python3": sys.executable}
        command = [programs[words[0]], *("0" if word == "8080" else word for word in words[1:])]
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, env=dict(environment), stdout=output, stderr=output)

    def text(self) -> str:
        return self.log.read_text()

    def until(self, pattern: str) -> str:
        """Wait until the log has `pattern` and return what it matched."""

        def look() -> str:
            found = re.search(pattern, self.text())
            assert found or self.process.poll() is None, f"the container ended:\n{self.text()}"
            return found[0] if found else ""

        return eventually(look, f"{pattern!r} in the log of a container, which says:\n{self.text()}")

    def exit_code(self) -> int:
        return self.process.wait(60)

    def probe(self, name: str) -> int:
        """Ask what a probe of the container asks; return the HTTP status."""
        port = re.search(r"\d+$", self.until(r"(?:on port |http://[\d.]+:)\d+"))
        assert port is not None
        path = self.spec[name]["httpGet"]["path"]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port[0]}{path}", timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code


class Installation:
    """One release in a namespace of its own, on the database `url`."""

    def __init__(self, plane: ControlPlane, folder: Path, url: str) -> None:
        self.plane = plane
        self.folder = folder
        self.namespace = f"test-{uuid.uuid4().hex[:12]}"
        self.helm = Helm(folder, plane.kubeconfig, self.namespace)
        self.instances = Instances(plane, self.namespace)
        plane.kubectl("create", "namespace", self.namespace)
        self.create_secret("database", url)
        self._containers: list[Container] = []

    def create_secret(self, name: str, url: str) -> None:
        """Create a Secret with the URL of a database."""
        self.plane.kubectl("-n", self.namespace, "create", "secret", "generic", name, f"--from-literal=uri={url}")

    def command(self, action: str, *options: str) -> str:
        """Run `helm install` or `helm upgrade` with the values of this installation, and these options last."""
        chosen = ("postgresql.external.existingSecret=database", f"workers.default.modules={{{WORKFLOWS}}}")
        values = [part for value in chosen for part in ("--set", value)]
        return self.helm.out(action, "shop", str(CHART), *values, *options)

    def names(self, kinds: str = "deployments,services,secrets,roles,serviceaccounts,poddisruptionbudgets") -> set[str]:
        """Return the objects of the release, as `kind/name`."""
        listing = self.plane.kubectl(
            *("get", kinds, "-n", self.namespace, "-l", "app.kubernetes.io/instance=shop", "-o", "name")
        )
        return set(listing.stdout.split())

    def deployment(self, name: str) -> dict[str, Any]:
        """Return a Deployment of the release, by the end of its name."""
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/shop-perdure-{name}"
        found = self.plane.request("GET", path)
        assert found.status == 200, found.body
        body: dict[str, Any] = found.body
        return body

    @contextmanager
    def running(self, deployment: str) -> Iterator[Container]:
        """Lend a pod of a Deployment: its init containers have succeeded, its first container runs.

        At the end it is stopped as a pod is, and has to end in order.
        """
        pod = self.deployment(deployment)["spec"]["template"]["spec"]
        for spec in pod.get("initContainers", ()):
            with self.container(pod, spec) as initial:
                assert initial.exit_code() == 0, initial.text()
        with self.container(pod, pod["containers"][0]) as container:
            yield container
            container.process.terminate()
            assert container.exit_code() == 0, container.text()

    @contextmanager
    def container(self, pod: Mapping[str, Any], spec: Mapping[str, Any], **more: str) -> Iterator[Container]:
        """Lend a container of a pod, with `more` in its environment; it is killed at the end if it still runs."""
        log = self.folder / f"{spec['name']}-{len(self._containers) + 1}.log"
        container = Container(spec, {**self._surroundings(pod, spec), **more}, log)
        self._containers.append(container)
        try:
            yield container
        except BaseException:
            print(f"--- {log.name} ---\n{container.text()}")
            raise
        finally:
            container.process.kill()
            container.process.wait()

    def test_objects(self) -> dict[str, dict[str, Any]]:
        """Create what `helm test` creates beside its pod; return all of it by kind."""
        hooks = self.helm.out("get", "hooks", "shop")
        found = {each["kind"]: each for each in yaml.safe_load_all(hooks) if each}
        others = [each for kind, each in found.items() if kind != "Pod"]
        self.plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(others))
        return found

    def account_folder(self, service_account: str) -> Path:
        """Return a folder with what a pod of this service account finds in it: its token and whom to trust."""
        kubeconfig = yaml.safe_load(self.plane.kubeconfig_for(service_account, self.namespace).read_text())
        folder = self.folder / f"account-{service_account}"
        folder.mkdir()
        (folder / "token").write_text(kubeconfig["users"][0]["user"]["token"])
        authority = kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"]
        (folder / "ca.crt").write_bytes(base64.b64decode(authority))
        return folder

    def _surroundings(self, pod: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PERDURE_", "KUBE"))}
        environment = {**inherited, "PERDURE_SAMPLES": str(self.folder)}
        for each in spec.get("env", ()):
            environment[each["name"]] = self._value(each)
        if pod.get("automountServiceAccountToken") is not False:
            environment["KUBECONFIG"] = str(self.plane.kubeconfig_for(pod["serviceAccountName"], self.namespace))
        return environment

    def _value(self, variable: Mapping[str, Any]) -> str:
        source = variable.get("valueFrom", {})
        if "secretKeyRef" in source:
            name, key = source["secretKeyRef"]["name"], source["secretKeyRef"]["key"]
            secret = self.plane.request("GET", f"/api/v1/namespaces/{self.namespace}/secrets/{name}")
            assert secret.status == 200, secret.body
            return base64.b64decode(secret.body["data"][key]).decode()
        if "fieldRef" in source:
            fields = {"metadata.namespace": self.namespace, "metadata.name": f"pod-{len(self._containers)}"}
            return fields[source["fieldRef"]["fieldPath"]]
        # A probe is asked on the loopback address, where the port is free for sure.
        return re.sub("^:8080$", "127.0.0.1:0", str(variable.get("value", "")))
