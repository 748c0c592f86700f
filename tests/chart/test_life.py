"""The life of a release on a real API server: install, upgrade, roll back, uninstall and install again, with instances
that live through all of it. What its containers would run, runs: see `installation`."""

import re
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from tests.chart.installation import Installation
from tests.support.cli import ROOT, Cli, eventually
from tests.support.helm import CHART
from tests.support.instances import document
from tests.support.kubernetes import ControlPlane
from tests.support.tool import CommandError

DEFINITION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/workflowinstances.perdure.dev"


@pytest.fixture
def installation(empty_cluster: ControlPlane, database: str, tmp_path: Path) -> Installation:
    return Installation(empty_cluster, tmp_path, database)


@pytest.fixture
def cli(installation: Installation, database: str, tmp_path: Path) -> Cli:
    found = Cli(database, tmp_path)
    found.environment["PERDURE_NAMESPACE"] = installation.namespace
    return found


def apply(installation: Installation, name: str, workflow: str, **spec: Any) -> None:
    """Create an instance, as soon as the API server knows the kind."""
    eventually(
        lambda: installation.instances.create(name, {"workflow": workflow, **spec}).status in (201, 409),
        "the kind to be known",
    )


def until_phase(installation: Installation, name: str, wanted: str) -> dict[str, Any]:
    """Wait until an instance is in this phase and return its status."""

    def look() -> dict[str, Any]:
        status: dict[str, Any] = installation.instances.read(name).get("status", {})
        return status if status.get("phase") == wanted else {}

    return eventually(look, f"{name} to be {wanted}")


def test_one_command_brings_everything_that_an_instance_needs(installation: Installation) -> None:
    said = installation.command("install")
    assert f"kubectl -n {installation.namespace} get pods" in said
    assert "helm test shop" in said
    with installation.running("operator") as operator, installation.running("worker-default") as worker:
        apply(installation, "first", "greet", input={"name": "Ada"})
        assert until_phase(installation, "first", "Succeeded")["result"] == '"hello Ada"'
        for container in (operator, worker):
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert container.probe(probe) == 200, f"{container.spec['name']}: {probe}"


def test_the_notes_say_how_to_add_workers_and_that_works_with_a_tag_that_is_a_number(
    installation: Installation,
) -> None:
    said = installation.helm.out("install", "shop", str(CHART), "--set", "postgresql.external.existingSecret=database")
    found = re.search(r"^ +helm (upgrade .*?)\n\n", said.replace("\\\n", " "), re.MULTILINE | re.DOTALL)
    assert found is not None, said
    filled = {"CHART": str(CHART), "IMAGE": "registry.example/shop", "TAG": "7", "your.module": "shop.orders"}
    command = re.sub("|".join(filled), lambda word: filled[word[0]], found[1])
    installation.helm.out(*shlex.split(command))
    pod = installation.deployment("worker-default")["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "registry.example/shop:7"
    assert "shop.orders" in pod["containers"][0]["args"]


def test_each_process_has_no_more_connections_than_the_page_on_sizing_says(
    installation: Installation, database: str
) -> None:
    said = re.search(
        r"at most (\d+) a worker process, (\d+) an operator", (ROOT / "docs/operations/sizing.md").read_text()
    )
    assert said is not None
    installation.command("install")
    with installation.running("operator"):
        with installation.running("worker-default"):
            for number in range(50):
                apply(installation, f"n-{number}", "greet", input={"name": "Ada"})
            until_phase(installation, "n-49", "Succeeded")
            assert connections(database) <= int(said[1]) + int(said[2])
        eventually(lambda: connections(database) <= int(said[2]), "the connections of the operator alone")


def connections(database: str) -> int:
    """Return how many connections the database has, but for this one."""
    question = "SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()"
    with psycopg.connect(database) as connection:
        row = connection.execute(question).fetchone()
    assert row is not None
    return int(row[0])


def test_helm_test_runs_a_workflow_with_no_more_rights_than_that_takes(installation: Installation) -> None:
    installation.command("install")
    pod = installation.test_objects()["Pod"]["spec"]
    (container,) = pod["containers"]
    script = installation.folder / "helm_test.py"
    script.write_text(installation.test_objects()["ConfigMap"]["data"]["helm_test.py"])
    account = installation.account_folder(pod["serviceAccountName"])
    host, _, port = installation.plane.url.removeprefix("https://").partition(":")
    address = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port, "SERVICE_ACCOUNT": str(account)}
    container["command"][1] = str(script)
    apply(installation, "other", "greet", input={"name": "Ada"})
    with installation.running("operator"):
        with installation.container(pod, container, **address) as passing:
            assert passing.exit_code() == 0, passing.text()
            assert '"result": "\\"hello' in passing.text()
        # A workflow of the pools, which nobody runs here: the test has to fail, and to say what it saw.
        unserved = {"WORKFLOW": "greet", "SPEC": '{"input": {"name": "Ada"}}', "TIMEOUT": "3"}
        with installation.container(pod, container, **address, **unserved) as failing:
            assert failing.exit_code() == 1
            assert '"phase": "Pending"' in failing.text()
    # It leaves nothing behind.
    left = installation.plane.kubectl("get", "wfi", "-n", installation.namespace, "-o", "name").stdout
    assert left.split() == ["workflowinstance.perdure.dev/other"]


