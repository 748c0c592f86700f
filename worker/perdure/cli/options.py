"""Options that commands share, declared once, as dataclasses.

What lives here: `flattened`, which lets a command take such a dataclass as one
parameter, the options of every command, and the readers of odd values. What
must not: calls of the client beyond opening it.
"""

import dataclasses
import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, get_type_hints

import msgspec
import typer

from perdure.client import Client
from perdure.errors import RequestError


def flattened(command: Callable[..., Any]) -> Callable[..., Any]:
    """Make a Typer command of a function some of whose parameters are dataclasses of options.

    Typer sees every field as an option of its own; the function gets the
    dataclass. Without this a command with fifteen options is a function with
    fifteen parameters, and options that many commands share are written many times.
    """
    hints = get_type_hints(command, include_extras=True)
    hints.pop("return", None)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            parameters += _fields(groups[parameter.name])
        else:
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(parameter.replace(annotation=hints[parameter.name], kind=kind))

    @wraps(command)
    def flat(**values: Any) -> Any:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
        return command(**values)

    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # inspect reads it from any callable
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat


def _fields(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hints[field.name],
            default=_default(field),
        )
        for field in dataclasses.fields(group)
    ]


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else inspect.Parameter.empty


@dataclasses.dataclass(frozen=True, kw_only=True)
class Database:
    """Where the workflows are."""

    url: Annotated[
        str | None,
        typer.Option(
            envvar="PERDURE_URL",
            help="The database: postgresql://user@host/database.",
            metavar="URL",
            show_default=False,
        ),
    ] = None

    def checked_url(self) -> str:
        """Return the URL; raise `RequestError` when there is none or other processes cannot reach what it names."""
        if not self.url:
            message = "no database is named: pass --url or set PERDURE_URL, such as postgresql://user@host/database"
            raise RequestError(message)
        scheme, separator, _ = self.url.partition("://")
        if scheme not in ("postgresql", "postgres") or not separator:
            # Without a scheme nobody can tell which part is a password: none of it is shown.
            found = f"{scheme}://" if separator else "a URL without a scheme"
            message = f"the command line works on PostgreSQL, not on {found}; write postgresql://user@host/database"
            raise RequestError(message)
        return self.url


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target(Database):
    """Which workflows a command is about."""

    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace",
            "-n",
            envvar="PERDURE_NAMESPACE",
            help="The tenant; `default` when nothing is said.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None

    def client(self, namespace: str | None = None) -> Client:
        """Return a client for ``async with``; ``namespace`` is that of a document, where it names one."""
        return Client.connect(self.checked_url(), namespace=namespace or self.namespace)


InstanceId = Annotated[str, typer.Argument(metavar="ID", help="The id of the workflow instance.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


def value_of(text: str | None) -> Any:
    """Return what a command-line word stands for: a JSON value, else the word itself."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text


_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_seconds(value: str | float) -> float:
    """Read ``90``, ``1.5``, ``30s``, ``5m``, ``2h`` or ``7d`` as seconds; raise `typer.BadParameter` otherwise."""
    text = str(value).strip()
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(number) :] or "s"
    try:
        length = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        length = 0.0
    if not 0 < length < float("inf"):
        message = f"{text!r} is no length of time; write seconds, or a number with ms, s, m, h or d, such as 90 or 5m"
        raise typer.BadParameter(message)
    return length


def seconds_option(help_text: str) -> Any:
    """Return a Typer option that takes a length of time."""
    return typer.Option(parser=parse_seconds, metavar="SECONDS", help=help_text)
