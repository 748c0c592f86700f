"""What only the processes of one database can read, though every role that may connect to it can hear it.

What lives here: `Seal`. What must not: where the key comes from, and what is sealed (`notices`).
"""

from base64 import b64decode, b64encode
from hashlib import shake_256
from secrets import token_bytes

NONCE = 16
"""Bytes that make each keystream another one."""


class Seal:
    """A stream cipher: the keystream is SHAKE256 (FIPS 202) of the key and a random nonce.

    With a key in front, a sponge gives one (Bertoni, Daemen, Peeters and Van Assche, "Cryptographic sponge functions",
    2011). It keeps a secret and proves nothing: whoever opens compares what was said with what is stored.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def close(self, data: bytes) -> str:
        """Return ``data`` as text that says nothing without the key."""
        nonce = token_bytes(NONCE)
        return b64encode(nonce + self._with_stream(nonce, data)).decode()

    def open(self, text: str) -> bytes:
        """Return what was sealed, or noise when the key was another; raise `ValueError` for text of another form."""
        sealed = b64decode(text, validate=True)
        return self._with_stream(sealed[:NONCE], sealed[NONCE:])

    def _with_stream(self, nonce: bytes, data: bytes) -> bytes:
        stream = shake_256(self._key + nonce).digest(len(data))
        return (int.from_bytes(data) ^ int.from_bytes(stream)).to_bytes(len(data))
