"""Who served how much: completed requests of each arm since given instants.

Breakers and load parity ask for it. It is counted pod by pod from page to page, so it needs no tick
and no other pod's page; and beside each count stands for how many pod-seconds it was counted, so that
pods that come, go, or are not read at all (only some of stable's are) do not bend a rate.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from controller.ports import Reading


@dataclass(frozen=True, slots=True)
class Served:
    """What a pod had completed by its page at `at`."""

    at: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Completed requests since an instant (seconds since 1970), of the pods that are read.

    `stable_seconds` and `canary_seconds` are the pod-seconds over which they were counted: none means
    that nothing is known of that arm, which is not the same as no requests. `silence` counts stable's
    requests since `silent_since`: the canary's last completed request, or the instant.
    """

    since: float
    stable: int = 0
    canary: int = 0
    stable_seconds: float = 0.0
    canary_seconds: float = 0.0
    stable_until: float = 0.0
    canary_until: float = 0.0
    silence: int = 0
    silent_since: float

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


@dataclass(frozen=True, slots=True)
class _Window:
    """What one pod completed between its last two pages."""

    start: float
    end: float
    n: int


def counted(
    served: Mapping[str, Served],
    loads: Mapping[str, Load],
    *,
    stable: Mapping[str, Reading],
    canary: Mapping[str, Reading],
    since: Mapping[str, float],
    stale: float,
) -> tuple[dict[str, Served], dict[str, Load]]:
    """What each pod had completed, and the loads, after these readings.

    A window that began before a load's instant is not counted for it: some of it may lie before.
    Stable's windows longer than `stale` seconds add nothing to a silence: after pages were away,
    stable's may be back a second before the canary's, with all its requests at once.
    """
    windows = {"stable": _windows(served, stable), "canary": _windows(served, canary)}
    after = {
        name: _grown(_since(loads.get(name), instant), **windows, stale=stale)
        for name, instant in since.items()
    }
    marks = {name: _mark(served.get(name), reading) for name, reading in stable.items()}
    marks |= {name: _mark(served.get(name) or Served(seen.at, 0), seen) for name, seen in canary.items()}
    return {name: mark for name, mark in marks.items() if mark is not None}, after


def later(load: Load, by: float) -> Load:
    """The same so many seconds later; of an arm that was not counted nothing is known at any time."""
    return replace(
        load,
        since=load.since + by,
        silent_since=load.silent_since + by,
        stable_until=load.stable_until + by if load.stable_until else 0.0,
        canary_until=load.canary_until + by if load.canary_until else 0.0,
    )


def _since(load: Load | None, instant: float) -> Load:
    """The load as counted so far, or nothing yet if the instant is a new one."""
    return load if load and load.since == instant else Load(since=instant, silent_since=instant)


def _mark(before: Served | None, reading: Reading) -> Served | None:
    """The pod's newest known count; a page without one leaves the old.

    A canary's page without one is a zero: the series is created by the first request, and that it has
    answered one must not wait for a second page.
    """
    return before if reading.requests is None else Served(reading.at, reading.requests.n)


def _windows(served: Mapping[str, Served], readings: Mapping[str, Reading]) -> list[_Window]:
    """One window for each pod with a new page; a counter that began again counts from zero."""
    return [
        _Window(
            before.at, reading.at, reading.requests.n - (before.n if reading.requests.n >= before.n else 0)
        )
        for name, reading in readings.items()
        if reading.requests is not None and (before := served.get(name)) and reading.at > before.at
    ]


def _grown(load: Load, *, stable: Collection[_Window], canary: Collection[_Window], stale: float) -> Load:
    """The load with these windows added, as far as they lie after its instant."""
    stable = [window for window in stable if window.start >= load.since]
    canary = [window for window in canary if window.start >= load.since]
    return _hushed(
        replace(
            load,
            stable=load.stable + sum(window.n for window in stable),
            canary=load.canary + sum(window.n for window in canary),
            stable_seconds=load.stable_seconds + sum(window.end - window.start for window in stable),
            canary_seconds=load.canary_seconds + sum(window.end - window.start for window in canary),
            stable_until=max((window.end for window in stable), default=load.stable_until),
            canary_until=max((window.end for window in canary), default=load.canary_until),
        ),
        spoke=max((window.end for window in canary if window.n), default=None),
        heard=sum(window.n for window in stable if window.end - window.start <= stale),
    )


def _hushed(load: Load, *, spoke: float | None, heard: int) -> Load:
    """The load with its silence broken by the canary, or longer by what stable completed."""
    if spoke is not None:
        return replace(load, silence=0, silent_since=spoke)
    return replace(load, silence=load.silence + heard)
