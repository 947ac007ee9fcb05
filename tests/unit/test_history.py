"""Stable before its canary comes: what of it a run begins with, and that it costs nothing else."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from test_resource import canary_run
from test_trigger import PREFIX, cluster, deployment

from analysis.evidence import CheckSpec
from analysis.judge import Verdict, judge
from analysis.samples import Counts, Histogram
from controller import gather, history, planning, policies, resource
from controller.cluster import Cluster
from controller.gather import Gathered
from controller.history import EVERY, Histories
from controller.model import Plan, PodSeen, Policy
from controller.ports import Reading, Trouble
from controller.ticks import Pace

Json = Any
KEY = ("shop", "model-canary")
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
LE = tuple(0.005 * 1.1**step for step in range(60))


@dataclass
class Pods:
    """A `ports.MetricsSource`: pods that each answer thirty requests a second; pod 0 is often slow."""

    now: datetime = START
    watched: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict)
    broken: bool = False

    def clock(self) -> datetime:
        return self.now

    def watch(
        self, run: str, pods: Sequence[PodSeen], checks: Sequence[CheckSpec], pages: Any = None
    ) -> None:
        del pages
        self.watched[run] = [pod.name for pod in pods], [check.name for check in checks]

    def read(self, run: str) -> Mapping[str, Reading]:
        if self.broken:
            raise KeyError("nobody thought of this")
        seconds = round((self.now - START).total_seconds())
        return {name: self.page(name, seconds) for name in self.watched[run][0]}

    def troubles(self, _run: str) -> Mapping[str, Trouble]:
        return {}

    def page(self, name: str, seconds: int) -> Reading:
        rng = np.random.default_rng(len(name) + int(name[-1]))
        quick = np.zeros(len(LE) + 1, dtype=int)
        for second in range(seconds):
            slow = 2.0 if name.endswith("0") and second // 10 % 2 else 1.0
            quick += np.histogram(rng.lognormal(-3.0, 0.5, 30) * slow, bins=[0.0, *LE, np.inf])[0]
        requests = Counts(30 * seconds, seconds // 10)
        latency = Histogram(LE, tuple(int(one) for one in quick))
        values = {"latency-p95": latency, "errors": requests, "predictions": latency}
        return Reading(at=self.now.timestamp(), requests=requests, values=values)


def pod(owner: str, number: int) -> Json:
    return {
        "metadata": {
            "name": f"model-{number}",
            "namespace": "shop",
            "uid": f"uid-pod-{number}",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [{"uid": owner, "controller": True}],
        },
        "spec": {"nodeName": f"node-{number}"},
        "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    }


def policy(**changes: Any) -> Json:
    return {"metadata": {"name": "default", "namespace": "shop"}, "spec": planning.builtin() | changes}


def rolled_out(there: Cluster, replicas: int = 3) -> None:
    stable = there.get("deployments", "shop", "model")
    assert stable
    counts = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), replicas)
    stable["spec"]["replicas"], stable["status"] = 3, {"observedGeneration": 1} | counts
    there.changed("deployments", "MODIFIED", stable)


@dataclass
class Stage:
    """One annotated Deployment, and what is known of its stable."""

    there: Cluster = field(default_factory=cluster)
    pods: Pods = field(default_factory=Pods)
    histories: Histories = field(init=False)

    def __post_init__(self) -> None:
        rolled_out(self.there)
        self.there.listed("pods", [pod("uid-old", number) for number in range(3)])
        queried = Pace(interval=timedelta(seconds=30))
        self.histories = Histories(self.there, self.pods, self.pods.clock, queried=queried)

    async def passes(self, seconds: int) -> float | None:
        """The seconds to the turn that comes after so many; turns come when they are due."""
        until, wait = self.pods.now + timedelta(seconds=seconds), await self.histories.turn(KEY)
        while wait is not None and self.pods.now + timedelta(seconds=wait) <= until:
            self.pods.now += timedelta(seconds=wait)
            wait = await self.histories.turn(KEY)
        return wait

    def begun(self, **changes: Any) -> Gathered:
        """What the run begins with that is asked for now."""
        return self.histories.begin(plan(**changes))


def plan(*, stable_hash: str = "old", **changes: Any) -> Plan:
    spec = policies.policy(planning.builtin() | changes)
    of_run = resource.run(canary_run()).plan
    names = {"namespace": "shop", "canary": "model-canary", "stable": "model"}
    return replace(of_run, **names, stable_hash=stable_hash, policy=spec)  # type: ignore[arg-type]


def verdict(gathered: Gathered, at: datetime) -> Verdict:
    return judge(gathered.evidence, alpha=0.01, beta=0.05, now=at.timestamp()).verdict


def fresh(gathered: Gathered, **changes: Any) -> bool:
    return gather.save(gathered) == gather.save(gather.begin(plan(**changes).policy))


async def test_a_run_begins_with_what_was_read_of_its_stable() -> None:
    stage = Stage()
    await stage.passes(300)
    begun = stage.begun()
    assert begun.known == 290  # the first look is where the first tick begins
    latency = begun.evidence[0]
    assert latency.memory.recent[0].sum() > 4000
    assert latency.stable_nodes == 3
    assert latency.dispersion.correlation.max() > 0.01  # pod 0 is not like the others


async def test_history_is_no_evidence_about_any_canary() -> None:
    stage = Stage()
    await stage.passes(300)
    begun = gather.begin_step(stage.begun(), 0, at=stage.pods.now.timestamp())
    assert verdict(begun, stage.pods.now) is Verdict.NO_DATA
    for one in begun.evidence:
        assert (one.tally.any(), one.finished.any()) == (False, False)
        assert (float(one.log_e), float(one.log_e_pass)) == pytest.approx((0, 0), abs=1e-15)  # halves of one


async def test_of_what_is_known_nothing_but_stable_is_taken_along() -> None:
    """Even if somebody handed in the evidence of a run: its canary stays behind."""
    stage = Stage()
    await stage.passes(100)
    canary = replace(stage.begun().evidence[1], passing=np.full((1, 2), 50.0), tally=np.full(4, 1e6))
    (_, errors, _) = gather.begun(plan().policy, [canary])
    assert (errors.log_e_pass, errors.tally.sum()) == (0, 0)
    assert errors.memory.recent.any()


async def test_a_saved_run_still_knows_how_long_stable_was_read() -> None:
    stage = Stage()
    await stage.passes(120)
    assert gather.load(plan(), gather.save(stage.begun())).known == 110
    older = json.loads(gather.save(stage.begun()))
    del older["known"]
    assert gather.load(plan(), json.dumps(older)).known == 0


async def test_only_stables_pods_are_read_and_no_more_often_than_every_ten_seconds() -> None:
    stage = Stage()
    assert await stage.passes(95) == EVERY.total_seconds()
    assert stage.pods.watched == {
        "shop/model-canary": (["model-0", "model-1", "model-2"], ["latency-p95", "errors", "predictions"])
    }
    stage.pods.now += timedelta(seconds=4)
    before = stage.begun().known
    assert await stage.histories.turn(KEY) == 6  # something near it changed
    assert stage.begun().known == before


async def test_another_template_of_stable_is_another_stable() -> None:
    stage = Stage()
    await stage.passes(60)
    assert fresh(stage.begun(stable_hash="new"), stable_hash="new")
    sets = stage.there.all("replicasets")
    (older,) = (deepcopy(one) for one in sets if one["metadata"]["name"] == "model-old")
    older["metadata"]["labels"]["pod-template-hash"] = "newer"
    older["spec"]["template"]["spec"] = {"containers": [{"name": "model", "image": "model:newer"}]}
    stage.there.changed("replicasets", "MODIFIED", older)
    (stable,) = (
        deepcopy(one) for one in stage.there.all("deployments") if one["metadata"]["name"] == "model"
    )
    stable["spec"]["template"]["spec"] = older["spec"]["template"]["spec"]
    stage.there.changed("deployments", "MODIFIED", stable)
    await stage.passes(20)
    assert fresh(stage.begun())
    assert stage.begun(stable_hash="newer").known == 10


async def test_an_edit_that_nobody_acted_on_yet_loses_nothing() -> None:
    """A scale of stable counts its generation up, a moment before its controller does."""
    stage = Stage()
    await stage.passes(60)
    stable = stage.there.get("deployments", "shop", "model")
    assert stable
    stable["metadata"]["generation"] = 2
    stage.there.changed("deployments", "MODIFIED", stable)
    await stage.passes(20)
    assert stage.begun().known == 50


async def test_while_stable_is_rolled_out_its_pods_are_not_read() -> None:
    stage = Stage()
    await stage.passes(60)
    rolled_out(stage.there, replicas=2)
    await stage.passes(40)
    assert stage.pods.watched["shop/model-canary"][0] == []
    assert stage.begun().known == 50
    rolled_out(stage.there)
    await stage.passes(40)
    assert 70 <= stage.begun().known <= 90


@pytest.mark.parametrize("left", ["annotation", "canary", "stable"])
async def test_what_nobody_asks_for_is_forgotten(left: str) -> None:
    stage = Stage()
    await stage.passes(60)
    canary = stage.there.get("deployments", *KEY)
    assert canary
    if left == "annotation":
        del canary["metadata"]["annotations"][f"{PREFIX}canary-of"]
    elif left == "canary":
        canary["metadata"]["deletionTimestamp"] = "2026-03-01T12:01:00Z"
    else:
        stage.there.changed("deployments", "DELETED", {"metadata": {"name": "model", "namespace": "shop"}})
    wait = await stage.passes(20)
    assert wait == (EVERY.total_seconds() if left == "stable" else None)
    assert stage.pods.watched["shop/model-canary"][0] == []
    assert fresh(stage.begun())


async def test_a_check_that_asks_something_else_begins_anew_and_the_others_do_not() -> None:
    stage = Stage()
    await stage.passes(120)
    (latency, errors, predictions) = planning.builtin()["checks"]
    other = [latency | {"quantile": 0.5}, errors | {"maxIncrease": "80%"}, predictions]
    told = stage.begun(checks=other)
    assert [one.memory.recent.any() for one in told.evidence] == [False, True, True]
    stage.there.listed("canarypolicies", [policy(checks=other)])
    await stage.passes(60)
    told = stage.begun(checks=other)
    assert [one.memory.recent.any() for one in told.evidence] == [True, True, True]
    assert told.known > 120


async def test_a_check_that_is_read_elsewhere_has_the_history_of_that_place() -> None:
    stage = Stage()
    await stage.passes(60)
    (latency, errors, predictions) = planning.builtin()["checks"]
    other = [latency | {"source": {"scrape": {"port": 9090}}}, errors | {"source": {"prometheus": {}}}]
    told = stage.begun(checks=[*other, predictions])
    assert [one.memory.recent.any() for one in told.evidence] == [False, False, True]
    stage.there.listed("canarypolicies", [policy(checks=[errors | {"source": {"prometheus": {}}}])])
    await stage.passes(100)
    assert stage.pods.watched["shop/model-canary"][1] == ["errors"]
    told = stage.begun(checks=[errors | {"source": {"prometheus": {}}}])
    assert told.evidence[0].memory.recent.any()
    assert fresh(stage.begun(checks=[errors]), checks=[errors])


async def test_a_policy_that_cannot_be_used_has_no_history_and_is_no_fault() -> None:
    stage = Stage()
    await stage.passes(60)
    stage.there.listed("canarypolicies", [policy(checks=[{"name": "x", "type": "Astrology"}])])
    assert await stage.passes(20) == EVERY.total_seconds()
    assert fresh(stage.begun())


async def test_whatever_goes_wrong_costs_history_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    await stage.passes(60)
    stage.pods.broken = True
    assert await stage.passes(10) == EVERY.total_seconds()
    assert fresh(stage.begun())
    stage.pods.broken = False
    await stage.passes(60)
    assert stage.begun().known == 50
    monkeypatch.setattr(history, "_alike", None)
    assert fresh(stage.begun())


async def test_there_is_room_for_so_many_pods_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST", 5)
    stage = Stage()
    other = deployment("other-canary", notes={f"{PREFIX}canary-of": "model"})
    stage.there.changed("deployments", "ADDED", other)
    await stage.histories.turn(KEY)
    await stage.histories.turn(("shop", "other-canary"))
    assert [len(pods) for pods, _ in stage.pods.watched.values()] == [3, 2]
    canary = stage.there.get("deployments", *KEY)
    assert canary
    canary["metadata"]["annotations"].clear()
    await stage.histories.turn(KEY)
    await stage.histories.turn(("shop", "other-canary"))
    assert [len(pods) for pods, _ in stage.pods.watched.values()] == [0, 3]


async def test_of_whom_nobody_is_read_nothing_is_asked_until_there_is_room_or_a_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a thousand Deployments 960 have no room: their pods and policies were gone through all the same."""
    monkeypatch.setattr(history, "MOST", 3)
    stage, other = Stage(), ("shop", "other-canary")
    asked: list[int] = []
    stage.there.changed("deployments", "ADDED", deployment(other[1], notes={f"{PREFIX}canary-of": "model"}))
    await stage.histories.turn(KEY)

    def choosing(pods: list[PodSeen], *, limit: int) -> list[PodSeen]:
        asked.append(limit)
        return pods[:limit]

    monkeypatch.setattr(history, "chosen", choosing)
    for _ in range(3):
        assert await stage.histories.turn(other) == EVERY.total_seconds()
    assert asked == [0]
    rolled_out(stage.there)
    await stage.histories.turn(other)
    assert asked == [0, 0]
    canary = stage.there.get("deployments", *KEY)
    assert canary
    stage.there.changed("deployments", "DELETED", canary)
    await stage.histories.turn(KEY)
    await stage.histories.turn(other)
    assert asked == [0, 0, 3]


async def test_what_is_kept_does_not_grow_with_pods_that_come_and_go() -> None:
    stage = Stage()
    for number in range(40):
        named = [pod("uid-old", number + one) for one in range(3)]
        stage.there.listed("pods", named)
        await stage.passes(20)
    begun = stage.begun()
    assert len(begun.evidence[0].nodes) == 3
    assert len(gather.save(begun)) < 6000


async def test_a_policy_is_read_once_and_anew_when_it_was_edited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand Deployments' policies, read every ten seconds, took a twentieth of a core."""
    stage, real = Stage(), policies.policy
    read: list[Json] = []

    def reading(spec: Json) -> Policy:
        read.append(spec)
        return real(spec)

    monkeypatch.setattr(policies, "policy", reading)
    stage.there.changed("canarypolicies", "ADDED", policy())
    await stage.passes(60)
    assert len(read) == 1
    stage.there.changed("canarypolicies", "MODIFIED", policy(minRequests=7))
    await stage.passes(60)
    assert len(read) == 2
