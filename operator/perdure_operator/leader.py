"""Which operator is the active one: election by a Lease of the API server.

What lives here: `Election`. What must not: what a leader does. `main` holds one and starts a term whenever it is won.

The clocks of other machines decide nothing: a Lease counts as given up when it has not changed for its whole length as
seen from here, or when its holder was an earlier process of this pod: a container is started again after its end. A
Lease of this process that is older than what it wrote last is no longer its own: the cluster was restored from a
backup, and a term begins that knows of the gap. The holder renews it several times within that length and stops writing
early enough that its last write has ended before anybody else can take over. As a second fence each status write names
the version that it replaces (`Cluster.write_status`), so that a writer that was paused between the two checks changes
nothing that a newer leader wrote. In the database nothing needs a fence: starting is unique by the UID for ever,
cancelling twice is cancelling once, and a status change is acknowledged only after it was written.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from .abandoned import ANNOTATION, Abandoned
from .cluster import Cluster, ClusterError
from .settings import Settings

logger = logging.getLogger("perdure.operator")


class Election:
    """The candidacy of this process. It is the `Mandate` of the writer."""

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        self._cluster = cluster
        self._namespace = settings.lease_namespace
        self._name = settings.lease_name
        self._identity = settings.identity
        self._pod = settings.pod
        self._length = settings.lease
        self._lease: dict[str, Any] | None = None
        self._written = ""
        self._seen: tuple[object, object] = ("", "")
        self._seen_at = 0.0
        self._until = 0.0
        self.created = datetime.min.replace(tzinfo=UTC)
        self._gap: tuple[datetime, datetime] | None = None
        self.abandoned = Abandoned()
        self.leading = False
        self.terms = 0
        self.reached_at: float | None = None
        self.trouble = ""

    def remaining(self) -> float:
        """Return for how many seconds a write may still be begun."""
        return self._until - time.monotonic() if self.leading else 0.0

    def witnessed(self, at: datetime) -> bool:
        """Tell whether this cluster may have had a leader then, as far as its Lease knows.

        It had none before the Lease was made: what is older is of another cluster. And it had none between the last
        renewal that the Lease knows of and the beginning of this term: if somebody led then, the cluster was restored.
        The database may be behind this clock, so the gap ends early: nobody has led for as long as a Lease lasts.
        """
        return at >= self.created and not (self._gap is not None and self._gap[0] < at < self._gap[1])

    async def win(self) -> None:
        """Return when this process is the leader."""
        while True:
            if await self._try():
                break
            await asyncio.sleep(self._pause())
        self.leading = True
        self.terms += 1
        logger.info("%s leads (Lease %s/%s)", self._identity, self._namespace, self._name)

    async def hold(self) -> None:
        """Keep leading; return when that is over."""
        while self.remaining() > 0:
            await asyncio.sleep(min(self._pause(), max(0.0, self.remaining())))
            await self._try()
        self.leading = False
        logger.error("%s does not lead any more: %s", self._identity, self.trouble or "the Lease is not its own")

    async def release(self) -> None:
        """Give the Lease back, so that another operator need not wait for its end."""
        self.leading = False
        if self._lease is None or not self._is_ours(self._lease):
            return
        metadata = self._metadata()
        held, self._lease, self._until = self._lease, None, 0.0
        held["spec"].update(holderIdentity="", leaseDurationSeconds=1)
        held["metadata"] = metadata
        try:
            await self._cluster.replace_lease(self._namespace, self._name, held, self._length / 5)
        except ClusterError as error:
            logger.warning("the Lease could not be given back; others wait until it ends: %s", error)

    async def _try(self) -> bool:
        """Take or renew the Lease; return whether it is ours now."""
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(self._length / 5):
                ours = await self._take()
        except (ClusterError, TimeoutError) as error:
            self.trouble = f"the Lease cannot be renewed: {str(error) or 'no answer'}"
            logger.warning("%s", self.trouble)
            return False
        self.trouble = ""
        self.reached_at = time.monotonic()
        if ours and self._lease is not None:
            self._until = asked_at + self._length * 2 / 3
            self._written = self._lease["spec"]["renewTime"]
        elif self._lease is not None:
            self._until = 0.0  # it has another holder; without a Lease in hand it was only changed by somebody
        return ours

    async def _take(self) -> bool:
        patience = self._length / 5
        if self._lease is None or not self._is_ours(self._lease):
            self._lease = await self._cluster.lease(self._namespace, self._name, patience)
            if self._lease is None:
                self._lease = await self._cluster.create_lease(self._namespace, self._new(), patience)
                self._remember()
                return self._lease is not None
            if not self._is_ours(self._lease) and (self.leading or not self._is_given_up(self._lease)):
                return False
            self._remember()
            self.abandoned.read((self._lease["metadata"].get("annotations") or {}).get(ANNOTATION, ""))
        wanted = {**self._lease, "metadata": self._metadata(), "spec": self._renewed(self._lease["spec"])}
        self._lease = await self._cluster.replace_lease(self._namespace, self._name, wanted, patience)
        return self._lease is not None

    def _remember(self) -> None:
        """Take note of when there was a leader, before the Lease is ours."""
        if self._lease is None:
            return
        self.created = _time(self._lease["metadata"]["creationTimestamp"])
        renewed = self._lease["spec"].get("renewTime")
        if renewed and not self._is_ours(self._lease):
            length = timedelta(seconds=self._length)
            self._gap = (_time(renewed) + length, datetime.now(UTC) - length)

    def _is_ours(self, lease: Mapping[str, Any]) -> bool:
        spec = lease["spec"]
        return spec.get("holderIdentity") == self._identity and (spec.get("renewTime") or "") >= self._written

    def _is_given_up(self, lease: Mapping[str, Any]) -> bool:
        spec = lease["spec"]
        holder = spec.get("holderIdentity") or ""
        earlier = holder != self._identity and holder.rpartition("_")[0] == self._pod
        if not holder or (self._pod and earlier):
            return True
        sign = (holder, spec.get("renewTime"))
        now = time.monotonic()
        if sign != self._seen:
            self._seen, self._seen_at = sign, now
        return now - self._seen_at >= float(spec.get("leaseDurationSeconds") or self._length)

    def _new(self) -> dict[str, Any]:
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": self._renewed({}),
        }

    def _metadata(self) -> dict[str, Any]:
        assert self._lease is not None
        metadata = dict(self._lease["metadata"])
        annotations = {**(metadata.get("annotations") or {}), ANNOTATION: self.abandoned.text()}
        metadata["annotations"] = {name: text for name, text in annotations.items() if name != ANNOTATION or text}
        return metadata

    def _renewed(self, before: Mapping[str, Any]) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        same = before.get("holderIdentity") == self._identity
        changes = int(before.get("leaseTransitions") or 0)
        return {
            **before,
            "holderIdentity": self._identity,
            "leaseDurationSeconds": math.ceil(self._length),
            "acquireTime": before.get("acquireTime") if same else now,
            "renewTime": now,
            "leaseTransitions": changes if same or not before else changes + 1,
        }

    def _pause(self) -> float:
        return self._length / 7.5 * random.uniform(0.8, 1.2)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
