"""Histograms with buckets fine enough to prove a small increase: classic ones, and native ones beside."""

import math
import threading
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence
from itertools import accumulate

from .formats import Labels, double, field, number, varint, written, zigzag

SCHEMA = 4  # of native buckets: x1.044 from bound to bound, the finest that Serin compares in
PENDING = 4096  # observations that wait to be counted; a page counts them, or whoever fills this
_FRACTIONS = tuple(2.0 ** (j / 2**SCHEMA - 1) for j in range(2**SCHEMA))  # bounds within a factor of two


def steps(low: float, high: float, *, margin: float = 1.2, parts: int = 2) -> tuple[float, ...]:
    """Bounds from `low` to `high` where the margin times a bound is a bound again, `parts` steps further.

    With `margin` as in the policy's `maxIncrease` (1.2 for 20 %) and two parts, an increase is proved from
    margin x margin^(1/2) on, wherever between two bounds the quantile lies: x1.31 of x1.2. Twelve digits,
    since a rounder number would make the margin times a bound the bound after that.
    """
    if not (0 < low < high < math.inf and margin > 1 and parts >= 1):
        raise ValueError("steps: give 0 < low < high, a margin above 1 (1.2 for 20 %) and one part or more")
    count = math.ceil(parts * math.log(high / low) / math.log(margin) - 1e-9)
    return tuple(float(f"{low * margin ** (step / parts):.12g}") for step in range(count + 1))


SECONDS = steps(0.001, 60.0)  # 122 bounds
SCORES = tuple(round(i / 50, 2) for i in range(1, 51))  # of predictions that are probabilities


class Histogram:
    """One histogram series, cumulative since the process started; with native buckets too if `native`."""

    def __init__(self, name: str, labels: Labels, bounds: Sequence[float], *, native: bool = False) -> None:
        self.name, self.labels, self.native = name, labels, native
        self.bounds = tuple(map(float, bounds))
        if not self.bounds or any(a >= b for a, b in zip(self.bounds, self.bounds[1:], strict=False)):
            raise ValueError(f"{name}: its buckets must be increasing numbers, such as (0.1, 0.2, 0.4)")
        if not all(map(math.isfinite, self.bounds)):
            raise ValueError(f"{name}: its buckets must be finite; the one for all the rest is added")
        self.counts = [0] * (len(self.bounds) + 1)  # not cumulative; the last one is beyond all bounds
        self.fine: Counter[int] = Counter()  # native buckets: j counts up to 2^(j/2^SCHEMA)
        self.zero = 0  # at or below zero
        self.sum = 0.0
        self._pending: deque[float] = deque()  # appending is one step for every thread
        self._lock = threading.Lock()
        stem = f"{name}_bucket{{{written(labels)}," if labels else f"{name}_bucket{{"
        self._heads = [f'{stem}le="{bound!r}"}} ' for bound in self.bounds] + [f'{stem}le="+Inf"}} ']
        self._tails = f"{name}_sum{{{written(labels)}}} ", f"{name}_count{{{written(labels)}}} "

    def observe(self, value: float) -> None:
        """One more observation; what is no number counts beyond all bounds."""
        self._pending.append(value)
        if len(self._pending) > PENDING:
            self.count()

    def add(self, counts: Sequence[int], total: float) -> None:
        """So many observations more, by bucket, and their sum; from then on without native buckets."""
        with self._lock:
            self.native = False
            self.counts = [had + new for had, new in zip(self.counts, counts, strict=True)]
            self.sum += total

    def count(self) -> None:
        """All observations so far are in `counts`."""
        with self._lock:
            self._count()

    def _count(self) -> None:
        while self._pending:
            self._add(self._pending.popleft())

    def _add(self, value: float) -> None:
        if value != value or value in {math.inf, -math.inf}:  # noqa: PLR0124 - only NaN is not itself
            self.counts[0 if value == -math.inf else -1] += 1
            return  # in no native bucket and no sum, from which it could not be taken away again
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
        if self.native and value > 0:
            fraction, exponent = math.frexp(value)
            self.fine[bisect_left(_FRACTIONS, fraction) + (exponent - 1) * 2**SCHEMA] += 1
        elif self.native:
            self.zero += 1

    def lines(self) -> list[str]:
        """The series as the text format has it: counts of all that is not larger than the bound."""
        with self._lock:  # another scraper may count meanwhile
            self._count()
            totals, of_all = list(accumulate(self.counts)), self.sum
        return [
            *(head + str(total) for head, total in zip(self._heads, totals, strict=True)),
            f"{self._tails[0]}{of_all:.6f}",
            f"{self._tails[1]}{totals[-1]}",
        ]

    def message(self) -> bytes:
        """The series as io.prometheus.client.Histogram."""
        with self._lock:  # a native bucket more than the counts say is refused by who reads it
            self._count()
            *totals, n = accumulate(self.counts)
            of_all, native = self.sum, self._native() if self.native else b""
        buckets = (
            field(3, number(1, total) + double(2, bound))
            for total, bound in zip(totals, self.bounds, strict=True)
        )
        return b"".join([number(1, n), double(2, of_all), *buckets, native])

    def _native(self) -> bytes:
        """Schema, zero bucket, spans of buckets in use and the differences of their counts."""
        spans, steps, before, last = [], [], 0, None
        for j in sorted(self.fine):
            if last is None or j > last + 1:
                spans.append([j if last is None else j - last - 1, 0])
            spans[-1][1] += 1
            steps.append(self.fine[j] - before)
            before, last = self.fine[j], j
        written = (field(12, number(1, zigzag(gap)) + number(2, length)) for gap, length in spans or [[0, 0]])
        packed = field(13, b"".join(varint(zigzag(step)) for step in steps)) if steps else b""
        head = number(5, zigzag(SCHEMA)) + double(6, 2.0**-128) + number(7, self.zero)
        return b"".join([head, *written, packed])
