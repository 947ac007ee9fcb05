"""Arrays of 32-bit numbers as a short JSON value and back, bit by bit.

Evidence lives in a Kubernetes status, where a number costs a dozen characters and a NaN a refused
write. Four bytes in base64 cost five and a third, and only finite numbers get in.
"""

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LARGEST = 3e38  # the largest 32-bit number, rounded down


def rounded(array: Array) -> Array:
    """Each number as 32 bits hold it, finite; what `packed` keeps exactly."""
    short = np.clip(array, -LARGEST, LARGEST).astype(np.float32)
    if not np.isfinite(short).all():
        short = np.nan_to_num(short)
    return short.astype(np.float64)


def packed(arrays: Sequence[Array]) -> dict[str, Any]:
    """Shapes, and all numbers in one string."""
    flat = np.concatenate([np.asarray(one, dtype="<f4").ravel() for one in arrays])
    if not np.isfinite(flat).all():
        raise ValueError("evidence must be finite to be kept")
    return {"shapes": [list(one.shape) for one in arrays], "numbers": b64encode(flat.tobytes()).decode()}


class Unpacking:
    """Hands out the arrays of `packed` one after the other."""

    def __init__(self, value: Mapping[str, Any]) -> None:
        self.shapes: Sequence[Sequence[int]] = value["shapes"]
        self.numbers = np.frombuffer(b64decode(value["numbers"]), dtype="<f4").astype(np.float64)
        self.taken = self.offset = 0

    def take(self, count: int) -> list[Array]:
        """The next `count` arrays; ValueError where there are not so many."""
        return [self._next() for _ in range(count)]

    def _next(self) -> Array:
        shape = tuple(int(size) for size in self.shapes[self.taken])
        size = int(np.prod(shape))
        part = self.numbers[self.offset : self.offset + size]
        if len(part) < size:
            raise ValueError("evidence was cut short: restart the step")
        self.taken, self.offset = self.taken + 1, self.offset + size
        return part.reshape(shape)
