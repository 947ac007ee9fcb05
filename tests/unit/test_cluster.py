"""What is worked out once of the index is what would be worked out now."""

import json
from copy import deepcopy
from datetime import datetime
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import cluster as cluster_module
from controller.cluster import Cluster, arm
from controller.sharing import MOST, sharing

Json = Any
NAMES = ("model", "model-canary")
KINDS = ("deployments", "replicasets", "pods", "horizontalpodautoscalers")


def thing(kind: str, place: int, version: int) -> Json:
    """One of two objects of the kind, of one of the two Deployments, as it is at this version."""
    owner, named = NAMES[place], f"{kind}-{place}"
    meta: Json = {
        "namespace": "ml",
        "name": named,
        "uid": named,
        "resourceVersion": str(version),
        "generation": 1,
    }
    meta |= {"creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"pod-template-hash": f"h{version % 3}"}}
    if kind == "deployments":
        status = {"observedGeneration": version % 2, "replicas": 1}
        return {"metadata": meta | {"name": owner}, "spec": {"replicas": version % 4}, "status": status}
    if kind == "horizontalpodautoscalers":
        return {
            "metadata": meta,
            "spec": {"scaleTargetRef": {"kind": "Deployment", "name": NAMES[version % 2]}},
        }
    above = f"deployments-{place}" if kind == "replicasets" else f"replicasets-{place}"
    meta["ownerReferences"] = [{"uid": above, "controller": version % 5 > 0}]
    spec = {"template": {"metadata": {"labels": {}}, "spec": {"image": version % 3}}}
    ready = {"type": "Ready", "status": "True" if version % 2 else "False"}
    return {"metadata": meta, "spec": spec, "status": {"conditions": [ready], "podIP": "10.0.0.1"}}


CHANGES = st.tuples(
    st.sampled_from(KINDS),
    st.integers(0, 1),
    st.integers(0, 9),
    st.sampled_from(["changed", "DELETED", "wrote", "listed"]),
)


@given(st.lists(CHANGES, max_size=30))
def test_an_arm_is_at_any_time_what_the_index_says(changes: list[tuple[str, int, int, str]]) -> None:
    index = Cluster()
    for version, (kind, place, salt, how) in enumerate(changes, 1):
        item = thing(kind, place, 10 * version + salt)
        if how == "listed":
            index.listed(kind, [item])
        elif how == "wrote":
            index.wrote(kind, item)
        else:
            index.changed(kind, how, item)
        for name in NAMES:
            assert index.arm("ml", name) == arm(index, "ml", name)


BEGUN, ENDED = "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"


OWN_DOING = [
    'Container m exceeded its local ephemeral storage limit "1Gi". ',
    "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
    'Usage of EmptyDir volume "tmp" exceeds the limit "1Gi". ',
]
NOT_ITS_OWN = [
    "The node was low on resource: memory. Container m was using 2Gi, request is 1Gi, ",
    "The node had condition: [DiskPressure]. ",
    "",
]


@pytest.mark.parametrize("message", OWN_DOING + NOT_ITS_OWN)
@pytest.mark.parametrize("ended", [ENDED, None])
def test_a_pod_that_the_kubelet_evicted_beyond_its_own_limits_is_remembered(
    message: str, ended: str | None
) -> None:
    index = Cluster()
    index.changed("deployments", "ADDED", thing("deployments", 0, 1))
    index.changed("replicasets", "ADDED", thing("replicasets", 0, 1))
    pod = thing("pods", 0, 1)
    gone = {"state": {"terminated": {"finishedAt": ended} if ended else {}}}
    pod["status"] = {
        "phase": "Failed",
        "reason": "Evicted",
        "message": message,
        "containerStatuses": [gone, {"state": {"waiting": {"reason": "x"}}}, {}],
    }
    index.changed("pods", "ADDED", pod)
    seen = arm(index, "ml", "model")
    assert seen.pods == ()
    assert seen.overran == (
        (datetime.fromisoformat(ended or BEGUN), message) if message in OWN_DOING else None
    )
    pod["status"]["reason"] = "NodeLost"
    index.changed("pods", "MODIFIED", pod)
    assert arm(index, "ml", "model").overran is None


def test_it_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    index, asked = Cluster(), []
    for place in (0, 1):
        index.changed("deployments", "ADDED", thing("deployments", place, 1))
    monkeypatch.setattr(cluster_module, "arm", lambda *where: asked.append(where) or arm(*where))
    for _ in range(5):
        index.arm("ml", NAMES[0])
    index.changed("virtualservices", "ADDED", {"metadata": {"namespace": "ml", "name": "model"}})
    index.arm("ml", NAMES[0])
    assert len(asked) == 1
    index.changed("pods", "ADDED", thing("pods", 0, 1))
    index.arm("ml", NAMES[0])
    assert len(asked) == 2


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([0.0, 1.0, 0.5]),
    st.text("ab", max_size=2),
)
OBJECTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)


