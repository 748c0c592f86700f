"""The network of the cluster: a namespace with the node's address in it and one wire out of it.

What lives here: making it, and what runs in it. What must not: what is started there. Nothing leaves the namespace but
what this machine itself asks over the wire.
"""

import subprocess
from pathlib import Path

from tests.node.place import INSIDE, NAME, NAMESPACE, NODE, OUTSIDE

WIRE = f"{NAME}0"


def enter(*command: str) -> list[str]:
    """Return the command that runs `command` inside the namespace."""
    # Not `ip netns exec`: it mounts /sys anew, without the cgroups that a kubelet needs.
    return ["nsenter", f"--net={NAMESPACE}", "--", *command]


def make() -> None:
    """Make the namespace: the node is a bridge in it, since any address has to be on some device."""
    run("ip", "netns", "add", NAME)
    run("ip", "link", "add", WIRE, "type", "veth", "peer", "name", "eth0", "netns", NAME)
    run("ip", "address", "add", f"{OUTSIDE}/30", "dev", WIRE)
    run("ip", "link", "set", WIRE, "up")
    within = ("ip", "-n", NAME)
    run(*within, "link", "set", "lo", "up")
    run(*within, "address", "add", f"{INSIDE}/30", "dev", "eth0")
    run(*within, "link", "set", "eth0", "up")
    run(*within, "link", "add", "node0", "type", "bridge")
    run(*within, "address", "add", f"{NODE}/24", "dev", "node0")
    run(*within, "link", "set", "node0", "up")
    # Programs look for the default route to learn which address is the machine's own.
    run(*within, "route", "add", "default", "dev", "node0", "src", NODE)
    run(*enter("sysctl", "-q", "-w", "net.ipv4.ip_forward=1"))


def remove() -> None:
    """Remove the namespace and the wire; nothing happens where there is none."""
    if NAMESPACE.exists():
        run("ip", "netns", "delete", NAME)
    if Path("/sys/class/net", WIRE).exists():
        run("ip", "link", "delete", WIRE)


def members() -> dict[int, list[str]]:
    """Return the processes in the namespace, each with its command line; pods have networks of their own."""
    if not NAMESPACE.exists():
        return {}
    found = {}
    for word in run("ip", "netns", "pids", NAME).split():
        try:
            line = Path("/proc", word, "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # One that has ended and is not collected yet has no command line.
        if line:
            found[int(word)] = line.decode(errors="replace").rstrip("\0").split("\0")
    return found


def run(*command: str) -> str:
    """Run a command to its end and return what it printed; raise `RuntimeError` with what it said if it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        message = f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()}"
        raise RuntimeError(message)
    return done.stdout
