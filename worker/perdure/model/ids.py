"""Ids and seeds of instances: what an id may look like, and one for those that nobody names.

What lives here: pure functions. What must not: anything else about instances. Clients and the CLI call them.
"""

from functools import lru_cache
from string import ascii_letters

from perdure.errors import PayloadError

_DIGITS = "0123456789abcdefghijklmnopqrstuv"
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]
_LETTERS = "0123456789_-" + ascii_letters
_AS_DIGIT = (_DIGITS * 8).encode()
_AS_LETTER = (_LETTERS * 4).encode()
"""By the value of a byte: 5 bits of it as a digit, 6 bits as a letter."""


def new_id(milliseconds: int, noise: bytes) -> str:
    """Return an id for an instance that nobody named: later ones sort after earlier ones, which indexes like.

    ``milliseconds`` since 1970 by any clock make 9 characters, each of the 13 random bytes in ``noise`` one more.
    """
    return _moment(milliseconds) + noise.translate(_AS_DIGIT).decode()


def new_seed(noise: bytes) -> str:
    """Return a seed for the randomness of a run, from 11 random bytes: 66 bits."""
    return noise.translate(_AS_LETTER).decode()


@lru_cache(maxsize=1)
def _moment(milliseconds: int) -> str:
    upper, lower = milliseconds >> 20, milliseconds & 0xFFFFF
    pairs = _PAIRS[upper >> 10 & 1023] + _PAIRS[upper & 1023] + _PAIRS[lower >> 10] + _PAIRS[lower & 1023]
    return _DIGITS[upper >> 20 & 31] + pairs


def check_id(instance: str) -> None:
    """Raise `PayloadError` when an id cannot be stored or shown."""
    if not instance or len(instance) > 255 or not instance.isprintable():
        message = f"a workflow id has 1 to 255 printable characters, not {instance!r}"
        raise PayloadError(message)
