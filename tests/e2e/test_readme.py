"""What the README says about a cluster, word for word: a stranger's first minutes."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.cluster import Cluster, lent_namespace
from tests.e2e.installation import Installation
from tests.e2e.machine import ROOT, Machine

NAMESPACE = "perdure-e2e-readme"
IMAGE = "docker.io/library/shop:v1"


def commands() -> list[list[str]]:
    """Return the words of every command in the README's section."""
    section = (ROOT / "README.md").read_text().partition("## On a cluster")[2]
    block = section.partition("```console\n")[2].partition("```")[0].replace("\\\n", " ")
    return [shlex.split(line.removeprefix("$ "), comments=True) for line in block.splitlines()]


@pytest.fixture
def stranger(shop: Installation, machine: Machine, tmp_path: Path) -> Iterator[Cluster]:
    """A namespace with a Secret that has the URL of an empty database, and the image of the example on the node."""
    machine.load(ROOT / "examples" / "order" / "Dockerfile", IMAGE)
    with shop.database() as connection:
        connection.execute("DROP DATABASE IF EXISTS readme WITH (FORCE)")
        connection.execute("CREATE DATABASE readme")
    url = urlsplit(shop.inside_url())._replace(path="/readme").geturl()
    with lent_namespace(machine.kubeconfig, NAMESPACE, tmp_path) as cluster:
        cluster.out("create", "secret", "generic", "database", f"--from-literal=uri={url}")
        yield cluster


def test_the_commands_of_the_readme_work_one_after_the_other(stranger: Cluster) -> None:
    # The resource definitions are there already, and belong to the installation of the other tests.
    beside = {"install": ["--set", "crds.enabled=false"]}
    said = {}
    for program, *words in commands():
        placed = [str(ROOT / word) if word.startswith(("charts/", "examples/")) else word for word in words]
        tool = {"helm": stranger.helm, "kubectl": stranger}[program]
        said[words[0]] = tool.out(*placed, *beside.get(words[0], []))
    assert said["install"].count("perdure-worker-shop") == 1
    assert "Succeeded" in said["test"]
    result = json.loads(stranger.json("get", "wfi", "order-1")["status"]["result"])
    assert result["tracking"] == "parcel of 3 boxes", "the order was not approved"
    stranger.until_ready("perdure.dev/pool=shop", 3)
