"""The parts that the chart's tests share: Helm, and a real API server that nothing was installed in."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.helm import Helm
from tests.support.kubernetes import ControlPlane


@pytest.fixture(scope="session")
def session_plane() -> Iterator[ControlPlane]:
    """A real etcd and kube-apiserver for the whole session."""
    with ControlPlane() as plane:
        yield plane


def delete_kinds(plane: ControlPlane, longest: float = 180.0) -> None:
    """Delete every CustomResourceDefinition, and wait until the API server has forgotten them.

    Its finalizer may fail while a kind is still being set up, and then rests for longer and longer; a change of the
    object makes it look again.
    """
    plane.kubectl("delete", "crd", "--all", "--wait=false")
    deadline = time.monotonic() + longest
    looks = 0
    while names := plane.kubectl("get", "crd", "-o", "name").stdout.split():
        assert time.monotonic() < deadline, plane.kubectl("get", "crd", "-o", "yaml").stdout
        time.sleep(0.2)
        looks += 1
        if looks % 25 == 0:
            plane.kubectl("annotate", "--overwrite", *names, f"looks={looks}", check=False)


@pytest.fixture
def empty_cluster(session_plane: ControlPlane, tmp_path: Path) -> Iterator[ControlPlane]:
    """A cluster without our kinds and without a release; what a test installs goes with it."""
    yield session_plane
    helm = Helm(tmp_path, session_plane.kubeconfig)
    for release in helm.json("list", "--all-namespaces"):
        helm.out("uninstall", release["name"], "--namespace", release["namespace"])
    delete_kinds(session_plane)
    namespaces = session_plane.kubectl("get", "namespaces", "-o", "name").stdout.split()
    for name in namespaces:
        if name.startswith("namespace/test-"):
            # Nobody ends namespaces here; what is in them must not be in the way of the next test.
            session_plane.kubectl(
                "delete", "all,secret,configmap,rolebinding,role", "--all", "-n", name.partition("/")[2]
            )


@pytest.fixture
def helm(tmp_path: Path) -> Helm:
    """Helm without a cluster."""
    return Helm(tmp_path)
