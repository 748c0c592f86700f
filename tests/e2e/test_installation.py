"""What is there after `helm install`: it runs, it is what it says, and a user's three lines are enough."""

import json

import pytest
import yaml

from tests.e2e.cluster import until
from tests.e2e.conftest import Orders
from tests.e2e.installation import OPERATOR, RELEASE, WORKERS, Installation
from tests.e2e.machine import ROOT, Machine

EXAMPLE = ROOT / "examples" / "order"


def test_an_applied_instance_succeeds_and_kubectl_wait_says_so(shop: Installation, orders: Orders) -> None:
    ordered = orders(1, steps=2, seconds=0.1)
    shop.apply(ordered)
    (name,) = ordered
    shop.cluster.out("wait", "--for=condition=Finished", "--timeout=60s", f"wfi/{name}")
    shop.cluster.out("wait", "--for=condition=Succeeded", "--timeout=1s", f"wfi/{name}")
    shop.judge(ordered)


def test_helm_test_passes_and_its_log_tells_how_the_run_went(shop: Installation) -> None:
    said = shop.cluster.helm.out("test", RELEASE, "--logs", "--timeout=3m")
    assert "POD LOGS: perdure-test" in said
    assert '"phase": "Succeeded"' in said
    assert f'"result": "\\"hello, {shop.cluster.namespace}\\""' in said


@pytest.mark.parametrize("selector", [OPERATOR, WORKERS], ids=["the operator", "a worker"])
def test_a_container_can_write_nowhere_but_in_tmp_and_is_nobody(shop: Installation, selector: str) -> None:
    (pod,) = shop.cluster.pods(selector)
    shell = ("exec", pod, "--", "sh", "-c")
    assert shop.cluster.out(*shell, "id -u; id -g; pwd").split() == ["65532", "65532", "/app"]
    for place in ("/x", "/app/x", "/opt/perdure/x", "/usr/x"):
        assert "Read-only file system" in shop.cluster.run(*shell, f"touch {place}").stderr
    shop.cluster.out(*shell, "touch /tmp/x")
    missing = "for tool in gcc cc make pip pip3 git curl; do command -v $tool && exit 1; done; exit 0"
    assert shop.cluster.out(*shell, missing) == ""


def test_a_worker_has_no_token_of_the_api_server(shop: Installation) -> None:
    (pod,) = shop.cluster.pods(WORKERS)
    assert shop.cluster.run("exec", pod, "--", "ls", "/var/run/secrets/kubernetes.io").returncode != 0


def test_the_program_is_on_the_path_of_every_container(shop: Installation) -> None:
    (pod,) = shop.cluster.pods(WORKERS)
    assert shop.cluster.out("exec", pod, "--", "perdure", "version").startswith("perdure 0.1.0 (Python 3.11")


def test_the_program_answers_about_the_namespace_in_the_operators_pod_too(shop: Installation, orders: Orders) -> None:
    # Where all workers are scaled away there is no other pod to ask.
    ordered = orders(1, steps=1, seconds=0.1)
    shop.apply(ordered)
    (name,) = ordered
    shop.judge(ordered)
    (pod,) = shop.cluster.pods(OPERATOR)
    assert name in shop.cluster.out("exec", pod, "--", "perdure", "describe", name)


def test_three_lines_put_a_users_workflows_on_the_image(shop: Installation, machine: Machine) -> None:
    dockerfile = EXAMPLE / "Dockerfile"
    assert len(dockerfile.read_text().splitlines()) == 3
    machine.load(dockerfile, "docker.io/e2e/example:1")
    (worker,) = shop.cluster.get("deployments", WORKERS)
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    kept = ("name", "command", "env", "securityContext", "volumeMounts")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "example"},
        "spec": {
            **{key: worker["spec"]["template"]["spec"][key] for key in ("securityContext", "volumes")},
            "automountServiceAccountToken": False,
            "containers": [
                {
                    **{key: container[key] for key in kept if key in container},
                    "image": "docker.io/e2e/example:1",
                    "args": ["worker", "shop.orders", "--queue", "example"],
                }
            ],
        },
    }
    document = yaml.safe_load((EXAMPLE / "order.yaml").read_text())
    document["metadata"]["name"] = "example"
    document["spec"]["taskQueue"] = "example"
    shop.cluster.apply(pod, document)
    try:
        asked = "waiting for somebody to approve"
        until(lambda: shop.statuses()["example"].get("message") == asked, asked)
        shop.cluster.out("exec", "example", "--", "perdure", "signal", "example", "approve", "true")
        status = shop.until_phase(["example"], "Succeeded")["example"]
        assert json.loads(status["result"])["tracking"] == "parcel of 3 boxes"
    finally:
        shop.cluster.out("delete", "pod/example", "wfi/example")
