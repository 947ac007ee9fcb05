"""Who served how much: completed requests of each arm since given instants.

Breakers and load parity ask for it. It is counted pod by pod from page to page, so it needs no tick
and no other pod's page; and beside each count stands for how many pod-seconds it was counted, so that
pods that come, go, or are not read at all (only some of stable's are) do not bend a rate.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

from analysis.values import replace
from controller.hearing import AT_ONCE, Lag
from controller.ports import Reading


@dataclass(frozen=True, slots=True)
class Served:
    """What a pod had completed by its page at `at`, and by which counter, if that is known.

    `odd` is a page after it from which nothing can be told: its figure is less, or another counter's, as
    where the sidecar's part is missing. If the next page goes on from there, it is counted from there.
    `high` is what the pod had completed before it said less for longer: a page that says as much once more is
    counted from there, since else all that the others had lacked would be new. `odd` is not saved: a new
    leader takes the next page as it comes.
    """

    at: float
    n: int
    counter: str = field(default="", compare=False)
    odd: "Served | None" = field(default=None, compare=False)
    high: "Served | None" = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Hush:
    """What all of stable completed since somebody last did (a canary, or a pod of either arm).

    `n` until the newest page, at `until`; `missed` since then, which says nothing: the next page may tell of
    requests. `spoke`: whether `since` is when one was completed, and not the beginning.
    """

    since: float
    until: float
    n: float = 0.0
    missed: float = 0.0
    spoke: bool = False

    def after(self, *, read: float, spoke: float | None, heard: "_Heard") -> "Hush":
        """The silence after a look at what stable completed; its newest page is of `read`."""
        if spoke is not None:
            return Hush(spoke, max(read, spoke), spoke=True)
        return self._longer(read, heard.since(self))

    def _longer(self, read: float, heard: float) -> "Hush":
        """The silence after a look in which nobody spoke, and stable completed `heard`."""
        if read <= self.until:
            return replace(self, missed=self.missed + heard) if heard else self
        return replace(self, n=self.n + self.missed + heard, missed=0.0, until=read)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Completed requests since an instant (seconds since 1970), of the pods that are read.

    `stable_seconds` and `canary_seconds` are the pod-seconds over which they were counted: none means
    that nothing is known of that arm, which is not the same as no requests. `hush` is the canary's silence,
    whose newest page is that of the pod that was read longest ago; `pods` are single pods'. `shared` are the
    requests of stable and canary by which shares are compared: older ones would be of another weight.
    """

    since: float
    stable: int = 0
    canary: int = 0
    stable_seconds: float = 0.0
    canary_seconds: float = 0.0
    stable_until: float = 0.0
    canary_until: float = 0.0
    shared: tuple[int, int] = (0, 0)
    hush: Hush
    pods: Mapping[str, Hush] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long both arms were counted."""
        return max(0.0, min(self.stable_until, self.canary_until) - self.since)

    @property
    def stable_rate(self) -> float | None:
        """Requests per second and pod; None while no pod was read twice."""
        return self.stable / self.stable_seconds if self.stable_seconds else None

    @property
    def canary_rate(self) -> float | None:
        """Requests per second and pod; None while no pod was read twice."""
        return self.canary / self.canary_seconds if self.canary_seconds else None

    @property
    def parity(self) -> float | None:
        """Requests per pod, canary over stable; None while it cannot be told."""
        return (
            None if not self.stable_rate or self.canary_rate is None else self.canary_rate / self.stable_rate
        )


class _Window(NamedTuple):
    """What one pod completed between its last two pages; after an `odd` one it may have spoken before."""

    pod: str
    start: float
    end: float
    n: int
    odd: bool = False


def counted(
    served: Mapping[str, Served],
    loads: Mapping[str, Load],
    *,
    stable: Mapping[str, Reading],
    canary: Mapping[str, Reading],
    since: Mapping[str, float],
    stale: float,
    now: float = 0.0,
    ready: Iterable[str] = (),
    lag: Lag = AT_ONCE,
) -> tuple[dict[str, Served], dict[str, Load]]:
    """What each pod had completed, and the loads, after these readings.

    A window that began before a load's instant is not counted for it: some of it may lie before.
    Stable's windows longer than `stale` seconds add nothing to a silence: after pages were away,
    stable's may be back a second before the canary's, with all its requests at once. `ready` are the canary's
    pods, those without a page as well; `lag` says when a request can be back.
    """
    stable, canary = _paged(stable), _paged(canary)
    seen = {name: _seen(served.get(name), one) for name, one in (*stable.items(), *canary.items())}
    windows = {"stable": _windows(seen, stable), "canary": _windows(seen, canary)}
    pages = {
        name: reading.at
        for name, reading in (*stable.items(), *canary.items())
        if _tells(seen[name].known, reading)
    }
    ready = frozenset(ready) | canary.keys()
    after = {}
    for name, instant in since.items():
        load = _grown(_since(loads.get(name), instant), **windows, settled=instant + lag.most)
        heard = [one for one in windows["stable"] if one.start >= instant and one.end - one.start <= stale]
        spoken = {
            one.pod: one.end if one.n else one.start
            for kind in windows.values()
            for one in kind
            if (one.n or one.odd) and one.start >= instant
        }
        after[name] = _hushed(load, pages, _Heard(heard, spoken, now, lag), ready=ready)
    # A canary's page without a count is a zero: the series is created by the first request, and that it has
    # answered one must not wait for a second page.
    begun = {name: Served(reading.at, 0) for name, reading in canary.items()}
    return begun | {name: one.known for name, one in seen.items() if one.known is not None}, after


@dataclass(frozen=True, slots=True)
class Steps:
    """How long pages stand still, as far as was seen: the shortest time in which a pod's count grew twice.

    Pages that are worked out every ten seconds only stand still in between, however much is answered. `moved`
    is when each pod's count last grew.
    """

    shortest: float = inf
    moved: Mapping[str, float] = field(default_factory=dict)

    def after(self, before: Mapping[str, Served], now: Mapping[str, Served], *, live: float) -> "Steps":
        """What is known with these pages; no more is asked once that is `live` seconds or less."""
        if self.shortest <= live:  # nearly always
            return self
        both = ((pod, one, before[pod]) for pod, one in now.items() if pod in before)
        grown = {pod: one.at for pod, one, old in both if one.n > old.n and one.at > old.at}
        took = [at - self.moved[pod] for pod, at in grown.items() if pod in self.moved]
        return Steps(min([self.shortest, *took]), {**self.moved, **grown})

    def later(self, by: float) -> "Steps":
        """The same so many seconds later."""
        return replace(self, moved={pod: at + by for pod, at in self.moved.items()})


def later(load: Load, by: float) -> Load:
    """The same so many seconds later; of an arm that was not counted nothing is known at any time."""
    return replace(
        load,
        since=load.since + by,
        hush=_later(load.hush, by),
        pods={pod: _later(hush, by) for pod, hush in load.pods.items()},
        stable_until=load.stable_until + by if load.stable_until else 0.0,
        canary_until=load.canary_until + by if load.canary_until else 0.0,
    )


def _later(hush: Hush, by: float) -> Hush:
    return replace(hush, since=hush.since + by, until=hush.until + by)


def _since(load: Load | None, instant: float) -> Load:
    """The load as counted so far, or nothing yet if the instant is a new one."""
    return load if load and load.since == instant else Load(since=instant, hush=Hush(instant, instant))


def _paged(readings: Mapping[str, Reading]) -> Mapping[str, Reading]:
    """Those of pods whose page was read."""
    return {name: reading for name, reading in readings.items() if reading.paged}


def _tells(known: Served | None, reading: Reading) -> bool:
    """Whether the page says how many requests there were: without a count none, unless it had some before."""
    return known is None or (known.odd is None and (reading.requests is not None or not known.n))


class _Seen(NamedTuple):
    """What is known of a pod after its newest page, and since what that page counts; None if it does not."""

    known: Served | None
    since: Served | None = None
    odd: bool = False  # since an odd page


def _seen(before: Served | None, reading: Reading) -> _Seen:
    """A page without a count, and one that was seen before, leave what was known."""
    if reading.requests is None:
        return _Seen(before)
    now = Served(reading.at, reading.requests.n, reading.counter)
    if before is None or now.at < before.at:
        return _Seen(now)
    seen_before = now.at == before.at or (before.odd is not None and now.at <= before.odd.at)
    return _Seen(before) if seen_before else _new(before, now)


def _new(before: Served, now: Served) -> _Seen:
    if (high := before.high) is not None:
        if _goes_on(high, now):
            return _Seen(now, high)
        now = replace(now, high=high)
    if _goes_on(before, now):
        return _Seen(now, before)
    later = replace(now, high=high or replace(before, odd=None))
    if _began_again(before, now):
        return _Seen(later, replace(before, n=0))
    if before.odd is not None and _goes_on(before.odd, now):
        return _Seen(later, before.odd, odd=True)
    return _Seen(replace(before, odd=now))


def _goes_on(before: Served, now: Served) -> bool:
    return now.n >= before.n and (before.n == 0 or _same(before, now))


def _began_again(before: Served, now: Served) -> bool:
    """Whether the counter began at zero since; one that has half of it again by its next page hardly did."""
    return 2 * now.n < before.n and _same(before, now)


def _same(before: Served, now: Served) -> bool:
    """Whether it is the same counter, as far as is known: another leader's is not."""
    return before.counter in {"", now.counter} or not now.counter


