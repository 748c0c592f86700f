"""Where things are, and what no file may say: the folders that break Python, the machine's paths, the registries."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MACHINE_PATH = re.compile(r"(?<![\w.~$})<>-])(?<!:/)/(?:root|home|work)(?:/|(?![\w./-]))")
REGISTRY = re.compile(
    r"https?://[^\s\"'<>]*(?:pypi|pythonhosted|npmjs|npm\.|/npm|proxy\.golang|sum\.golang|deb\.debian)", re.IGNORECASE
)


def files(*patterns: str) -> list[str]:
    """Return the files that git has, or would take, below the root."""
    # The owner of a checkout may be another user than the one who tests it, as in a container.
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run([*command, "--", *patterns], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in listing.split("\0") if name and (ROOT / name).is_file()]


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    """Return the lines of text files that match, each with its place."""
    found = []
    for name in files():
        text = (ROOT / name).read_bytes().decode(errors="ignore")
        found += [
            f"{name}:{number}: {line.strip()}"
            for number, line in enumerate(text.splitlines(), 1)
            if pattern.search(line)
        ]
    return found


def test_the_operator_folder_holds_its_package_and_nothing_else() -> None:
    assert [path.name for path in (ROOT / "operator").iterdir() if path.name != "__pycache__"] == ["perdure_operator"]


@pytest.mark.parametrize("folders", [(".",), ("operator", "worker", ".")], ids=["the root", "every folder of code"])
def test_import_operator_means_the_standard_library(folders: tuple[str, ...]) -> None:
    # Found anew along the path: the interpreter has long imported its own when a program asks.
    program = (
        "import importlib.machinery, sys; print(importlib.machinery.PathFinder.find_spec('operator', sys.path).origin)"
    )
    path = os.pathsep.join(str(ROOT / folder) for folder in folders)
    answer = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert Path(answer.strip()).parent == Path(sysconfig.get_path("stdlib"))


def test_no_file_knows_a_path_of_somebody_s_machine() -> None:
    assert lines_with(MACHINE_PATH) == []


def test_no_file_names_a_package_registry() -> None:
    assert lines_with(REGISTRY) == []


def test_every_file_is_text() -> None:
    """Pictures are SVG here; what is not text came from a build or a download."""
    assert [name for name in files() if b"\0" in (ROOT / name).read_bytes()] == []


def test_sql_lives_in_the_store_only() -> None:
    elsewhere = [name for name in files("*.sql") if not name.startswith("worker/perdure/store/")]
    assert elsewhere == []


def test_this_very_file_is_among_those_that_are_searched() -> None:
    assert Path(__file__).resolve().relative_to(ROOT).as_posix() in files()


@pytest.mark.parametrize("place", ["root", "home", "work"])
@pytest.mark.parametrize(
    "text", ["cd {}/x", 'open("{}/x")', "PATH=/usr/bin:{}/bin", "file://{}/x", "in {} and", "--dir={}"]
)
def test_a_path_of_a_machine_is_recognised(place: str, text: str) -> None:
    assert MACHINE_PATH.search(text.format(f"/{place}"))


@pytest.mark.parametrize(
    "text",
    ["tests/home/x", "./root/x", "network/working", "h1:ab/root+c=", "/usr/lib", "$ROOT/work/x", "https://home/x"],
)
def test_other_paths_are_left_alone(text: str) -> None:
    assert not MACHINE_PATH.search(text)


@pytest.mark.parametrize("host", ["py" + "pi.org/simple", "registry.np" + "mjs.org", "proxy.go" + "lang.org"])
def test_a_registry_is_recognised(host: str) -> None:
    assert REGISTRY.search(f"index = https://{host}")
