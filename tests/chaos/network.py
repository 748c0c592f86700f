"""A network between workers and PostgreSQL that can be cut, held up and slowed down.

What lives here: `Network`, which passes bytes on without reading them. What must not: knowledge of the protocol;
`tests.support.wire` has that.
"""

import asyncio

from tests.support.proxy import CHUNK, Proxy, pass_on


class Network(Proxy):
    """Passes everything on, as well or as badly as it is told to."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self._open = asyncio.Event()
        self._open.set()
        self._losing = False
        self.delay = 0.0
        """Seconds by which everything comes later, in both directions."""

    def hold_up(self) -> None:
        """Pass nothing on, in silence, until `let_through`."""
        self._open.clear()

    def let_through(self) -> None:
        """Pass on what was held up, and everything else."""
        self._open.set()

    def lose_an_answer(self) -> None:
        """Pass the next request on, and cut its line as soon as the server answers."""
        self._losing = True

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        while data := await reader.read(CHUNK):
            await self._travel()
            # Short messages are a connection's first or last words; what is to be lost is the answer to a statement.
            if self._losing and len(data) > 100:
                self._losing = False
                doomed.set()
            writer.write(data)
            await writer.drain()

    async def back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        while data := await reader.read(CHUNK):
            if doomed.is_set():
                self.lost += 1
                return
            await self._travel()
            await pass_on(data, writer)

    async def _travel(self) -> None:
        if self.delay:
            await asyncio.sleep(self.delay)
        await self._open.wait()
