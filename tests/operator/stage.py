"""The operator as a real process between a real API server and a real PostgreSQL.

`Stage` has the three ends that a test pulls at: objects, the database and processes. The operator has the rights of a
service account with exactly what it needs and no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Self

from tests.support.cli import ROOT, Cli, WorkerProgram, eventually
from tests.support.instances import Instances
from tests.support.kubernetes import ControlPlane
from tests.support.metrics import Page, scrape
from tests.support.wire import Wire

LEASE = "3"
WORKFLOWS = "tests.operator.workflows"
RULES = [
    {"apiGroups": ["perdure.dev"], "resources": ["workflowinstances"], "verbs": ["get", "list", "watch", "delete"]},
    {"apiGroups": ["perdure.dev"], "resources": ["workflowinstances/status"], "verbs": ["patch"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]},
    {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
]


class OperatorProgram:
    """A running operator; what it says is in `log`."""

    def __init__(
        self, stage: Stage, log: Path, url: str, *options: str, everywhere: bool, environment: dict[str, str]
    ) -> None:
        self.log = log
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PERDURE_", "KUBE"))},
            "KUBECONFIG": str(stage.kubeconfig),
            "PERDURE_OPERATOR_LEASE_NAMESPACE": stage.namespace,
            "PERDURE_OPERATOR_LEASE_SECONDS": LEASE,
            "PERDURE_OPERATOR_RESYNC_SECONDS": "5",
            "PERDURE_OPERATOR_HEALTH": "127.0.0.1:0",
            "PERDURE_URL": url,
            **environment,
        }
        self._command = [sys.executable, "-m", "perdure_operator"]
        if everywhere:
            self._environment["KUBECONFIG"] = str(stage.plane.kubeconfig)
        else:
            self._command += ["--namespace", stage.namespace]
        self._command += options
        self._start()

    def _start(self) -> None:
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdout=output, stderr=output
            )

    def text(self) -> str:
        return self.log.read_text()

    def until(self, pattern: str, times: int = 1) -> list[str]:
        """Wait until the log has `pattern` so many times; return what was matched."""

        def look() -> list[str]:
            found = re.findall(pattern, self.text())
            assert len(found) >= times or self.process.poll() is None, f"the operator ended:\n{self.text()}"
            return found if len(found) >= times else []

        return eventually(look, f"{pattern!r} in the log of an operator")

    def until_it_leads(self, times: int = 1) -> None:
        self.until(" leads ", times)

    def identity(self) -> str:
        """Return what it calls itself on the Lease."""
        return self.until(r"(\S+) leads ")[-1]

    def restart(self) -> None:
        """Kill it and start it again, with an empty log."""
        self.kill()
        self._start()

    def kill(self) -> None:
        """End it without a warning."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ask it to end and return its exit code."""
        self.process.terminate()
        return self.process.wait(30)

    def metrics(self) -> Page:
        return scrape(f"http://127.0.0.1:{self._port()}")

    def _port(self) -> str:
        return self.until(r"on port (\d+)")[0]

    def probe(self, path: str) -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port()}{path}", timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, json.load(refused)