def _windows(seen: Mapping[str, _Seen], pods: Iterable[str]) -> list[_Window]:
    """One window for each of the pods with a new page that can be counted."""
    each = ((pod, seen[pod]) for pod in pods)
    return [
        _Window(pod, since.at, known.at, known.n - since.n, odd)
        for pod, (known, since, odd) in each
        if known is not None and since is not None
    ]


def _grown(load: Load, *, stable: Collection[_Window], canary: Collection[_Window], settled: float) -> Load:
    """The load with these windows added, as far as they lie after its instant; shares after `settled`."""
    stable = [window for window in stable if window.start >= load.since]
    canary = [window for window in canary if window.start >= load.since]
    return replace(
        load,
        stable=load.stable + sum([window.n for window in stable]),
        canary=load.canary + sum([window.n for window in canary]),
        stable_seconds=load.stable_seconds + sum([window.end - window.start for window in stable]),
        canary_seconds=load.canary_seconds + sum([window.end - window.start for window in canary]),
        stable_until=max([window.end for window in stable], default=load.stable_until),
        canary_until=max([window.end for window in canary], default=load.canary_until),
        shared=(
            load.shared[0] + sum([window.n for window in stable if window.start >= settled]),
            load.shared[1] + sum([window.n for window in canary if window.start >= settled]),
        ),
    )


