"""The socket of a connection, which the event loop is told of once.

What lives here: `Socket`. What must not: what is sent and what the answers mean; `exchange` and `hints` own one each.
psycopg tells the loop of its socket anew for every wait and wakes up ten times a second in between, which costs more
than most of what our statements do.
"""

import asyncio
import contextlib
import select
from collections.abc import Callable

import psycopg

_CLOSED = -1


class Socket:
    """Takes in all that the server sends and calls ``arrived``, or once ``lost`` when the connection is no more."""

    def __init__(
        self,
        connection: psycopg.AsyncConnection[tuple[object, ...]],
        arrived: Callable[[], None],
        lost: Callable[[psycopg.Error], None],
    ) -> None:
        self._pgconn = connection.pgconn
        self._arrived = arrived
        self._lost = lost
        self.loop = asyncio.get_running_loop()
        self._number = self._pgconn.socket
        self._over = select.poll()
        self._over.register(self._number, 0)  # its end and its errors are told unasked
        self.loop.add_reader(self._number, self._readable)

    def on_room(self, call: Callable[[], None]) -> None:
        """Call whenever the socket takes more, until `enough`."""
        self.loop.add_writer(self._number, call)

    def enough(self) -> None:
        """End what `on_room` began."""
        if self._number != _CLOSED:
            self.loop.remove_writer(self._number)

    def close(self) -> None:
        """Let go of the socket, at the latest when it is closed: its number may be another one's then."""
        number, self._number = self._number, _CLOSED
        if number == _CLOSED:
            return
        for remove in (self.loop.remove_writer, self.loop.remove_reader):
            with contextlib.suppress(OSError):  # libpq has closed it already
                remove(number)

    def _readable(self) -> None:
        try:
            self._pgconn.consume_input()
            # uvloop calls but once when the other end has hung up with data unread, and forgets the socket: what the
            # server had still said comes before the news of its end.
            while self._over.poll(0):
                self._pgconn.consume_input()
        except psycopg.Error as error:
            self.close()
            self._lost(error)
        else:
            self._arrived()
