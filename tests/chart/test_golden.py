"""What the chart renders is what was looked at: a golden file for each case, the table of values, lint, the package."""

import shutil
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from tests.chart.golden import CASES, README, TABLE, golden, golden_file, objects, render, table
from tests.support.helm import CHART, Helm

DEFINITIONS = CHART.parents[1] / "crds"
by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)


@by_case
def test_a_case_renders_as_its_golden_file_says(helm: Helm, case: Path) -> None:
    file = golden_file(case)
    assert file.exists(), "`make chart-golden` writes it"
    assert golden(render(helm, case)) == file.read_text(), "if this is as it should be: `make chart-golden`"


def test_every_golden_file_has_a_case() -> None:
    assert {file.name for file in golden_file(CASES[0]).parent.iterdir()} == {case.name for case in CASES}


def test_the_table_of_values_says_what_values_yaml_says() -> None:
    written = TABLE.search(README.read_text())
    assert written is not None
    assert written[0] == table(), "`make chart-golden` writes it"


@by_case
def test_lint_has_nothing_to_say(helm: Helm, case: Path) -> None:
    said = helm.out("lint", str(CHART), "--strict", "--values", str(case))
    assert [line for line in said.splitlines() if line.startswith("[")] == ["[INFO] Chart.yaml: icon is recommended"]


def test_the_package_is_complete_and_renders_as_the_folder_does(helm: Helm, tmp_path: Path) -> None:
    helm.out("package", str(CHART), "--destination", str(tmp_path))
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as archive:
        packed = {name.removeprefix("perdure/") for name in archive.getnames()}
    # Through the link to crds/, whose files a package has to carry itself.
    expected = {path.relative_to(CHART).as_posix() for path in CHART.rglob("*") if path.is_file()}
    expected |= {f"files/crds/{path.name}" for path in DEFINITIONS.iterdir()}
    assert packed == expected
    values = ("--values", str(CASES[0]))
    assert helm.out("template", "x", str(package), *values) == helm.out("template", "x", str(CHART), *values)


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "not kept"])
def test_the_resource_definitions_are_those_of_the_repository(helm: Helm, keep: bool) -> None:
    values = ("--set", f"postgresql.mode=demo,crds.keep={str(keep).lower()}")
    rendered = helm.out("template", "x", str(CHART), "--show-only", "templates/crds.yaml", *values)
    found = {each["metadata"]["name"]: each for each in objects(rendered)}
    sources = [yaml.safe_load(file.read_text()) for file in sorted(DEFINITIONS.glob("*.yaml"))]
    assert sources
    assert found.keys() == {source["metadata"]["name"] for source in sources}
    for source in sources:
        metadata = found[source["metadata"]["name"]].pop("metadata")
        assert metadata.get("annotations", {}) == ({"helm.sh/resource-policy": "keep"} if keep else {})
        assert found[source.pop("metadata")["name"]] == source


def test_a_copy_that_lost_the_resource_definitions_is_not_installed(helm: Helm, tmp_path: Path) -> None:
    copy = tmp_path / "perdure"
    shutil.copytree(CHART, copy, ignore=shutil.ignore_patterns("crds"))
    (copy / "files" / "crds").write_text("../../../crds")  # what a checkout without links makes of one
    rendered = helm.run("template", "x", str(copy), "--set", "postgresql.mode=demo")
    assert rendered.returncode != 0
    assert "files/crds is empty" in rendered.stderr


def test_config_maps_have_the_files_of_the_chart(helm: Helm) -> None:
    (case,) = (case for case in CASES if case.stem == "everything")
    data: dict[str, str] = {}
    for each in objects(render(helm, case)):
        data |= each["data"] if each["kind"] == "ConfigMap" else {}
    assert data["helm_test.py"].rstrip() == (CHART / "files" / "helm_test.py").read_text().rstrip()
    assert data["perdure.json"].rstrip() == (CHART / "files" / "dashboard.json").read_text().rstrip()


def test_chart_and_program_have_the_same_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == version("perdure")
