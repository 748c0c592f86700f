"""Randomness and uuids of a run: seeded by its start, one stream for each purpose.

Separate streams: a ``random()`` call that is added in a later version of the
code must not shift the uuids that follow.
"""

import hashlib
import random
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.engine.run import Run


def stream(run: "Run", purpose: str) -> random.Random:
    """Return the generator for a purpose; the same one on every call."""
    run.check_may_ask()
    generator = run.streams.get(purpose)
    if generator is None:
        generator = run.streams[purpose] = random.Random(f"{run.seed}/{purpose}")
    return generator


def uuid4(run: "Run") -> uuid.UUID:
    """Return a version 4 uuid that is the same on every replay."""
    return uuid.UUID(int=stream(run, "uuid").getrandbits(128), version=4)


def hash_base(seed: str) -> int:
    """Return where the hashes of a run's tasks and futures begin: 48 bits that depend on the seed alone."""
    return int.from_bytes(hashlib.blake2b(seed.encode("utf-8", "surrogatepass"), digest_size=6).digest())
