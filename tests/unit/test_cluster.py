"""What is worked out once of the index is what would be worked out now."""

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import cluster as cluster_module
from controller.cluster import Cluster, arm

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
