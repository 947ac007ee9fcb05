"""Keys: what stands in a segment can be read as long as its data key can be unwrapped, and no longer.

Every segment has a fresh data key (AES-256-GCM). It is kept wrapped by a key-encryption key, which is read
from a file, a mounted Secret say, and never written anywhere. Dropping the wrapped key makes the segment
unreadable whatever copies of its parts there are.
"""

import binascii
import os
from base64 import b64decode
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SIZE = 32  # bytes of a key: AES-256
NONCE = 12  # bytes, as GCM wants
TAG = 16
WRAPPED = NONCE + SIZE + TAG
MAKE = "make one with: openssl rand -base64 32"
LARGEST = 1024  # bytes of a key's file


class BadKey(ValueError):
    """A key that cannot be used, or is not the right one; the text says what to do."""


class Key:
    """A key-encryption key. Its `name` tells it from others and gives nothing of it away."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SIZE or len(set(secret)) == 1:
            raise BadKey(f"a key is {SIZE} random bytes; {MAKE}")
        self._cipher = AESGCM(secret)
        self.name = sha256(b"serin.dev/key-name\0" + secret).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"Key({self.name})"

    def wrap(self, data_key: bytes, bound: bytes) -> bytes:
        """The data key, to be opened with this key and together with `bound` only.

        The nonce is random, as NIST SP 800-38D allows for 2^32 messages a key: one a second for 136 years.
        """
        nonce = os.urandom(NONCE)
        return nonce + self._cipher.encrypt(nonce, data_key, bound)

    def unwrap(self, wrapped: bytes, bound: bytes) -> bytes:
        """The data key; raises `BadKey` if key, wrapped key or `bound` are not those of `wrap`."""
        try:
            return self._cipher.decrypt(wrapped[:NONCE], wrapped[NONCE:], bound)
        except (InvalidTag, ValueError):
            raise BadKey("its key does not open with what it is bound to") from None


def read(path: Path) -> Key:
    """The key in the file: 32 bytes, or the same in base64 or hexadecimal; raises `BadKey`."""
    try:
        with path.open("rb") as file:
            said = file.read(LARGEST)
    except OSError as error:
        raise BadKey(f"{path}: cannot be read ({error.strerror}); mount the Secret there") from None
    secret = said if len(said) == SIZE else _spelt(said.strip())
    try:
        return Key(secret)
    except BadKey as trouble:
        raise BadKey(f"{path}: {trouble}") from None


def _spelt(text: bytes) -> bytes:
    try:
        return bytes.fromhex(text.decode()) if len(text) == 2 * SIZE else b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def encrypted(data_key: bytes, number: int, part: bytes, bound: bytes) -> bytes:
    """Part `number` of a segment. A data key encrypts each of its few parts once: the number is the nonce."""
    return AESGCM(data_key).encrypt(number.to_bytes(NONCE), part, bound)


def decrypted(data_key: bytes, number: int, part: bytes, bound: bytes) -> bytes:
    """What was encrypted; raises `BadKey` if anything about it is another."""
    try:
        return AESGCM(data_key).decrypt(number.to_bytes(NONCE), part, bound)
    except InvalidTag:
        raise BadKey("does not open with the segment's data key") from None
