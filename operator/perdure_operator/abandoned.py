"""Which runs go on although their objects were deleted: those of objects with ``deletionPolicy: Abandon``.

What lives here: `Abandoned`, a small set of UIDs. What must not: I/O. `controller` adds to it, `comparison` takes
closed runs out, and `leader` keeps it in an annotation of the Lease, which is written every few seconds anyway.

The policy is a field of the object and goes with it, and an open run without an object is cancelled: without this
memory the next operator would cancel what its predecessor was told to leave alone. What it cannot know is the policy of
an object that was deleted while no operator was there; such a run is cancelled, as by default.
"""

from collections.abc import Container

ANNOTATION = "perdure.dev/abandoned-runs"
MOST = 2_000
"""UIDs that are remembered: 74 KB of the 256 KB that annotations may have."""


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

    def keep(self, open_keys: Container[str]) -> None:
        """Forget those whose runs have closed."""
        self._uids = {uid: None for uid in self._uids if uid in open_keys}

    def read(self, text: str) -> None:
        """Take over what another leader remembered."""
        for uid in text.split(","):
            if uid:
                self.add(uid)

    def text(self) -> str:
        """Return what the next leader reads."""
        return ",".join(self._uids)
