"""Whose turn it is: each run and each annotated Deployment in the one shard that it belongs to."""

import asyncio
from collections.abc import AsyncIterator, Collection
from random import Random
from types import SimpleNamespace
from typing import Any

from controller.cluster import Cluster, Key
from controller.follow import Changed, Listed
from controller.loop import Loop
from controller.operate import Leadership, Operator
from controller.shards import shard_of
from scenarios.virtual.loop import run_virtual

SHARDS = 3
NAMES = [f"model-{number}" for number in range(12)]


class Turns:
    """One shard's leadership, and which turns it had."""

    def __init__(self, shard: int) -> None:
        self.runs: list[Key] = []
        self.asks: list[Key] = []
        self.histories: list[Key] = []
        reconciler: Any = type("Nothing", (), {"lives": {}})()
        self.leadership = Leadership(
            lambda workload: shard_of(workload, SHARDS) == shard,
            reconciler,
            *(self._loop(kept) for kept in (self.runs, self.asks, self.histories)),
        )

    def _loop(self, kept: list[Key]) -> Loop[Key]:
        async def turn(key: Key) -> None:
            kept.append(key)

        return Loop(turn, random=Random(1))


def deployment(name: str) -> Any:
    notes = {"serin.dev/canary-of": "stable"}
    return {"metadata": {"namespace": "lab", "name": name, "annotations": notes}}


def run(canary: str) -> Any:
    return {"metadata": {"namespace": "lab", "name": f"{canary}-abc-1"}, "spec": {"plan": {"canary": canary}}}


def cluster() -> Cluster:
    known = Cluster()
    known.listed("deployments", [deployment(name) for name in NAMES])
    known.listed("canaryruns", [run(name) for name in NAMES])
    return known


def turns(*, heard: bool) -> list[Turns]:
    async def play() -> list[Turns]:
        every, known = [Turns(shard) for shard in range(SHARDS)], cluster()
        for each in every:
            if heard:
                for name in NAMES:
                    each.leadership.heard(known, "canaryruns", run(name))
                each.leadership.heard(known, "deployments", deployment(NAMES[0]))
            else:
                each.leadership.everything(known)
        await asyncio.sleep(1)
        return every

    return run_virtual(play())


def test_every_run_and_every_deployment_has_its_turn_in_one_shard() -> None:
    every = turns(heard=False)
    assert sorted(key for each in every for key in each.runs) == sorted(
        ("lab", f"{name}-abc-1") for name in NAMES
    )
    for kept in ("asks", "histories"):
        keys = [key for each in every for key in getattr(each, kept)]
        assert sorted(keys) == sorted(("lab", name) for name in NAMES)
    assert all(each.runs for each in every)


def test_a_run_and_its_deployment_are_of_one_shard() -> None:
    for each in turns(heard=False):
        assert {name.removesuffix("-abc-1") for _, name in each.runs} == {name for _, name in each.asks}


def test_what_is_heard_is_another_shards_too_but_its_turn_is_not() -> None:
    for shard, each in enumerate(turns(heard=True)):
        assert each.runs
        assert {shard_of(key, SHARDS) for key in each.asks} == {shard}
        assert len(set(each.runs)) == len(each.runs)


def test_a_pod_that_says_no_namespace_is_nobodys() -> None:
    """Found by fuzzing: one in a watch ended the controller."""
    (shard, *_), known = turns(heard=False), cluster()
    before = list(shard.runs)
    meta = {"name": "pod", "uid": "u", "ownerReferences": [{"kind": "ReplicaSet", "name": "a", "uid": "u"}]}
    shard.leadership.heard(known, "pods", {"metadata": meta})
    assert shard.runs == before


def heard(kind: str, obj: Any, *, refused: Collection[Key] = (), known: Cluster | None = None) -> set[Key]:
    """Which Deployments have a turn after a change."""

    async def play() -> list[Key]:
        each, there = Turns(0), cluster() if known is None else known
        each.leadership.mine = lambda _: True
        each.leadership.refused = refused
        each.leadership.heard(there, kind, obj)
        await asyncio.sleep(1)
        return each.asks

    return set(run_virtual(play()))


def test_a_deployment_that_was_refused_has_its_turn_when_its_annotations_or_itself_are_gone() -> None:
    """Without one the next mistake, if it was the same, was no news."""
    bare, known = {"metadata": {"namespace": "lab", "name": "bare"}}, Cluster()
    gone = ("lab", "gone")
    known.listed("deployments", [bare])
    assert heard("deployments", bare, known=known) == set()
    assert heard("deployments", bare, known=known, refused={("lab", "bare"), gone}) == {("lab", "bare")}
    deleted = {"metadata": {"namespace": "lab", "name": "gone"}}
    assert gone in heard("deployments", deleted, known=known, refused={gone})


