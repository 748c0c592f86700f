"""The author's modules: from a word on the command line to workflows and activities.

What lives here: importing and collecting. What must not: running. A worker
process calls `load`.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from perdure.activity import Activity
from perdure.errors import DefinitionError
from perdure.runtime import guard
from perdure.workflow import Workflow


@dataclass(frozen=True, slots=True)
class Definitions:
    """What a worker can run."""

    workflows: tuple[Workflow[..., Any], ...]
    activities: tuple[Activity[..., Any], ...]


def load(names: Sequence[str]) -> Definitions:
    """Import modules by dotted name or path and collect every workflow and activity at their top level.

    Raises `DefinitionError` when a module cannot be imported or defines nothing.
    """
    _search_first(Path.cwd())
    guard.install()  # before the modules take functions by name: from time import time
    found: list[Workflow[..., Any] | Activity[..., Any]] = []
    for name in names:
        module = _import(name)
        definitions = [value for value in vars(module).values() if isinstance(value, Workflow | Activity)]
        if not definitions:
            message = (
                f"{name} defines no workflow and no activity; decorate its functions with "
                "@workflow.define or @activity.define, or import such functions there"
            )
            raise DefinitionError(message)
        found += definitions
    # The same function may come by several ways: imported into another module, or once more with other options.
    unique = {(item.name, item.function): item for item in reversed(found)}
    items = list(reversed(unique.values()))
    return Definitions(
        tuple(item for item in items if isinstance(item, Workflow)),
        tuple(item for item in items if isinstance(item, Activity)),
    )


def _import(name: str) -> ModuleType:
    dotted = _dotted(name) if name.endswith(".py") or os.sep in name else name
    try:
        module = importlib.import_module(dotted)
    except ModuleNotFoundError as error:
        if error.name is not None and (dotted == error.name or dotted.startswith(f"{error.name}.")):
            message = (
                f"there is no module {dotted}, looking from {Path.cwd()}; give a dotted name such as shop.orders, "
                "or a path such as shop/orders.py"
            )
            raise DefinitionError(message) from None
        raise _broken(name, error) from error
    except DefinitionError:
        raise
    except Exception as error:
        raise _broken(name, error) from error
    _refuse_namesake(name, module)
    return module


def _broken(name: str, error: Exception) -> DefinitionError:
    """Return the error for a module whose own code raised, with the part of the traceback that is the author's."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    place = "".join(traceback.format_list(frames[2:]))
    last = "".join(traceback.format_exception_only(error)).rstrip()
    return DefinitionError(f"importing {name} failed:\n{place}{last}")


def _dotted(name: str) -> str:
    """Return the dotted name of a file, having made sure that it will be found.

    A file in packages is imported as their member, so that its relative imports
    work; any other one is found as Python finds what stands beside a script.
    """
    path = Path(name).resolve()
    if path.suffix != ".py" or not path.is_file():
        message = f"there is no Python file {name}"
        raise DefinitionError(message)
    parts = [path.stem]
    folder = path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    _search_first(folder)
    return ".".join(parts)


def _search_first(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _refuse_namesake(name: str, module: ModuleType) -> None:
    """Raise `DefinitionError` when a path was asked for and another module of that name was imported."""
    file = getattr(module, "__file__", None)
    if name.endswith(".py") and (file is None or Path(file).resolve() != Path(name).resolve()):
        message = f"another module is called {module.__name__} already ({file}); rename {name}"
        raise DefinitionError(message)