class _Heard:
    """What one look heard: stable's new requests, and which pods completed one by when."""

    def __init__(
        self, stable: Collection[_Window], spoken: Mapping[str, float], now: float, lag: Lag
    ) -> None:
        self.spoken, self.now = spoken, now
        self._n, self._lag = sum(window.n for window in stable), lag
        self._start = min((window.start for window in stable), default=0.0)

    def since(self, hush: Hush) -> float:
        """Of stable's requests, those that would be back had they been sent after the silence began."""
        return self._n * self._lag.back(self._start - hush.since, spoke=hush.spoke) if self._n else 0.0


def _hushed(load: Load, pages: Mapping[str, float], heard: _Heard, *, ready: Collection[str]) -> Load:
    """The load with its silences broken, or longer by what stable completed."""
    pods = {}
    for pod in pages.keys() | ready:
        hush = load.pods.get(pod) or Hush(max(load.since, heard.now), max(load.since, heard.now))
        read, spoke = pages.get(pod, 0.0), heard.spoken.get(pod)
        pods[pod] = hush.after(read=read, spoke=spoke, heard=heard)
    spoke = max((heard.spoken[pod] for pod in ready if pod in heard.spoken), default=None)
    read = min((pages.get(pod, 0.0) for pod in ready), default=0.0)
    arm = load.hush.after(read=read, spoke=spoke, heard=heard)
    return replace(load, pods=pods, hush=arm)


def saved(load: Load) -> dict[str, object]:
    """The load as JSON."""
    found = {name: getattr(load, name) for name in load.__slots__}
    return found | {"hush": _packed(load.hush), "pods": {pod: _packed(one) for pod, one in load.pods.items()}}


def loaded(values: Mapping[str, Any]) -> Load:
    """What `saved` made; raises `KeyError`, `TypeError` or `AttributeError` if this is not one."""
    pods = {pod: Hush(*one) for pod, one in values["pods"].items()}
    stable, canary = values["shared"]
    return Load(**{**values, "hush": Hush(*values["hush"]), "pods": pods, "shared": (stable, canary)})


def _packed(hush: Hush) -> list[object]:
    return [hush.since, hush.until, round(hush.n, 1), round(hush.missed, 1), hush.spoke]
