"""A network between workers and PostgreSQL that can be cut, held up and slowed down.

What lives here: `Network`, a proxy on the event loop that passes bytes on without reading them. What must not:
knowledge of the protocol; `tests.support.wire` has that.
"""

import asyncio
import contextlib
from typing import Self
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

CHUNK = 65_536


class Network:
    """Listens on a port of this machine and passes everything on, as well or as badly as it is told to."""

    def __init__(self, dsn: str) -> None:
        self._target = conninfo_to_dict(dsn)
        self._lines: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._down = False
        self._losing = False
        self.delay = 0.0
        """Seconds by which everything comes later, in both directions."""
        self.lost = 0
        """How many answers were lost."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._open.set()
        await self.cut()

    def dsn(self) -> str:
        """Return the URL of the database by way of this network."""
        port = self._server.sockets[0].getsockname()[1]
        user = quote(str(self._target.get("user") or "postgres"))
        return f"postgresql://{user}@127.0.0.1:{port}/{self._target['dbname']}"

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

    def hold_up(self) -> None:
        """Pass nothing on, in silence, until `let_through`."""
        self._open.clear()

    def let_through(self) -> None:
        """Pass on what was held up, and everything else."""
        self._open.set()

    def lose_an_answer(self) -> None:
        """Pass the next request on, and cut its line as soon as the server answers."""
        self._losing = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = asyncio.current_task()
        assert line is not None
        self._lines.add(line)
        there: asyncio.StreamWriter | None = None
        try:
            if not self._down:
                answers, there = await self._reach()
                await self._connect(reader, writer, answers, there)
        except (OSError, asyncio.CancelledError):
            pass  # somebody hung up, or the line was cut
        finally:
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()
            self._lines.discard(line)

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = str(self._target.get("host") or "127.0.0.1"), int(self._target.get("port") or 5432)
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _connect(
        self,
        requests: asyncio.StreamReader,
        client: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        server: asyncio.StreamWriter,
    ) -> None:
        doomed = asyncio.Event()
        pumps = [
            asyncio.create_task(self._forward(requests, server, doomed)),
            asyncio.create_task(self._back(answers, client, doomed)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        while data := await reader.read(CHUNK):
            await self._travel()
            # Short messages are a connection's first or last words; what is to be lost is the answer to a statement.
            if self._losing and len(data) > 100:
                self._losing = False
                doomed.set()
            writer.write(data)
            await writer.drain()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        while data := await reader.read(CHUNK):
            if doomed.is_set():
                self.lost += 1
                return
            await self._travel()
            with contextlib.suppress(ConnectionError):
                writer.write(data)
                await writer.drain()

    async def _travel(self) -> None:
        if self.delay:
            await asyncio.sleep(self.delay)
        await self._open.wait()
