"""The tasks in which attempts are made: one for each, or one for many that never wait.

What lives here: which attempt gets which task, and in which context. What must not: what an attempt does. `attempts`
calls.

A task costs more than a short activity. So one task, the carrier, makes one attempt after the other for as long as
none of them waits for anything: until then nobody can tell the difference. The attempt that waits keeps the task, and
it ends with it. An activity that was seen waiting gets a task of its own from then on. (Python 3.12 has eager tasks
for the same reason; they would begin in the middle of what their maker is doing.)
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Coroutine
from typing import Any, Protocol

from perdure.activity import ActivityContext, context

MOST = 24
"""Attempts of one carrier: then the event loop looks at its connections, however short they are."""


class Load(ActivityContext, Protocol):
    """An attempt, as far as its task goes. It is what the variable ``context`` has while it is made."""

    task: asyncio.Task[None] | None
    """The task while it is being made; cancelling it reaches this attempt and no other."""

    @property
    def activity_name(self) -> str:
        """What is attempted."""

    @property
    def title(self) -> str:
        """What its task is called."""

    def make(self) -> Coroutine[Any, Any, None]:
        """Make the attempt. It deals with every `Exception` itself."""


class Carriers:
    """Makes attempts. Each begins in the context in which this object was made, whatever others did to theirs."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._ready: deque[Load] = deque()
        self._waiters: set[str] = set()
        """The activities that were seen waiting."""
        self._carrier: _Carrier | None = None
        """The one that has not come to the end of its first step."""

    def begin(self, load: Load) -> None:
        """Make an attempt soon."""
        if load.activity_name in self._waiters:
            # Not the event loop's task factory: an eager one would begin in the middle of what goes on here.
            asyncio.Task(_alone(load), loop=self._loop, name=load.title, context=self._context.copy())
            return
        self._ready.append(load)
        if self._carrier is None:
            carrier = self._carrier = _Carrier(self._ready, self._loop, self._context.copy())
            self._loop.call_soon(self._look, carrier, context=self._context)

    def _look(self, carrier: "_Carrier") -> None:
        """See what became of the first step of a carrier."""
        self._carrier = None
        if carrier.load is not None:
            carrier.waited = True
            self._waiters.add(carrier.load.activity_name)
        left = list(self._ready)
        self._ready.clear()
        for load in left:
            self.begin(load)


class _Carrier(asyncio.Task[None]):
    """Takes some attempts from ``ready`` and makes them, up to the first that leaves a trace on the task.

    Its name is that of the attempt that it is making: who looks for what keeps the event loop busy finds it.
    """

    def __init__(self, ready: deque[Load], loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        self.load: Load | None = None
        self.waited = False
        super().__init__(self._run(ready), loop=loop, context=context)

    def get_name(self) -> str:
        """Return the title of the attempt."""
        return "perdure-activities" if self.load is None else self.load.title

    async def _run(self, ready: deque[Load]) -> None:
        for _ in range(MOST):
            if not ready:
                return
            load = self.load = ready.popleft()
            load.task = self
            context.set(load)
            before = contextvars.copy_context()
            try:
                await load.make()
            finally:
                load.task = self.load = None
            if self.waited or self.cancelling() or _differs(before):
                return


def _differs(before: contextvars.Context) -> bool:
    try:
        return contextvars.copy_context() != before
    except Exception:  # noqa: BLE001  # values that cannot be compared (arrays, say) are others, or nobody would ask them
        return True


async def _alone(load: Load) -> None:
    load.task = asyncio.current_task()
    context.set(load)
    try:
        await load.make()
    finally:
        load.task = None
