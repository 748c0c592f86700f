"""A wire between a client and PostgreSQL that a test can cut: real connections, real losses.

What lives here: `Wire`, a proxy on the event loop of the test. What must not: knowledge of the stores. It can lose the
answer to a statement that the server has carried out, and it can refuse settings as a pooler does.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import Self
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

READY = b"Z\x00\x00\x00\x05I"
"""The end of each answer of a server outside a transaction."""

REFUSAL = b"SFATAL\x00VFATAL\x00C08P01\x00Munsupported startup parameter in options: plan_cache_mode\x00\x00"


class Wire:
    """Listens on a port of this machine and passes everything on, until told otherwise."""

    def __init__(self, dsn: str, *, refuses_options: bool = False) -> None:
        self._target = conninfo_to_dict(dsn)
        self._refuses_options = refuses_options
        self._losing: bytes | None = None
        self._down = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.lost = 0
        self.refused = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self.cut()

    def dsn(self, *, password: str | None = None, query: str = "") -> str:
        """Return the URL of the database by way of this wire."""
        port = self._server.sockets[0].getsockname()[1]
        user = quote(str(self._target.get("user", "postgres")))
        secret = f":{password}" if password else ""
        return f"postgresql://{user}{secret}@127.0.0.1:{port}/{self._target['dbname']}{query}"

    def lose_answer_to(self, part: str) -> None:
        """Let the server carry out the next statement whose text has ``part``, and cut the line before its answer."""
        self._losing = part.encode()

    async def has_lost(self) -> bool:
        """Tell whether an answer was lost."""
        return self.lost > 0

    async def cut(self) -> None:
        """Cut every connection."""
        while self._tasks:
            for writer in list(self._writers):
                writer.transport.abort()
            await asyncio.wait(self._tasks)

    async def go_down(self) -> None:
        """Cut everything and take no new connections until `come_up`."""
        self._down = True
        await self.cut()

    def come_up(self) -> None:
        """Take connections again."""
        self._down = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            if not self._down:
                await self._connect(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # somebody hung up
        finally:
            writer.close()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        startup = await self._startup(reader, writer)
        if self._refuses_options and b"\x00options\x00" in startup:
            self.refused += 1
            writer.write(b"E" + struct.pack("!i", len(REFUSAL) + 4) + REFUSAL)
            await writer.drain()
            return
        host, port = str(self._target.get("host") or "127.0.0.1"), int(self._target.get("port") or 5432)
        if host.startswith("/"):
            there = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            there = await asyncio.open_connection(host, port)
        server_reader, server_writer = there
        self._writers.add(server_writer)
        server_writer.write(startup)
        losing = asyncio.Event()
        pumps = [
            asyncio.create_task(self._forward(reader, server_writer, losing)),
            asyncio.create_task(self._back(server_reader, writer, losing)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            server_writer.close()
            self._writers.discard(server_writer)

    async def _startup(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """Return the first real message; offers to encrypt are declined, as by a server without TLS."""
        while True:
            head = await reader.readexactly(8)
            length, code = struct.unpack("!ii", head)
            if code not in {80877103, 80877104}:
                return head + await reader.readexactly(length - 8)
            writer.write(b"N")

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event) -> None:
        seen = False
        while True:
            head = await reader.readexactly(5)
            message = head + await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)
            # P brings the text of a statement, B its parameters: often in one go, sometimes with an answer in between.
            if message[:1] == b"P" and self._losing is not None and self._losing in message:
                self._losing, seen = None, True
            if message[:1] == b"B" and seen:
                seen = False
                losing.set()
            writer.write(message)
            await writer.drain()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event) -> None:
        tail = b""
        while data := await reader.read(65536):
            if losing.is_set():
                tail = (tail + data)[-len(READY) :]
                if tail == READY:
                    self.lost += 1
                    return
                continue
            with contextlib.suppress(ConnectionError):
                writer.write(data)
                await writer.drain()
