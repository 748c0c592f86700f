"""The lease of a worker, renewed from a thread of its own.

What lives here: the heartbeat, and the rule that a worker whose event loop has
stalled gives its lease up. What must not: knowledge of runs; `watchdog` knows
what stalls a loop. `tenure` starts one for each registration and is called back
on its event loop.
"""

import asyncio
import logging
import threading
from collections.abc import Callable

from perdure.errors import LeaseLostError, StoreError
from perdure.model.workers import Lease
from perdure.store.base import Store

from .clock import StoreClock, monotonic, monotonic_ns
from .limits import Limits
from .watchdog import Watchdog

logger = logging.getLogger("perdure.worker")

SILENCE = 5.0
"""Seconds that a worker that is to stop waits for a word of the store, wherever it waits for one."""


class LeaseKeeper:
    """Renews a lease three times within its length until it is lost or stopped.

    The thread exists because a turn or an ``async`` activity that computes for
    long must not cost the worker its runs; but a loop that shows no sign of life
    for a whole lease is given up, so that others go on with its runs.
    """

    def __init__(
        self, store: Store, lease: Lease, limits: Limits, clock: StoreClock, on_event: Callable[[str], None]
    ) -> None:
        self._store = store
        self._lease = lease
        self._server = lease.server
        self._length = limits.lease
        self._clock = clock
        self._on_event = on_event
        self._stopped = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._until = 0.0
        self._look: asyncio.TimerHandle | None = None
        self._watchdog = Watchdog(limits.turn, limits.lease)
        self._thread = threading.Thread(target=self._renew_until_stopped, name="perdure-lease", daemon=True)

    async def start(self) -> None:
        """Renew once (the clock is set when this returns), then keep renewing."""
        self._watchdog.start()
        await self._loop.run_in_executor(None, self._renew)
        self._thread.start()
        self._look_at_the_clock()

    async def stop(self) -> None:
        """Stop renewing; the lease stays as it is."""
        self._stopped.set()
        if self._look is not None:
            self._look.cancel()
        await self._watchdog.stop()
        if self._thread.is_alive():
            await self._loop.run_in_executor(None, self._thread.join, SILENCE)

    def holds(self) -> bool:
        """Tell whether the lease is in force for sure; when it is not, it is given up.

        A process that was frozen, or whose heartbeats do not come back, knows by its own clock that others may have
        taken over, before anybody tells it. What begins an effect asks first; writes have their fence.
        """
        if monotonic() < self._until:  # as in `over`, asked for each attempt
            return True
        self._tell("lost")
        return False

    @property
    def over(self) -> bool:
        """Whether the lease has run out; one that is given up has not."""
        return monotonic() >= self._until

    def _look_at_the_clock(self) -> None:
        """Give the lease up when its time is over, whatever the thread waits for then."""
        if self.holds():
            self._look = self._loop.call_later(self._until - monotonic(), self._look_at_the_clock)

    def _renew(self) -> bool:
        asked_at = monotonic_ns()
        renewal = self._store.renew(self._lease)
        self._until = asked_at / 1e9 + self._length
        self._clock.set(renewal.now, asked_at, monotonic_ns())
        if renewal.server != self._server:
            self._server = renewal.server
            self._tell("moved")
        return renewal.reaped

    def _renew_until_stopped(self) -> None:
        while not self._stopped.wait(self._length / 3):
            silence = self._watchdog.silence()
            if silence > self._length:
                stack = self._watchdog.stack()
                logger.error(
                    "the event loop has not moved for %.1f s; giving the lease up. It is here:\n%s", silence, stack
                )
                self._tell("lost")
                return
            try:
                if self._renew():
                    self._tell("reaped")
            except LeaseLostError:
                self._tell("lost")
                return
            except StoreError as error:
                logger.warning("the lease could not be renewed: %s", error)
                if not self.holds():
                    return

    def _tell(self, event: str) -> None:
        if not self._stopped.is_set() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._on_event, event)
