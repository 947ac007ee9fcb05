"""Keys: how they are read, and what they do and do not open."""

from base64 import b64encode
from pathlib import Path

import pytest

from gpu_shadow import keys
from gpu_shadow.keys import BadKey, Key, decrypted, encrypted

SECRET = bytes(range(7, 39))


@pytest.mark.parametrize(
    "said",
    [SECRET, b64encode(SECRET) + b"\n", SECRET.hex().encode(), b"  " + SECRET.hex().encode() + b"\r\n"],
)
def test_a_key_is_the_same_however_it_is_spelt(tmp_path: Path, said: bytes) -> None:
    (tmp_path / "key").write_bytes(said)
    wrapped = Key(SECRET).wrap(b"k" * 32, b"manifest")
    assert keys.read(tmp_path / "key").unwrap(wrapped, b"manifest") == b"k" * 32


@pytest.mark.parametrize("said", [b"", b"hunter2", bytes(32), SECRET[:31], b64encode(SECRET[:31]), b"x" * 64])
def test_what_is_no_key_is_refused_with_how_to_make_one(tmp_path: Path, said: bytes) -> None:
    (tmp_path / "key").write_bytes(said)
    with pytest.raises(BadKey, match="openssl rand -base64 32") as trouble:
        keys.read(tmp_path / "key")
    assert str(tmp_path / "key") in str(trouble.value)


def test_a_key_that_is_not_there_is_said_to_be_a_secret_to_mount(tmp_path: Path) -> None:
    with pytest.raises(BadKey, match=r"cannot be read.*mount the Secret"):
        keys.read(tmp_path / "none")


def test_a_wrapped_key_opens_with_its_key_and_what_it_is_bound_to_alone() -> None:
    key = Key(SECRET)
    wrapped = key.wrap(b"k" * 32, b"manifest")
    assert len(wrapped) == keys.WRAPPED
    assert wrapped != key.wrap(b"k" * 32, b"manifest")  # another nonce each time
    for other, bound, said in (
        (Key(SECRET[::-1]), b"manifest", wrapped),
        (key, b"other", wrapped),
        (key, b"manifest", wrapped[:-1]),
        (key, b"manifest", b""),
    ):
        with pytest.raises(BadKey):
            other.unwrap(said, bound)


def test_a_part_opens_as_itself_alone() -> None:
    sealed = encrypted(SECRET, 0, b"rows", b"segment/tensors")
    assert decrypted(SECRET, 0, sealed, b"segment/tensors") == b"rows"
    for number, bound in ((1, b"segment/tensors"), (0, b"segment/index")):
        with pytest.raises(BadKey):
            decrypted(SECRET, number, sealed, bound)


def test_a_key_shows_its_name_and_nothing_of_itself() -> None:
    assert repr(Key(SECRET)) == f"Key({Key(SECRET).name})"
    assert Key(SECRET).name != Key(SECRET[::-1]).name
    assert SECRET.hex()[:8] not in repr(Key(SECRET))
