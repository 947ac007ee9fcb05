"""Pictures in a page: intervals and histograms. SVG whose letters keep their size however wide the page is.

Places across are percent of the picture, places down are pixels, so that one drawing fits a phone and a
desk. Colours are the page's own (`report.STYLE`), light or dark. Each picture says in words what it shows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

from gpu_shadow.tally import ZERO, Sure, lower, upper
from gpu_shadow.wording import plain

ROW, HALF, AXIS = 44, 84, 26  # pixels: an interval, a side of a histogram, the axis below
COLUMNS = 32  # of a histogram at most: ten pixels each on a phone
FEW = 8  # columns that there is room for at least: one alone is no wall
LEFT, RIGHT = 4.0, 96.0  # percent of the width between which values lie
LONGEST = 300  # letters of somebody's text


@dataclass(frozen=True, slots=True)
class Axis:
    """Values from `low` to `high`, from left to right."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Where a value lies, in percent; one outside lies on the edge."""
        part = (value - self.low) / (self.high - self.low)
        return LEFT + (RIGHT - LEFT) * min(max(part, 0.0), 1.0)

    def ticks(self) -> Iterator[float]:
        """Up to six round values."""
        rough = (self.high - self.low) / 5
        unit = 10.0 ** floor(log10(rough))
        step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= rough * (1 - 1e-9))
        return (step * k for k in range(ceil(self.low / step), floor(self.high / step) + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """An interval of a share, the share itself, and the noise floor if there is one."""

    label: str
    ends: tuple[float, float]
    point: float
    floor: float | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """How many requests have a figure between two sizes: the canary's, and stable's second answers'."""

    low: float
    high: float
    canary: int
    again: int


def shown(text: str) -> str:
    """Text of whoever it may be, as it can stand in a page: no markup, nothing invisible, no endless line."""
    cut = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return escape(plain(cut))


def intervals(name: str, title: str, told: str, bars: Sequence[Bar], *, margin: float | None) -> str:
    """Intervals below each other, and the margin that they are held against, if there is one."""
    values = [value for bar in bars for value in (*bar.ends, bar.point, bar.floor or 0.0)]
    axis = Axis(min(0.0, *values), 1.02 * max(1.25 * (margin or 1e-9), *values))
    bottom = ROW * len(bars) + 8
    zero = axis.at(0.0)
    parts = [f'<line class="axis" x1="{LEFT}%" x2="{RIGHT}%" y1="{bottom}" y2="{bottom}"/>']
    if margin is not None:
        wide = axis.at(margin) - zero
        parts.append(f'<rect class="allowed" x="{zero:.2f}%" y="0" width="{wide:.2f}%" height="{bottom}"/>')
    for tick in axis.ticks():
        parts += [
            _upright(axis.at(tick), bottom, "grid"),
            _tick(axis.at(tick), bottom, f"{100 * tick:.4g} %"),
        ]
    parts.append(_upright(zero, bottom, "axis"))
    if margin is not None:
        parts.append(_upright(axis.at(margin), bottom, "margin"))
    for place, bar in enumerate(bars):
        parts += _bar(axis, bar, ROW * place + 30)
    return _svg(name, title, told, parts, bottom + AXIS)


def _bar(axis: Axis, bar: Bar, y: float) -> Iterator[str]:
    low, high = map(axis.at, bar.ends)
    yield f'<text class="over" x="{LEFT}%" y="{y - 12}">{shown(bar.label)}</text>'
    yield f'<line class="canary" x1="{low:.2f}%" x2="{high:.2f}%" y1="{y}" y2="{y}"/>'
    for x in (low, high):
        yield f'<line class="canary" x1="{x:.2f}%" x2="{x:.2f}%" y1="{y - 6}" y2="{y + 6}"/>'
    yield f'<circle class="canary" cx="{axis.at(bar.point):.2f}%" cy="{y}" r="5"/>'
    if bar.floor is not None:
        yield f'<circle class="again" cx="{axis.at(bar.floor):.2f}%" cy="{y}" r="5"/>'


def columns(canary: Mapping[int, int], again: Mapping[int, int]) -> list[Column]:
    """Counts by bucket (`tally.Spread.buckets`), joined until few enough to be seen; zeros alone, first."""
    found = [Column(0.0, 0.0, canary.get(ZERO, 0), again.get(ZERO, 0))] if ZERO in {*canary, *again} else []
    places = {*canary, *again} - {ZERO}
    if not places:
        return found
    first, last, wide = min(places), max(places), 1
    while last // wide - first // wide >= COLUMNS:
        wide *= 2
    for at in range(first // wide, last // wide + 1):
        within = range(max(at * wide, first), min((at + 1) * wide - 1, last) + 1)
        sums = (sum(counts.get(place, 0) for place in within) for counts in (canary, again))
        found.append(Column(lower(within[0]), upper(within[-1]), *sums))
    return found


def histogram(name: str, title: str, told: str, found: Sequence[Column]) -> str:
    """The canary's differences upwards, those of stable's second answers downwards; large ones right.

    Each side is as high as its own highest column: on a CPU all of stable's are often the same, 0.
    """
    n, m = (max(1, sum(side)) for side in zip(*((one.canary, one.again) for one in found), strict=True))
    highest = [
        max(part) or 1.0 for part in zip(*((one.canary / n, one.again / m) for one in found), strict=True)
    ]
    middle, wide = HALF + 20.0, (RIGHT - LEFT) / max(len(found), FEW)
    noise = any(one.again for one in found)
    bottom = middle + (HALF if noise else 4)
    parts = []
    for place, one in enumerate(found):
        across = f'x="{LEFT + (place + 0.08) * wide:.2f}%" width="{0.84 * wide:.2f}%"'
        up, down = (
            max(1.0, HALF * part / most)
            for part, most in zip((one.canary / n, one.again / m), highest, strict=True)
        )
        if one.canary:
            parts.append(f'<rect class="canary" {across} y="{middle - up:.1f}" height="{up:.1f}"/>')
        if one.again:
            parts.append(f'<rect class="again" {across} y="{middle:.1f}" height="{down:.1f}"/>')
    parts += [
        f'<line class="axis" x1="{LEFT}%" x2="{RIGHT}%" y1="{middle}" y2="{middle}"/>',
        f'<text x="{LEFT}%" y="12">canary; full height is {100 * highest[0]:.3g} % of requests</text>',
    ]
    if noise:
        told_again = f"stable again; full height is {100 * highest[1]:.3g} %"
        parts.append(f'<text class="over" x="{RIGHT}%" y="{bottom}" text-anchor="end">{told_again}</text>')
    for place in range(0, len(found), ceil(len(found) / 6)):
        parts.append(_tick(LEFT + (place + 0.5) * wide, bottom, f"{found[place].high:.2g}"))
    return _svg(name, title, told, parts, bottom + AXIS)


def calibration(name: str, title: str, told: str, sides: Mapping[str, Mapping[int, Sure]]) -> str:
    """How many were right of answers of the same confidence; on the diagonal as many as were to be expected.

    `sides` are drawn in their classes of colour; the more requests a point stands for, the larger it is.
    """
    most = max((one.n for side in sides.values() for one in side.values()), default=1)
    bottom, axis = 2.0 * HALF, Axis(0.0, 1.0)
    parts = [
        f'<line class="axis" x1="{LEFT}%" x2="{RIGHT}%" y1="{bottom}" y2="{bottom}"/>',
        f'<line class="axis" x1="{LEFT}%" x2="{RIGHT}%" y1="{bottom}" y2="0"/>',
        f'<text x="{LEFT}%" y="12">right</text>',
        *(_tick(axis.at(part), bottom, f"{part:.0%}") for part in (0, 0.25, 0.5, 0.75, 1)),
    ]
    for kind, side in sides.items():
        for one in (one for _, one in sorted(side.items()) if one.n):
            x, y = axis.at(float(one.confidence / one.n)), bottom * (1 - one.right / one.n)
            size = 2 + 5 * (one.n / most) ** 0.5
            parts.append(f'<circle class="{kind}" cx="{x:.2f}%" cy="{y:.1f}" r="{size:.1f}"/>')
    return _svg(name, title, told, parts, bottom + AXIS)


def _upright(x: float, bottom: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x:.2f}%" x2="{x:.2f}%" y1="0" y2="{bottom}"/>'


def _tick(x: float, bottom: float, said: str) -> str:
    return f'<text class="tick" x="{x:.2f}%" y="{bottom + 18}" text-anchor="middle">{shown(said)}</text>'


def _svg(name: str, title: str, told: str, parts: Sequence[str], height: float) -> str:
    return (
        f'<svg width="100%" height="{height:g}" role="img" aria-labelledby="{name}-title {name}-told">'
        f'<title id="{name}-title">{shown(title)}</title><desc id="{name}-told">{shown(told)}</desc>'
        + "".join(parts)
        + "</svg>"
    )
