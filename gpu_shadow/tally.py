"""What is kept of compared answers: counts and exact sums, the same however they were split up.

A million requests weigh no more than one. Parts that were compared apart, in any order and on any number
of workers, merge into exactly what one worker would have found: counts are integers, sums are exact
fractions (a float is one, over a power of two), and lists keep the first of a total order.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from functools import reduce
from math import inf
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

SCHEMA = "serin.dev/shadow-comparison/v1"
WORST = 20  # requests that are remembered by id
REASONS = 3  # for answers that are none
MOST_SLICES = 50
REST = ""  # the slice of all labels beyond those
FINE = 8  # buckets for each doubling of a figure: a quantile is at most 2^(1/8) too high, 9 %
LARGEST = 3.4028234663852886e38  # figures are cut off there: float32's largest, whose square is finite
ZERO = -(2**20)  # the bucket of 0
PLACES = range(-1074 * FINE, 129 * FINE)  # the others: from float64's least to `LARGEST`
BINS = 15  # of confidence, as is usual; [k / 15, (k + 1) / 15)
NUMBER = re.compile(r"-?[0-9]{1,1200}/[0-9]{1,1200}")

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Requests, counted by which answers differ from stable's first one.

    Of those that stable answered twice: the canary's alone (`canary`), stable's own second (`again`),
    `both` or none (`same`). Of those it answered once: `once_same`, `once_canary`.
    """

    same: int = 0
    canary: int = 0
    again: int = 0
    both: int = 0
    once_same: int = 0
    once_canary: int = 0

    def __add__(self, other: Self) -> "Answers":
        """Both taken together."""
        return Answers(**{name: getattr(self, name) + getattr(other, name) for name in COUNTS})

    @property
    def twice(self) -> int:
        """Requests that stable answered twice."""
        return self.same + self.canary + self.again + self.both

    @property
    def once(self) -> int:
        """Requests that stable answered once."""
        return self.once_same + self.once_canary


