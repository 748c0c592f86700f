"""Events: the few things about an object that somebody who looks at it should hear of.

What lives here: `told_by` (which events follow from a status that was written) and `Events`, which posts them. What
must not: anything that depends on them. An event may be dropped, and is when there are too many; `writer` and `pods`
report.

A status is written once, whoever leads, so an event that follows from it needs no memory of earlier ones. There is one
when a run fails, is held up, waits for its input, or loses its worker; none when all goes well.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .cluster import GROUP, Cluster, ClusterError
from .objects import Known
from .outbox import TokenBucket
from .settings import Settings

logger = logging.getLogger("perdure.operator")

RATE = 5.0
BURST = 25
MOST = 200
"""Events that wait; the oldest is dropped for a newer one."""
AFTER_TROUBLE = 30.0
_NOTE = 1_000


@dataclass(frozen=True, slots=True)
class News:
    """One event before it is posted. ``reason`` is for programs, ``note`` for people."""

    reason: str
    note: str


def told_by(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[News]:
    """Yield what is worth an event when one status replaces another."""
    old, new = _conditions(before), _conditions(after)
    stalled, accepted, finished = new.get("Stalled"), new.get("Accepted"), new.get("Finished")
    if stalled is not None and stalled["reason"] != old.get("Stalled", {}).get("reason"):
        yield News(stalled["reason"], after.get("message") or stalled["message"])
    elif accepted is not None and accepted["reason"] == "InputMissing" != old.get("Accepted", {}).get("reason"):
        yield News("InputMissing", accepted["message"])
    ended = finished is not None and finished["status"] == "True" != old.get("Finished", {}).get("status")
    if ended and new["Succeeded"]["status"] == "False" and new["Succeeded"]["reason"] != "Cancelled":
        yield News(new["Succeeded"]["reason"], after.get("message") or "the run did not succeed")


def _conditions(status: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    return {each["type"]: each for each in status.get("conditions") or () if "type" in each}


class Events:
    """Posts events on objects: bounded, rate-limited, and given up without a word to anybody but the log."""

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        self._cluster = cluster
        self._instance = settings.identity[:128]
        self._bucket = TokenBucket(RATE, BURST)
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque(maxlen=MOST)
        self._wake = asyncio.Event()

    def status_written(self, known: Known, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Report what follows from a status that is on the object now."""
        for news in told_by(before, after):
            self.report(known, news)

    def report(self, known: Known, news: News) -> None:
        """Have an event posted soon."""
        self._waiting.append((known.namespace, self._body(known, news)))
        self._wake.set()

    async def run(self) -> None:
        """Post until cancelled."""
        while True:
            self._wake.clear()
            while self._waiting:
                await asyncio.sleep(self._bucket.delay(time.monotonic()))
                self._bucket.spend()
                with contextlib.suppress(IndexError):  # it may have been dropped meanwhile
                    await self._post(*self._waiting.popleft())
            await self._wake.wait()

    async def _post(self, namespace: str, body: Mapping[str, Any]) -> None:
        try:
            await self._cluster.post_event(namespace, body)
        except ClusterError as error:
            logger.warning("an event is dropped: %s", error)
            await asyncio.sleep(AFTER_TROUBLE)

    def _body(self, known: Known, news: News) -> dict[str, Any]:
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"generateName": f"{known.name}-", "namespace": known.namespace},
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": "perdure.dev/operator",
            "reportingInstance": self._instance,
            "type": "Warning",
            "reason": news.reason,
            "action": "Reconcile",
            "note": news.note.encode()[:_NOTE].decode("utf-8", "ignore"),
            "regarding": {
                "apiVersion": GROUP,
                "kind": "WorkflowInstance",
                "namespace": known.namespace,
                "name": known.name,
                "uid": known.uid,
            },
        }
