"""What the loops between database and objects work with.

What lives here: `Parts`. What must not: effects. `main` makes one for a term; `sync`, `comparison` and `expiry` take
it.
"""

from dataclasses import dataclass

from .cluster import Cluster
from .controller import Controller
from .database import Database
from .leader import Election
from .objects import Objects
from .settings import Settings
from .writer import StatusWriter


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one term, none of which outlives it but the connections."""

    cluster: Cluster
    database: Database
    objects: Objects
    controller: Controller
    writer: StatusWriter
    election: Election
    settings: Settings

    def serves(self, namespace: str) -> bool:
        """Tell whether a namespace is to be served, and can be read."""
        asked = self.settings.namespaces is None or namespace in self.settings.namespaces
        return asked and namespace not in self.objects.left_out
