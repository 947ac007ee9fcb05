"""Runs to look at: one of each kind, and as many as somebody may have. For the page's tests and bench.

The objects are as the controller writes them; the curves are invented, with a seed.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import numpy as np

from controller import planning, policies
from controller.cluster import Key
from controller.page.traces import Recent, Trace, blank

Json = Any

BEGAN = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
MEDIAN, SIGMA = 0.020, 0.668  # s; lognormal with a p95 of 60 ms, as the stories have it
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>&amp;'\"`"
SLOW = (
    "latency-p95: p95 at the canary is 2.03x stable's (at least 1.37x, 1.2x is allowed); 61 of 240"
    " canary requests took longer than 142 ms, the margin allows 11.7 on average;"
    " decided 4.2 s after the weight was set"
)


@dataclass(frozen=True, slots=True)
class Room:
    """Runs as objects, and the curves of some."""

    runs: Sequence[Json]
    traces: dict[Key, Trace]


def gallery(*, many: int = 0, now: datetime = BEGAN) -> Room:
    """One run of each kind, the newest begun a few minutes before `now`, and `many` older ones."""
    chance = Random(7)
    shown = [
        progressing("fraud-score", now),
        rolled_back("ranker", now - timedelta(minutes=9)),
        replayed("embedder", now - timedelta(minutes=30)),
        promoted("intent", now - timedelta(hours=2)),
        pending("summary", now),
        hostile(now - timedelta(hours=3)),
    ]
    traces = {_key(run): curves(run, chance) for run in shown[:4]}
    kinds = (promoted, promoted, promoted, rolled_back, progressing)
    older = [
        kinds[chance.randrange(5)](f"model-{number:03}", now - timedelta(hours=4, minutes=7 * number))
        for number in range(many)
    ]
    return Room([*shown, *older], traces)


def _run(name: str, at: datetime, *, namespace: str = "ml", **status: Any) -> Json:
    plan = {
        "canary": f"{name}-canary",
        "stable": name,
        "canaryHash": "6f9c7d5b84",
        "stableHash": "75b4c9d6f7",
        "virtualService": name,
        "policy": copy.deepcopy(planning.builtin()),
    }
    meta = {
        "name": f"{name}-canary-6f9c7d5b84-1",
        "namespace": namespace,
        "creationTimestamp": _time(at),
        "resourceVersion": "1",
    }
    return {"metadata": meta, "spec": {"plan": plan}} | ({"status": status} if status else {})


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _weights(at: datetime, *changes: tuple[float, int, str]) -> Json:
    return [
        {"at": _time(at + timedelta(seconds=after)), "weight": weight, "reason": reason}
        for after, weight, reason in changes
    ]


def _check(name: str, verdict: str, log_e: float, **figures: Any) -> Json:
    counted = {"canaryRequests": 1_204, "stableRequests": 10_830, "canaryHits": 58, "expectedHits": 71.4}
    return {"name": name, "verdict": verdict, "logE": log_e, "logEPass": 0.0, **counted, **figures}


def progressing(name: str, at: datetime) -> Json:
    """A run at its second step, undecided."""
    return _run(
        name,
        at - timedelta(seconds=190),
        phase="Progressing",
        step="2/4",
        weight=10,
        verdict="Inconclusive",
        logE=1.1,
        message="step 2 of 4: 10 %",
        weights=_weights(at, (-180, 5, "WeightRaised"), (-95, 10, "WeightRaised")),
        checks=[
            _check(
                "latency-p95", "Inconclusive", 0.7, estimate=1.08, interval=[0.91, 1.31], threshold=0.0726
            ),
            _check("errors", "Pass", -1.6, estimate=0.0002, interval=[-0.0011, 0.0019], canaryHits=2),
            _check(
                "predictions", "Inconclusive", -0.2, estimate=0.018, interval=[0.0, 0.061], canaryHits=400
            ),
        ],
        placebos=_placebos(at, 0.9),
    )


def rolled_back(name: str, at: datetime) -> Json:
    """A run whose canary was too slow."""
    return _run(
        name,
        at - timedelta(seconds=190),
        phase="Failed",
        reason="CheckFailed",
        message=SLOW,
        step="2/4",
        weight=0,
        verdict="Fail",
        logE=5.49,
        weights=_weights(at, (-180, 5, "WeightRaised"), (-95, 10, "WeightRaised"), (-2, 0, "CheckFailed")),
        checks=[
            _check(
                "latency-p95",
                "Fail",
                5.48,
                estimate=2.03,
                interval=[1.37, 2.9],
                threshold=0.1418,
                canaryHits=61,
                expectedHits=11.7,
                canaryRequests=240,
            ),
            _check("errors", "Inconclusive", -1.2, estimate=0.0004, interval=[-0.002, 0.006], canaryHits=1),
            _check("predictions", "Inconclusive", -0.4, estimate=0.021, interval=[0.0, 0.09], canaryHits=90),
        ],
        placebos=_placebos(at, 1.4),
        peers={
            "rules": [
                {"name": "Flagger (60 s x 5)"},
                {
                    "name": "Argo Rollouts (60 s)",
                    "rolledBackAt": _time(at + timedelta(seconds=-35)),
                    "check": "errors",
                },
            ]
        },
    )


def held(name: str, at: datetime) -> Json:
    """A run that waits for a person."""
    run = progressing(name, at)
    conditions = [{"type": "Progressing", "status": "False", "reason": "AwaitingApproval"}]
    typed = f"kubectl serin approve {run['metadata']['name']} -n {run['metadata']['namespace']}"
    run["status"] |= {
        "phase": "Paused",
        "reason": "AwaitingApproval",
        "conditions": conditions,
        "message": f"waiting for approval of step 3 of 4 (25 %): {typed}",
        "verdict": "Pass",
    }
    for check in run["status"]["checks"]:
        check["verdict"] = "Pass"
    return run


def replayed(name: str, at: datetime) -> Json:
    """A run that waits for a person, and whose requests were replayed on both versions before."""
    run = held(name, at)
    check = {"name": "shadow", "type": "Shadow", "maxFlips": "0.5%", "required": True, "share": 0.2}
    run["spec"]["plan"]["policy"]["checks"].append(check)
    said = "At most 0.31 % of answers differ beyond the noise floor; 0.5 % may."
    counted = {"canaryRequests": 18_240, "stableRequests": 18_240}
    found = {"estimate": 0.0016, "interval": [0.0004, 0.0031], "note": said, **counted}
    worst = [
        {"id": f"{n}f1c-4be2-9d07-{n}a30c5", "score": how} for n, how in ((7, 1.62), (3, 1.4), (9, 0.31))
    ]
    run["status"]["checks"].append({"name": "shadow", "verdict": "Pass", "worst": worst, **found})
    return run


def promoted(name: str, at: datetime) -> Json:
    """A run that went all the way."""
    steps = ((-420, 5), (-330, 10), (-240, 25), (-120, 50))
    changes = [(after, weight, "WeightRaised") for after, weight in steps]
    run = progressing(name, at)
    run["metadata"]["creationTimestamp"] = _time(at - timedelta(seconds=430))
    run["status"] |= {
        "phase": "Succeeded",
        "reason": "Promoted",
        "message": "every required check passed at every step",
        "step": "4/4",
        "weight": 0,
        "verdict": "Pass",
        "logE": -1.9,
        "weights": _weights(at, *changes, (0, 0, "Promoted")),
    }
    for check in run["status"]["checks"]:
        check |= {"verdict": "Pass", "logE": -2.4}
    return run


def pending(name: str, at: datetime) -> Json:
    """A run that was just asked for."""
    return _run(name, at - timedelta(seconds=4))


def hostile(at: datetime) -> Json:
    """A run in which everything that somebody may write is an attack, or too long."""
    run = rolled_back("evil", at)
    long = "a-name-as-long-as-kubernetes-allows-and-nobody-should-choose-" * 4
    run["metadata"] |= {"name": long[:250], "namespace": "n" * 63}
    run["spec"]["plan"] |= {"canary": HOSTILE, "stable": long, "virtualService": HOSTILE}
    run["spec"]["plan"]["policy"]["checks"][0]["name"] = HOSTILE
    run["status"]["checks"][0] |= {"name": HOSTILE, "note": HOSTILE}
    run["status"] |= {"message": HOSTILE * 3, "reason": HOSTILE}
    return run


def _placebos(at: datetime, log_e: float) -> Json:
    names = ("latency-p95", "errors", "predictions")
    checks = [{"name": name, "logE": log_e - 0.5 * place} for place, name in enumerate(names)]
    since = _time(at - timedelta(seconds=180))
    return {"count": 4, "nodes": 2, "since": since, "logE": log_e, "checks": checks}


# -- curves ----------------------------------------------------------------------------------------


def curves(run: Json, chance: Random) -> Trace:
    """A trace that fits what the run's status says."""
    status, policy = run["status"], policies.policy(run["spec"]["plan"]["policy"])
    trace = blank(policy)
    at = [datetime.fromisoformat(change["at"]).timestamp() for change in status["weights"]]
    end = at[-1] if status["weight"] == 0 else at[0] + 180
    trace.began = at[0] + 1
    bad = status["phase"] == "Failed"
    log_e, placebo = 0.0, 0.0
    wander = [0.0, 0.0]
    for second in range(int(end - at[0])):
        left = end - at[0] - second
        log_e = 0.9 * log_e + chance.gauss(0.02, 0.17)
        placebo = max(placebo, min(0.9, placebo + max(0.0, chance.gauss(-0.02, 0.05))))
        near = 5.5 * max(0.0, 1 - left / 6) if bad else 0.0
        wander = [0.9 * each + chance.gauss(0, 0.02) for each in wander]
        slow = 1 + (1.05 * max(0.0, 1 - left / 9) if bad else 0.04)
        weight = next(
            one["weight"]
            for one, t in zip(reversed(status["weights"]), reversed(at), strict=True)
            if t <= at[0] + second
        )
        tails = [
            MEDIAN * float(np.exp(SIGMA * z + wander[arm])) * (slow if arm else 1.0)
            for arm in range(2)
            for z in (0.0, 1.645, 2.326)
        ]
        trace.add([second, weight, log_e + near, placebo, *[log_e + near, -1.0, -0.5], *tails])
    for name, le, shift in (
        ("latency-p95", np.geomspace(0.002, 1, 60), slow),
        ("predictions", np.linspace(0, 1, 41)[1:], 1.0),
    ):
        trace.recent[name] = _recent(le, shift, predictions=name == "predictions")
    return trace


def _recent(le: Any, slow: float, *, predictions: bool) -> Recent:
    """What both arms counted lately: lognormal latencies, predictions Beta(2, 5)."""
    chance = np.random.default_rng(7)
    rows = []
    for arm, n in enumerate((2700, 300)):
        values = (
            chance.beta(2, 5, n)
            if predictions
            else MEDIAN * np.exp(SIGMA * chance.normal(size=n)) * (slow if arm else 1)
        )
        rows.append(np.bincount(np.searchsorted(le, values), minlength=len(le) + 1))
    cells = np.array(rows, dtype=float)
    return Recent(tuple(le.tolist()), cells, cells, 0.0)


def _key(run: Json) -> Key:
    return run["metadata"]["namespace"], run["metadata"]["name"]
