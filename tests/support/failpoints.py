"""Failpoints: a gate between one process and PostgreSQL that names every statement, counts it, and can cut there.

What lives here: `Gate`, a proxy that understands as much of the protocol as it needs to tell statements apart, and the
words for where and how to cut. What must not: knowledge of what a statement means, or a list of statements; their
names come from the store's own queries, so that a statement added tomorrow is seen and cut without a change here.
"""

from __future__ import annotations

import asyncio
import enum
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

from perdure.store.postgres.queries import QUERIES

NAMES: Final = {query.statement: name for name, query in QUERIES.items()}
ENCRYPTION: Final = {80877103, 80877104}
"""The codes of a client's offers to encrypt, which come before its startup message."""


class Kind(enum.StrEnum):
    """How to cut."""

    UNSENT = "connection lost before it"
    UNANSWERED = "answer lost"
    KILLED_BEFORE = "process killed before it"
    KILLED_AFTER = "process killed after it"

    @property
    def kills(self) -> bool:
        """Whether the process dies."""
        return self in {Kind.KILLED_BEFORE, Kind.KILLED_AFTER}

    @property
    def carried_out(self) -> bool:
        """Whether the server carries the statement out."""
        return self in {Kind.UNANSWERED, Kind.KILLED_AFTER}


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """The ``nth`` time (from 1) that a process in this role, or in any if it is empty, sends this statement.

    Only times count at which at least ``least`` bytes went there, and back as far as the answer was waited for: a
    statement that looks for work is sent often, and rarely finds much.
    """

    role: str
    name: str
    nth: int
    least: int = 0

    def __str__(self) -> str:
        return f"{self.role or 'whoever'}: {self.name} #{self.nth}" + (f" of {self.least} bytes" if self.least else "")


@dataclass(frozen=True, slots=True)
class Cut:
    """One cut to make."""

    place: Place
    kind: Kind

    def anywhere(self) -> Cut:
        """Return the cut without regard to who sends the statement and how much it does."""
        return replace(self, place=replace(self.place, role="", least=0))

    def __str__(self) -> str:
        return f"{self.place}, {self.kind}"


class HungUpError(Exception):
    """The line is cut: both its ends find out now."""


class Gate:
    """Passes everything between one role's processes and the server on, and makes the cuts that it was given.

    ``sent`` has the name of each statement, and for each time that it was sent the bytes that went there and back: an
    idea of how much it did. ``together`` has those that shared a transaction. ``made`` has the cuts that were made, and
    may belong to several gates: each is made once.
    """

    def __init__(self, dsn: str, role: str, cuts: Sequence[Cut], made: list[Cut], kill: Callable[[], None]) -> None:
        self._target = conninfo_to_dict(dsn)
        self._kill = kill
        self._lines: set[asyncio.Task[None]] = set()
        self._times = {cut: 0 for cut in cuts if cut.place.role in {role, ""}}
        self.sent: dict[str, list[int]] = {}
        self.together: set[tuple[str, ...]] = set()
        self.made = made

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for line in self._lines:
            line.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)

    @property
    def dsn(self) -> str:
        """The URL of the database by way of this gate."""
        port = self._server.sockets[0].getsockname()[1]
        user = quote(str(self._target.get("user", "postgres")))
        return f"postgresql://{user}@127.0.0.1:{port}/{self._target['dbname']}"

    def cuts_before(self, name: str, size: int) -> bool:
        """Count a statement that is about to be sent, and cut here if that is wanted."""
        self.sent.setdefault(name, []).append(size)
        return self._cuts(name, size, carried_out=False)

    def cuts_after(self, name: str, nth: int, size: int) -> bool:
        """Take note of the size of an answer, and cut here if that is wanted."""
        self.sent[name][nth] += size
        return self._cuts(name, self.sent[name][nth], carried_out=True)

    def _cuts(self, name: str, size: int, *, carried_out: bool) -> bool:
        wanted = [
            cut
            for cut in self._times
            if cut.place.name == name and cut.kind.carried_out == carried_out and size >= cut.place.least
        ]
        for cut in wanted:
            self._times[cut] += 1
            if self._times[cut] == cut.place.nth and cut not in self.made:
                self.made.append(cut)
                if cut.kind.kills:
                    self._kill()
                return True
        return False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._lines.add(task)
        try:
            host, port = str(self._target.get("host") or "127.0.0.1"), int(self._target.get("port") or 5432)
            startup = await _startup(reader, writer)
            if host.startswith("/"):
                back_reader, back_writer = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
            else:
                back_reader, back_writer = await asyncio.open_connection(host, port)
            back_writer.write(startup)
            await _Line(self, writer, back_writer).carry(reader, back_reader)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # somebody hung up, or the gate closes
        finally:
            writer.transport.abort()
            self._lines.discard(task)


