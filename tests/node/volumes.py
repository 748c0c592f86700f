"""Volumes for pods that have to find their data again: folders of the cluster's, which go with it.

What lives here: `offer_class`, `offer_volume`, and `offer_released_again`, without which a cluster that is kept would
run out of them. What must not: their contents.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
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


def offer_free_volume(name: str) -> None:
    """Make sure that there is a volume for a claim to come; make one of this name where there is none."""
    offer_released_again()
    if not names_in_phase(_volumes(), "Available"):
        offer_volume(name)


def offer_released_again() -> None:
    """Empty every volume whose claim was deleted, and offer it to the next one."""
    for name in names_in_phase(_volumes(), "Released"):
        kubectl("delete", "persistentvolume", name)
        shutil.rmtree(VOLUMES / name)
        offer_volume(name)


def names_in_phase(volumes: Iterable[dict[str, Any]], phase: str) -> list[str]:
    """Return the names of those volumes that are folders of the cluster's, and in this phase."""
    return [
        volume["metadata"]["name"]
        for volume in volumes
        if volume["status"].get("phase") == phase
        and Path(volume["spec"].get("hostPath", {}).get("path", "/")) == VOLUMES / volume["metadata"]["name"]
    ]


def _volumes() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(kubectl("get", "persistentvolumes", "-o", "json"))["items"]
    return found


def _apply(document: dict[str, Any]) -> None:
    kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(document))
