"""What every new turn of a worker is recorded with.

What lives here: the header. What must not: the turn. `execution` and `beginning` call it.
"""

import sys

from perdure.engine.flags import CURRENT
from perdure.model.events import Microseconds, TurnHeader

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_FLAGS = int(CURRENT)


def header(worker: str, build: str, time: Microseconds) -> TurnHeader:
    """Return the header of a turn that this worker takes now."""
    return TurnHeader(time=time, build=build, python=PYTHON, flags=_FLAGS, worker=worker)
