"""What the chart renders for a set of cases, and the files that hold it: `python -m tests.chart.golden` writes them.

A case is a file of values below `cases`; its golden file has every object whose content is not a file of the repository
itself (the resource definitions, ConfigMaps with a script or a dashboard). The table of values in the chart's README is
written by the same command, from the comments of `values.yaml`.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.helm import CHART, Helm

FOLDER = Path(__file__).parent
CASES = sorted((FOLDER / "cases").glob("*.yaml"))
# What the templates may ask about the cluster is fixed, so that another Helm renders the same.
CLUSTER = ("--kube-version", "1.36.0")
RELEASE = ("shop", str(CHART), "--namespace", "prod")
COPIES = re.compile(r"^kind: (CustomResourceDefinition|ConfigMap)$", re.MULTILINE)
README = CHART / "README.md"
TABLE = re.compile(r"(?<=<!-- values -->\n).*?(?=<!-- end of values -->)", re.DOTALL)


def render(helm: Helm, case: Path) -> str:
    """Return everything that the chart renders for a case, hooks too."""
    return helm.out("template", *RELEASE, *CLUSTER, "--values", str(case))


def golden(rendered: str) -> str:
    """Return what the golden file of a case holds."""
    parts = re.split(r"^---$", rendered, flags=re.MULTILINE)
    return "---".join(part for part in parts if not COPIES.search(part))


def golden_file(case: Path) -> Path:
    """Return where that is."""
    return FOLDER / "golden" / case.name


def objects(rendered: str) -> list[dict[str, Any]]:
    """Return the objects of a rendering."""
    return [each for each in yaml.safe_load_all(rendered) if each]


def leaves(values: Mapping[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every value that is no further choice of ours, with its path; a mapping that is empty is one."""
    for name, value in values.items():
        path = (*before, name)
        if isinstance(value, dict) and value and path not in WHOLE:
            yield from leaves(value, path)
        else:
            yield path, value


# Mappings that Kubernetes defines, not the chart.
WHOLE = {
    ("podSecurityContext",),
    ("containerSecurityContext",),
    ("operator", "resources"),
    ("workerDefaults", "resources"),
    ("monitoring", "dashboard", "labels"),
}


def table() -> str:
    """Return the table of values; raise `KeyError` for a value that nothing is said about."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    comments = explanations()
    rows = ["| value | default | what it does |", "|---|---|---|"]
    for path, default in leaves(values):
        shown = yaml.safe_dump(default, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
        rows.append(f"| `{'.'.join(path)}` | `{shown}` | {comments[path]} |")
    return "\n".join(rows) + "\n"


def explanations() -> dict[tuple[str, ...], str]:
    """Return what the comments of values.yaml that start with `# --` say, by the path of the value below each."""
    found: dict[tuple[str, ...], str] = {}
    path: list[str] = []
    words: list[str] = []
    for line in (CHART / "values.yaml").read_text().splitlines():
        if comment := re.match(r" *# (-- )?(.*)", line):
            if comment[1] or words:
                words.append(comment[2])
        elif named := re.match(r"( *)(\w+):", line):
            path[len(named[1]) // 2 :] = [named[2]]
            if words:
                found[tuple(path)] = " ".join(words)
            words = []
    return found


def main() -> None:
    """Write the golden files and the table anew."""
    with tempfile.TemporaryDirectory() as folder:
        helm = Helm(Path(folder))
        for file in (FOLDER / "golden").glob("*.yaml"):
            file.unlink()
        for case in CASES:
            golden_file(case).write_text(golden(render(helm, case)))
    # A function, because the table may hold what a replacement text would take for its own syntax.
    README.write_text(TABLE.sub(lambda _: table(), README.read_text()))


if __name__ == "__main__":
    main()