def test_workers_wait_for_the_schema_and_can_be_stopped_meanwhile(installation: Installation) -> None:
    installation.command("install")
    pod = installation.deployment("worker-default")["spec"]["template"]["spec"]
    (schema,) = pod["initContainers"]
    with installation.container(pod, schema) as stopped, installation.container(pod, schema) as waiting:
        for each in (stopped, waiting):
            each.until("waiting: database .* has no Perdure schema")
        stopped.process.send_signal(signal.SIGTERM)
        # By its own will: the first process of a container would not even notice a signal that it does not handle.
        assert stopped.exit_code() == 128 + signal.SIGTERM
        with installation.running("operator") as operator:
            operator.until(" leads ")
            assert waiting.exit_code() == 0, waiting.text()


def test_instances_live_through_upgrade_rollback_and_uninstall(installation: Installation, cli: Cli) -> None:
    installation.command("install")
    with installation.running("operator"), installation.running("worker-default"):
        apply(installation, "done", "greet", input={"name": "Ada"})
        apply(installation, "open", "approval")
        until_phase(installation, "done", "Succeeded")
        until_phase(installation, "open", "Running")
        installed = installation.names()
        installation.command("upgrade", "--set", "operator.replicas=2,workers.more.modules={more}")
        assert {"deployment.apps/shop-perdure-worker-more"} <= installation.names() - installed
        installation.helm.out("rollback", "shop", "1")
        assert installation.names() == installed
    before = [installation.instances.read(name) for name in ("done", "open")]
    installation.helm.out("uninstall", "shop")
    assert installation.names() == set()
    # Its end takes a while; that it has begun shows at once.
    assert "deletionTimestamp" not in installation.plane.request("GET", DEFINITION).body["metadata"]
    assert [installation.instances.read(name) for name in ("done", "open")] == before
    installation.command("install")
    assert installation.names() == installed
    with installation.running("operator"), installation.running("worker-default"):
        cli.out("signal", "open", "approve", "yes")
        assert until_phase(installation, "open", "Succeeded")["result"] == '"yes"'
    assert installation.instances.read("done") == before[0]


def test_scaling_by_kubectl_outlasts_an_upgrade(installation: Installation) -> None:
    installation.command("install")
    scale = ("scale", "-n", installation.namespace, "deployment/shop-perdure-worker-default", "--replicas=5")
    installation.plane.kubectl(*scale)
    installation.command("upgrade", "--set", "workers.default.drainSeconds=10")
    deployment = installation.deployment("worker-default")["spec"]
    assert deployment["replicas"] == 5
    assert deployment["template"]["spec"]["terminationGracePeriodSeconds"] == 25


def test_a_number_in_the_values_and_another_by_kubectl_are_a_conflict_that_is_named(installation: Installation) -> None:
    installation.command("install", "--set", "workers.default.replicas=2")
    scale = ("scale", "-n", installation.namespace, "deployment/shop-perdure-worker-default", "--replicas=5")
    installation.plane.kubectl(*scale)
    with pytest.raises(CommandError, match=r'conflict with "kubectl".*\.spec\.replicas'):
        installation.command("upgrade", "--set", "workers.default.replicas=3")


def test_an_upgrade_brings_the_fields_of_a_new_resource_definition(installation: Installation, tmp_path: Path) -> None:
    installation.command("install")
    apply(installation, "first", "greet")
    before = installation.instances.read("first")
    newer = tmp_path / "newer"
    shutil.copytree(CHART, newer)
    file = newer / "files" / "crds" / "workflowinstances.yaml"
    definition = yaml.safe_load(file.read_text())
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"]["properties"]["colour"] = {"type": "string", "description": "A field of tomorrow."}
    file.write_text(yaml.safe_dump(definition))
    installation.helm.out("upgrade", "shop", str(newer), "--reuse-values")
    coloured = document("second", {"workflow": "greet", "colour": "red"})
    path = f"/apis/perdure.dev/v1/namespaces/{installation.namespace}/workflowinstances?dryRun=All"

    def takes_it() -> bool:
        return "colour" in installation.plane.request("POST", path, coloured).body.get("spec", {})

    eventually(takes_it, "the new field")
    assert installation.instances.read("first") == before


