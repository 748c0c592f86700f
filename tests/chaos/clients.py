"""The clients of the chaos: they start runs, send messages and wait for results, through everything that happens.

What lives here: `Load`. What must not: faults. A client that is told that the database cannot be reached asks again;
anything else that a call raises is a complaint.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from perdure import Client, WorkflowHandle
from perdure.errors import StoreUnavailableError, WorkflowClosedError, WorkflowNotFoundError
from perdure.model.events import SignalReceived
from perdure.model.payload import encode
from tests.chaos.workflows import LETTERS, expected, go, letter, letters, shape

T = TypeVar("T")

PATIENCE: Final = 90.0
"""Seconds after the last fault in which everything that is open has to end."""

WARM: Final = 20


class Load:
    """Keeps a number of runs in flight until it is told to stop, or has started enough."""

    def __init__(self, clients: Sequence[Client], runs: int, in_flight: int, seed: int) -> None:
        self.complaints: list[str] = []
        self.started: dict[int, WorkflowHandle[object]] = {}
        """By the run's number, every run that was started."""
        self.finished = 0
        self.repeated = 0
        """Calls that had to be made again because the database could not be reached."""
        self.warm = asyncio.Event()
        """Set when some runs have ended: there is something to disturb."""
        self._clients: Final = clients
        self._runs: Final = runs
        self._in_flight: Final = in_flight
        self._seed: Final = seed
        self._open: set[asyncio.Task[None]] = set()
        self._enough = False

    async def run(self) -> None:
        """Start runs until there are enough; each is followed to its end."""
        places = asyncio.Semaphore(self._in_flight)
        for number in range(self._runs):
            await places.acquire()
            if self._enough:
                break
            task = asyncio.create_task(self._live(number), name=f"run {number}")
            self._open.add(task)
            task.add_done_callback(self._open.discard)
            task.add_done_callback(lambda _: places.release())

    def stop(self) -> None:
        """Start no more."""
        self._enough = True

    async def end(self) -> None:
        """Wait until every run has ended; those that do not in time are complained of."""
        if self._open:
            await asyncio.wait(self._open, timeout=PATIENCE)
        for task in list(self._open):
            number = int(task.get_name().split()[1])
            handle = self.started.get(number)
            where = await handle.describe() if handle is not None else "not started"
            self.complaints.append(f"stuck after {PATIENCE:g} s without faults: run {number}, {where}")
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _live(self, number: int) -> None:
        client = self._clients[number % len(self._clients)]
        try:
            handle = self.started[number] = await self._start(client, number)
            if shape(number) is letters:
                await self._write_letters(client, handle.id, number)
            result = await handle.result()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, it is not right
            self.complaints.append(f"run {number}: {type(error).__name__}: {error}")
            return
        self.finished += 1
        if self.finished == WARM:
            self.warm.set()
        if result != expected(number):
            self.complaints.append(f"run {number} returned {result!r}, not {expected(number)!r}")

    async def _start(self, client: Client, number: int) -> WorkflowHandle[object]:
        """Start the run; a start that may have been carried out is looked for before it is repeated."""
        instance = f"chaos-{number}"

        async def start() -> WorkflowHandle[object]:
            try:
                handle: WorkflowHandle[object] = await client.start(shape(number), number, id=instance)
                return handle
            except StoreUnavailableError:
                self.repeated += 1  # it may have been carried out all the same
            try:
                summary = await self._persist(client.handle(instance).describe)
            except WorkflowNotFoundError:
                return await start()
            return client.handle(instance, run_id=summary.run_id)

        return await start()

    async def _write_letters(self, client: Client, instance: str, number: int) -> None:
        dice = random.Random(f"{self._seed}/{number}")
        messages = [(letter.name, place) for place in range(LETTERS)] + [(go.name, number)]
        for name, payload in messages:
            await asyncio.sleep(dice.choice((0, 0, 0.1, 1.5)))
            # The same id makes a message that is sent again count once.
            message = SignalReceived(name, encode(payload, name), f"{instance}/{name}/{payload}")
            sent_at = time.monotonic()
            try:
                await self._persist(lambda message=message: client.deliver(instance, message))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            except WorkflowClosedError:
                # Only the last one can find the run closed, and only if an earlier try of it arrived.
                if name != go.name or time.monotonic() - sent_at < 0.02:
                    raise

    async def _persist(self, call: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await call()
            except StoreUnavailableError:
                self.repeated += 1
