"""The WorkflowInstance objects of one namespace, for tests that write and read them on a real API server.

The requests are sent as the caller words them, wrong ones too: the answers are the tests' to judge.
"""

from typing import Any

from tests.support.kubernetes import Answer, ControlPlane

MERGE_PATCH = "application/merge-patch+json"


class Instances:
    """The workflow instances of one namespace, as raw requests."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self._plane = control_plane
        self.namespace = namespace
        self._path = f"/apis/perdure.dev/v1/namespaces/{namespace}/workflowinstances"

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> tuple[str, str]:
        answer = self._plane.kubectl("-n", self.namespace, *arguments, stdin=stdin, check=check)
        return answer.stdout, answer.stderr

    def create(self, name: str, spec: dict[str, Any], **fields: Any) -> Answer:
        return self._plane.request("POST", self._path, document(name, spec, **fields))

    def create_order(self, name: str = "order-1", **spec: Any) -> dict[str, Any]:
        created = self.create(name, {"workflow": "order", **spec})
        assert created.status == 201, created.body
        instance: dict[str, Any] = created.body
        return instance

    def read(self, name: str = "order-1") -> dict[str, Any]:
        found = self._plane.request("GET", f"{self._path}/{name}")
        assert found.status == 200, found.body
        instance: dict[str, Any] = found.body
        return instance

    def patch_spec(self, changes: dict[str, Any], name: str = "order-1") -> Answer:
        return self._plane.request("PATCH", f"{self._path}/{name}", {"spec": changes}, content_type=MERGE_PATCH)

    def patch_status(self, changes: dict[str, Any], name: str = "order-1", **fields: Any) -> Answer:
        """Merge `changes` into the status through its subresource; `fields` go beside it in the same request."""
        body = {"status": changes, **fields}
        return self._plane.request("PATCH", f"{self._path}/{name}/status", body, content_type=MERGE_PATCH)

    def replace(self, instance: dict[str, Any]) -> Answer:
        return self._plane.request("PUT", f"{self._path}/{instance['metadata']['name']}", instance)


def document(name: str, spec: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "apiVersion": "perdure.dev/v1",
        "kind": "WorkflowInstance",
        "metadata": {"name": name},
        "spec": spec,
        **fields,
    }


def condition(kind: str = "Succeeded", status: str = "Unknown", reason: str = "Running") -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": "",
        "lastTransitionTime": "2026-01-02T03:04:05Z",
        "observedGeneration": 1,
    }
