"""Ids of instances: what one may look like, and one for those that nobody names.

What lives here: two functions. What must not: anything else about instances. Clients and the CLI call them.
"""

from perdure.errors import PayloadError

_DIGITS = "0123456789abcdefghijklmnopqrstuv"
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]
_SHIFTS = range(100, -1, -10)


def new_id(milliseconds: int, randomness: int) -> str:
    """Return an id for an instance that nobody named: later ones sort after earlier ones, which indexes like.

    ``milliseconds`` since 1970 by any clock and 66 bits of ``randomness`` make 22 characters.
    """
    value = milliseconds << 66 | randomness
    return "".join([_PAIRS[value >> shift & 1023] for shift in _SHIFTS])


def check_id(instance: str) -> None:
    """Raise `PayloadError` when an id cannot be stored or shown."""
    if not instance or len(instance) > 255 or not instance.isprintable():
        message = f"a workflow id has 1 to 255 printable characters, not {instance!r}"
        raise PayloadError(message)
