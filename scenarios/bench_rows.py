"""The worlds that `make bench-statistics` measures: how alike or noisy pods are, and what goes wrong.

Times are seconds since the canary has traffic.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from math import log
from typing import Any

import numpy as np
from scipy.special import rel_entr

from controller import planning, policies
from controller.model import OnDoubt, Policy
from scenarios.distributions import Beta, Bimodal, Lognormal, Pareto
from scenarios.page import SECONDS
from scenarios.streams import Change, Spells, Traffic, Wander

HALF_HOUR = 1800.0
STEPS = 3
LATENCY = "latency-p95"

# p95 114 ms: about what a model behind a queue does.
LOGNORMAL = Lognormal(0.050, 0.114)
BIMODAL = Bimodal((0.030, 0.120), 0.1, 0.137)
PARETO = Pareto(2.2, 0.078)
FINE = tuple(bound for bound in SECONDS if 0.012 < bound < 2.0)  # the lab's: four to a factor of 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table: a world, how many runs of it, and what is to be reached.

    `onset`: when the fault begins, in seconds; None where there is none. `weights`: of the steps, each of
    which lasts its part of the time, whatever passes. `only`: the one check that there is, instead of three.
    `passes`: it is about how soon a step passes. `bound`: canary requests that no test can do without.
    """

    name: str
    traffic: Traffic
    runs: int
    weights: tuple[int, ...] = (10, 25, 50)
    duration: float = HALF_HOUR
    onset: float | None = None
    check: str | None = None
    only: str | None = None
    alpha: float = 0.01
    passes: bool = False
    bound: float | None = None
    target: str = "-"


def world(**changed: Any) -> Traffic:
    """18 stable and two canary pods that serve 100 requests a second, as alike as can be."""
    plain = {"rps": 100.0, "stable_pods": 18, "canary_pods": 2, "latency": LOGNORMAL, "le": FINE}
    return Traffic(**{**plain, **changed})


ONE_POD = {"stable_pods": 9, "canary_pods": 1}
THREE_OF_30 = {"stable_pods": 30, "canary_pods": 3, "rps": 300.0}
NOISY = {
    "common": Wander(sd=0.15),
    "pod": Wander(sd=0.08, tau=10.0),
    "static": 0.03,
    "spells": Spells(per_second=0.005, factor=2.0),
}
PROFILES: Mapping[str, Mapping[str, Any]] = {
    "iid": {},
    "common shocks": {"common": Wander(sd=0.15), "diurnal": 0.3},
    "pods wander": {"pod": Wander(sd=0.08, tau=10.0), "static": 0.03},
    "bursts x2 of 3 s": {"pod": Wander(sd=0.05, tau=10.0), "spells": Spells(per_second=0.01, factor=2.0)},
    "all noise": NOISY,
    "heavy": NOISY | {"pod": Wander(sd=0.16, tau=10.0), "spells": Spells(per_second=0.01, factor=3.0)},
    "slow wander": {"pod": Wander(sd=0.08, tau=300.0)},
    "rare bursts x4 of 20 s": {"spells": Spells(per_second=1 / 600, factor=4.0, lasting=20.0)},
    "rare bursts x2 of 60 s": {"spells": Spells(per_second=1 / 900, factor=2.0, lasting=60.0)},
    "node bursts x3 of 4 s": {"spells": Spells(per_second=1 / 120, factor=3.0, lasting=4.0)},
    "hiccups x3 of 3 s": {"spells": Spells(per_second=1 / 30, factor=3.0)},
    "error bursts of 3 s": {"spells": Spells(per_second=0.005, factor=1.0, errors=0.1)},
    "quantised to 50 ms": {"quantised": 0.05},
    "timeouts at 150 ms": {"timeout": 0.15},
    "Pareto": {"latency": PARETO},
    "bimodal": {"latency": BIMODAL},
}
DESIGNS: Mapping[str, tuple[Mapping[str, Any], tuple[int, ...]]] = {
    "10 %, 1 of 9": (ONE_POD, (8, 9, 10)),
    "10 %, 2 of 18": ({}, (8, 9, 10)),
    "10-25-50 %, 2 of 18": ({}, (10, 25, 50)),
    "50 %, 2 of 3": ({"stable_pods": 3, "canary_pods": 2}, (45, 48, 50)),
    "50 %, 3 of 1": ({"stable_pods": 1, "canary_pods": 3}, (45, 48, 50)),
    "50 %, 1 of 1": ({"stable_pods": 1, "canary_pods": 1}, (45, 48, 50)),
    "10 %, 2 of 2": ({"stable_pods": 2, "canary_pods": 2}, (8, 9, 10)),
    "50 %, 5 of 5": ({"stable_pods": 5, "canary_pods": 5}, (45, 48, 50)),
    "10 %, 3 of 30": (THREE_OF_30, (8, 9, 10)),
}


