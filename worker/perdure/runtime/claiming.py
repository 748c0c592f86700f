"""Taking runs: when the worker looks for them, and which it takes without a look.

What lives here: `ClaimLoop`. What must not: what is done with a run that is taken. `tenure` has one and hands it hints.

A hint that announces a run says all that belongs to it. A worker that has nothing else to do takes its first turn and
then claims the run and records the turn in one step, instead of asking first what there is.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from perdure.engine.loop import Stillness
from perdure.model.hints import MANY, NOTHING, Hint
from perdure.model.runs import ClaimAnswer, ClaimedRun, RunId
from perdure.model.workers import Lease

from .beginning import Begun, Host, ahead
from .charge import Charge
from .relay import Relay
from .waiting import hinted

CLAIM = 100
"""Most runs taken at a time."""
CLAIM_POLL = 3.0
"""Seconds between two looks when nobody hints."""
TRIAL = 0.1
"""Most seconds for which nothing else is claimed after a run that may have ended its last owners: enough for activities
that end at once and for the turns that follow them."""
SURVIVED = 60.0
"""Seconds after which a run that may have ended its last owners is not to blame for the end of this one."""
UNKNOWN_POLL = 1.0
"""Least seconds between two looks for runs that nobody knows, however many hints come."""


class Claimant(Host, Protocol):
    """The worker that takes runs."""

    charge: Charge
    lease: Lease
    draining: bool

    @property
    def room(self) -> int:
        """How many more runs it may take now."""

    @property
    def idle(self) -> bool:
        """Whether it has no run and no activity."""

    def adopt(self, run: ClaimedRun, begun: Begun | None = None) -> None:
        """Go on with a run that it owns from now on."""

    def moves(self, run_id: RunId) -> bool:
        """Whether it has the run, and the run does not only wait."""

    def looked(self) -> None:
        """Take note that a look went well."""

    def unsure(self) -> None:
        """Take note that it may own a run without knowing."""


class ClaimLoop:
    """Takes runs as long as there is room. ``pause`` shortens the time between two looks where no hint can come."""

    def __init__(self, home: Claimant, pause: Callable[[float], float]) -> None:
        self._home = home
        self._store = home.charge.store
        self._pause = pause
        self._work = asyncio.Event()
        self._announced: list[ClaimedRun] | None = None
        """Runs that were announced since the last look; None: something else was hinted at, too."""
        self._looked_at = self._held_at = -CLAIM_POLL
        self._strangers = False
        self._left_some = False
        self._relay = Relay(home.charge.store, Hint(queues=frozenset(home.charge.info.queues), count=MANY))
        self._suspects: dict[RunId, float] = {}
        self._rested = asyncio.Event()

    def look(self) -> None:
        """Look for runs now."""
        self.hear(NOTHING)

    def hear(self, hint: Hint) -> None:
        """Look for runs now; if some were announced, there may be no others."""
        if hint.addressed and (self._home.draining or self._home.room <= 0):
            self._relay.pass_on()
        if hint.announced and self._announced is not None:
            self._announced += hint.announced
        else:
            self._announced = None
        self._work.set()

    def came_to_rest(self) -> None:
        """Look for more to do, when some was left and half of the room is free again."""
        self._rested.set()
        limits = self._home.charge.limits
        if self._left_some and self._home.room >= max(1, min(CLAIM, limits.runs, limits.activities) // 2):
            self.look()

    async def run(self) -> None:
        """Loop until the worker drains."""
        while not self._home.draining:
            hint, announced = self._work.is_set(), self._announced
            self._work.clear()
            self._announced = []
            if announced and await self._settled(announced):
                # Announcements keep nobody from looking: what nobody hints at waits for that.
                pause = self._looked_at + self._pause(CLAIM_POLL) - time.monotonic()
            else:
                self._strangers = self._strangers or hint
                if await self._look():
                    continue
                pause = self._pause(CLAIM_POLL)
            await hinted(self._work, max(0.0, pause))

    async def _look(self) -> bool:
        """Claim what there is room for; tell whether there may be more."""
        room = min(CLAIM, self._home.room)
        self._looked_at = time.monotonic()
        self._left_some = room <= 0
        claimed = await self._store.claim(self._home.lease, room) if room > 0 else []
        self._home.looked()
        if room <= 0:
            return False
        self._home.charge.tally.claims += len(claimed)
        self._left_some = len(claimed) == room or any(run.left_others for run in claimed)
        for run in claimed:
            self._home.adopt(run)
            if run.suspect:
                await self._try_suspect(run.info.run_id)
        if self._left_some and self._home.room <= 0:
            self._relay.pass_on()
        if self._left_some or any(run.suspect for run in claimed):
            return True
        # Somebody hinted and there may be work that nobody here knows: say so instead of leaving it waiting.
        if self._strangers and time.monotonic() - self._held_at >= UNKNOWN_POLL:
            self._strangers, self._held_at = False, time.monotonic()
            await self._store.hold_unknown(self._home.lease)
        return False

    # --- runs that were announced ---------------------------------------------------------

    async def _settled(self, announced: Sequence[ClaimedRun]) -> bool:
        """Take the only run that was announced since the last look, and tell whether there is no need to look.

        A worker that has something to do does not: should the code of the run end the process before anybody owns the
        run, nothing goes down with it.
        """
        home, run = self._home, announced[0]
        late = time.monotonic() - self._looked_at >= CLAIM_POLL
        if len(announced) > 1 or late or self._left_some or not home.idle or home.room <= 0:
            return False
        definition = home.charge.workflows.get(run.info.workflow)
        if definition is None or run.info.namespace != home.charge.info.namespace:
            return False
        with Stillness():
            begun = ahead(home, definition, run)
        if begun is None or begun.decision.turn is None:
            return False
        home.unsure()
        answer = ClaimAnswer.UNSURE
        try:
            answer = await self._store.claim_announced(home.lease, run, begun.decision.turn)
        finally:
            if answer is not ClaimAnswer.TAKEN:
                begun.run.evict()
        if answer is ClaimAnswer.TAKEN:
            home.charge.tally.claims += 1
            begun.speak()
            home.adopt(run, begun)
        return answer is not ClaimAnswer.UNSURE

    # --- runs that may have ended their last owners -----------------------------------------

    async def _try_suspect(self, run_id: RunId) -> None:
        """Let a run that may have ended its last owners show what it does before any other run is claimed.

        The one that was claimed last is blamed for the end of this worker.
        """
        self._suspects[run_id] = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TRIAL):
                while self._home.moves(run_id):
                    self._rested.clear()
                    await self._rested.wait()

    async def absolve(self) -> None:
        """Clear the runs that this worker has survived for a while of the suspicion."""
        survived = [run for run, taken_at in self._suspects.items() if time.monotonic() - taken_at >= SURVIVED]
        if survived:
            await self._store.absolve(survived)
        for run_id in survived:
            del self._suspects[run_id]
