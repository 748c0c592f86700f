"""A line between clients and PostgreSQL that can be cut: real connections, real losses.

What lives here: `Proxy`, which listens on a port of this machine and passes bytes on, on the event loop of the test.
What must not: what is done to the bytes; `wire` reads statements, `tests.chaos.network` holds up and slows down.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from typing import Self
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

CHUNK = 65_536

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy(ABC):
    """Passes everything on, until told otherwise."""

    def __init__(self, dsn: str) -> None:
        self._target = conninfo_to_dict(dsn)
        self._lines: set[asyncio.Task[None]] = set()
        self._down = False
        self.lost = 0
        """How many answers were lost."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self.cut()

    def dsn(self, *, password: str | None = None, query: str = "") -> str:
        """Return the URL of the database by way of this line."""
        port = self._server.sockets[0].getsockname()[1]
        user = quote(str(self._target.get("user") or "postgres"))
        secret = f":{password}" if password else ""
        return f"postgresql://{user}{secret}@127.0.0.1:{port}/{self._target['dbname']}{query}"

    async def cut(self) -> None:
        """Cut every connection."""
        lines = list(self._lines)
        for line in lines:
            line.cancel()
        await asyncio.gather(*lines, return_exceptions=True)

    async def go_down(self) -> None:
        """Cut everything and refuse new connections until `come_up`."""
        self._down = True
        await self.cut()

    def come_up(self) -> None:
        """Take connections again."""
        self._down = False

    async def greet(self, _client: Ends, /) -> bytes | None:
        """Return what to pass on first; None to hang up."""
        return b""

    @abstractmethod
    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        """Pass requests on; ``doomed`` is set when the next answer on this line is to be lost."""

    @abstractmethod
    async def back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        """Pass answers on; return to cut the line."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = asyncio.current_task()
        assert line is not None
        self._lines.add(line)
        there: asyncio.StreamWriter | None = None
        try:
            greeting = None if self._down else await self.greet((reader, writer))
            if greeting is not None:
                answers, there = await self._reach()
                there.write(greeting)
                await self._connect((reader, writer), (answers, there))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # somebody hung up, or the line was cut
        finally:
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()
            self._lines.discard(line)

    async def _reach(self) -> Ends:
        host, port = str(self._target.get("host") or "127.0.0.1"), int(self._target.get("port") or 5432)
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _connect(self, client: Ends, server: Ends) -> None:
        doomed = asyncio.Event()
        pumps = [
            asyncio.create_task(self.forward(client[0], server[1], doomed)),
            asyncio.create_task(self.back(server[0], client[1], doomed)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)


async def pass_on(data: bytes, writer: asyncio.StreamWriter) -> None:
    """Send what a client may not want to hear any more."""
    with contextlib.suppress(ConnectionError):
        writer.write(data)
        await writer.drain()
