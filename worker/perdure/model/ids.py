"""Ids of instances: what one may look like, and one for those that nobody names.

What lives here: two functions. What must not: anything else about instances. Clients and the CLI call them.
"""

import base64

from perdure.errors import PayloadError


def new_id(milliseconds: int, randomness: bytes) -> str:
    """Return an id for an instance that nobody named: later ones sort after earlier ones, which indexes like.

    ``milliseconds`` since 1970 by any clock; 8 bytes of ``randomness`` make 23 characters.
    """
    return base64.b32hexencode(milliseconds.to_bytes(6) + randomness).rstrip(b"=").decode().lower()


def check_id(instance: str) -> None:
    """Raise `PayloadError` when an id cannot be stored or shown."""
    if not instance or len(instance) > 255 or not instance.isprintable():
        message = f"a workflow id has 1 to 255 printable characters, not {instance!r}"
        raise PayloadError(message)
