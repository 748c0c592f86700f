"""The edge to kopf: watching objects and worker pods, and nothing else.

What lives here: `Watch`. What must not: anything that decides. It is the only module that imports kopf; `main` runs one
during a term, and each event ends in a call of `Ears` on the operator's own event loop.

kopf runs in a thread with a loop of its own, because on its way out it cancels every task that is younger than itself.
Of its handlers only ``on.event`` is used: the others write annotations or finalizers to every object. Nor may it post
events, look for peers or scan for new kinds. A kopf that ends by itself ends the term with `WatchEndedError`.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import kopf

from perdure.errors import PerdureError

from .cluster import GROUP, PAGE, PLURAL
from .pods import LABEL

logger = logging.getLogger("perdure.operator")

STOP_TIMEOUT = 10.0
STACK = 16 * 1024 * 1024
"""Bytes; what is not used is not taken."""
PULSE = 1.0
FAREWELL = 0.1
"""Seconds for connections to say goodbye: closing TLS takes some rounds of a loop that would end at once."""


class WatchEndedError(PerdureError):
    """kopf ended although nobody asked it to; the process must not go on deaf."""


class Ears(Protocol):
    """Who is told what was seen."""

    def instance(self, body: Mapping[str, Any], *, deleted: bool) -> None:
        """Take a WorkflowInstance."""

    def pod(self, body: Mapping[str, Any], *, deleted: bool) -> None:
        """Take a worker's pod."""


class Watch:
    """A watch of the objects of some namespaces (None: of all) and, if asked for, of the worker pods there."""

    def __init__(self, ears: Ears, namespaces: tuple[str, ...] | None, *, pods: bool) -> None:
        self._ears = ears
        self._namespaces = namespaces
        self._pods = pods
        self._home = asyncio.get_running_loop()
        self._ended = self._home.create_future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._stopping = False
        self._pulse = time.monotonic()

    def silence(self) -> float:
        """Return for how many seconds kopf's loop has shown no sign of life."""
        return time.monotonic() - self._pulse

    async def run(self) -> None:
        """Watch until cancelled; raise `WatchEndedError` when kopf ends before."""
        self._start_thread()
        try:
            await asyncio.shield(self._ended)
        except asyncio.CancelledError:
            await self._finish()
            raise
        except BaseException as error:
            self._ask_to_stop()
            message = f"the watch of the objects failed: {error!r}"
            raise WatchEndedError(message) from error
        message = "the watch of the objects ended by itself"
        raise WatchEndedError(message)

    def _start_thread(self) -> None:
        # Who reads a deep object goes down by recursion, and a thread may have less room for that than the process.
        before = threading.stack_size(STACK)
        try:
            threading.Thread(target=self._work, name="perdure-watch", daemon=True).start()
        finally:
            threading.stack_size(before)

    async def _finish(self) -> None:
        self._ask_to_stop()
        done, _ = await asyncio.wait([self._ended], timeout=STOP_TIMEOUT)
        if not done:
            logger.warning("the watch did not end within %g s; it is left behind without effect", STOP_TIMEOUT)
        elif not self._ended.cancelled():
            self._ended.exception()

    def _ask_to_stop(self) -> None:
        self._stopping = True
        if self._loop is not None and self._stop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)

    # In kopf's thread

    def _work(self) -> None:
        try:
            asyncio.run(self._kopf())
        except BaseException as error:  # noqa: BLE001  # it is raised where somebody waits for it
            self._tell(self._ended_with, error)
        else:
            self._tell(self._ended_with, None)

    async def _kopf(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        if self._stopping:
            return
        pulse = asyncio.create_task(self._beat())
        try:
            await kopf.operator(
                registry=self._registry(),
                # kopf would ask who the user is, and a container's user has no name.
                identity="perdure-operator",  # type: ignore[arg-type]  # kopf does not export the type of this text
                settings=kopf.OperatorSettings(),
                standalone=True,
                clusterwide=self._namespaces is None,
                namespaces=self._namespaces or (),
                stop_flag=self._stop,
            )
        finally:
            pulse.cancel()
            await asyncio.sleep(FAREWELL)

    async def _beat(self) -> None:
        while True:
            self._pulse = time.monotonic()
            await asyncio.sleep(PULSE)

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.startup(registry=registry)(_configure)

        @kopf.on.login(registry=registry)
        async def login(**arguments: Any) -> kopf.ConnectionInfo:
            try:
                return _log_in(**arguments)
            except Exception as error:
                # kopf would stay, deaf; this ends it, and the process.
                self._tell(self._ended_with, error)
                raise kopf.PermanentError(str(error)) from error

        @kopf.on.event(GROUP, PLURAL, registry=registry)
        async def instance(event: kopf.RawEvent, **_: object) -> None:
            self._tell(self._hear_instance, event)

        if self._pods:

            @kopf.on.event("", "v1", "pods", registry=registry)
            async def pod(event: kopf.RawEvent, **_: object) -> None:
                self._tell(self._hear_pod, event)

        return registry

    def _tell(self, call: Callable[[Any], None], argument: object) -> None:
        if not self._home.is_closed():
            self._home.call_soon_threadsafe(call, argument)

    # On the operator's loop

    def _hear_instance(self, event: Mapping[str, Any]) -> None:
        if not self._stopping:
            self._ears.instance(event["object"], deleted=event["type"] == "DELETED")

    def _hear_pod(self, event: Mapping[str, Any]) -> None:
        if not self._stopping:
            self._ears.pod(event["object"], deleted=event["type"] == "DELETED")

    def _ended_with(self, error: BaseException | None) -> None:
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)


async def _configure(settings: kopf.OperatorSettings, **_: object) -> None:
    """Make kopf a plain watcher: no writes of any kind, bounded memory and connections that notice their end."""
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.networking.connect_timeout = 10
    settings.networking.request_timeout = 30
    settings.watching.server_timeout = 300
    settings.watching.inactivity_timeout = 70
    settings.watching.chunk_size = PAGE
    settings.watching.label_selectors["", "v1", "pods"] = LABEL
    # A place is held until it has been idle for this long: without the short time the limit would be a brake.
    settings.queueing.idle_timeout = 0.05
    settings.queueing.worker_limit = 100
    # It would end the process by SIGKILL some time after an orderly end of the watch.
    settings.process.ultimate_exiting_timeout = None


def _log_in(**arguments: Any) -> kopf.ConnectionInfo:
    found = kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)
    if found is None:
        message = "there are neither the credentials of a service account nor a kubeconfig"
        raise kopf.PermanentError(message)
    return found
