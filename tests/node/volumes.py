"""Volumes for pods that have to find their data again: folders of the cluster's, which go with it.

What lives here: `offer_class` and `offer_volume`. What must not: their contents.
"""

from typing import Any

import yaml

from tests.node.client import kubectl
from tests.node.place import VOLUMES

CLASS = "standard"


def offer_class() -> None:
    """Make the class from which claims that name none are served."""
    _apply(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        }
    )


def offer_volume(name: str) -> None:
    """Make a volume that one claim may have."""
    folder = VOLUMES / name
    folder.mkdir(parents=True, exist_ok=True)
    # The kubelet gives no folder of the machine to a pod's group.
    folder.chmod(0o777)
    _apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "storageClassName": CLASS,
                "capacity": {"storage": "10Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": str(folder)},
            },
        }
    )


def _apply(document: dict[str, Any]) -> None:
    kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(document))