@dataclass
class _Line:
    """One connection: how its prepared statements are called, and which statements have no answer yet.

    An answer ends when the server is ready for the next question. Statements that are asked together, without waiting
    for each other's answers, are answered together here.
    """

    gate: Gate
    to_client: asyncio.StreamWriter
    to_server: asyncio.StreamWriter
    prepared: dict[bytes, str] = field(default_factory=dict)
    asking: list[tuple[str, int]] = field(default_factory=list)
    asked: deque[list[tuple[str, int]]] = field(default_factory=deque)

    async def carry(self, from_client: asyncio.StreamReader, from_server: asyncio.StreamReader) -> None:
        """Carry messages both ways until one end hangs up or the line is cut."""
        pumps = [asyncio.create_task(self._forth(from_client)), asyncio.create_task(self._back(from_server))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            # A cut is abrupt on both sides; what the server has not carried out by now, it forgets.
            self.to_client.transport.abort()
            self.to_server.transport.abort()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _forth(self, reader: asyncio.StreamReader) -> None:
        async for messages in _arriving(reader):
            for kind, message in messages:
                name = self._name(kind, message[5:])
                if name is not None:
                    if self.gate.cuts_before(name, len(message)):
                        raise HungUpError
                    self.asking.append((name, len(self.gate.sent[name]) - 1))
                if kind in b"QS":
                    self.asked.append(self.asking)
                    if len(self.asking) > 1:
                        self.gate.together.add(tuple(name for name, _ in self.asking))
                    self.asking = []
            self.to_server.write(b"".join(message for _, message in messages))
            await self.to_server.drain()

    def _name(self, kind: bytes, body: bytes) -> str | None:
        """Return the name of the statement that this message executes."""
        if kind == b"P":
            statement, text, *_ = body.split(b"\0", 2)
            self.prepared[statement] = _called(text)
        elif kind == b"B":
            _, statement, *_ = body.split(b"\0", 2)
            return self.prepared[statement]
        elif kind == b"Q":
            return _called(body.rstrip(b"\0"))
        return None

    async def _back(self, reader: asyncio.StreamReader) -> None:
        answer: list[bytes] = []
        async for messages in _arriving(reader):
            for kind, message in messages:
                answer.append(message)
                if kind == b"Z":
                    # A server says once that it is ready before anybody asks.
                    together = self.asked.popleft() if self.asked else []
                    cuts = [self.gate.cuts_after(*what, sum(map(len, answer))) for what in together]
                    if any(cuts):
                        raise HungUpError
                if kind == b"Z" or not self.asked:
                    self.to_client.write(b"".join(answer))
                    answer = []
            await self.to_client.drain()


def _called(text: bytes) -> str:
    """Return the name of a statement; one that is no query of the store is called by its text.

    All that listen have one name: which channels they are for depends on the numbers of workers.
    """
    return NAMES.get(text) or (
        "LISTEN" if text.startswith((b"LISTEN ", b"UNLISTEN ")) else " ".join(text.decode().split())[:60]
    )


async def _arriving(reader: asyncio.StreamReader) -> AsyncIterator[list[tuple[bytes, bytes]]]:
    """Yield what arrives as whole messages, each with its kind, until the other end hangs up."""
    data = b""
    while more := await reader.read(1 << 16):
        data += more
        messages, begin = [], 0
        while begin + 5 <= len(data) and (end := begin + 1 + struct.unpack_from("!i", data, begin + 1)[0]) <= len(data):
            messages.append((data[begin : begin + 1], data[begin:end]))
            begin = end
        data = data[begin:]
        yield messages


async def _startup(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Return the first real message; offers to encrypt are declined, as by a server without TLS."""
    while True:
        head = await reader.readexactly(8)
        length, code = struct.unpack("!ii", head)
        if code not in ENCRYPTION:
            return head + await reader.readexactly(length - 8)
        writer.write(b"N")
