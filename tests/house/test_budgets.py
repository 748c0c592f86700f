"""The budgets of every Python file: length of files and functions, number of parameters, a docstring that says why.

A file that outgrows its budget has two subjects: split it, do not raise the number.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = ("worker", "operator")
MEASURED = (*CODE, "tests", "examples", "benchmarks", "charts")

FILE_LINES = 400
FUNCTION_LINES = 60
PARAMETERS = 7

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def length(function: Function) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def parameters(function: Function) -> int:
    """Count the parameters a caller may give; `self` and `cls` are nobody's choice."""
    wanted = function.args
    named = [*wanted.posonlyargs, *wanted.args]
    if named and named[0].arg in {"self", "cls"}:
        named = named[1:]
    return len(named) + len(wanted.kwonlyargs) + (wanted.vararg is not None) + (wanted.kwarg is not None)


def over_budget(source: str) -> list[str]:
    """Return what is too large in one file, each with its line."""
    lines = len(source.splitlines())
    found = [f"1: file of {lines} lines, {FILE_LINES} allowed"] if lines > FILE_LINES else []
    for function in functions(ast.parse(source)):
        place = f"{function.lineno}: {function.name}"
        if length(function) > FUNCTION_LINES:
            found.append(f"{place} has {length(function)} lines, {FUNCTION_LINES} allowed")
        if parameters(function) > PARAMETERS:
            found.append(f"{place} takes {parameters(function)} parameters, {PARAMETERS} allowed")
    return found


def speaks(source: str) -> bool:
    """Tell whether a module starts with a docstring that has at least one full sentence."""
    docstring = ast.get_docstring(ast.parse(source)) or ""
    return re.match(r"\W*\w.*?[.?!](\s|$)", docstring, re.DOTALL) is not None and len(docstring.split()) > 2


def test_no_file_or_function_is_larger_than_its_budget() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{what}" for path in python_files(*MEASURED) for what in over_budget(path.read_text())
    ]
    assert not found, "\n".join(["split these:", *found])


def test_every_module_of_the_product_says_what_lives_there() -> None:
    silent = [str(path.relative_to(ROOT)) for path in python_files(*CODE) if not speaks(path.read_text())]
    assert not silent, "\n".join(["a docstring of at least one full sentence is missing in:", *silent])


def test_the_product_and_the_tests_are_measured() -> None:
    assert Path(__file__).resolve() in python_files(*MEASURED)
    assert all(python_files(folder) for folder in CODE)


def test_a_file_or_function_of_exactly_its_budget_is_accepted() -> None:
    source = "def f(a, b, c, d, /, e, *, f, **g):\n" + "    pass\n" * (FUNCTION_LINES - 1)
    assert over_budget(source + "\n" * (FILE_LINES - FUNCTION_LINES)) == []


def test_a_method_has_its_budget_without_self() -> None:
    assert over_budget("class C:\n    def f(self, a, b, c, d, e, f, g): ...\n") == []


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("\n" * 401, "1: file of 401 lines, 400 allowed"),
        ("def f():\n" + "    pass\n" * 60, "1: f has 61 lines, 60 allowed"),
        ("class C:\n    async def f(self):\n" + "        pass\n" * 60, "2: f has 61 lines, 60 allowed"),
        ("def f(a, b, c, d, /, e, *f, g, **h): ...", "1: f takes 8 parameters, 7 allowed"),
    ],
    ids=["a long file", "a long function", "a long coroutine in a class", "too many parameters of every kind"],
)
def test_what_is_over_its_budget_is_named_with_its_line(source: str, complaint: str) -> None:
    assert over_budget(source) == [complaint]


@pytest.mark.parametrize(
    "source", ["", "x = 1", '""" """', '"""Engine"""', '"""The engine of it"""', "# The engine.\n"]
)
def test_a_docstring_without_a_sentence_does_not_count(source: str) -> None:
    assert not speaks(source)


def test_a_docstring_with_a_sentence_counts() -> None:
    assert speaks('"""The engine replays a history; nothing here reads a clock.\n\nMore on that below\n"""\n')
