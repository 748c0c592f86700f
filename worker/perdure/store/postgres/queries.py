"""The queries by name, read from the ``.sql`` files beside this module.

What lives here: the loader. What must not: SQL. A file holds queries under ``-- name: …`` headers; ``:word`` in them
is a parameter, which becomes ``$1``, ``$2``, … in the order of first use.
"""

import re
from dataclasses import dataclass
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_PARAMETER = re.compile(r"(?<![:\w]):([a-z]\w*)")
_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Query:
    """A statement as the server gets it, and the names of its parameters in order."""

    name: str
    statement: bytes
    parameters: tuple[str, ...]


def parse(text: str) -> dict[str, Query]:
    """Return the queries of one file."""
    _, *parts = _NAME.split(text)
    found: dict[str, Query] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        parameters: dict[str, int] = {}
        numbered = _PARAMETER.sub(
            lambda match: f"${parameters.setdefault(match[1], len(parameters) + 1)}",  # noqa: B023  # called at once
            _COMMENT.sub("", body),
        )
        found[name] = Query(name, numbered.strip().rstrip(";").encode(), tuple(parameters))
    return found


def load() -> dict[str, Query]:
    """Return every query that ships with this release."""
    found: dict[str, Query] = {}
    for file in sorted(files(__package__).joinpath("sql").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".sql"):
            found.update(parse(file.read_text(encoding="utf-8")))
    return found


QUERIES = load()
