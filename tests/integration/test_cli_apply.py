"""`perdure apply`: documents without a cluster, started once each, however often they are applied."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import Cli

ORDER = """\
apiVersion: perdure.dev/v1
kind: WorkflowInstance
metadata:
  name: {name}
spec:
  workflow: greet
  input: {{name: Ada, times: 2}}
"""


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "greet.yaml"
    path.write_text(ORDER.format(name="greet-1"))
    return path


def test_a_document_starts_its_instance_once_also_after_it_has_finished(cli: Cli, document: Path) -> None:
    assert cli.out("apply", "-f", str(document)) == "workflowinstance/greet-1 created\n"
    assert cli.out("apply", "-f", str(document)) == "workflowinstance/greet-1 unchanged\n"
    with cli.worker():
        assert cli.out("result", "greet-1", "--timeout", "60") == '{"text":"hello Adahello Ada","attempts":1}\n'
    assert cli.out("apply", "-f", str(document)) == "workflowinstance/greet-1 unchanged\n"
    assert len(cli.json("list")) == 1
    assert cli.lines("notes") == ["Ada"]


@pytest.mark.parametrize(
    ("field", "before", "after"),
    [
        ("workflow", "workflow: greet", "workflow: failing"),
        ("input", "times: 2", "times: 3"),
        ("taskQueue", "workflow: greet", "workflow: greet\n  taskQueue: express"),
        ("priority", "workflow: greet", "workflow: greet\n  priority: 7"),
    ],
)
def test_a_changed_document_is_refused_by_the_name_of_the_field(
    cli: Cli, document: Path, field: str, before: str, after: str
) -> None:
    cli.out("apply", "-f", str(document))
    document.write_text(document.read_text().replace(before, after))
    refused = cli.run("apply", "-f", str(document))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"workflowinstance/greet-1: spec.{field} cannot be changed" in refused.stderr
    assert "give the document another name" in refused.stderr


def test_cancel_in_a_document_cancels_its_run_once(cli: Cli, document: Path) -> None:
    cli.out("apply", "-f", str(document))
    document.write_text(document.read_text() + "  cancel: {reason: changed my mind}\n")
    assert cli.out("apply", "-f", str(document)) == "workflowinstance/greet-1 cancel requested\n"
    assert cli.out("apply", "-f", str(document)) == "workflowinstance/greet-1 unchanged\n"
    with cli.worker():
        assert cli.run("result", "greet-1", "--timeout", "60").returncode == 1
    assert cli.describe("greet-1")["phase"] == "Cancelled"
    assert cli.out("apply", "-f", str(document)) == "workflowinstance/greet-1 unchanged\n"


def test_a_document_that_says_cancel_from_the_beginning_starts_nothing(cli: Cli, document: Path) -> None:
    document.write_text(document.read_text() + "  cancel: {reason: changed my mind}\n")
    assert "not started" in cli.out("apply", "-f", str(document))
    assert cli.json("list") == []


def test_folders_and_stdin_and_several_documents_in_a_file_are_applied(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "b.yaml").write_text(ORDER.format(name="b-1") + "---\n" + ORDER.format(name="b-2"))
    (folder / "a.yml").write_text(ORDER.format(name="a-1"))
    (folder / "notes.txt").write_text("not a document")
    lines = cli.out("apply", "-f", str(folder), "-f", "-", stdin=ORDER.format(name="c-1")).splitlines()
    assert lines == [f"workflowinstance/{name} created" for name in ("a-1", "b-1", "b-2", "c-1")]


def test_a_namespace_in_the_document_is_where_it_runs(cli: Cli, document: Path) -> None:
    document.write_text(document.read_text().replace("name: greet-1", "name: greet-1\n  namespace: shop"))
    cli.out("apply", "-f", str(document))
    assert [run["id"] for run in cli.json("list", "-n", "shop")] == ["greet-1"]
    assert cli.json("list") == []
    refused = cli.run("apply", "-f", str(document), "-n", "bank")
    assert refused.returncode == 2
    assert "metadata.namespace is shop, but --namespace says bank" in refused.stderr


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("workflow: greet", "workflow: 7", "spec.workflow: expected str, got int"),
        ("  workflow: greet\n", "", "spec: object missing required field workflow"),
        ("kind: WorkflowInstance", "kind: Deployment", "kind: expected WorkflowInstance, found 'Deployment'"),
        ("name: greet-1", "labels: {}", "metadata.name: a name is required"),
        ("workflow: greet", "workflow: greet\n  wrokflow: x", "wrokflow"),
        ("spec:", "spec: [", "is not YAML"),
    ],
)
def test_nothing_is_applied_when_one_document_is_bad(
    cli: Cli, tmp_path: Path, before: str, after: str, complaint: str
) -> None:
    path = tmp_path / "orders.yaml"
    path.write_text(ORDER.format(name="good-1") + "---\n" + ORDER.format(name="greet-1").replace(before, after))
    refused = cli.run("apply", "-f", str(path))
    assert refused.returncode == 2
    assert str(path) in refused.stderr
    assert complaint in refused.stderr
    assert cli.json("list") == []


def test_a_file_that_is_not_there_is_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    missing = cli.run("apply", "-f", "no-such.yaml")
    assert missing.returncode == 2
    assert "cannot read no-such.yaml: No such file or directory" in missing.stderr
    assert "there is no .yaml" in cli.run("apply", "-f", str(tmp_path / "empty")).stderr


def test_an_instance_that_no_document_started_is_not_taken_for_its_own(cli: Cli, document: Path) -> None:
    cli.out("start", "greet", "--id", "greet-1")
    refused = cli.run("apply", "-f", str(document))
    assert refused.returncode == 2
    assert "that no document started" in refused.stderr
