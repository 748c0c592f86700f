"""What is guarded around a turn, in processes of their own: guards cannot be taken out again."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def said_by(folder: Path, program: str, **modules: str) -> str:
    """Run a program in a fresh process, beside modules of these names, and return what it printed."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    (folder / "program.py").write_text(textwrap.dedent(program))
    ran = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, env={"PYTHONPATH": str(ROOT)}, text=True, capture_output=True,
        check=False,
    )  # fmt: skip
    return ran.stdout + ran.stderr


@pytest.mark.parametrize("statement", ["from time import time as look", "from random import random as look"])
def test_what_a_module_takes_by_name_is_guarded_when_the_command_loads_it(tmp_path: Path, statement: str) -> None:
    said = said_by(
        tmp_path,
        """
        from perdure.cli import modules
        from tests.support.engine import Script
        Script(modules.load(["orders"]).workflows[0]).turn()
        """,
        orders=f"""
        {statement}
        from perdure import workflow
        @workflow.define
        async def order() -> float:
            return look()
        """,
    )
    assert "DeterminismViolation: order: " in said
    assert "differs on replay" in said


def test_an_exception_that_python_ignores_does_not_hold_the_run(tmp_path: Path) -> None:
    """Python shows the line where it was raised, and opens the file for that."""
    said = said_by(
        tmp_path,
        """
        from perdure import workflow
        from perdure.runtime import guard
        from tests.support.engine import Script

        class Odd:
            def __del__(self) -> None:
                raise ValueError("odd")

        @workflow.define
        async def order() -> str:
            Odd()
            return "done"

        guard.install()
        print(Script.outcome(Script(order).turn()))
        """,
    )
    assert "Exception ignored in" in said
    assert "ValueError: odd" in said
    assert "done" in said.splitlines()


def test_a_workflow_may_ask_for_a_time_zone(tmp_path: Path) -> None:
    said = said_by(
        tmp_path,
        """
        import zoneinfo
        from perdure import workflow
        from perdure.runtime import guard
        from tests.support.engine import Script

        @workflow.define
        async def order() -> str:
            return str(workflow.now().astimezone(zoneinfo.ZoneInfo("UTC")).utcoffset())

        guard.install()
        print(Script.outcome(Script(order).turn()))
        """,
    )
    assert said == "0:00:00\n"