COUNTS = tuple(each.name for each in fields(Answers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One figure over `n` requests: exact sums of it and its square, how large it was how often.

    `buckets` count |x|: bucket b holds 2^(b / FINE - 1) <= |x| < 2^((b + 1) / FINE - 1), bucket `ZERO` 0.
    """

    n: int = 0
    total: Fraction = Fraction()
    squares: Fraction = Fraction()
    largest: float = 0.0
    buckets: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Floats) -> "Spread":
        """Of finite values (n,); beyond `LARGEST` they count as that."""
        values = np.clip(np.asarray(values, dtype=np.float64), -LARGEST, LARGEST)
        if not np.isfinite(values).all():
            raise ValueError("a figure is NaN: leave out requests whose answers cannot be compared")
        return cls(
            n=values.size,
            total=exact_sum(values),
            squares=exact_sum(values**2),
            largest=float(np.abs(values).max(initial=0.0)),
            buckets=counted(buckets(np.abs(values))),
        )

    def __add__(self, other: Self) -> "Spread":
        """Both taken together."""
        return Spread(
            n=self.n + other.n,
            total=self.total + other.total,
            squares=self.squares + other.squares,
            largest=max(self.largest, other.largest),
            buckets=summed(self.buckets, other.buckets),
        )

    @property
    def mean(self) -> float:
        """The mean; NaN of none."""
        return float(self.total / self.n) if self.n else float("nan")

    def quantile(self, level: float) -> float:
        """A value that at least this share of all |x| do not exceed, at most 9 % too high; NaN of none."""
        below, wanted = 0, level * self.n
        for bucket in sorted(self.buckets):
            below += self.buckets[bucket]
            if below >= wanted:
                return min(upper(bucket), self.largest)
        return float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sure:
    """Answers of much the same confidence: how many, how many of them right, the exact sum of confidences."""

    n: int = 0
    right: int = 0
    confidence: Fraction = Fraction()

    def __add__(self, other: Self) -> "Sure":
        """Both taken together."""
        return Sure(
            n=self.n + other.n,
            right=self.right + other.right,
            confidence=self.confidence + other.confidence,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What `n` labels say of one version: exact sums of two losses, and `bins` of its confidence."""

    n: int = 0
    brier: Fraction = Fraction()
    nll: Fraction = Fraction()
    bins: Mapping[int, Sure] = field(default_factory=dict)

    def __add__(self, other: Self) -> "Marks":
        """Both taken together."""
        return Marks(
            n=self.n + other.n,
            brier=self.brier + other.brier,
            nll=self.nll + other.nll,
            bins=summed(self.bins, other.bins, Sure()),
        )

    @property
    def ece(self) -> float:
        """Expected calibration error: |confidence - share that is right|, averaged over `BINS` bins."""
        off = sum((abs(one.confidence - one.right) for one in self.bins.values()), Fraction())
        return float(off / self.n) if self.n else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything that is known of the answers of both models; `merge` adds, `decide` judges.

    `figures` compare the canary with stable, `floor` stable's second answers with its first ones.
    `flips` and `floor_flips` count answers that differ by how clear stable's own answer was (bucket of its
    margin). A request is `unusable` if stable's first answer is; `broken` and `broken_again` count answers
    that are not finite, `failed` requests that the canary answered with an error, `mismatched` those of
    another shape or kind; `failures` and `mismatches` tell up to three reasons each. All of these but
    `unusable` also differ, so they are among the `answers`. `turns` counts classes that became others, where
    there are at most 100. `worst` are the most different requests: how much, and the id. Of requests whose
    right answer is known `wrong` counts which version differs from it (`again` is stable), `marks` how sure
    each was.
    """

    task: str
    answers: Answers = Answers()
    slices: Mapping[str, Answers] = field(default_factory=dict)
    figures: Mapping[str, Spread] = field(default_factory=dict)
    floor: Mapping[str, Spread] = field(default_factory=dict)
    flips: Mapping[int, int] = field(default_factory=dict)
    floor_flips: Mapping[int, int] = field(default_factory=dict)
    turns: Mapping[tuple[int, int], int] = field(default_factory=dict)
    unusable: int = 0
    broken: int = 0
    broken_again: int = 0
    failed: int = 0
    failures: tuple[str, ...] = ()
    mismatched: int = 0
    mismatches: tuple[str, ...] = ()
    worst: tuple[tuple[float, str], ...] = ()
    wrong: Answers = Answers()
    marks: Mapping[str, Marks] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """Requests whose answers were compared."""
        return self.answers.twice + self.answers.once

    def to_json(self) -> dict[str, Any]:
        """As JSON values; equal comparisons give equal text under `json.dumps(..., sort_keys=True)`."""
        return {
            "schema": SCHEMA,
            "task": self.task,
            "answers": _of_answers(self.answers),
            "slices": {label: _of_answers(each) for label, each in sorted(self.slices.items())},
            "figures": {name: _of_spread(each) for name, each in sorted(self.figures.items())},
            "floor": {name: _of_spread(each) for name, each in sorted(self.floor.items())},
            "flips": _of_counts(self.flips),
            "floorFlips": _of_counts(self.floor_flips),
            "turns": [[*pair, n] for pair, n in sorted(self.turns.items())],
            "unusable": self.unusable,
            "broken": self.broken,
            "brokenAgain": self.broken_again,
            "failed": self.failed,
            "failures": list(self.failures),
            "mismatched": self.mismatched,
            "mismatches": list(self.mismatches),
            "worst": [[how, name] for how, name in self.worst],
            "wrong": _of_answers(self.wrong),
            "marks": {arm: _of_marks(each) for arm, each in sorted(self.marks.items())},
        }

    @classmethod
    def from_json(cls, said: Any) -> "Comparison":
        """What `to_json` gave; raises `ValueError` naming the field that is wrong."""
        if not isinstance(said, Mapping) or said.get("schema") != SCHEMA:
            found = said.get("schema") if isinstance(said, Mapping) else type(said).__name__
            raise ValueError(f"not a shadow comparison: schema is {found!r}, not {SCHEMA!r}")
        try:
            return cls(
                task=_text(said["task"]),
                answers=_answers(said["answers"]),
                slices={_text(label): _answers(each) for label, each in said["slices"].items()},
                figures={_text(name): _spread(each) for name, each in said["figures"].items()},
                floor={_text(name): _spread(each) for name, each in said["floor"].items()},
                flips=_counts(said["flips"]),
                floor_flips=_counts(said["floorFlips"]),
                turns={(_count(a), _count(b)): _count(n) for a, b, n in said["turns"]},
                unusable=_count(said["unusable"]),
                broken=_count(said["broken"]),
                broken_again=_count(said["brokenAgain"]),
                failed=_count(said["failed"]),
                failures=tuple(map(_text, said.get("failures", ()))),  # none in a state of an older version
                mismatched=_count(said["mismatched"]),
                mismatches=tuple(map(_text, said["mismatches"])),
                worst=tuple((_figure(how), _text(name)) for how, name in said["worst"]),
                wrong=_answers(said["wrong"]),
                marks={_text(arm): _marks(each) for arm, each in said["marks"].items()},
            )
        except KeyError as error:
            raise ValueError(f"shadow comparison without {error}") from None
        except (TypeError, AttributeError) as error:
            raise ValueError(f"shadow comparison of another form: {error}") from None


def merge(one: Comparison, other: Comparison) -> Comparison:
    """Both taken together; raises `ValueError` for different tasks.

    Guarantee: associative and commutative to the last bit, with the empty comparison as its zero.
    """
    if one.task != other.task:
        raise ValueError(f"a comparison for {one.task} cannot be merged with one for {other.task}")
    return Comparison(
        task=one.task,
        answers=one.answers + other.answers,
        slices=_fewest(summed(one.slices, other.slices, Answers())),
        figures=summed(one.figures, other.figures, Spread()),
        floor=summed(one.floor, other.floor, Spread()),
        flips=summed(one.flips, other.flips),
        floor_flips=summed(one.floor_flips, other.floor_flips),
        turns=summed(one.turns, other.turns),
        unusable=one.unusable + other.unusable,
        broken=one.broken + other.broken,
        broken_again=one.broken_again + other.broken_again,
        failed=one.failed + other.failed,
        failures=told([*one.failures, *other.failures]),
        mismatched=one.mismatched + other.mismatched,
        mismatches=told([*one.mismatches, *other.mismatches]),
        worst=foremost([*one.worst, *other.worst]),
        wrong=one.wrong + other.wrong,
        marks=summed(one.marks, other.marks, Marks()),
    )


def merged(task: str, parts: Iterable[Comparison]) -> Comparison:
    """All parts taken together; an empty comparison of none."""
    return reduce(merge, parts, Comparison(task=task))


def told(reasons: Iterable[str]) -> tuple[str, ...]:
    """Up to `REASONS` of them, the same ones whatever their order and however they were divided."""
    return tuple(sorted(set(reasons))[:REASONS])


def foremost(found: Iterable[tuple[float, str]]) -> tuple[tuple[float, str], ...]:
    """The most different requests, most different first; the same for the same requests in any order."""
    return tuple(sorted(found, key=lambda each: (-each[0], each[1]))[:WORST])


def by_label(labels: Iterable[str], kinds: Iterable[int]) -> dict[str, Answers]:
    """Counts by slice, of requests with these labels and kinds (places in `COUNTS`)."""
    found: dict[str, dict[str, int]] = {}
    for (label, kind), n in Counter(zip(labels, kinds, strict=True)).items():
        found.setdefault(label, {})[COUNTS[kind]] = n
    return _fewest({label: Answers(**counts) for label, counts in found.items()})


def exact_sum(values: Floats) -> Fraction:
    """The sum of finite values (n,) without any rounding.

    A float is a whole number of 53 bits times a power of two. Those of one power are added as integers,
    in two halves, which cannot overflow below 2^36 values.
    """
    mantissa, power = np.frexp(values)
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    high, low = whole >> 26, whole & (2**26 - 1)
    total = 0
    for each in np.unique(power):
        at = power == each
        total += ((int(high[at].sum()) << 26) + int(low[at].sum())) << (int(each) + 1074)
    return Fraction(total, 2 ** (1074 + 53))


_EDGES = 0.5 * 2.0 ** (np.arange(1, FINE) / FINE)  # of the buckets from 1/2 to 1


def buckets(sizes: Floats) -> NDArray[np.int64]:
    """The buckets (n,) of sizes (n,) from 0 upwards."""
    mantissa, power = np.frexp(sizes)
    place = power.astype(np.int64) * FINE + np.searchsorted(_EDGES, mantissa, side="right")
    return np.where(sizes == 0, ZERO, place)


def lower(bucket: int) -> float:
    """Where a bucket begins."""
    return 0.0 if bucket == ZERO else float(2.0 ** (bucket / FINE - 1))


def upper(bucket: int) -> float:
    """Where a bucket ends."""
    return 0.0 if bucket == ZERO else float(2.0 ** ((bucket + 1) / FINE - 1))


def counted(places: NDArray[np.int64]) -> dict[int, int]:
    """How often each place occurs."""
    found, n = np.unique(places, return_counts=True)
    return dict(zip(found.tolist(), n.tolist(), strict=True))


def summed(one: Mapping[Any, Any], other: Mapping[Any, Any], zero: Any = 0) -> dict[Any, Any]:
    """The sum for each key of either."""
    return {key: one.get(key, zero) + other.get(key, zero) for key in {**one, **other}}


def _fewest(slices: Mapping[str, Answers]) -> dict[str, Answers]:
    """With at most `MOST_SLICES` labels, the first of the alphabet; all others are `REST`.

    A label among the first of all is among the first of every part it occurs in: nothing of it is lost.
    """
    kept = sorted(label for label in slices if label != REST)[:MOST_SLICES]
    rest = [slices[label] for label in slices if label not in kept]
    return {label: slices[label] for label in kept} | ({REST: reduce(Answers.__add__, rest)} if rest else {})


def _of_answers(answers: Answers) -> dict[str, int]:
    return {name: getattr(answers, name) for name in COUNTS}


def _of_spread(spread: Spread) -> dict[str, Any]:
    sums = {"total": _exact(spread.total), "squares": _exact(spread.squares)}
    return {"n": spread.n, **sums, "largest": spread.largest, "buckets": _of_counts(spread.buckets)}


def _of_marks(marks: Marks) -> dict[str, Any]:
    bins = [[at, one.n, one.right, _exact(one.confidence)] for at, one in sorted(marks.bins.items())]
    return {"n": marks.n, "brier": _exact(marks.brier), "nll": _exact(marks.nll), "bins": bins}


def _exact(total: Fraction) -> str:
    return f"{total.numerator}/{total.denominator}"


def _of_counts(counts: Mapping[int, int]) -> list[list[int]]:
    return [[place, n] for place, n in sorted(counts.items())]


def _answers(said: Mapping[str, Any]) -> Answers:
    return Answers(**{name: _count(said[name]) for name in COUNTS})


def _spread(said: Mapping[str, Any]) -> Spread:
    return Spread(
        n=_count(said["n"]),
        total=_fraction(said["total"]),
        squares=_fraction(said["squares"]),
        largest=_figure(said["largest"]),
        buckets=_counts(said["buckets"]),
    )


def _marks(said: Mapping[str, Any]) -> Marks:
    bins = {
        at: Sure(n=_count(n), right=_count(right), confidence=_fraction(sure))
        for at, n, right, sure in said["bins"]
    }
    if not all(isinstance(at, int) and 0 <= at < BINS and one.right <= one.n for at, one in bins.items()):
        raise ValueError("shadow comparison with a bin of confidence that there is not")
    return Marks(n=_count(said["n"]), brier=_fraction(said["brier"]), nll=_fraction(said["nll"]), bins=bins)


def _counts(said: Iterable[tuple[Any, Any]]) -> dict[int, int]:
    counts = {place: _count(n) for place, n in said}
    if not all(isinstance(place, int) and (place == ZERO or place in PLACES) for place in counts):
        raise ValueError("shadow comparison with a bucket that there is not")
    return counts


def _count(said: Any) -> int:
    if not isinstance(said, int) or isinstance(said, bool) or not 0 <= said < 2**63:
        raise _wrong(said, "count")
    return said


def _figure(said: Any) -> float:
    if not isinstance(said, int | float) or isinstance(said, bool) or not 0 <= said < inf:
        raise _wrong(said, "figure")
    return float(said)


def _fraction(said: Any) -> Fraction:
    if not isinstance(said, str) or not NUMBER.fullmatch(said):
        raise _wrong(said, "sum")
    over, under = map(int, said.split("/"))
    if under == 0 or under & (under - 1) or abs(over).bit_length() - under.bit_length() > 1000:
        raise ValueError("shadow comparison with a sum that no floats have")
    return Fraction(over, under)


def _text(said: Any) -> str:
    if not isinstance(said, str):
        raise _wrong(said, "text")
    return said


def _wrong(said: Any, what: str) -> ValueError:
    return ValueError(f"shadow comparison with {said!r:.40} for a {what}")