def nulls(runs: int, history: float) -> list[Row]:
    """Identical arms, half an hour, three checks, three steps: none of them should be rolled back."""
    of_profile = [
        _null(profile, design, runs, history)
        for profile in PROFILES
        for design in ("10 %, 1 of 9", "10-25-50 %, 2 of 18")
    ]
    of_design = [
        _null("all noise", design, runs, history)
        for design in DESIGNS
        if design not in {"10 %, 1 of 9", "10-25-50 %, 2 of 18"}
    ]
    cold = [Change(at=at, factor=2.0, decay=3.0) for at in (0.0, HALF_HOUR / STEPS, 2 * HALF_HOUR / STEPS)]
    hiccups = PROFILES["hiccups x3 of 3 s"]
    odd: Mapping[str, Mapping[str, Any]] = {
        "cold caches x2 at each step": {"changes": cold},
        "a fifth of the load a pod, all noise": NOISY | {"canary_pods": 10},
        "twice the load a pod, all noise": NOISY | {"weights": (17, 18, 19)},
        "five times the load a pod, all noise": NOISY | {"weights": (34, 36, 38)},
        "one pod with half of the load of nine, all noise": NOISY | ONE_POD | {"weights": (45, 48, 50)},
        "node x1.3 slower under one of two canary pods": {"changes": [_slow_node(1.3)]},
        "node x1.3 slower under one of 18 stable pods": {"changes": [_slow_node(1.3, canary=False)]},
        "node x1.3 slower under one of three stable pods": {
            "stable_pods": 3,
            "changes": [_slow_node(1.3, canary=False)],
        },
        "ten requests a second, all noise": NOISY | {"rps": 10.0},
        "a thousand requests a second, all noise": NOISY | {"rps": 1000.0},
        "every node burst hits both pods": {
            "spells": Spells(per_second=1 / 120, factor=3.0, lasting=4.0),
            "nodes": 1,
        },
        "hiccups x3 of 3 s, one of one": {**hiccups, "stable_pods": 1, "canary_pods": 1},
        "hiccups x3 of 3 s, one of three": {**hiccups, "stable_pods": 3, "canary_pods": 1},
    }
    return [*of_profile, *of_design, *(_odd(name, changed, runs, history) for name, changed in odd.items())]


def _odd(name: str, changed: Mapping[str, Any], runs: int, history: float) -> Row:
    usual = {1: (45, 48, 50), 3: (20, 22, 25)}.get(changed.get("stable_pods", 18), (8, 9, 10))
    arms = {each: value for each, value in changed.items() if each != "weights"}
    return Row(
        name=f"{name}; {history:.0f} s",
        traffic=world(**arms, history=history),
        runs=runs,
        weights=changed.get("weights", usual),
        target="<= 1 %",
    )


def _slow_node(factor: float, *, canary: bool = True) -> Change:
    return Change(at=-1e9, canary=canary, pods=1, factor=factor)


def strict(runs: int, history: float) -> list[Row]:
    """Healthy canaries where one false rollback in a thousand is allowed."""
    row = _null("all noise", "10-25-50 %, 2 of 18", runs, history)
    return [replace(row, name=f"{row.name}; alpha 0.1 %", alpha=0.001, target="<= 0.1 %")]


