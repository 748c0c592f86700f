"""The one-node cluster without a node: what its programs are told, and what it knows of the machine around it.

Nothing here starts, stops or removes anything of a cluster, so that one may run on the same machine. That it starts,
works and leaves nothing is what `make cluster-up e2e cluster-down` shows.
"""

import ipaddress
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.node import configuration, leftovers, network, servers
from tests.node.__main__ import USAGE, main
from tests.node.place import API_SERVICE, DNS_SERVICE, FOLDER, INSIDE, NODE, OUTSIDE, PODS, SERVICES, VOLUMES
from tests.node.volumes import names_in_phase

OWN_PROGRAMS = sorted({*servers.ORDER} - {"containerd", "coredns"})


@pytest.mark.parametrize("words", [[], ["sideways"], ["up", "down"]])
def test_words_that_mean_nothing_are_answered_with_the_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.strip() == USAGE


@pytest.mark.parametrize("name", OWN_PROGRAMS)
def test_a_program_knows_every_flag_that_it_is_given(name: str) -> None:
    program, itself, *flags = configuration.command(name)
    assert itself == name
    told = subprocess.run([program, name, "--help"], check=True, capture_output=True, text=True)
    # etcd tells what it can do on the other stream.
    known = (told.stdout + told.stderr).split()
    assert flags
    for flag in flags:
        assert flag.partition("=")[0] in known


def test_every_program_is_started_once_and_after_what_it_needs() -> None:
    assert len({*servers.ORDER}) == len(servers.ORDER)
    assert servers.ORDER[:3] == ("etcd", "kube-apiserver", "containerd")
    assert servers.ORDER.index("containerd") < servers.ORDER.index("kubelet")
    assert {*servers.ORDER} > servers.KEPT


def test_addresses_of_the_node_its_pods_and_its_services_are_apart() -> None:
    pods, services = ipaddress.ip_network(PODS), ipaddress.ip_network(SERVICES)
    assert not pods.overlaps(services)
    for outer in (NODE, INSIDE, OUTSIDE):
        assert ipaddress.ip_address(outer) not in pods
        assert ipaddress.ip_address(outer) not in services
    # The API server takes the first address of the range for itself.
    assert ipaddress.ip_address(API_SERVICE) == next(services.hosts())
    assert ipaddress.ip_address(DNS_SERVICE) in services
    assert {OUTSIDE, INSIDE} <= {str(each) for each in ipaddress.ip_network(f"{OUTSIDE}/30", strict=False).hosts()}


def test_a_command_that_fails_says_which_and_why() -> None:
    assert network.run("echo", "words") == "words\n"
    with pytest.raises(RuntimeError, match=r"`sh -c echo why >&2; exit 3` ended with 3: why"):
        network.run("sh", "-c", "echo why >&2; exit 3")


def test_who_waits_in_vain_is_shown_the_ends_of_the_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etcd.log").write_text("".join(f"line {number} {'x' * 500}\n" for number in range(20)))
    monkeypatch.setattr(servers, "LOGS", tmp_path)
    with pytest.raises(RuntimeError) as raised:
        servers.until(lambda: False, "it was there", deadline=0)
    lines = str(raised.value).splitlines()
    assert lines[:2] == ["waited 0 s in vain until it was there", f"--- {tmp_path}/etcd.log ---"]
    assert [line.split()[1] for line in lines[2:]] == [str(number) for number in range(12, 20)]
    assert max(map(len, lines[2:])) == 400


def test_a_process_that_has_ended_can_be_ended_again() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
        leftovers.kill(process.pid)


def test_only_a_mount_itself_counts_as_one(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/proc")
    assert leftovers.in_mounts(Path("/proc"))
    assert not leftovers.in_mounts(link)
    assert not leftovers.in_mounts(tmp_path)


def test_links_to_logs_of_other_clusters_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "LINKS", tmp_path)
    (tmp_path / "ours").symlink_to(FOLDER / "kubelet" / "pod-logs" / "0.log")
    (tmp_path / "theirs").symlink_to("/var/log/pods/0.log")
    (tmp_path / "neighbour").symlink_to(f"{FOLDER}-of-somebody/0.log")
    (tmp_path / "file").touch()
    assert leftovers.log_links() == [tmp_path / "ours"]


def test_only_folders_of_the_cluster_are_offered_again() -> None:
    def volume(name: str, phase: str, **spec: Any) -> dict[str, Any]:
        return {"metadata": {"name": name}, "spec": spec, "status": {"phase": phase}}

    def folder(name: str) -> dict[str, str]:
        return {"path": str(VOLUMES / name)}

    volumes = [
        volume("released", "Released", hostPath=folder("released")),
        volume("taken", "Bound", hostPath=folder("taken")),
        volume("free", "Available", hostPath=folder("free")),
        volume("of-a-user", "Released", hostPath={"path": "/srv/data"}),
        volume("under-another-name", "Released", hostPath=folder("released")),
        volume("of-a-provider", "Released", csi={"driver": "disk"}),
    ]
    assert names_in_phase(volumes, "Released") == ["released"]
    assert names_in_phase(volumes, "Available") == ["free"]
