"""kubectl as the administrator of the one-node cluster, for its own start.

What lives here: `kubectl` and `ready`. What must not: tests.
"""

import json
import os
import subprocess

from tests.node.place import KUBECONFIG
from tests.node.servers import ORDER, running
from tests.support.kubernetes_programs import program_command


def kubectl(*arguments: str, stdin: str = "", check: bool = True) -> str:
    """Run kubectl and return what it printed; raise `RuntimeError` with what it said if it fails."""
    done = subprocess.run(
        [*program_command("kubectl"), f"--kubeconfig={KUBECONFIG}", *arguments],
        env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(KUBECONFIG.parent)},
        input=stdin,
        check=False,
        capture_output=True,
        text=True,
    )
    if check and done.returncode != 0:
        message = f"`kubectl {' '.join(arguments)}` ended with {done.returncode}: {done.stderr.strip()}"
        raise RuntimeError(message)
    return done.stdout


def ready() -> bool:
    """Tell whether every program runs and the node takes pods."""
    if not KUBECONFIG.exists() or not all(map(running, ORDER)):
        return False
    answer = kubectl("get", "nodes", "--request-timeout=5s", "-o", "json", check=False)
    nodes = json.loads(answer)["items"] if answer else []
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for node in nodes
        for condition in node["status"]["conditions"]
    )
