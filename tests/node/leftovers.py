"""What the cluster has on this machine outside its programs' memory, and its removal, whatever state it is in.

What lives here: `remove_everything` and `found`. What must not: trust in an orderly end; all of it is found by the
namespace, the cgroup and the folder, so that it works after a crash as well.
"""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tests.node import network
from tests.node.place import FOLDER, NAME, NAMESPACE

CGROUPS = Path("/sys/fs/cgroup")
LINKS = Path("/var/log/containers")
# Places that cannot be chosen. A kubelet or a containerd that is not ours may be there too: only our sockets go, and
# folders that are empty then.
SOCKETS = ("/run/containerd/s/", "/var/lib/kubelet/device-plugins/")
SHARED = (Path("/var/lib/kubelet/device-plugins"), Path("/var/lib/kubelet"), LINKS)
PATIENCE = 30.0


def found() -> list[str]:
    """Name everything that is left; an empty list means nothing is."""
    left = [f"process {process}: {' '.join(line[:2])}" for process, line in network.members().items()]
    left += [f"process of a pod: {process}" for process in pod_processes()]
    left += [f"mount {mount}" for mount in mounts()]
    left += [f"cgroup {cgroup}" for cgroup in cgroup_roots()]
    left += [f"log link {link}" for link in log_links()]
    left += [str(path) for path in (NAMESPACE, Path("/sys/class/net", network.WIRE), FOLDER) if path.exists()]
    return left


def remove_everything() -> None:
    """End every process and remove everything that `found` would name; nothing happens where there is nothing."""
    sockets = sockets_elsewhere()
    end = time.monotonic() + PATIENCE
    # The kubelet and containerd start what ends, so a second round finds what the first one overlooked.
    while processes := [*network.members(), *pod_processes()]:
        for process in processes:
            kill(process)
        if time.monotonic() > end:
            message = f"these processes of the cluster do not end: {processes}"
            raise RuntimeError(message)
        time.sleep(0.05)
    for mount in reversed(mounts()):
        network.run("umount", "--lazy", mount)
    for root in cgroup_roots():
        for folder, _, _ in os.walk(root, topdown=False):
            Path(folder).rmdir()
    for path in [*sockets, *log_links()]:
        path.unlink(missing_ok=True)
    for path in SHARED:
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    network.remove()
    if FOLDER.exists():
        shutil.rmtree(FOLDER)


def kill(process: int) -> None:
    """End a process that may have ended already."""
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        pass


def pod_processes() -> list[int]:
    """Return the processes in the cgroups of the cluster, zombies left out."""
    lists = [path for root in cgroup_roots() for path in root.rglob("cgroup.procs")]
    processes = {int(word) for path in lists for word in path.read_text().split()}
    return [process for process in processes if Path(f"/proc/{process}/cmdline").read_bytes()]


def mounts() -> list[str]:
    """Return what is mounted below the folder, outermost first."""
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return [point for point in points if point.startswith(f"{FOLDER}/")]


def cgroup_roots() -> list[Path]:
    """Return the cluster's cgroups, one for each hierarchy."""
    return [path / NAME for path in hierarchies() if (path / NAME).exists()]


def hierarchies() -> list[Path]:
    """Return where the kernel's cgroups are mounted: one place, or one for each controller."""
    return [path for path in [CGROUPS, *CGROUPS.iterdir()] if (path / "cgroup.procs").exists() and in_mounts(path)]


def in_mounts(path: Path) -> bool:
    """Tell whether something is mounted at a path, links to other mounts left out."""
    return not path.is_symlink() and path.is_mount()


def make_cgroups() -> None:
    """Make the cgroup below which all pods are; the kubelet wants to find it."""
    for hierarchy in hierarchies():
        (hierarchy / NAME).mkdir(exist_ok=True)


def log_links() -> list[Path]:
    """Return the links to logs of our pods that a kubelet makes in a place that cannot be chosen."""
    return list(_links()) if LINKS.is_dir() else []


def _links() -> Iterator[Path]:
    for link in LINKS.iterdir():
        if link.is_symlink() and str(link.readlink()).startswith(f"{FOLDER}/"):
            yield link


def sockets_elsewhere() -> list[Path]:
    """Return the sockets of the cluster's programs that are in folders which they share with others."""
    for process in network.members():
        # The kernel lists the sockets of a network namespace, whoever in it is asked for them.
        words = [line.split() for line in Path(f"/proc/{process}/net/unix").read_text().splitlines()]
        return [Path(line[7]) for line in words if len(line) > 7 and line[7].startswith(SOCKETS)]
    return []