class WireInThread:
    """A `Wire` to the database for tests that are not asynchronous."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._wire = Wire(url)

    def __enter__(self) -> Self:
        self._thread.start()
        self._await(self._wire.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._await(self._wire.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def dsn(self) -> str:
        return self._wire.dsn()

    def go_down(self) -> None:
        self._await(self._wire.go_down())

    def come_up(self) -> None:
        self._loop.call_soon_threadsafe(self._wire.come_up)

    def _await(self, step: Coroutine[Any, Any, object]) -> None:
        asyncio.run_coroutine_threadsafe(step, self._loop).result(30)


class Stage:
    """One namespace of the cluster, one database, and the processes between them."""

    def __init__(self, plane: ControlPlane, namespace: str, url: str, folder: Path) -> None:
        self.plane = plane
        self.namespace = namespace
        self.url = url
        self.folder = folder
        self.instances = Instances(plane, namespace)
        self.cli = Cli(url, folder)
        self.cli.environment["PERDURE_NAMESPACE"] = namespace
        self.kubeconfig = self._account()
        self.operators: list[OperatorProgram] = []

    def on(self, url: str) -> Stage:
        """Return the same stage with another database."""
        other = copy.copy(self)
        other.url, other.cli = url, copy.copy(self.cli)
        other.cli.url = url
        other.cli.environment = {**self.cli.environment, "PERDURE_URL": url}
        return other

    @contextmanager
    def operator(
        self, *options: str, url: str | None = None, everywhere: bool = False, **environment: str
    ) -> Iterator[OperatorProgram]:
        """Lend an operator, for the test's namespace or for all; it is killed at the end if it still runs."""
        log = self.folder / f"operator-{len(self.operators) + 1}.log"
        operator = OperatorProgram(self, log, url or self.url, *options, everywhere=everywhere, environment=environment)
        self.operators.append(operator)
        try:
            yield operator
        except BaseException:
            print(f"--- {operator.log.name} ---\n{operator.text()}")
            raise
        finally:
            operator.kill()

    def restart_operator(self) -> None:
        """Kill the operator of the test and wait until it leads again, by another process."""
        self.operators[-1].restart()
        self.operators[-1].until_it_leads()

    def lease(self) -> dict[str, Any]:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases/perdure-operator"
        found: dict[str, Any] = self.plane.request("GET", path).body
        return found

    def until_the_lease_says(self, words: str) -> None:
        eventually(lambda: words in json.dumps(self.lease()), f"{words} on the Lease")

    def leads(self, operator: OperatorProgram) -> bool:
        """Tell whether this operator is the leader, as soon as there is one."""
        holder = eventually(lambda: self.lease().get("spec", {}).get("holderIdentity", ""), "a leader")
        return f"{holder} leads" in operator.text()

    @contextmanager
    def without_right(self, resource: str) -> Iterator[None]:
        """Take a right away from the operator, and give it back."""
        path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{self.namespace}/roles/operator"
        role = self.plane.request("GET", path).body
        kept = [rule for rule in RULES if resource not in rule["resources"]]
        assert self.plane.request("PUT", path, {**role, "rules": kept}).status == 200
        try:
            yield
        finally:
            role = self.plane.request("GET", path).body
            assert self.plane.request("PUT", path, {**role, "rules": RULES}).status == 200

    @contextmanager
    def policy(self, operation: str, resource: str, expression: str) -> Iterator[None]:
        """Have the API server forbid here what does not fit; whoever needs it in force waits for that."""
        rule = {"apiGroups": ["perdure.dev"], "apiVersions": ["*"], "operations": [operation], "resources": [resource]}
        match = {
            "resourceRules": [rule],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.namespace}},
        }
        validations = [{"expression": expression, "reason": "Forbidden"}]
        specs = {
            "validatingadmissionpolicies": {"matchConstraints": match, "validations": validations},
            "validatingadmissionpolicybindings": {"policyName": self.namespace, "validationActions": ["Deny"]},
        }
        group = "/apis/admissionregistration.k8s.io/v1"
        for kind, spec in specs.items():
            body = {"metadata": {"name": self.namespace}, "spec": spec}
            assert self.plane.request("POST", f"{group}/{kind}", body).status == 201
        try:
            yield
        finally:
            for kind in specs:
                self.plane.request("DELETE", f"{group}/{kind}/{self.namespace}")

    def worker(self, *options: str, modules: tuple[str, ...] = (WORKFLOWS,)) -> AbstractContextManager[WorkerProgram]:
        """Lend a worker."""
        return self.cli.worker("--namespace", self.namespace, *options, modules=modules)

    # Objects

    def apply(self, name: str, workflow: str, input: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:  # noqa: A002  # the word of the spec
        """Create an object as kubectl would."""
        return self.instances.create_order(name, workflow=workflow, **({"input": input} if input else {}), **spec)

    def delete(self, name: str) -> None:
        path = f"/apis/perdure.dev/v1/namespaces/{self.namespace}/workflowinstances/{name}"
        assert self.plane.request("DELETE", path).status == 200

    def create_pod(self, name: str) -> None:
        """Create the pod of a worker, which is not more than its object: there is no node."""
        create_pod(self.plane, self.namespace, name)

    def delete_pod(self, name: str) -> None:
        assert self.plane.request("DELETE", f"/api/v1/namespaces/{self.namespace}/pods/{name}").status == 200

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.instances.read(name).get("status", {})
        return found

    def until(self, name: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until `holds` is true of the status, and return it."""

        def look() -> dict[str, Any]:
            # 143 and -9: the test itself ended it.
            codes = [operator.process.poll() for operator in self.operators]
            assert 1 not in codes, "an operator failed"
            with contextlib.suppress(ConnectionError):
                seen = self.status(name)
                return seen if seen and holds(seen) else {}
            return {}

        return eventually(look, f"the status of {name}")

    def until_phase(self, name: str, phase: str) -> dict[str, Any]:
        return self.until(name, lambda status: status.get("phase") == phase)

    def writes(self, name: str) -> int:
        """Return how often the status of an object was written."""
        return len(self.plane.audit_entries("patch", "status", namespace=self.namespace, name=name))

    # Runs

    def runs(self) -> list[dict[str, Any]]:
        """Return every run of the namespace."""
        return self.cli.json("list", "--limit", "1000")

    def until_run(self, name: str, phase: str) -> dict[str, Any]:
        """Wait until the newest run of this id is in this phase."""
        eventually(lambda: any(run["id"] == name for run in self.runs()), f"a run of {name}")
        return self.cli.until(name, lambda run: run["phase"] == phase)

    def _account(self) -> Path:
        kubectl = ("-n", self.namespace)
        self.plane.kubectl(*kubectl, "create", "serviceaccount", "operator")
        role = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "operator", "namespace": self.namespace},
            "rules": RULES,
        }
        path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{self.namespace}/roles"
        assert self.plane.request("POST", path, role).status == 201
        subject = f"--serviceaccount={self.namespace}:operator"
        self.plane.kubectl(*kubectl, "create", "rolebinding", "operator", "--role=operator", subject)
        return self.plane.kubeconfig_for("operator", self.namespace)


def create_pod(plane: ControlPlane, namespace: str, name: str, component: str = "worker") -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"perdure.dev/component": component}},
        "spec": {"containers": [{"name": "main", "image": "none"}]},
    }
    assert plane.request("POST", f"/api/v1/namespaces/{namespace}/pods", pod).status == 201


def condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return the condition of this type; empty if there is none."""
    return next((each for each in status.get("conditions", ()) if each["type"] == kind), {})
