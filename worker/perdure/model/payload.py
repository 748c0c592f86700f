"""The authors' values as JSON, by the types their functions declare.

What lives here: encoding and decoding of arguments and results, and the
`Signature` of a function. What must not: knowledge of workflows or storage.
The author API and the engine call it.

Values may be anything msgspec knows (builtins, dataclasses, ``msgspec.Struct``,
``datetime``, ``UUID``, ``Decimal``, ``Enum``, ``TypedDict``, ...) and models of pydantic 2.11 or newer. Those are
recorded by the names of their fields, without computed ones, and may be given by their aliases, too.
"""

import inspect
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any, TypeVar, get_origin, get_type_hints

import msgspec

from perdure.errors import DefinitionError, PayloadError

T = TypeVar("T")


def _encode_other(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)  # a pydantic model
    if callable(dump):
        encoded = _encoder.encode(dump(mode="json", by_alias=False, round_trip=True))
        if _MASK(encoded):
            _refuse_secrets(value)
        return msgspec.Raw(encoded)
    message = f"a value of type {type(value).__qualname__} cannot be recorded"
    raise NotImplementedError(message)  # how a hook tells msgspec that it does not know the type either


def _decode_other(wanted: type, value: Any) -> Any:
    validate = getattr(wanted, "model_validate_json", None)
    if callable(validate):  # JSON again: a strict model takes no datetime from text otherwise
        return validate(_encoder.encode(value), by_alias=True, by_name=True)
    if isinstance(value, get_origin(wanted) or wanted):
        return value
    message = f"a value of type {getattr(wanted, '__qualname__', wanted)} cannot be read back"
    raise NotImplementedError(message)  # how a hook tells msgspec that it does not know the type either


def _look_at_other(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    return dump() if callable(dump) else None  # pydantic knows more types; none of them becomes null


_encoder = msgspec.json.Encoder(enc_hook=_encode_other)
_MASK = re.compile(rb'"\*{10}"').search
_NULL = re.compile(b"null").search  # a third of the time that `in` takes, for the few bytes of most payloads
_looker = msgspec.msgpack.Encoder(enc_hook=_look_at_other)
_NO_NUMBER = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]").search
"""How an infinity or NaN begins in MessagePack, which has them; so may text or an integer."""
_OBJECT = ord("{")
_AS_READ = (dict, list, str, int, float, bool, type(None))
"""What JSON is read as, and so what may stand for an abstract class or a protocol."""

LIMIT = 2 * 1024 * 1024
"""The default of the most bytes that one payload may have: 2 MiB of JSON."""


def too_large(what: str, size: int, limit: int) -> PayloadError:
    """Return the error for a payload over the limit."""
    return PayloadError(
        f"{what} has {size:,} bytes, and a payload may have {limit:,}. Keep large data elsewhere, such as in an object "
        "store, and pass a reference; or raise the limit: Client.connect(payload_limit=...) for what a client sends, "
        "Limits(payload=...) or --max-payload for a worker"
    )


def check_size(raw: msgspec.Raw | bytes, what: str, limit: int) -> None:
    """Raise `PayloadError` when a payload is over the limit."""
    if len(raw) > limit:
        raise too_large(what, len(raw), limit)


def encode(value: Any, what: str) -> msgspec.Raw:
    """Return ``value`` as JSON; raise `PayloadError` naming ``what`` when it cannot be recorded."""
    try:
        encoded = _encoder.encode(value)
        if value is not None and _NULL(encoded) and _may_have_lost_a_number(value):
            _refuse_lost_numbers(value)
        return msgspec.Raw(encoded)
    except (TypeError, ValueError, NotImplementedError, RecursionError, msgspec.MsgspecError) as error:
        message = (
            f"{what} cannot be recorded: {error}. Use builtins, dataclasses, msgspec Structs, pydantic models, "
            "datetime, UUID, Decimal or Enum"
        )
        raise PayloadError(message) from error


def _may_have_lost_a_number(value: Any) -> bool:
    try:
        return _NO_NUMBER(_looker.encode(value)) is not None
    except OverflowError:  # MessagePack has no integers of more than 64 bits
        return True


