"""Trouble: faults one after the other, drawn from a seed, until told to stop.

What lives here: `Trouble`. What must not: what a fault does; that is in `faults`.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Mapping

from tests.chaos.faults import OUTSIDE_HARM, WORKER_HARM, Fault, Harm, World


class Trouble:
    """Two streams at the same time: one harms workers, one harms what they stand on. Every kind comes round.

    ``apart``: one stream for all, with time to recover in between, so that each recovery can be measured alone.
    """

    def __init__(self, world: World, seed: int, tell: Callable[[str], None], *, apart: bool = False) -> None:
        self.done: list[Fault] = []
        self._world = world
        self._seed = seed
        self._tell = tell
        self._streams = ({**WORKER_HARM, **OUTSIDE_HARM},) if apart else (WORKER_HARM, OUTSIDE_HARM)
        # Sometimes there is time to recover before the next one, sometimes not.
        self._pauses = (2.0,) if apart else (0.3, 1.0, 2.0)
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Begin no more faults."""
        self._stop.set()

    async def run(self) -> None:
        """Do harm until `stop`; every fault is over when this returns."""
        async with asyncio.TaskGroup() as group:
            for place, kinds in enumerate(self._streams):
                group.create_task(self._stream(kinds, random.Random(f"{self._seed}/{place}")))

    async def _stream(self, kinds: Mapping[str, Harm], dice: random.Random) -> None:
        for kind in _dealt(sorted(kinds), dice):
            if await self._stopped_within(dice.choice(self._pauses) * self._world.lease):
                return
            await self._do(kind, kinds[kind], dice)

    async def _do(self, kind: str, harm: Harm, dice: random.Random) -> None:
        fault = Fault(kind, time.time())
        self.done.append(fault)
        await harm(self._world, fault, dice)
        fault.ended = time.time()
        fault.over = fault.over or fault.ended
        self._tell(f"{kind}: {fault.note}; {fault.ended - fault.began:.2f} s, {len(fault.affected)} runs affected")

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return False
        return True


def _dealt(kinds: list[str], dice: random.Random) -> Iterator[str]:
    """Yield all kinds in a random order, and again, for ever."""
    while True:
        dice.shuffle(kinds)
        yield from kinds