def _null(profile: str, design: str, runs: int, history: float, slower: float = 1.0) -> Row:
    arms, weights = DESIGNS[design]
    changes = [] if slower == 1.0 else [Change(at=-1e9, factor=slower)]
    margin = "" if slower == 1.0 else f", x{slower:g}"
    return Row(
        name=f"{profile}; {design}{margin}; {history:.0f} s",
        traffic=world(**{**PROFILES[profile], **arms}, history=history, changes=changes),
        runs=runs,
        weights=weights,
        target="<= 1 %" if slower == 1.0 or arms.get("canary_pods", 2) > 1 else "<= 2 %",
    )


def inside(runs: int, history: float) -> list[Row]:
    """The same, the canary's latency 10 % higher: within its margin."""
    designs = ("10 %, 1 of 9", "10-25-50 %, 2 of 18", "10 %, 3 of 30")
    return [
        _null(profile, design, runs, history, 1.1) for profile in ("iid", "all noise") for design in designs
    ]


def faults(runs: int) -> list[Row]:
    """How fast faults are found, in seconds, with every check's usual share."""
    rows = []
    for name, arms, noise, seconds in (
        ("two pods", {}, {}, {5.0: 1, 2.0: 5, 1.5: 40, 1.3: 400}),
        ("one pod", ONE_POD, {}, {5.0: 7, 2.0: 10, 1.5: 40, 1.3: 280}),
        ("three of 30, all noise", THREE_OF_30, NOISY, {5.0: 1, 2.0: 3, 1.5: 20}),
        ("two pods, all noise", {}, NOISY, {1.5: 50}),
    ):
        for factor, target in seconds.items():
            rows.append(_fault(f"p95 x{factor:g}, {name}", arms | noise, runs, target, factor=factor))
    for factor, target in {5.0: 1, 2.0: 5, 1.5: 40, 1.3: 400}.items():
        late = 1.5 * target
        rows.append(
            _fault(f"p95 x{factor:g}, two pods, at 600 s", {}, runs, late, onset=600.0, factor=factor)
        )
    for rate, target in {0.05: 20, 0.2: 4}.items():
        rows.append(_fault(f"errors {rate:.0%}", {}, runs, target, check="errors", error_rate=rate))
    for name, moved, target in (("1 sd", 0.16, 3), ("0.3 sd", 0.048, 35)):
        rows.append(
            _fault(f"predictions {name}", {}, runs, target, check="predictions", predictions=_moved(moved))
        )
    constant = Beta(5000.0, 12500.0)
    rows.append(_fault("predictions collapse", {}, runs, 2, check="predictions", predictions=constant))
    return rows


def _moved(by: float) -> Beta:
    """Beta(2, 5) has mean 2/7 and sd .16; the same spread, the mean moved up."""
    mean, variance = 2 / 7 + by, 10 / (49 * 8)
    size = mean * (1 - mean) / variance - 1
    return Beta(mean * size, (1 - mean) * size)


def _fault(
    name: str,
    changed: Mapping[str, Any],
    runs: int,
    target: float,
    *,
    onset: float = 30.0,
    check: str = LATENCY,
    **fault: Any,
) -> Row:
    return Row(
        name=name,
        traffic=world(**changed, history=600.0, changes=[Change(at=onset, **fault)]),
        runs=runs,
        weights=(10, 11, 12),
        duration=onset + max(60 * target, 1500.0),
        onset=onset,
        check=check,
        target=f"<= {target:g} s",
    )


def passes(runs: int) -> list[Row]:
    """How soon a step of a healthy canary passes, and how often one that is as slow as is allowed does."""
    identical = {"latency alone": LATENCY, "three checks": None}
    rows = [
        _pass(f"identical arms, {name}", {}, 1.0, runs, only=only, target="<= 35 s" if only else "-")
        for name, only in identical.items()
    ]
    rows.append(_pass("identical arms, all noise, latency alone", NOISY, 1.0, runs, only=LATENCY))
    for name, noise in (("", {}), (", all noise", NOISY)):
        exact = f"exactly x1.2{name}, latency alone"
        rows.append(_pass(exact, noise, 1.2, runs, only=LATENCY, target="<= 5 %"))
    return rows


