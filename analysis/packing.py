"""Arrays as a short JSON value and back, bit by bit.

Evidence lives in a Kubernetes status, where a number costs a dozen characters and a NaN a refused
write. Counts take as few bytes as the largest needs, everything else the four of `rounded`, split so that
the bytes that are alike lie together; the whole is deflated, without the headers that would say how, and only
finite numbers get in. LZMA, by which it was compressed before, takes twice as long for a 25th less room.
"""

import lzma
import zlib
from base64 import b85decode
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
WIDTHS = ("<u1", "<u2", "<u4", "<f4", "<f8")  # the first that holds all numbers of an array is used
SIZES = {width: np.dtype(width).itemsize for width in WIDTHS}  # bytes
HEADS = [bytes([place]) for place in range(len(WIDTHS))]  # before an array of each
ENDS = (2.0**8 - 1, 2.0**16 - 1, 2.0**32 - 1)  # the largest counts of so many bytes
NOTHING = 2.0**-8  # of a request
NEVER = -(2.0**39)  # s: a time before all others, finite so that it can be kept, and that in four bytes
LARGEST = 1 << 20  # bytes of a check's evidence, unpacked: a page that says more is no checkpoint of ours
# zlib's usual level in a window of 4 kB, two of a check's pages: as short as with more, and less to set up.
LEVEL, WINDOW, MEMORY = 6, -12, 5
# How evidence was compressed until version 7 of what is saved.
_LZMA = (
    {
        "id": lzma.FILTER_LZMA1,
        "mode": lzma.MODE_NORMAL,
        "mf": lzma.MF_HC3,
        "nice_len": 16,
        "pb": 0,
        "dict_size": 1 << 16,
    },
)
CHECKSUM = 4  # bytes after the arrays
# Of Python's base85, which takes five times as long for a whole checkpoint.
DIGITS = np.frombuffer(
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~", np.uint8
)
POWERS = 85 ** np.arange(4, -1, -1, dtype=np.uint32)


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
    whole = b"".join(_bytes(arrays))
    squeeze = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOW, MEMORY)
    return encoded(squeeze.compress(whole + zlib.crc32(whole).to_bytes(CHECKSUM)) + squeeze.flush())


def _bytes(arrays: Sequence[Array]) -> list[bytes]:
    """Each array in the narrowest width, which is said before it."""
    each = [np.asarray(one, dtype=float).ravel() for one in arrays]
    numbers, ends = np.concatenate([*each, np.zeros(0)]), np.cumsum([one.size for one in each]).tolist()
    with np.errstate(invalid="ignore", over="ignore"):  # where a width does not fit it is not used
        narrow = [numbers.astype(width).view(np.uint8).reshape(-1, size) for width, size in SIZES.items()]
    single, places = narrow[0].tobytes(), zip(_widths(each, numbers), [0, *ends], ends, strict=False)
    return [
        HEADS[width] + (narrow[width][start:end].T.tobytes() if width else single[start:end])
        for width, start, end in places
    ]


def encoded(whole: bytes) -> str:
    """What `base64.b85encode` makes of it."""
    lacking = -len(whole) % 4
    words = np.frombuffer(whole + bytes(lacking), ">u4").astype(np.uint32)
    text: str = DIGITS[words[:, None] // POWERS % np.uint32(85)].tobytes().decode()
    return text[: len(text) - lacking]


def unpacked(text: str, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """The arrays of `packed`; ValueError where they are others, of other shapes, or not finite."""
    arrays, rest = first(opened(text), shapes)
    ended(rest)
    return arrays


def ended(rest: bytes) -> None:
    """Raises ValueError if there is more than what was asked for."""
    if rest:
        raise ValueError("evidence is longer than expected: restart the step")


def first(whole: bytes, shapes: Sequence[tuple[int, ...]]) -> tuple[list[Array], bytes]:
    """The first arrays of what was `opened`, which have these shapes, and the rest; else ValueError."""
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
        numbers = np.frombuffer(joined, dtype=width).astype(float).reshape(shape)
        if not np.isfinite(numbers).all():
            raise ValueError("evidence must be finite to be used: restart the step")
        out.append(numbers)
    return out, whole


def opened(text: str, *, checks: int = 1, by_lzma: bool = False) -> bytes:
    """What `packed` wrote of so many checks, if it is all there as it was."""
    stream = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA) if by_lzma else zlib.decompressobj(WINDOW)
    whole = _undone(stream, b85decode(text), checks * LARGEST)
    whole, told = whole[:-CHECKSUM], whole[-CHECKSUM:]
    if zlib.crc32(whole).to_bytes(CHECKSUM) != told:
        raise ValueError("evidence is not as it was written: restart the step")
    return whole


def _undone(stream: Any, kept: bytes, most: int) -> bytes:
    """What was compressed, if it is all there; `stream` is zlib's decompressor or lzma's."""
    try:
        whole: bytes = stream.decompress(kept, most)
    except (zlib.error, lzma.LZMAError) as error:
        raise ValueError("evidence cannot be unpacked: restart the step") from error
    if not stream.eof or stream.unused_data:
        raise ValueError("evidence was cut short: restart the step")
    return whole


def _widths(each: Sequence[Array], numbers: Array) -> list[int]:
    """For each array the first of the widths that holds all its `numbers`, bit by bit."""
    some = [one for one in each if one.size]
    if not some:
        return [0] * len(each)
    starts = np.cumsum([0, *(one.size for one in some[:-1])])
    if not np.isfinite(numbers).all():
        raise ValueError("evidence must be finite to be kept")
    with np.errstate(over="ignore"):  # a number that does not fit shows in the comparison
        short = np.logical_and.reduceat(numbers.astype("<f4").astype(float) == numbers, starts)
    counts = (numbers == np.floor(numbers)) & ~np.signbit(numbers)  # a negative zero is no count
    whole, most = np.logical_and.reduceat(counts, starts), np.maximum.reduceat(numbers, starts)
    fits = np.where(whole, np.searchsorted(ENDS, most), len(ENDS))
    widths = iter(np.where(fits < len(ENDS), fits, np.where(short, len(ENDS), len(ENDS) + 1)).tolist())
    return [next(widths) if one.size else 0 for one in each]