@given(OBJECTS, OBJECTS)
def test_what_shares_with_another_object_says_what_it_said(new: Json, old: Json) -> None:
    said, others = json.dumps(new, sort_keys=True), deepcopy(old)
    assert json.dumps(sharing(new, old), sort_keys=True) == said
    assert json.dumps(old) == json.dumps(others)


def test_what_two_objects_say_alike_is_kept_once_and_what_they_do_not_apart() -> None:
    def pod(name: str, **status: Json) -> Json:
        spec = {"containers": [{"name": "model", "env": [{"name": "A", "value": name}], "ports": [8080]}]}
        return {"metadata": {"name": name}, "spec": spec, "status": status}

    old = pod("one", ready=True, nodes=["a", "b"])
    new = sharing(pod("two", ready=1, nodes=["a", "b"]), old)
    containers = new["spec"]["containers"][0], old["spec"]["containers"][0]
    assert containers[0]["ports"] is containers[1]["ports"]
    assert containers[0]["env"][0]["value"] == "two"
    assert new["status"]["nodes"] is old["status"]["nodes"]
    assert new["status"]["ready"] is not True
    assert sharing(pod("one", ready=True, nodes=["a", "b"]), old) is old


def test_an_object_of_a_thousand_levels_ends_no_follower() -> None:
    def deep() -> Json:
        found: Json = 1
        for _ in range(900):
            found = [found]
        return found

    assert sharing(deep(), deep()) == deep()


def test_a_checkpoint_keeps_the_plan_that_is_there_and_an_edit_brings_its_own() -> None:
    def run(version: int, generation: int, weight: int) -> Json:
        meta = {"namespace": "ml", "name": "run", "generation": generation, "resourceVersion": str(version)}
        status = {"state": {"stage": "Stepping"}, "weight": 40, "checkpoint": str(version)}
        return {"metadata": meta, "spec": {"plan": {"steps": [weight]}}, "status": status}

    known, found = Cluster(), []
    for obj in (run(1, 1, 40), run(2, 1, 40), run(3, 2, 60)):
        known.changed("canaryruns", "MODIFIED", deepcopy(obj))
        found.append(known.get("canaryruns", "ml", "run"))
        assert found[-1] == obj
    assert found[0]["spec"] is found[1]["spec"]


def test_a_list_from_before_an_answer_takes_nothing_of_it_back() -> None:
    """Its pages take a while, and what the answer told of comes with the watch that begins where they end."""
    index = Cluster()
    kind, (before, after, made) = (
        "deployments",
        (thing("deployments", *one) for one in ((0, 1), (0, 5), (1, 6))),
    )
    for version, item in ((1, before), (5, after), (6, made)):
        item["metadata"]["resourceVersion"] = str(version)
    index.listed(kind, [before], version="3")
    index.wrote(kind, after)
    index.wrote(kind, made)
    index.listed(kind, [dict(before)], version="4")
    assert sorted(one["metadata"]["resourceVersion"] for one in index.all(kind)) == ["5", "6"]
    index.changed(kind, "MODIFIED", after)
    index.listed(kind, [dict(before)], version="4")  # as after the API server's store was restored
    assert sorted(one["metadata"]["resourceVersion"] for one in index.all(kind)) == ["1", "6"]
    index.listed(kind, [before], version="7")
    assert [one["metadata"]["resourceVersion"] for one in index.all(kind)] == ["1"]