def _pass(
    name: str, noise: Mapping[str, Any], slower: float, runs: int, *, only: str | None, target: str = "-"
) -> Row:
    return Row(
        name=name,
        traffic=world(**noise, history=600.0, changes=[Change(at=-1e9, factor=slower)]),
        runs=runs,
        weights=(10,),
        duration=600.0,
        only=only,
        passes=True,
        target=target,
    )


def tight(runs: int) -> list[Row]:
    """How many canary requests latency needs, beside the least that any test of that level needs."""
    rows = []
    for name, latency, factor, target in (
        ("lognormal x1.3", LOGNORMAL, 1.3, 1.35),
        ("lognormal x1.5", LOGNORMAL, 1.5, 1.35),
        ("lognormal x2", LOGNORMAL, 2.0, 1.5),
        ("Pareto x2", PARETO, 2.0, 1.35),
        ("bimodal x2", BIMODAL, 2.0, 1.5),
    ):
        traffic = world(latency=latency, history=600.0, changes=[Change(at=0.0, factor=factor)])
        rows.append(
            Row(
                name=name,
                traffic=traffic,
                runs=runs,
                weights=(10,),
                duration=3600.0,
                onset=0.0,
                only=LATENCY,
                bound=least_requests(latency, factor),
                target=f"<= {target:g}",
            )
        )
    return rows


def least_requests(
    latency: Lognormal | Pareto | Bimodal, factor: float, *, weight: float = 0.1, alpha: float = 0.01
) -> float:
    """Canary requests that any sequential test of level `alpha` needs on average: log(1/alpha) / D.

    D is what a canary request, and the stable ones beside it, tell at best against every pair of
    distributions whose p95 differ by x1.2 at most: those with p95 at a time and at 1.2 times that are the
    nearest, the time chosen to hide the difference best.

    Reference: Wald (1945) for the bound, with the least Kullback-Leibler divergence to a composite null.
    """
    times = np.geomspace(latency.p95, latency.p95 * factor / 1.2, 4096)
    stable, canary = 1 - latency.cdf(times), 1 - latency.cdf(1.2 / factor * times)
    told = [rel_entr(above, 0.05) + rel_entr(1 - above, 0.95) for above in (stable, canary)]
    return log(1 / alpha) / float(np.min(told[1] + (1 - weight) / weight * told[0]))


GROUPS: Mapping[str, Callable[[], list[Row]]] = {
    "nulls-60": lambda: nulls(2048, 60.0),
    "nulls-600": lambda: nulls(2048, 600.0),
    "inside-60": lambda: inside(2048, 60.0),
    "inside-600": lambda: inside(2048, 600.0),
    "strict": lambda: strict(10_240, 60.0),
    "faults": lambda: faults(256),
    "passes": lambda: passes(512),
    "tight": lambda: tight(256),
}


def policy(row: Row) -> Policy:
    """The built-in policy, but for steps that take as long as the row says."""
    spec = planning.builtin() | {"steps": list(row.weights), "alpha": row.alpha}
    spec["checks"] = [check for check in spec["checks"] if row.only in {None, check["name"]}]
    for check in spec["checks"]:
        if check["type"] == "Predictions" and row.check == "predictions":
            check["tolerance"] = 0.02
    built = policies.policy(spec)
    length = timedelta(seconds=row.duration / len(row.weights))
    if row.passes:
        at_once = timedelta(0)
        return replace(built, warm_up=at_once, min_step=at_once, min_requests=0, step_timeout=length)
    return replace(
        built,
        warm_up=built.warm_up if row.onset is None else timedelta(0),
        min_step=length,
        step_timeout=length if row.onset is None else max(length, timedelta(seconds=600)),
        on_inconclusive=OnDoubt.PROCEED if row.onset is None else OnDoubt.HOLD,
    )
