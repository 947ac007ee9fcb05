"""How far pods' pages have been used, as the next leader is told of it: JSON and back, and at another time.

Pure. What `ticks` counts is counted pod by pod from what a page said before, so nothing is lost or counted
twice by a change of leader, nor what a page had lacked for a while.
"""

from collections.abc import Mapping
from typing import Any

from analysis.samples import Counts, Histogram, Statistic
from analysis.values import replace
from controller import served as load_of
from controller.served import Served, later
from controller.ticks import UNKNOWN, Cursor, High, Mark, Open, usual_source

Json = Any


def moved(cursor: Cursor, by: float) -> Cursor:
    """The same so many seconds later, as somebody whose clock says another time has it."""
    return Cursor(
        {name: _moved(tick, by) for name, tick in cursor.checks.items()},
        {name: _served_later(pod, by) for name, pod in cursor.served.items()},
        {name: later(load, by) for name, load in cursor.loads.items()},
        cursor.steps.later(by),
    )


def _moved(tick: Open, by: float) -> Open:
    marks = {name: replace(mark, at=mark.at + by) for name, mark in tick.marks.items()}
    first = None if tick.first is None else tick.first + by
    highs = {
        name: High(replace(mark, at=mark.at + by), fell + by) for name, (mark, fell) in tick.highs.items()
    }
    return replace(tick, start=tick.start + by, marks=marks, first=first, highs=highs)


def _served_later(pod: Served, by: float) -> Served:
    high = None if pod.high is None else _served_later(pod.high, by)
    return replace(pod, at=pod.at + by, odd=None, high=high)


VERSION = 3  # of what `save` writes; a cursor of another version is not read


def save(cursor: Cursor) -> Json:
    """The cursor as JSON; bounds of buckets stand once, however many pods share them.

    `{"v", "bounds": [[le...]...], "checks": {check: [start, {pod: [at, requests, value]}, [pods
    that were behind]]},
    "served": {pod: [at, n]}, "by": {counter: [those pods]}, of the most frequent one `null`, "loads": {name:
    {...}}}`; a value is `[n, k]`, `[index of its bounds,
    empty buckets before, [count...]]` or null. Where a page has said less than before there are "highs"
    besides, `{check: {pod: [at, requests, value, fell]}}`, and of what was served "full", `{pod: [at, n,
    counter]}`.
    """
    marks = [mark for tick in cursor.checks.values() for mark in tick.marks.values()]
    marks += [high.mark for tick in cursor.checks.values() for high in tick.highs.values()]
    values = (mark.value for mark in marks)
    bounds = list(dict.fromkeys(value.le for value in values if isinstance(value, Histogram)))
    index = {le: at for at, le in enumerate(bounds)}
    return {
        "v": VERSION,
        "bounds": [list(le) for le in bounds],
        "checks": {
            name: [tick.start, _saved(tick.marks, index), sorted(tick.born - tick.marks.keys())]
            for name, tick in cursor.checks.items()
        },
        "served": {name: [pod.at, pod.n] for name, pod in cursor.served.items()},
        "by": _by(cursor.served),
        "loads": {name: load_of.saved(load) for name, load in cursor.loads.items()},
        **_highs(cursor, index),
    }


def _highs(cursor: Cursor, index: Mapping[tuple[float, ...], int]) -> Json:
    """What pods had counted, and served, before their pages said less; nothing where none did."""
    highs = {
        name: {
            pod: [*one, high.fell]
            for pod, high in tick.highs.items()
            for one in _saved({pod: high.mark}, index).values()
        }
        for name, tick in cursor.checks.items()
        if tick.highs
    }
    before = {name: pod.high for name, pod in cursor.served.items() if pod.high is not None}
    full = {name: [pod.at, pod.n, pod.counter] for name, pod in before.items()}
    return ({"highs": highs} if highs else {}) | ({"full": full} if full else {})


def load(saved: Json) -> Cursor:
    """The cursor that `save` wrote; raises `ValueError` if this is not one, or of another version."""
    if not isinstance(saved, dict) or saved.get("v") != VERSION:
        raise ValueError(f"not a cursor of version {VERSION}; begin with an empty one")
    try:
        bounds = [tuple(le) for le in saved["bounds"]]
        highs, full = saved.get("highs") or {}, saved.get("full") or {}  # nor did older versions say these
        return Cursor(
            {name: _reopened(tick, bounds, highs.get(name) or {}) for name, tick in saved["checks"].items()},
            _served(saved["served"], saved.get("by") or {}, full),  # older versions did not say
            {name: load_of.loaded(values) for name, values in saved["loads"].items()},
        )
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"not a cursor ({error!r}); begin with an empty one") from error


def _by(served: Mapping[str, Served]) -> Json:
    """Which pods' requests are counted by which series."""
    usual = usual_source(pod.counter for pod in served.values())
    others = sorted({pod.counter for pod in served.values()} - {usual})
    by = {
        counter: sorted(name for name, pod in served.items() if pod.counter == counter) for counter in others
    }
    return {usual: None, **by}


def _served(saved: Json, by: Json, full: Json) -> dict[str, Served]:
    usual = next((counter for counter, pods in by.items() if pods is None), UNKNOWN)
    counters = {pod: counter for counter, pods in by.items() for pod in pods or ()}
    found = {name: Served(at, n, counters.get(name, usual)) for name, (at, n) in saved.items()}
    highs = {name: Served(at, _count(n), counter) for name, (at, n, counter) in full.items()}
    return {name: replace(pod, high=highs.get(name)) for name, pod in found.items()}


def _reopened(tick: Json, bounds: list[tuple[float, ...]], highs: Json) -> Open:
    start, saved, behind = tick
    marks = {name: Mark(at, _unpacked(value, bounds), n) for name, (at, n, value) in saved.items()}
    born = {name for name, mark in marks.items() if mark.value is not None}
    before = {
        name: High(Mark(at, _unpacked(value, bounds), n), fell)
        for name, (at, n, value, fell) in highs.items()
    }
    return Open(start, marks, frozenset(born.union(behind)), highs=before)


def _saved(marks: Mapping[str, Mark], index: Mapping[tuple[float, ...], int]) -> Json:
    return {name: [mark.at, mark.requests, _packed(mark.value, index)] for name, mark in marks.items()}


def _packed(value: Statistic | None, index: Mapping[tuple[float, ...], int]) -> Json:
    match value:
        case Counts(n, k):
            return [n, k]
        case Histogram(le, count):
            used = [at for at, one in enumerate(count) if one] or [0]
            return [index[le], used[0], list(count[used[0] : used[-1] + 1])]
    return None


def _unpacked(value: Json, bounds: list[tuple[float, ...]]) -> Statistic | None:
    if value is None:
        return None
    if len(value) == 2:
        return Counts(*map(_count, value))
    index, before, count = _count(value[0]), _count(value[1]), tuple(map(_count, value[2]))
    le = bounds[index]
    after = len(le) + 1 - before - len(count)
    if after < 0:
        raise ValueError("more counts than buckets; begin with an empty cursor")
    return Histogram(le, (*(0,) * before, *count, *(0,) * after))


def _count(value: Json) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"not a count ({value!r:.40}); begin with an empty cursor")
    return value
