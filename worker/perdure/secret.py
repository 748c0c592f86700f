"""Secrets by reference: what histories hold instead of a password.

What lives here: `Secret`. What must not: a cluster, a database. Authors use it; `manifest` writes such references for
``spec.inputFrom``.
"""

import os
import re
from pathlib import Path

import msgspec

from perdure.errors import SecretMissingError

FOLDER = "PERDURE_SECRETS"
DEFAULT_FOLDER = "/etc/perdure/secrets"
_NAME = re.compile(r"[-._A-Za-z0-9]{1,253}")


class Secret(msgspec.Struct, frozen=True):
    """A key of a Secret that is mounted into the workers, without its value.

    A workflow passes it on to the activity that needs it, like any other argument; what is recorded is the name. Only
    the activity reads the value::

        @activity.define
        async def charge(card: str, api_key: Secret) -> str:
            return await gateway(api_key.read(), card)

    Do not return or raise what `read` gave: results and errors of activities are recorded.
    """

    name: str
    key: str

    def read(self) -> str:
        """Return the value as it is now, from ``$PERDURE_SECRETS/NAME/KEY`` (by default below /etc/perdure/secrets).

        Raises `SecretMissingError` when it is not mounted there. Inside a workflow it raises `DeterminismViolation`.
        """
        for part in (self.name, self.key):
            if not _NAME.fullmatch(part) or part.startswith(".."):
                message = f"{part!r} is no name of a Secret or of a key in it"
                raise SecretMissingError(message)
        folder = Path(os.environ.get(FOLDER) or DEFAULT_FOLDER)
        try:
            return (folder / self.name / self.key).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            what = error.strerror if isinstance(error, OSError) else "its value is not text"
            message = (
                f"key {self.key} of Secret {self.name} cannot be read from {folder}: {what}; mount the Secret as "
                f"{folder / self.name}, or set {FOLDER} to the folder below which Secrets are mounted"
            )
            raise SecretMissingError(message) from None
