"""One metrics source out of two: the pods' own pages, and a Prometheus for the checks that name it.

Requests for the breakers are counted on the pages; at the Prometheus only in runs all of whose checks
are read there, since such pods may well have no page that can be reached.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from analysis.evidence import CheckSpec
from controller.model import Page, PodSeen
from controller.ports import ANNOTATED, UNREAD, MetricsSource, Reading, Trouble

UNSET = (
    "this controller was told of no Prometheus; set SERIN_PROMETHEUS_URL, or leave source.prometheus out of"
    " the policy's checks"
)


@dataclass(frozen=True, slots=True)
class _Shares:
    """Which checks of a run each source reads."""

    pages: frozenset[str]
    prometheus: frozenset[str]


class Sources:
    """`ports.MetricsSource`. Without a Prometheus the checks that name it are in trouble for good."""

    def __init__(self, pages: MetricsSource, prometheus: MetricsSource | None = None) -> None:
        self._pages = pages
        self._prometheus = _Nowhere() if prometheus is None else prometheus
        self._shares: dict[str, _Shares] = {}

    def watch(
        self,
        run: str,
        pods: Sequence[PodSeen],
        checks: Sequence[CheckSpec],
        pages: Mapping[str, Page | None] = ANNOTATED,
    ) -> None:
        """From now on exactly these pods are read for this run; no pods ends it."""
        queried = [check for check in checks if check.name in pages and pages[check.name] is None]
        rest = [check for check in checks if check not in queried]
        self._pages.watch(run, pods if rest or not queried else [], rest, pages)
        self._prometheus.watch(run, pods if queried else [], queried, pages)
        self._shares[run] = _Shares(_names(rest), _names(queried))
        if not pods:
            del self._shares[run]

    def read(self, run: str) -> Mapping[str, Reading]:
        """Newest reading by pod name; pods that never answered are absent."""
        shares = self._shares.get(run, _Shares(frozenset(), frozenset()))
        mine, theirs = self._pages.read(run), self._prometheus.read(run)
        if not shares.prometheus or not shares.pages:
            return theirs if shares.prometheus else mine
        return {
            name: _together(mine.get(name), theirs.get(name), shares)
            for name in sorted(mine.keys() | theirs.keys())
        }

    def troubles(self, run: str) -> Mapping[str, Trouble]:
        """By pod name, what is wrong with it at either source now."""
        mine, theirs = self._pages.troubles(run), self._prometheus.troubles(run)
        return {
            name: _both([found[name] for found in (mine, theirs) if name in found])
            for name in mine.keys() | theirs.keys()
        }


class _Nowhere:
    """The Prometheus of a process that was told of none."""

    def __init__(self) -> None:
        self._pods: dict[str, list[str]] = {}

    def watch(
        self,
        run: str,
        pods: Sequence[PodSeen],
        checks: Sequence[CheckSpec],
        pages: Mapping[str, Page | None] = ANNOTATED,
    ) -> None:
        """From now on these pods are in trouble."""
        del checks, pages
        self._pods[run] = [pod.name for pod in pods]
        if not pods:
            del self._pods[run]

    def read(self, run: str) -> Mapping[str, Reading]:
        """Nothing."""
        del run
        return {}

    def troubles(self, run: str) -> Mapping[str, Trouble]:
        """What to do, for each pod; as old as the process, so that people are told at once."""
        return {name: Trouble(since=0.0, failures=2**31, what=UNSET) for name in self._pods.get(run, ())}


def _together(page: Reading | None, asked: Reading | None, shares: _Shares) -> Reading:
    """A pod's reading at both sources; what one of them did not read does not pass for not being there."""
    if page is None:
        given = asked or Reading(at=0.0, requests=None)
        sources = {**_unread(shares.pages), **given.sources}
        return replace(given, requests=None, sources=sources, paged=False)
    if asked is None:
        return replace(page, sources={**_unread(shares.prometheus), **page.sources})
    return replace(
        page,
        values={**page.values, **asked.values},
        sources={**page.sources, **asked.sources},
        times={name: asked.times.get(name, asked.at) for name in shares.prometheus},
        took=page.took or asked.took,
    )


def _unread(checks: Collection[str]) -> dict[str, str]:
    return dict.fromkeys(checks, UNREAD)


def _names(checks: Collection[CheckSpec]) -> frozenset[str]:
    return frozenset(check.name for check in checks)


def _both(troubles: Sequence[Trouble]) -> Trouble:
    """One trouble out of one or two."""
    return Trouble(
        since=min(one.since for one in troubles),
        failures=max(one.failures for one in troubles),
        what="; ".join(one.what for one in troubles),
    )
