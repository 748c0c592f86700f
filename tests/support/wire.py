"""A wire between a client and PostgreSQL that knows the protocol.

What lives here: `Wire`, which can lose the answer to a statement that the server has carried out, can refuse settings
as a pooler does, and speaks TLS with its clients if it is given a certificate. What must not: knowledge of the stores.
"""

from __future__ import annotations

import asyncio
import ssl
import struct

from tests.support.proxy import CHUNK, Ends, Proxy, pass_on

READY = b"Z\x00\x00\x00\x05I"
"""The end of each answer of a server outside a transaction."""

TLS, GSS = 80877103, 80877104
"""What clients send first that would like to encrypt."""

REFUSAL = b"SFATAL\x00VFATAL\x00C08P01\x00Munsupported startup parameter in options: plan_cache_mode\x00\x00"


class Wire(Proxy):
    """Passes messages on, one by one."""

    def __init__(self, dsn: str, *, refuses_options: bool = False, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(dsn)
        self._refuses_options = refuses_options
        self._tls = tls
        self.encrypted = 0
        """How many connections are, or were."""
        self._losing: bytes | None = None
        self._halving: bytes | None = None
        self.refused = 0
        self.halved = asyncio.Event()
        """Set when the server has half of a pair."""

    def lose_answer_to(self, part: str) -> None:
        """Let the server carry out the next statement whose text has ``part``, and cut the line before its answer."""
        self._losing = part.encode()

    def halve_pair_with(self, part: str) -> None:
        """Of the next pair that is sent in one go, a statement whose text has ``part`` last, pass only the first on."""
        self._halving = part.encode()

    async def has_lost(self) -> bool:
        """Tell whether an answer was lost."""
        return self.lost > 0

    async def greet(self, client: Ends, /) -> bytes | None:
        reader, writer = client
        startup = await self._startup(reader, writer)
        if self._refuses_options and b"\x00options\x00" in startup:
            self.refused += 1
            writer.write(b"E" + struct.pack("!i", len(REFUSAL) + 4) + REFUSAL)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            return None
        return startup

    async def _startup(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """Return the first real message; without a certificate offers to encrypt are declined."""
        while True:
            head = await reader.readexactly(8)
            length, code = struct.unpack("!ii", head)
            if code not in {TLS, GSS}:
                return head + await reader.readexactly(length - 8)
            if code == TLS and self._tls is not None:
                writer.write(b"S")
                await writer.start_tls(self._tls)
                self.encrypted += 1
            else:
                writer.write(b"N")

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        seen = halving = False
        while True:
            head = await reader.readexactly(5)
            message = head + await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)
            # P brings the text of a statement, B its parameters: often in one go, sometimes with an answer in between.
            if message[:1] == b"P" and self._losing is not None and self._losing in message:
                self._losing, seen = None, True
            if message[:1] == b"B" and seen:
                seen = False
                doomed.set()
            if message[:1] == b"P" and self._halving is not None and self._halving in message:
                self._halving, halving = None, True
            writer.write(message)
            await writer.drain()
            if message[:1] == b"E" and halving:
                self.halved.set()
                await asyncio.Event().wait()

    async def back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        tail = b""
        while data := await reader.read(CHUNK):
            if doomed.is_set():
                tail = (tail + data)[-len(READY) :]
                if tail == READY:
                    self.lost += 1
                    return
                continue
            await pass_on(data, writer)
