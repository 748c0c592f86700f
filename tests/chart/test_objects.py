"""What the chart renders is what a real API server takes: each object of each case, and each pod under the restricted
profile. Then what the objects have to say to be safe."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chart.foreign_kinds import FOREIGN, definitions
from tests.chart.golden import CASES, objects, render
from tests.operator.stage import RULES
from tests.support.helm import CHART, Helm
from tests.support.kubernetes import ControlPlane

NAMESPACES = ("prod", "team-a", "team-b")
by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)


@pytest.fixture(scope="module")
def cluster(session_plane: ControlPlane) -> Iterator[ControlPlane]:
    """A cluster with every kind of other projects, and with namespaces that only take restricted pods."""
    session_plane.kubectl("apply", "--server-side", "-f", "-", stdin=definitions())
    names = [f"crd/{name}" for name in FOREIGN]
    session_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    for name in NAMESPACES:
        label = {"pod-security.kubernetes.io/enforce": "restricted"}
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": label}}
        session_plane.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    yield session_plane
    session_plane.kubectl("delete", *names, "--timeout=60s")


def pods(rendered: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every pod that the objects make, with the name of its object."""
    for each in objects(rendered):
        name = each["metadata"]["name"]
        if each["kind"] == "Pod":
            yield name, each
        elif "template" in each.get("spec", {}):
            template = each["spec"]["template"]
            metadata = {**template["metadata"], "name": name, "namespace": each["metadata"]["namespace"]}
            spec = {**template["spec"]}
            claims = [claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", ())]
            spec["volumes"] = [
                *spec.get("volumes", ()),
                *({"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in claims),
            ]
            yield name, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def create_pod(plane: ControlPlane, pod: dict[str, Any]) -> tuple[int, str]:
    """Let the API server judge a pod; return its code and its words."""
    namespace = pod["metadata"]["namespace"]
    # Made by a controller that tests do not need; nothing else about a pod depends on it here.
    pod = {**pod, "spec": {name: value for name, value in pod["spec"].items() if name != "priorityClassName"}}
    answer = plane.request("POST", f"/api/v1/namespaces/{namespace}/pods?dryRun=All&fieldValidation=Strict", pod)
    return answer.status, str(answer.body.get("message", ""))


@by_case
def test_the_api_server_takes_every_object(cluster: ControlPlane, helm: Helm, case: Path) -> None:
    rendered = render(helm, case)
    answer = cluster.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=rendered)
    assert len(answer.stdout.splitlines()) == len(objects(rendered))
    assert "Warning" not in answer.stderr


def test_an_object_that_is_wrong_would_be_found(cluster: ControlPlane, helm: Helm) -> None:
    rendered = render(helm, CASES[0]).replace("maxUnavailable:", "maxUnavailabel:")
    answer = cluster.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=rendered, check=False)
    assert "maxUnavailabel" in answer.stderr


@by_case
def test_every_pod_is_allowed_where_only_restricted_pods_are(cluster: ControlPlane, helm: Helm, case: Path) -> None:
    rendered = render(helm, case)
    for name, pod in pods(rendered):
        assert create_pod(cluster, pod) == (201, ""), name


def test_a_pod_with_more_rights_would_be_refused(cluster: ControlPlane, helm: Helm) -> None:
    rendered = helm.out(
        *("template", "shop", str(CHART), "--namespace", "prod", "--values", str(CASES[0])),
        *("--set", "containerSecurityContext.capabilities=null,postgresql.mode=demo"),
    )
    answers = [create_pod(cluster, pod) for _, pod in pods(rendered)]
    assert answers
    for code, message in answers:
        assert code == 403
        assert "unrestricted capabilities" in message


@by_case
def test_no_container_of_ours_can_write_to_its_root_or_gain_rights(helm: Helm, case: Path) -> None:
    for name, pod in pods(render(helm, case)):
        for container in [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"], name
            assert not context["allowPrivilegeEscalation"], name
            assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"], name


@by_case
def test_only_the_operator_and_the_test_get_a_token_of_the_cluster(helm: Helm, case: Path) -> None:
    for name, pod in pods(render(helm, case)):
        if not name.endswith(("-operator", "-test")):
            assert pod["spec"]["automountServiceAccountToken"] is False, name


@by_case
def test_probes_ask_what_the_page_on_monitoring_says_they_should(helm: Helm, case: Path) -> None:
    asked = {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    for name, pod in pods(render(helm, case)):
        for container in pod["spec"]["containers"]:
            if container["name"] in ("operator", "worker"):
                assert {probe: container[probe]["httpGet"]["path"] for probe in asked} == asked, name


@by_case
def test_the_operator_finds_the_workers_pods(helm: Helm, case: Path) -> None:
    from perdure_operator.pods import LABEL

    label, _, value = LABEL.partition("=")
    for name, pod in pods(render(helm, case)):
        is_worker = "-worker-" in name
        assert (pod["metadata"]["labels"].get(label) == value) == is_worker, name
        if is_worker:
            (worker,) = (each for each in pod["spec"]["containers"] if each["name"] == "worker")
            fields = {each["name"]: each["valueFrom"] for each in worker["env"] if "valueFrom" in each}
            assert fields["POD_NAME"] == {"fieldRef": {"fieldPath": "metadata.name"}}
            assert fields["PERDURE_NAMESPACE"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}


def rights(rules: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """Return what rules allow, one right each."""
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize("cluster_wide", [False, True], ids=["in a namespace", "everywhere"])
def test_the_operator_may_do_what_its_own_tests_let_it_do_and_no_more(helm: Helm, cluster_wide: bool) -> None:
    switch = f"postgresql.mode=demo,rbac.clusterWide={str(cluster_wide).lower()}"
    rendered = helm.out(*("template", "x", str(CHART), "--set", switch, "--show-only", "templates/operator-rbac.yaml"))
    given = [rule for each in objects(rendered) for rule in each.get("rules", ())]
    assert rights(given) == rights(RULES)


@pytest.mark.parametrize(
    ("role", "allowed"),
    [("view", {"get"}), ("edit", {"create", "delete", "patch"}), ("admin", {"deletecollection"})],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_nobody_but_the_operator_writes_statuses(helm: Helm, role: str, allowed: set[str]) -> None:
    for each in objects(helm.out("template", "x", str(CHART), "--set", "postgresql.mode=demo")):
        labels = each["metadata"].get("labels", {})
        if labels.get(f"rbac.authorization.k8s.io/aggregate-to-{role}") == "true":
            given = rights(each["rules"])
            assert allowed <= {verb for _, _, verb in given}
            assert {resource for _, resource, _ in given} == {"workflowinstances"}
            return
    raise AssertionError(f"no role is added to {role}")
