"""Where the cluster is: its folder, names and addresses.

What lives here: constants, and the paths that follow from them. What must not: anything that does something. Nothing
is chosen at the start, so that whoever comes later, after a crash too, knows where to look.
"""

from pathlib import Path
from typing import Final

FOLDER: Final = Path("/var/tmp/perdure-cluster")
NAME: Final = "perdure"
"""Of the network namespace, the node and the cgroup."""
NAMESPACE: Final = Path("/run/netns") / NAME

KUBECONFIG: Final = FOLDER / "kubeconfig"
"""For whoever is outside the network namespace."""
INNER_KUBECONFIG: Final = FOLDER / "node" / "kubeconfig"
PKI: Final = FOLDER / "pki"
LOGS: Final = FOLDER / "logs"
VOLUMES: Final = FOLDER / "volumes"
"""For volumes of pods that have to outlive the pod."""
CONTAINERD: Final = FOLDER / "containerd"
SOCKET: Final = CONTAINERD / "containerd.sock"
KUBELET: Final = FOLDER / "kubelet"

OUTSIDE: Final = "10.201.0.1"
"""This machine's end of the wire into the namespace."""
INSIDE: Final = "10.201.0.2"
NODE: Final = "10.200.0.1"
PODS: Final = "10.244.0.0/24"
SERVICES: Final = "10.96.0.0/16"
API_SERVICE: Final = "10.96.0.1"
DNS_SERVICE: Final = "10.96.0.10"
API_PORT: Final = 6443
ETCD: Final = "http://127.0.0.1:2379"
PAUSE_IMAGE: Final = "docker.io/perdure/pause:1"
