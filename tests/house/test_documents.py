"""What the documents say is true: their Python runs, their commands exist, their links lead somewhere."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.main import get_command

from perdure.cli.app import app
from perdure.cli.exits import MEANINGS
from perdure.cli.modules import load
from perdure.manifest import parse

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
        *(ROOT / "charts").rglob("*.md"),
    ]
    if path.name != "CHANGELOG.md"
)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(?:#[^)]*)?\)")

by_name = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def blocks(document: Path, language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(document.read_text()) if found == language]


def commands(document: Path, program: str) -> list[list[str]]:
    """Return the words of every command line of `program`, in blocks and in the text, without what follows it."""
    text = document.read_text()
    lines = [line for block in blocks(document, "console") + blocks(document, "text") for line in block.splitlines()]
    typed = [line[2:] for line in lines if line.startswith("$ ")]
    typed += re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    found = [re.split(r"\s[&#|]|\s{2,}", line)[0].split() for line in typed]
    return [words for words in found if words and words[0] == program and len(words) > 1]


@by_name
def test_its_python_runs_against_the_store_in_memory(document: Path, tmp_path: Path) -> None:
    names: list[str] = []
    for number, code in enumerate(blocks(document, "python")):
        ast.parse(code)
        named = re.match(r"# (\w+\.py)\n", code)
        names.append(named[1] if named else f"snippet_{number}.py")
        # A block without a name may go on where the one before it stopped.
        before = "" if named or "import asyncio" in code else "import asyncio\n"
        (tmp_path / names[-1]).write_text(before + code)
    for name in names:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PERDURE_")}
        done = subprocess.run(
            [sys.executable, "-W", "error", name],
            cwd=tmp_path,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{name}:\n{done.stderr}"


@by_name
def test_its_perdure_commands_and_their_options_exist(document: Path) -> None:
    known = get_command(app).commands  # type: ignore[attr-defined]  # a program with commands is a group
    for words in commands(document, "perdure"):
        if words[1].startswith("-"):
            continue
        assert words[1] in known, f"perdure {words[1]} is not a command"
        options = {name for parameter in known[words[1]].params for name in parameter.opts} | {"--help"}
        for option in (word.partition("=")[0] for word in words[2:] if re.match(r"--?[a-z]", word)):
            assert option in options, f"perdure {words[1]} has no option {option}"


@by_name
def test_its_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in commands(document, "make"):
        wanted = {word for word in words[1:] if re.fullmatch(r"[a-z][a-z-]*", word)}
        assert wanted <= targets, f"make has no {wanted - targets}"


@by_name
def test_its_links_lead_to_files_that_are_there(document: Path) -> None:
    missing = [link for link in LINK.findall(document.read_text()) if not (document.parent / link).exists()]
    assert missing == []


@by_name
def test_its_workflow_instances_are_valid(document: Path) -> None:
    for text in blocks(document, "yaml"):
        for part in yaml.safe_load_all(text):
            if part.get("kind") == "WorkflowInstance":
                parse(part)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("*.yaml")), ids=lambda path: path.name)
def test_the_documents_of_the_examples_are_what_a_cluster_takes(path: Path) -> None:
    definition = yaml.safe_load((ROOT / "crds" / "workflowinstances.yaml").read_text())
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for document in yaml.safe_load_all(path.read_text()):
        jsonschema.Draft202012Validator(schema).validate(document)
        assert parse(document).workflow
        assert document["spec"].keys() <= schema["properties"]["spec"]["properties"].keys()


def test_the_readme_is_one_page_and_its_example_is_short() -> None:
    readme = ROOT / "README.md"
    assert len(readme.read_text().splitlines()) <= 120
    [example] = blocks(readme, "python")
    assert len(example.splitlines()) < 25
    assert "await" in example


def test_the_readme_and_the_program_document_the_same_exit_codes() -> None:
    table = re.findall(r"^\| (\d+) \| (.+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert table == [(str(int(code)), meaning) for code, meaning in MEANINGS.items()]


def test_the_example_of_the_readme_has_what_its_command_line_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [example] = blocks(ROOT / "README.md", "python")
    (tmp_path / "breakfast.py").write_text(example)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "breakfast", raising=False)
    found = load(["breakfast.py"])
    monkeypatch.delitem(sys.modules, "breakfast")
    assert [item.name for item in found.workflows] == ["breakfast"]
    assert [item.name for item in found.activities] == ["brew"]


def test_the_documents_are_found() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in DOCUMENTS}
    assert {"README.md", "CONTRIBUTING.md", "docs/tutorial.md", "examples/order/README.md"} <= names
