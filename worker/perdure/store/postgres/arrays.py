"""Parameters in PostgreSQL's binary format, packed by hand, and the times that come back.

What lives here: one class per type that the queries take, scalars and arrays, and their registration with psycopg.
What must not: connections. psycopg's own list dumper costs several times as much per element, and its choice of
int2, int4 or int8 by value would make the server prepare one statement anew for every mixture.
"""

import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, TypeVar

from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format

from perdure.model.codec import half_a_character

_HEADER = struct.Struct("!iiIii")  # dimensions, whether there are nulls, type of the elements, length, lower bound
_SIZE = struct.Struct("!i")
_NULL = _SIZE.pack(-1)
_INT8 = struct.Struct("!q")
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # PostgreSQL's
_LAST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


T = TypeVar("T")


class Packed(bytes):
    """A parameter that is in the wire format already. ``oid`` is the type's number in every PostgreSQL."""

    oid: ClassVar[int]
    __slots__ = ()


class Bool(Packed):
    """One ``boolean``."""

    oid = 16
    __slots__ = ()


class Bytea(Packed):
    """One ``bytea``."""

    oid = 17
    __slots__ = ()


class Int8(Packed):
    """One ``bigint``."""

    oid = 20
    __slots__ = ()


class Int4(Packed):
    """One ``integer``."""

    oid = 23
    __slots__ = ()


class Text(Packed):
    """One ``text``."""

    oid = 25
    __slots__ = ()


class Byteas(Packed):
    """A ``bytea[]``."""

    oid = 1001
    __slots__ = ()


class Int4s(Packed):
    """An ``integer[]``."""

    oid = 1007
    __slots__ = ()


class Texts(Packed):
    """A ``text[]``."""

    oid = 1009
    __slots__ = ()


class Int8s(Packed):
    """A ``bigint[]``."""

    oid = 1016
    __slots__ = ()


_NO_BYTEAS, _NO_INT4S, _NO_TEXTS, _NO_INT8S = (
    Byteas(struct.pack("!iiI", 0, 0, 17)),
    Int4s(struct.pack("!iiI", 0, 0, 23)),
    Texts(struct.pack("!iiI", 0, 0, 25)),
    Int8s(struct.pack("!iiI", 0, 0, 20)),
)

_TYPES: tuple[type[Packed], ...] = (Bool, Bytea, Int8, Int4, Text, Byteas, Int4s, Texts, Int8s)


def boolean(value: bool) -> Bool:
    """Pack a truth value."""
    return Bool(b"\1" if value else b"\0")


def int4(value: int | None) -> Int4 | None:
    """Pack a number of 32 bits; None stays None, which is NULL of any type."""
    return None if value is None else Int4(struct.pack("!i", value))


def int8(value: int | None) -> Int8 | None:
    """Pack a number of 64 bits; None stays None, which is NULL of any type."""
    return None if value is None else Int8(struct.pack("!q", value))


def text(value: str | None) -> Text | None:
    """Pack a text; raise `PayloadError` for half a character."""
    try:
        return None if value is None else Text(value.encode())
    except UnicodeEncodeError as error:
        raise half_a_character(error.object) from error


def column(values: list[T | None]) -> list[T | None]:
    """Return a column for ``unnest``, which fills it up with NULLs when it is short: nothing, if there is no value."""
    return values if values.count(None) < len(values) else []


def int4s(values: Sequence[int | None]) -> Int4s:
    """Pack numbers of 32 bits and NULLs."""
    return Int4s(_numbers(23, 4, "i", values)) if values else _NO_INT4S


def int8s(values: Sequence[int | None]) -> Int8s:
    """Pack numbers of 64 bits and NULLs."""
    return Int8s(_numbers(20, 8, "q", values)) if values else _NO_INT8S


def byteas(values: Sequence[bytes | None]) -> Byteas:
    """Pack byte strings and NULLs."""
    if not values:
        return _NO_BYTEAS
    return Byteas(_array(17, values, [_NULL if value is None else _SIZE.pack(len(value)) + value for value in values]))


def texts(values: Sequence[str | None]) -> Texts:
    """Pack texts and NULLs; raise `PayloadError` for half a character."""
    if not values:
        return _NO_TEXTS
    try:
        encoded = [None if value is None else value.encode() for value in values]
    except UnicodeEncodeError as error:
        raise half_a_character(error.object) from error
    return Texts(_array(25, values, [_NULL if value is None else _SIZE.pack(len(value)) + value for value in encoded]))


def _numbers(oid: int, size: int, code: str, values: Sequence[int | None]) -> bytes:
    """Pack numbers, all of them in one call if there is no NULL among them."""
    if None in values:
        one = struct.Struct("!i" + code)
        return _array(oid, values, [_NULL if value is None else one.pack(size, value) for value in values])
    pairs = [size] * (2 * len(values))
    pairs[1::2] = values  # type: ignore[assignment]  # there is no NULL
    return _array(oid, values, (struct.pack("!" + f"i{code}" * len(values), *pairs),))


def _array(oid: int, values: Sequence[Any], elements: Iterable[bytes]) -> bytes:
    return _HEADER.pack(1, None in values, oid, len(values), 1) + b"".join(elements)


class _MomentLoader(Loader):
    """Reads a ``timestamptz`` in UTC, the last one that Python knows for those beyond.

    psycopg's own one gives it in the zone of the session, where the last hours of the year 9999 may be in the next.
    """

    format = Format.BINARY

    def load(self, data: Buffer) -> datetime:
        (microseconds,) = _INT8.unpack(data)
        return _EPOCH + timedelta(microseconds=min(microseconds, _LAST))


def register(context: AdaptContext) -> None:
    """Teach a connection to send these types as they are, and to read times."""
    context.adapters.register_loader("timestamptz", _MomentLoader)
    for kind in _TYPES:
        context.adapters.register_dumper(kind, _DUMPERS[kind])


def _dumper(kind: type[Packed]) -> type[Dumper]:
    class PackedDumper(Dumper):
        oid = kind.oid
        format = Format.BINARY

        def dump(self, obj: bytes) -> bytes:
            return obj

    return PackedDumper


_DUMPERS: dict[type[Packed], type[Dumper]] = {kind: _dumper(kind) for kind in _TYPES}
