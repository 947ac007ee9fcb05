"""Arrays as a short JSON value and back, bit by bit.

Evidence lives in a Kubernetes status, where a number costs a dozen characters and a NaN a refused
write. Counts take as few bytes as the largest needs, everything else the four of `rounded`, split so that
the bytes that are alike lie together; the whole is deflated, and only finite numbers get in.
"""

import zlib
from base64 import b85decode, b85encode
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
WIDTHS = ("<u1", "<u2", "<u4", "<f4", "<f8")  # the first that holds all numbers of an array is used
NOTHING = 2.0**-8  # of a request
NEVER = -1e12  # s: a time before all others, finite so that it can be kept
LARGEST = 1 << 20  # bytes of evidence, unpacked: a page that says more is no checkpoint of ours


def rounded(array: Array) -> Array:
    """Each number as 32 bits hold it: as many as capital needs, so that small losses are not lost."""
    return np.asarray(array, dtype=np.float32).astype(float)


def shortened(array: Array) -> Array:
    """Each number with twelve bits of precision, which do for a fading count; 0 where nearly nothing."""
    bits = np.asarray(array, dtype=np.float32).view(np.uint32)
    bits = (bits + np.uint32(1 << 11)) & np.uint32(0xFFFF_F000)
    short = bits.view(np.float32)
    return np.where(short < NOTHING, 0.0, short).astype(float)


def lessened(array: Array) -> Array:
    """Each number with eight bits of precision, towards minus infinity: for what only takes away."""
    bits = np.asarray(array, dtype=np.float32).view(np.uint32)
    towards = np.where(bits >> 31, np.uint32(0xFFFF), np.uint32(0))
    return ((bits + towards) & np.uint32(0xFFFF_0000)).view(np.float32).astype(float)


def packed(arrays: Sequence[Array]) -> str:
    """All numbers in one string; ValueError where one is not finite."""
    parts = [_bytes(np.asarray(one, dtype=float)) for one in arrays]
    return b85encode(zlib.compress(b"".join(parts), 9)).decode()


def unpacked(text: str, shapes: Sequence[tuple[int, ...]], *, partly: bool = False) -> list[Array]:
    """The arrays of `packed`, or `partly` the first of them; ValueError where theirs are other shapes."""
    try:
        stream = zlib.decompressobj()
        whole = stream.decompress(b85decode(text), LARGEST)
    except zlib.error as error:
        raise ValueError("evidence cannot be unpacked: restart the step") from error
    if not stream.eof or stream.unused_data:
        raise ValueError("evidence was cut short: restart the step")
    out = []
    for shape in shapes:
        size = int(np.prod(shape, dtype=int))
        if not whole or whole[0] >= len(WIDTHS):
            raise ValueError("evidence was cut short: restart the step")
        width = np.dtype(WIDTHS[whole[0]])
        part, whole = whole[1 : 1 + size * width.itemsize], whole[1 + size * width.itemsize :]
        if len(part) < size * width.itemsize:
            raise ValueError("evidence was cut short: restart the step")
        joined = np.frombuffer(part, dtype=np.uint8).reshape(width.itemsize, size).T.tobytes()
        out.append(np.frombuffer(joined, dtype=width).astype(float).reshape(shape))
    if whole and not partly:
        raise ValueError("evidence is longer than expected: restart the step")
    return out


def _bytes(array: Array) -> bytes:
    """One array, after a byte that says how wide its numbers are."""
    if not np.isfinite(array).all():
        raise ValueError("evidence must be finite to be kept")
    with np.errstate(invalid="ignore", over="ignore"):  # a number that does not fit shows in the comparison
        narrowed = (array.astype(width) for width in WIDTHS)
        code, narrow = next(
            (code, each)
            for code, each in enumerate(narrowed)
            if each.astype(float).tobytes() == array.tobytes()
        )
    split = narrow.reshape(-1, 1).view(np.uint8).T
    return bytes([code]) + split.tobytes()
