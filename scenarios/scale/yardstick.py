"""`python -m scenarios.scale.yardstick`: how fast this core is in this hour, as a controller would notice it.

The same work each time, of the kind that a tick is: small arrays, objects, JSON, and more memory than fits
into a core's caches. A machine that is shared takes twice as long for it in one hour as in another. Prints
milliseconds of processor time a thousand canaries.
"""

import json
import random
import statistics
import time
from collections.abc import Iterator

import numpy as np

CANARIES = 1000
SEED = 11
TIMES = 9

Canary = tuple[dict[str, list[float]], np.ndarray[tuple[int, ...], np.dtype[np.float64]]]


def canaries() -> list[Canary]:
    """What the work is done on: 40 kB each."""
    chance, rng = random.Random(SEED), np.random.default_rng(SEED)
    return [
        ({f"pod-{pod}": [chance.random() for _ in range(20)] for pod in range(5)}, rng.random((60, 60)))
        for _ in range(CANARIES)
    ]


def turn(all_of_them: list[Canary]) -> float:
    """Each is read, changed and written once; what comes of it."""
    total = 0.0
    for counters, evidence in all_of_them:
        page = json.loads(json.dumps(counters))
        for counts in page.values():
            total += float(np.asarray(counts).cumsum()[-1])
        for row in evidence[::6]:
            total += float((row - row.mean()).max())
    return total


def turns() -> Iterator[float]:
    """How long each of some turns takes, in milliseconds of processor time."""
    there = canaries()
    turn(there)
    for _ in range(TIMES):
        began = time.process_time()
        turn(there)
        yield 1000 * (time.process_time() - began)


if __name__ == "__main__":
    print(f"{statistics.median(turns()):.1f}")  # noqa: T201