def _refuse_lost_numbers(value: Any) -> None:
    """Raise ValueError for a number that JSON does not have; msgspec writes null for it."""
    for where, item in _leaves(msgspec.to_builtins(value, enc_hook=_look_at_other)):
        if isinstance(item, float) and not math.isfinite(item):
            message = f"JSON has no number {item} - at `{where}`; give None or a string in its place"
            raise ValueError(message)


def _refuse_secrets(model: Any) -> None:
    """Raise ValueError for a pydantic secret; pydantic writes asterisks for it."""
    for where, item in _leaves(model.model_dump(round_trip=True)):
        if hasattr(item, "get_secret_value"):
            message = (
                f"of the {type(item).__name__} of {type(model).__name__} - at `{where}` - asterisks would be left: "
                "pass the name of the secret, or give the model a field_serializer if the database may hold it"
            )
            raise ValueError(message)


def _leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what is in containers, however deep, and where."""
    rest: list[tuple[str, Any]] = [("", (value,))]
    while rest:
        place, holder = rest.pop()
        for key, item in holder.items() if isinstance(holder, dict) else enumerate(holder):
            where = f"{place}[{key!r}]"
            if isinstance(item, (dict, list, tuple, set, frozenset)):
                rest.append((where, item))
            else:
                yield "$" + where.removeprefix("[0]"), item


class Reader:
    """Decodes JSON to one declared type."""

    def __init__(self, wanted: Any) -> None:
        self.wanted = wanted
        self._decode = _decoder_for(wanted).decode

    def read(self, raw: msgspec.Raw | bytes, what: str) -> Any:
        """Return the value; raise `PayloadError` naming ``what`` when it does not fit the type."""
        try:
            return self._decode(raw)
        except Exception as error:  # an author's __post_init__ or validator may raise anything
            message = f"{what} does not fit its declared type: {_why(error)}"
            raise PayloadError(message) from error


def _why(error: Exception) -> str:
    # What says nothing of itself, such as an assertion, is called by its class.
    telling = isinstance(error, ValueError | TypeError | NotImplementedError)
    return str(error) if telling else f"{type(error).__name__}: {error}"


def _decoder_for(wanted: Any) -> msgspec.json.Decoder[Any]:
    try:
        return msgspec.json.Decoder(wanted, dec_hook=_decode_other)
    except TypeError as error:
        message = f"the type {wanted!r} cannot be recorded: {error}"
        raise DefinitionError(message) from error


class Signature:
    """The parameters of a workflow or an activity: binds calls, reads recorded input.

    Input is recorded as a JSON array in the order of the parameters. When it is
    written by hand (``spec.input`` of a manifest) or when the function has
    keyword-only parameters, it is a JSON object by name.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.name = name
        self.words_of_input = f"the input of {name}"
        self.words_of_result = f"the result of activity {name}"
        self._signature = inspect.signature(function)
        parameters = list(self._signature.parameters.values())
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                message = f"{name}: *{parameter.name} cannot be recorded; declare a list or a dict parameter instead"
                raise DefinitionError(message)
        hints = _hints(function, name)
        self.names = [parameter.name for parameter in parameters]
        self._count = len(parameters)
        self._by_name_only = any(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)
        fields = [_field(parameter, hints.get(parameter.name, Any)) for parameter in parameters]
        try:
            # Of keyword-only parameters one without a default may follow one with a default, as in fields by keyword.
            kind: dict[str, Any] = {"kw_only": True, "forbid_unknown_fields": True}
            self._positional = _decoder_for(msgspec.defstruct(f"{name}_input", fields, array_like=True, **kind))
            self._named = _decoder_for(msgspec.defstruct(f"{name}_input", fields, **kind))
            types = tuple(hints.get(parameter.name, Any) for parameter in parameters)
            self._complete = _decoder_for(tuple.__class_getitem__(types)).decode
        except TypeError as error:
            message = f"{name}: {error}"
            raise DefinitionError(message) from error
        self.result = Reader(hints.get("return", Any))
        check_readable((*types, hints.get("return", Any)), name)

    def encode_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> msgspec.Raw:
        """Return the input of a call; raise `TypeError` as Python would when the arguments do not bind."""
        if kwargs or self._by_name_only or len(args) != self._count:
            try:
                bound = self._signature.bind(*args, **kwargs)
            except TypeError as error:
                message = f"{self.name}(): {error}"
                raise TypeError(message) from None
            if self._by_name_only or len(bound.arguments) > len(bound.args):
                return encode(dict(bound.arguments), self.words_of_input)
            args = bound.args
        return encode(args, self.words_of_input)

    def decode_call(self, raw: msgspec.Raw) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return positional and keyword arguments; raise `PayloadError` when the input does not fit."""
        if not self._by_name_only:
            try:
                return self._complete(raw), {}
            except Exception:  # noqa: BLE001, S110  # by name, not all of them, or unfit: the long way finds out
                pass
        try:
            by_name = memoryview(raw)[0] == _OBJECT
            values = (self._named if by_name else self._positional).decode(raw)
        except Exception as error:  # an author's __post_init__ or validator may raise anything
            message = f"the input does not fit {self.name}({', '.join(self.names)}): {_why(error)}"
            raise PayloadError(message) from error
        fields = msgspec.structs.astuple(values)
        if self._by_name_only or msgspec.UNSET in fields:
            bound = self._signature.bind_partial()
            pairs = zip(self.names, fields, strict=True)
            bound.arguments.update((name, value) for name, value in pairs if value is not msgspec.UNSET)
            bound.apply_defaults()
            return bound.args, bound.kwargs
        return fields, {}


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except NameError:
        pass  # perhaps a name of the function around it, which postponed annotations do not carry
    around: dict[str, Any] = {}
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  # where the definition is being made
    while frame is not None:
        around = {**frame.f_locals, **around}
        frame = frame.f_back
    try:
        return get_type_hints(function, localns=around, include_extras=True)
    except NameError as error:
        message = f"{name}: a type hint cannot be resolved ({error}); import it outside `if TYPE_CHECKING`"
        raise DefinitionError(message) from error


def check_readable(types: Iterable[Any], name: str) -> None:
    """Raise `DefinitionError` for a type, however deep, that msgspec leaves to the hooks and these do not know."""
    rest: list[Any] = list(msgspec.inspect.multi_type_info(types))
    seen: set[int] = set()
    while rest:
        found = rest.pop()
        if isinstance(found, msgspec.inspect.CustomType):
            _check_other(found.cls, name)
        if isinstance(found, tuple):
            rest.extend(found)
        elif isinstance(found, (msgspec.inspect.Type, msgspec.inspect.Field)) and id(found) not in seen:
            seen.add(id(found))
            rest.extend(getattr(found, field) for field in found.__struct_fields__)


def _check_other(other: Any, name: str) -> None:
    validate = getattr(other, "model_validate_json", None)
    if callable(validate):
        if "by_name" not in inspect.signature(validate).parameters:
            message = f"{name}: {other.__name__} is a model of an older pydantic; install pydantic 2.11 or newer"
            raise DefinitionError(message)
    elif not _may_be_json(other):
        message = (
            f"{name}: a value of type {other!r} cannot be read back; use builtins such as list and dict, dataclasses, "
            "msgspec Structs, pydantic models, datetime, UUID, Decimal or Enum, and make it of those in the function"
        )
        raise DefinitionError(message)


def _may_be_json(other: Any) -> bool:
    try:
        return any(issubclass(one, other) for one in _AS_READ)
    except TypeError:  # no class, or a protocol that nothing can be held against
        return False


def _field(parameter: inspect.Parameter, hint: Any) -> tuple[str, Any] | tuple[str, Any, Any]:
    if parameter.default is parameter.empty:
        return (parameter.name, hint)
    # The default stays with the function: UNSET says that the caller left it out.
    return (parameter.name, hint | msgspec.UnsetType if hint is not Any else Any, msgspec.UNSET)
