"""What the operator knows of every object: identity, the spec it acted on, and the status that is written on it.

What lives here: `Objects`, keyed by UID, and the question whether something seen is news. What must not: I/O. `watch`,
`controller`, `sync` and `writer` share one for as long as the operator leads.

Two kilobytes an object at most: neither specs nor summaries are kept. The deletion policy is, because it has to be
known once the object is gone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from perdure_operator.reconcile import DeletionPolicy
from perdure_operator.status import Refusal, canonical, has_succeeded, is_finished

RESTORED = "perdure.dev/restored"
"""The annotation by which an owner says ``true``: this object stands for the run of its name that the database has, or
``false``: it is to start a new one."""


@dataclass(slots=True)
class Known:
    """One object.

    ``generation`` and ``deleting`` are of what was acted on last (0: nothing was yet), ``newest`` is the newest
    generation seen, which ``policy`` and ``ttl`` are of. ``version`` is the newest resourceVersion seen (0 where the
    API server has others than numbers).
    ``recorded`` is the status on the object as far as seen, ``sent`` the one on its way, both as canonical JSON.
    ``written_at`` is when this operator wrote last, by its own monotonic clock. ``final``: an operator has written that
    the run has ended. ``restored`` is what the owner says about that. ``ttl`` are the seconds that the object outlives
    a run that succeeded, and another run; ``ended_at`` is when the run ended, in seconds since 1970.
    """

    uid: str
    namespace: str
    name: str
    generation: int = 0
    newest: int = 0
    version: int = 0
    policy: DeletionPolicy = DeletionPolicy.CANCEL
    deleting: bool = False
    finished: bool = False
    succeeded: bool = False
    ended_at: float | None = None
    ttl: tuple[int | None, int | None] = (None, None)
    recorded: bytes = b""
    sent: bytes = b""
    written_at: float | None = None
    final: bool = False
    restored: str = ""
    refusal: Refusal | None = None

    @property
    def expires_at(self) -> float | None:
        """When the object is to be deleted, in seconds since 1970; None if it is to stay."""
        ttl = self.ttl[0] if self.succeeded else self.ttl[1]
        return None if ttl is None or self.ended_at is None or self.deleting else self.ended_at + ttl

    def status(self) -> dict[str, Any]:
        """Return the status on the object."""
        return msgspec.json.decode(self.recorded, type=dict[str, Any]) if self.recorded else {}

    def record(self, status: Mapping[str, Any] | None, version: int) -> None:
        """Take note of the status that is on the object."""
        self.recorded = canonical(status)
        self.finished = status is not None and is_finished(status)
        self.succeeded = status is not None and has_succeeded(status)
        self.ended_at = _seconds(status.get("completionTime")) if status is not None and self.finished else None
        self.version = max(version, self.version)
        if self.recorded == self.sent:
            self.sent = self.recorded  # one copy is enough


class Objects:
    """Every object that is known to exist, by UID."""

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}
        self.left_out: frozenset[str] = frozenset()
        """Namespaces to be served that could not be read, so that nothing is known of their objects."""

    def __iter__(self) -> Iterator[Known]:
        return iter(list(self._known.values()))

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, uid: object) -> bool:
        return uid in self._known

    def get(self, uid: str) -> Known | None:
        """Return the object, if it is known."""
        return self._known.get(uid)

    def remove(self, uid: str) -> Known | None:
        """Forget an object that is gone."""
        return self._known.pop(uid, None)

    def see(self, body: Mapping[str, Any]) -> bool:
        """Take note of an object as it was read; return whether somebody has to act.

        What the operator itself wrote comes back as an event and is no news. Events may come late: a status older than
        the one that is known is ignored, but a spec is news until it was acted on, however it was learnt of before.
        """
        metadata = body["metadata"]
        version = version_of(metadata)
        generation = metadata.get("generation", 0)
        known = self._known.get(metadata["uid"])
        if known is None:
            known = Known(metadata["uid"], metadata["namespace"], metadata["name"])
            self._known[known.uid] = known
        if generation >= known.newest:
            known.newest, known.policy, known.ttl = generation, _policy(body), _ttl(body)
        first, foreign, answered = known.version == 0, False, False
        if version == 0 or version > known.version:
            status = body.get("status")
            status = status if isinstance(status, Mapping) else None
            expected = (known.recorded, known.sent)
            known.record(status, version)
            foreign = known.recorded not in expected
            known.final = known.finished and (first or known.final)
            answered = known.refusal is not None and known.restored != said(body)
            known.restored = said(body)
            if known.generation == 0 and known.finished and status and status.get("observedGeneration") == generation:
                # Seen for the first time, and it ended long ago: the database need not be asked.
                known.generation, foreign = generation, False
        deleting = metadata.get("deletionTimestamp") is not None and not known.deleting
        return foreign or answered or deleting or generation > known.generation


def version_of(metadata: Mapping[str, Any]) -> int:
    """Return the resourceVersion as a number that grows, 0 where the API server has others."""
    text = str(metadata.get("resourceVersion", ""))
    return int(text) if text.isdecimal() else 0


def said(body: Mapping[str, Any]) -> str:
    """Return what its owner says about an object that may have been restored."""
    return str((body["metadata"].get("annotations") or {}).get(RESTORED, ""))


def _policy(body: Mapping[str, Any]) -> DeletionPolicy:
    spec = body.get("spec")
    wanted = spec.get("deletionPolicy") if isinstance(spec, Mapping) else None
    return DeletionPolicy.ABANDON if wanted == DeletionPolicy.ABANDON.value else DeletionPolicy.CANCEL


def _ttl(body: Mapping[str, Any]) -> tuple[int | None, int | None]:
    spec = body.get("spec")
    spec = spec if isinstance(spec, Mapping) else {}
    after_success = spec.get("ttlSecondsAfterFinished")
    return after_success, spec.get("ttlSecondsAfterFailure", after_success)


def _seconds(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None
