"""Makes aa-trace.npz of a recorded A/A trace: `python tests/validity/make_trace.py aa-trace.csv.gz`.

The recording's columns are seconds (of arrival), pod, HTTP status (0: no answer) and microseconds upstream.
Here a request counts in the second in which it was answered, as on a pod's metrics page; what was
answered after the last whole minute is left out. Kept by second T and pod P, pods in the order of `PODS`:

* `requests`, `errors` (T, P);
* `places`: each request's place among `bounds`, in the order of seconds, pods and places;
* the same as `slow_...` for requests that take 1.5 times as long and are answered as much later.
"""

import csv
import gzip
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scenarios.page import SECONDS

PODS = ("stable-1", "stable-2", "stable-3", "stable-4", "stable-5", "canary-1", "canary-2")
SLOWER = 1.5
FAILED = 500
TARGET = Path(__file__).parent / "aa-trace.npz"

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def recorded(source: Path) -> tuple[Floats, Integers, Integers, Floats]:
    """Arrival, pod, status and latency of each request; times in seconds."""
    with gzip.open(source, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    return (
        np.array([float(row["seconds"]) for row in rows]),
        np.array([PODS.index(row["pod"]) for row in rows]),
        np.array([int(row["status"]) for row in rows]),
        np.array([int(row["microseconds"]) / 1e6 for row in rows]),
    )


def by_second(
    answered: Floats, pod: Integers, failed: NDArray[np.bool_], place: Integers, *, seconds: int
) -> tuple[Integers, Integers, Integers]:
    """Requests and errors (T, P), and the places in that order."""
    kept = answered < seconds
    cell = np.floor(answered[kept]).astype(int) * len(PODS) + pod[kept]
    shape, size = (seconds, len(PODS)), seconds * len(PODS)
    requests = np.bincount(cell, minlength=size).reshape(shape)
    errors = np.bincount(cell[failed[kept]], minlength=size).reshape(shape)
    return requests, errors, place[kept][np.lexsort((place[kept], cell))]


def main(source: Path) -> None:
    arrived, pod, status, latency = recorded(source)
    failed = (status >= FAILED) | (status == 0)
    seconds = round(arrived.max() / 60) * 60
    normal, slow = (np.searchsorted(SECONDS, latency * factor) for factor in (1.0, SLOWER))
    first, last = normal.min() - 1, slow.max()
    tables = {"bounds": np.array(SECONDS[first : last + 1])}
    for prefix, places, factor in (("", normal, 1.0), ("slow_", slow, SLOWER)):
        found = by_second(arrived + factor * latency, pod, failed, places - first, seconds=seconds)
        for name, table in zip(("requests", "errors", "places"), found, strict=True):
            tables[prefix + name] = table.astype(np.uint8)
    np.savez_compressed(TARGET, allow_pickle=False, **tables)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
