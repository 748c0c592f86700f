"""Which runs go on although their objects were deleted: those of objects with ``deletionPolicy: Abandon``.

What lives here: the key that such a run gets in the database, `abandoned_key`, and `Abandoned`, a small set of UIDs.
What must not: I/O. `controller` adds to it, `comparison` takes closed runs out, and `leader` keeps it in an annotation
of the Lease, which is written every few seconds anyway.

The policy is a field of the object and goes with it, and an open run without an object is cancelled. The key, which is
no UID any more, says for any number of runs that they have none. The set keeps it over a restore of the database, and
has the runs of objects that a restored cluster has forgotten. What nobody can know is the policy of an object that was
deleted while no operator was there; such a run is cancelled, as by default.
"""

from collections.abc import Iterable

ANNOTATION = "perdure.dev/abandoned-runs"
MOST = 2_000
"""UIDs that are remembered: 74 KB of the 256 KB that annotations may have."""

PREFIX = "abandoned "


def abandoned_key(uid: str) -> str:
    """Return the key of a run that goes on without the object of this UID."""
    return PREFIX + uid


def uid_of(key: str | None) -> str | None:
    """Return the UID of the object that a run was started for, if there was one."""
    return None if key is None else key.removeprefix(PREFIX)


class Abandoned:
    """UIDs of deleted objects whose open runs are to be left alone."""

    def __init__(self) -> None:
        self._uids: dict[str, None] = {}

    def __contains__(self, uid: str) -> bool:
        return uid in self._uids

    def add(self, uid: str) -> None:
        """Remember one; the oldest is forgotten when there are too many."""
        self._uids[uid] = None
        while len(self._uids) > MOST:
            del self._uids[next(iter(self._uids))]

    def keep(self, open_keys: Iterable[str]) -> None:
        """Forget those whose runs have closed."""
        still_open = {uid_of(key) for key in open_keys}
        self._uids = {uid: None for uid in self._uids if uid in still_open}

    def read(self, text: str) -> None:
        """Take over what another leader remembered."""
        for uid in text.split(","):
            if uid:
                self.add(uid)

    def text(self) -> str:
        """Return what the next leader reads."""
        return ",".join(self._uids)