def holding(memory: str, *, revision: str | None, kind: str) -> Json:
    """A Deployment, or its ReplicaSet, whose pods may use so much memory."""
    meta: Json = {
        "namespace": "ml",
        "name": "model",
        "uid": kind,
        "creationTimestamp": BEGUN,
        "generation": 1,
    }
    meta["annotations"] = {} if revision is None else {"deployment.kubernetes.io/revision": revision}
    labels = {"app": "model"}
    if kind == "replicasets":
        labels["pod-template-hash"] = "h1"
        meta |= {"labels": labels, "ownerReferences": [{"uid": "deployments", "controller": True}]}
    container = {"name": "m", "resources": {"limits": {"memory": memory}}}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    return {"metadata": meta, "spec": {"template": template}, "status": {"observedGeneration": 1}}


@pytest.mark.parametrize(
    ("memory", "revisions", "known"),
    [
        ("1Gi", ("1", "1"), "h1"),
        ("1Gi", (None, None), "h1"),
        ("1073741824", ("1", "1"), "h1"),  # the same to Kubernetes, which makes no ReplicaSet of it
        ("2Gi", ("2", "1"), None),  # its ReplicaSet is still to be told of
        ("2Gi", (None, None), None),
    ],
)
def test_a_template_is_known_when_its_own_replica_set_is_however_it_is_written(
    memory: str, revisions: tuple[str | None, str | None], known: str | None
) -> None:
    index, (of_deployment, of_set) = Cluster(), revisions
    deployment = holding(memory, revision=of_deployment, kind="deployments")
    index.listed("deployments", [deployment])
    index.listed("replicasets", [holding("1Gi", revision=of_set, kind="replicasets")])
    assert cluster_module.template_hash(index, deployment) == known


@pytest.mark.parametrize("revision", ["none", "", "-1", "1e3", "9" * 5000])
def test_a_revision_that_is_no_number_ends_no_pass(revision: str) -> None:
    """Whoever may edit a ReplicaSet may write it there: no rollback of that canary was possible any more."""
    index, deployment = Cluster(), holding("1Gi", revision="1", kind="deployments")
    odd = holding("2Gi", revision=revision, kind="replicasets")
    odd["metadata"] |= {"name": "odd", "uid": "odd"}
    index.listed("deployments", [deployment])
    index.listed("replicasets", [odd, holding("1Gi", revision="1", kind="replicasets")])
    assert cluster_module.template_hash(index, deployment) == "h1"


def test_a_list_of_many_that_comes_again_takes_no_longer_than_it_has_objects() -> None:
    """All keys were put together once for each object: twenty thousand ReplicaSets took ten seconds."""
    index = Cluster()
    many = [{"metadata": {"namespace": "ml", "name": f"{n}", "resourceVersion": "1"}} for n in range(20_000)]
    index.listed("replicasets", many)
    began = process_time()
    index.listed("replicasets", many[1:], version="2")
    assert process_time() - began < 5  # 0.3 s, and it were 9
    assert len(list(index.all("replicasets"))) == len(many) - 1


def test_of_a_huge_object_only_so_much_is_looked_for_in_the_one_before() -> None:
    """Each change of a megabyte took a sixth of a second of the loop, and six of them a second all of it."""
    looked = 0

    class Text(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            nonlocal looked
            looked += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    new, old = ([{"name": Text(n)} for n in range(10 * MOST)] for _ in range(2))
    assert sharing(new, old) == old
    assert sharing({"few": [{"name": "a"}], "many": new}, {"few": [{"name": "a"}], "many": old}) is not old
    looked = 0
    sharing(new, old)
    assert looked <= MOST