def test_one_release_has_the_resource_definitions_and_others_do_without(
    installation: Installation, database: str, tmp_path: Path
) -> None:
    installation.command("install")
    (tmp_path / "other").mkdir()
    other = Installation(installation.plane, tmp_path / "other", database)
    with pytest.raises(CommandError, match="invalid ownership metadata"):
        other.command("install")
    other.command("install", "--set", "crds.enabled=false,operator.enabled=false")
    assert {name for name in other.names() if name.startswith("deployment")} == {
        "deployment.apps/shop-perdure-worker-default"
    }


@pytest.mark.parametrize("how", ["everywhere", "by name"])
def test_one_operator_serves_workers_of_several_namespaces(
    installation: Installation, database: str, tmp_path: Path, how: str
) -> None:
    (tmp_path / "other").mkdir()
    other = Installation(installation.plane, tmp_path / "other", database)
    named = f"operator.watchNamespaces={{{installation.namespace},{other.namespace}}}"
    installation.command("install", "--set", "rbac.clusterWide=true" if how == "everywhere" else named)
    other.command("install", "--set", "crds.enabled=false,operator.enabled=false")
    with installation.running("operator"), installation.running("worker-default"), other.running("worker-default"):
        for each, name in ((installation, "Ada"), (other, "Grace")):
            apply(each, "first", "greet", input={"name": name})
        assert until_phase(installation, "first", "Succeeded")["result"] == '"hello Ada"'
        assert until_phase(other, "first", "Succeeded")["result"] == '"hello Grace"'


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in another namespace"])
def test_another_release_takes_the_resource_definitions_over_when_it_is_told_to(
    installation: Installation, database: str, tmp_path: Path, elsewhere: bool
) -> None:
    installation.command("install")
    apply(installation, "first", "greet")
    installation.helm.out("uninstall", "shop")
    (tmp_path / "later").mkdir()
    later = Installation(installation.plane, tmp_path / "later", database) if elsewhere else installation
    arguments = ("install", "flows", str(CHART), "--set", "postgresql.external.existingSecret=database")
    with pytest.raises(CommandError, match="invalid ownership metadata"):
        later.helm.out(*arguments)
    assert "`invalid ownership metadata`" in (ROOT / "docs/operations/troubleshooting.md").read_text()
    assert "--take-ownership" in later.helm.out(*arguments, "--take-ownership"), "the notes say it for the next time"
    owner = installation.plane.request("GET", DEFINITION).body["metadata"]["annotations"]
    assert owner["meta.helm.sh/release-name"] == "flows"
    assert owner["meta.helm.sh/release-namespace"] == later.namespace
    assert installation.instances.read("first")["spec"]["workflow"] == "greet"


def test_a_release_takes_resource_definitions_over_that_were_applied_by_hand(installation: Installation) -> None:
    file = CHART / "files" / "crds" / "workflowinstances.yaml"
    older = yaml.safe_load(file.read_text())
    columns = older["spec"]["versions"][0]["additionalPrinterColumns"]
    wanted = [column["name"] for column in columns]
    columns[0]["name"] = "Of Yesterday"
    installation.plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(older))
    with pytest.raises(CommandError, match="invalid ownership metadata"):
        installation.command("install")
    with pytest.raises(CommandError, match='conflict with "kubectl-client-side-apply"'):
        installation.command("install", "--take-ownership")
    installation.helm.out("uninstall", "shop")
    installation.command("install", "--take-ownership", "--force-conflicts")
    now = installation.plane.request("GET", DEFINITION).body["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [column["name"] for column in now] == wanted


def test_the_password_of_the_demo_database_stays_over_upgrade_and_reinstallation(installation: Installation) -> None:
    def password() -> str:
        path = f"/api/v1/namespaces/{installation.namespace}/secrets/shop-perdure-demo-db"
        found: str = installation.plane.request("GET", path).body["data"]["password"]
        return found

    demo = ("--set", "postgresql.mode=demo")
    assert "NOT FOR PRODUCTION" in installation.command("install", *demo)
    drawn = password()
    installation.command("upgrade", *demo, "--set", "operator.replicas=2")
    assert password() == drawn
    installation.helm.out("uninstall", "shop")
    installation.command("install", *demo)
    assert password() == drawn