def test_a_change_of_a_namespace_is_heard_by_those_that_ask_in_it() -> None:
    """A freeze that was misspelt, and then was not, was said to nobody."""
    assert heard("namespaces", {"metadata": {"name": "other"}}) == set()
    assert heard("namespaces", {"metadata": {"name": "lab"}}) == {("lab", name) for name in NAMES}
    assert heard("pods", {"metadata": {"name": "x", "namespace": "lab"}}) == set()


def test_an_end_of_a_run_is_heard_by_those_who_were_refused_since_it_steered() -> None:
    """They had their turn five minutes later, unless something else happened to change there."""
    waits, elsewhere = ("lab", "waits"), ("other", "waits")
    goes_on = run("model-0") | {"status": {"phase": "Progressing"}}
    over = run("model-0") | {"status": {"phase": "Failed", "state": {"stage": "Ended"}}}
    assert heard("canaryruns", goes_on, refused={waits, elsewhere}) == {("lab", "model-0")}
    assert heard("canaryruns", over, refused={waits, elsewhere}) == {("lab", "model-0"), waits}
    pod = {"metadata": {"name": "x", "namespace": "lab", "deletionTimestamp": "2026-03-02T03:00:00Z"}}
    assert heard("pods", pod, refused={waits, elsewhere}) == {waits}


def checkpoint(version: int, *, weight: int = 10) -> Any:
    made = run("model-0")
    made["metadata"]["resourceVersion"] = str(version)
    return made | {"status": {"weight": weight, "state": {"stage": "Stepping"}, "message": f"at {version}"}}


class Follower:
    """What a leader is told of these events, by what it knows already."""

    def __init__(self, *events: Listed | Changed) -> None:
        self.cluster, self.news, self.turns = Cluster(), list[tuple[str, bool]](), 0
        self.leading = {0: self}
        self.settings = SimpleNamespace(namespace="")
        self.events = events

    def told(self) -> list[tuple[str, bool]]:
        operator: Any = self
        asyncio.run(Operator._follow(operator, operator, "canaryruns"))
        return self.news

    async def follow(self, _path: str) -> AsyncIterator[Listed | Changed]:
        for event in self.events:
            yield event

    def _delivered(self, _kind: str) -> None:
        pass

    def heard(self, _cluster: Cluster, _kind: str, obj: Any, *, known: bool) -> None:
        self.news.append((obj["status"]["message"], known))

    def everything(self, _cluster: Cluster) -> None:
        self.turns += 1


def test_a_checkpoint_that_the_watch_tells_before_its_answer_is_no_news() -> None:
    """Seed 8594: a pass for each, where every pass saved something, was 200 saves a second."""
    follower = Follower(
        Listed((checkpoint(1),)),
        Changed("MODIFIED", checkpoint(2)),
        Changed("MODIFIED", checkpoint(3, weight=0)),
    )
    assert follower.told() == [("at 2", True), ("at 3", False)]


def test_a_run_that_is_only_known_from_our_own_write_has_its_turn_when_all_are_listed() -> None:
    """Seed 9265: the watch had expired when it was made, and the list had nothing new to tell of it."""
    follower = Follower(Listed((checkpoint(1),)))
    follower.cluster.wrote("canaryruns", checkpoint(1))
    assert (follower.told(), follower.turns) == ([], 1)


def test_a_checkpoint_of_a_run_lets_no_deployment_ask_anew() -> None:
    async def asked() -> list[int]:
        each, known, found = Turns(shard_of(("lab", NAMES[0]), SHARDS)), cluster(), []
        begun = run(NAMES[0]) | {"status": {"state": {"stage": "Stepping"}, "weight": 40}}
        ended = run(NAMES[0]) | {"status": {"state": {"stage": "Ended"}, "weight": 0}}
        for number, obj in enumerate((begun, begun | {"checkpoint": "more"}, begun, ended, ended)):
            known.changed(
                "canaryruns",
                "MODIFIED",
                obj | {"metadata": obj["metadata"] | {"resourceVersion": str(number)}},
            )
            each.leadership.heard(known, "canaryruns", obj, known=True)
            await asyncio.sleep(1)
            found.append(len(each.asks))
        return found

    assert run_virtual(asked()) == [1, 1, 1, 2, 2]
