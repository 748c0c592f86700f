"""The commands of the pages about the chart, in order, on a real API server; what pods would answer is left out."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.chart.golden import objects
from tests.chart.installation import Installation
from tests.chart.test_life import apply, until_phase
from tests.support.cli import ROOT, eventually
from tests.support.helm import CHART, Helm
from tests.support.kubernetes import ControlPlane
from tests.support.postgres import EmbeddedServer

OPERATIONS = ROOT / "docs" / "operations"
BEGINNING = [ROOT / "README.md", CHART / "README.md", *sorted(OPERATIONS.glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS_PODS = re.compile(r"helm test|rollout status|kubectl .* (wait|logs|exec) ")
NOT_LISTED = re.compile(r"doesn't have a resource type|no matches for kind|could not find the requested resource")


def blocks(page: str, language: str) -> list[str]:
    return [text for found, text in BLOCK.findall((OPERATIONS / page).read_text()) if found == language]


def commands(page: str) -> Iterator[list[str]]:
    """Yield every command of a page that needs no pod, as its words."""
    for block in blocks(page, "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if not NEEDS_PODS.search(line):
                yield shlex.split(line.removeprefix("$ "))


class Reader:
    """Does what the pages say, on a cluster of its own, because they name their namespaces."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self._plane = plane
        self._helm = Helm(folder, plane.kubeconfig)
        self._values = folder / "values.yaml"
        self._authority = folder / "ca.crt"
        self._authority.write_text("what the database was signed with")
        self._values.write_text(next(text for text in blocks("install.md", "yaml") if "# values.yaml" in text))

    def run(self, words: list[str]) -> None:
        """Run a command; raise if it fails."""
        program, *arguments = (self._place(word) for word in words)
        if program == "helm":
            self._helm.out(*arguments)
        else:
            assert program == "kubectl", program
            # A kind that was made a moment ago is not listed at once; everything else fails for good.
            eventually(lambda: self._kubectl(arguments), shlex.join(words))

    def _kubectl(self, arguments: list[str]) -> bool:
        answer = self._plane.kubectl(*arguments, check=False)
        assert answer.returncode == 0 or NOT_LISTED.search(answer.stderr), answer.stderr
        return answer.returncode == 0

    def _place(self, word: str) -> str:
        if word == "values.yaml":
            return str(self._values)
        if word == "--from-file=ca.crt":
            return f"--from-file={self._authority}"
        return str(ROOT / word) if word.startswith(("charts/", "examples/")) else word


def test_the_pages_can_be_followed_command_by_command(tmp_path: Path) -> None:
    install = list(commands("install.md"))
    leaving = install.index(["helm", "uninstall", "perdure", "--namespace", "shop"])
    between = [*commands("upgrade.md"), *commands("security.md")]
    assert len(between) > 3
    with ControlPlane() as plane:
        reader = Reader(plane, tmp_path)
        for words in [*install[:leaving], *between, *install[leaving:]]:
            reader.run(words)


@pytest.mark.parametrize("page", BEGINNING, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_it_says_to_helm_renders(helm: Helm, tmp_path: Path, page: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("postgresql: {external: {existingSecret: perdure-database}}")
    for _, text in BLOCK.findall(page.read_text()):
        for line in re.findall(r"^\$ helm (?:install|upgrade) (.*)", text.replace("\\\n", " "), re.MULTILINE):
            words = [str(values) if word == "values.yaml" else word for word in shlex.split(line)]
            helm.out("template", *(str(CHART) if word == "charts/perdure" else word for word in words))


@pytest.mark.parametrize("page", ["install.md", "upgrade.md", "sizing.md", "security.md"])
def test_its_values_are_accepted(helm: Helm, tmp_path: Path, page: str) -> None:
    for text in blocks(page, "yaml"):
        if "WorkflowInstance" in text:
            continue
        file = tmp_path / "values.yaml"
        file.write_text(text)
        helm.out("template", "x", str(CHART), "--set", "postgresql.external.existingSecret=x", "--values", str(file))


def test_the_roles_of_the_page_on_security_are_enough_and_no_more(
    own_server: EmbeddedServer, empty_cluster: ControlPlane, tmp_path: Path
) -> None:
    roles, defaults, scaler = blocks("security.md", "sql")
    with psycopg.connect(own_server.dsn, autocommit=True) as connection:
        for statement in roles.split(";\n"):
            connection.execute(statement.encode())

    def url(role: str) -> str:
        return own_server.dsn.replace("postgres@/postgres", f"{role}@/perdure")

    def execute(role: str, statements: str) -> object:
        with psycopg.connect(url(role), autocommit=True) as connection:
            for statement in statements.split(";\n"):
                cursor = connection.execute(statement.encode())
            return cursor.fetchone() if cursor.description else None

    execute("perdure_owner", defaults)
    installation = Installation(empty_cluster, tmp_path, url("perdure"))
    installation.create_secret("database-owner", url("perdure_owner"))
    keda = "workers.default.autoscaling.kind=keda"
    rendered = objects(installation.command("template", "--set", keda))
    (query,) = (each["spec"]["triggers"][0]["metadata"]["query"] for each in rendered if each["kind"] == "ScaledObject")
    installation.command("install", "--set", "migrations.existingSecret=database-owner")
    with installation.running("operator"), installation.running("worker-default"):
        execute("perdure_owner", scaler)
        apply(installation, "first", "greet", input={"name": "Ada"})
        until_phase(installation, "first", "Succeeded")
    for forbidden in ("CREATE TABLE perdure.mine ()", "DROP TABLE perdure.run", "ALTER TABLE perdure.run ADD mine int"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            execute("perdure", forbidden)
    assert execute("perdure_scaler", query) == (0,)
    for forbidden in ("SELECT * FROM perdure.history", "SELECT id FROM perdure.run", "DELETE FROM perdure.run"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            execute("perdure_scaler", forbidden)
