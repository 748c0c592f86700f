"""`python -m tests.node up | down`: make the cluster, or remove it, and say what was done and how to reach it."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial

import yaml

from tests.image import images
from tests.node import configuration, leftovers, network, servers
from tests.node.client import kubectl, ready
from tests.node.images import load
from tests.node.place import KUBECONFIG, LOGS
from tests.node.volumes import offer_class, offer_released_again, offer_volume
from tests.support.debian import need, on_path

USAGE = "usage: python -m tests.node up|down"
VOLUMES = 4
# Each package with a program of it by which it is found.
PACKAGES = {
    "iproute2": "ip",
    "iptables": "iptables",
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "conntrack": "conntrack",
    "mmdebstrap": "mmdebstrap",
    "busybox-static": "busybox",
}


def up() -> None:
    """Make the cluster, or leave a sound one as it is."""
    if ready():
        offer_released_again()
        say(f"The cluster runs already: KUBECONFIG={KUBECONFIG}")
        return
    if left := leftovers.found():
        say(f"Removing what an earlier cluster left ({len(left)} things)")
        leftovers.remove_everything()
    began = time.monotonic()
    for package, program in PACKAGES.items():
        need(package, partial(on_path, program))
    try:
        _start()
    except BaseException:
        say(f"It did not start. The logs are in {LOGS}; `make cluster-down` removes what is there.")
        raise
    say(
        f"A cluster of one node is ready after {time.monotonic() - began:.0f} s.\n"
        f"  reach it:  export KUBECONFIG={KUBECONFIG}\n"
        f"  logs:      {LOGS}\n"
        "  test:      make e2e\n"
        "  remove it: make cluster-down"
    )


def _start() -> None:
    network.make()
    leftovers.make_cgroups()
    configuration.write()
    for name in servers.ORDER[:3]:
        servers.start(name)
    servers.until(lambda: kubectl("get", "--raw=/readyz", check=False) == "ok", "the API server was ready")
    load(images.pause())
    load(images.postgresql())
    load(images.perdure())
    for name in servers.ORDER[3:]:
        servers.start(name)
    kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(configuration.DNS_OBJECTS))
    offer_class()
    for number in range(VOLUMES):
        offer_volume(f"volume-{number}")
    servers.until(ready, "the node was ready")


def down() -> None:
    """Remove the cluster, whatever state it is in."""
    if not leftovers.found():
        say("There is no cluster.")
        return
    leftovers.remove_everything()
    if left := leftovers.found():
        message = f"these are still there: {left}"
        raise RuntimeError(message)
    say("The cluster is gone: no process, mount, cgroup, network or file of it is left.")


def say(words: str) -> None:
    print(words, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Do as told; 1 with the reason when that did not work, 2 for words that mean nothing."""
    if list(arguments) not in (["up"], ["down"]):
        print(USAGE, file=sys.stderr)
        return 2
    if sys.platform != "linux" or os.geteuid() != 0:
        print(
            f"A node needs Linux and root: run `sudo make cluster-{arguments[0]}`."
            " With Docker, `make kind-up` makes a cluster without root.",
            file=sys.stderr,
        )
        return 1
    try:
        (up if arguments[0] == "up" else down)()
    except (RuntimeError, subprocess.SubprocessError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
