"""The control plane that the operator's tests share, with our resource definitions in it."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.store.postgres.migrate import migrate
from tests.operator.stage import Stage
from tests.support.instances import Instances, document
from tests.support.kubernetes import ControlPlane

DEFINITIONS = Path(__file__).resolve().parents[2] / "crds"


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A real etcd and kube-apiserver for the whole session; it knows the kinds of `crds/`."""
    with ControlPlane() as plane:
        plane.kubectl("apply", "-f", str(DEFINITIONS))
        plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(DEFINITIONS))
        settle(plane)
        yield plane


def settle(plane: ControlPlane) -> None:
    """Wait until the new kind answers as it does on a cluster that has had it for long.

    The API server holds the first objects of a kind back for two seconds, lists the kind and publishes its
    documentation a little later, and kubectl remembers what was listed: a test that happens to come first must not
    meet any of it.
    """
    path = "/apis/perdure.dev/v1/namespaces/default/workflowinstances?dryRun=All"
    answer = plane.request("POST", path, document("first", {"workflow": "first"}))
    assert answer.status == 201, answer.body
    # This command asks anew; what it learns is what the commands after it remember.
    listing = ("api-resources", "--api-group=perdure.dev")
    plane.wait_until(lambda: "wfi" in plane.kubectl(*listing, check=False).stdout, "the kind was listed")
    documentation = "/openapi/v3/apis/perdure.dev/v1"
    plane.wait_until(lambda: plane.request("GET", documentation).status == 200, "the kind was documented")


@pytest.fixture
def kube_namespace(control_plane: ControlPlane) -> Iterator[str]:
    """The name of a namespace that only this test uses; its workflow instances go with the test."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    created = control_plane.request("POST", "/api/v1/namespaces", namespace)
    assert created.status == 201, created.body
    yield name
    # An operator that a later test starts for all namespaces must not find what this test left.
    instances = f"/apis/perdure.dev/v1/namespaces/{name}/workflowinstances"
    removed = control_plane.request("DELETE", instances)
    assert removed.status == 200, removed.body
    control_plane.request("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
def instances(control_plane: ControlPlane, kube_namespace: str) -> Instances:
    """The workflow instances of the test's namespace; none yet."""
    return Instances(control_plane, kube_namespace)


@pytest.fixture
def stage(control_plane: ControlPlane, kube_namespace: str, database: str, tmp_path: Path) -> Iterator[Stage]:
    """The test's namespace and a database, with an operator that leads; workers are the tests' own."""
    migrate(database)
    stage = Stage(control_plane, kube_namespace, database, tmp_path)
    with stage.operator() as operator:
        operator.until_it_leads()
        yield stage
