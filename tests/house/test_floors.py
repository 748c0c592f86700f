"""The floors hold: import-linter keeps its contracts on the code as it is, and breaks them when a module reaches up.

The second half plants one offending module at a time in a copy of the code. A contract that a rename or a misspelt
module has emptied would otherwise go on passing for ever.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = ("worker", "operator")


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sysconfig.get_path("scripts")) / "lint-imports", "--no-cache"],
        cwd=root,
        # Before the installed project, so that a copy is judged by its own modules.
        env=os.environ | {"PYTHONPATH": os.pathsep.join(str(root / folder) for folder in CODE), "NO_COLOR": "1"},
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Lend a copy of the code and of the contracts."""
    for folder in CODE:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_contract_is_kept() -> None:
    verdict = lint_imports(ROOT)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


def test_an_untouched_copy_keeps_the_contracts_too(copy: Path) -> None:
    verdict = lint_imports(copy)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


@pytest.mark.parametrize(
    ("module", "statement", "contract"),
    [
        ("worker/perdure/model/offender.py", "import perdure.engine", "floors"),
        ("worker/perdure/store/offender.py", "import perdure.runtime", "floors"),
        ("worker/perdure/client.py", "import perdure.runtime", "floors"),
        ("worker/perdure/offender.py", "", "floors"),
        ("worker/perdure/runtime/offender.py", "import perdure_operator", "the operator stands on top"),
        (
            "worker/perdure/store/offender.py",
            "import perdure.workflow",
            "the store knows nothing of what authors import",
        ),
        (
            "worker/perdure/runtime/offender.py",
            "import perdure.telemetry.prometheus",
            "who counts knows nothing of Prometheus",
        ),
        ("worker/perdure/store/offender.py", "import perdure.telemetry", "floors"),
        ("worker/perdure/engine/offender.py", "import time", "the engine is pure"),
        ("worker/perdure/engine/primitives/offender.py", "import psycopg", "the engine is pure"),
        (
            "operator/perdure_operator/offender.py",
            "import perdure.engine",
            "the operator sees the client and the store only",
        ),
    ],
)
def test_a_module_that_reaches_up_or_stands_on_no_floor_breaks_its_contract(
    copy: Path, module: str, statement: str, contract: str
) -> None:
    with (copy / module).open("a") as offender:
        offender.write(f"\n{statement}\n")
    verdict = lint_imports(copy)
    assert verdict.returncode != 0
    assert f"{contract} BROKEN" in verdict.stdout
    assert Path(module).stem in verdict.stdout.partition(f"{contract} BROKEN")[2]
