"""The programs of the cluster as processes: started one by one, found by what they are, and ended.

What lives here: `start`, `stop`, `running`, and `until`. What must not: their configuration. The end-to-end tests stop
and start single ones from other processes than the one that made the cluster: nothing is remembered in memory.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.node.configuration import command
from tests.node.network import enter, members
from tests.node.place import FOLDER, LOGS

ORDER = (
    "etcd",
    "kube-apiserver",
    "containerd",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "coredns",
)
# Programs that end themselves where they do not trust what they know any more, for somebody to start them again.
KEPT = {"kube-controller-manager", "kube-scheduler"}
KEEPER = ("sh", "-c", 'while :; do "$@"; sleep 1; done', "keeper")
DEADLINE = 120.0


def start(name: str) -> None:
    """Start a program; it outlives this process. Does nothing when it runs already."""
    if running(name):
        return
    # What the user's environment says to a client (KUBECONFIG, HTTPS_PROXY, ETCD_*) is not for the cluster.
    environment = {"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin", "HOME": str(FOLDER)}
    with (LOGS / f"{name}.log").open("ab") as log:
        # Nobody's child: whoever starts it does not wait for its end.
        subprocess.run(
            ["setsid", "--fork", *enter(*(KEEPER if name in KEPT else ()), *command(name))],
            env=environment,
            cwd=FOLDER,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
        )


def stop(name: str, how: signal.Signals = signal.SIGKILL) -> None:
    """End a program and return when it has ended."""
    processes = running(name)
    for process in processes:
        os.kill(process, how)
    until(lambda: not processes & members().keys(), f"{name} has ended")


def running(name: str) -> set[int]:
    """Return the processes of a program: none or one."""
    return {process for process, line in members().items() if name in {Path(word).name for word in line[:2]}}


def until(holds: Callable[[], object], what: str, deadline: float = DEADLINE) -> None:
    """Return as soon as `holds` does; raise `RuntimeError` with what the logs end with when it takes too long."""
    end = time.monotonic() + deadline
    while not holds():
        if time.monotonic() > end:
            logs = "\n".join(f"--- {log} ---\n{tail(log)}" for log in sorted(LOGS.glob("*.log")))
            message = f"waited {deadline:g} s in vain until {what}\n{logs}"
            raise RuntimeError(message)
        time.sleep(0.1)


def tail(log: Path, lines: int = 8) -> str:
    """Return the end of a log."""
    return "\n".join(line[:400] for line in log.read_text(errors="replace").splitlines()[-lines:])
