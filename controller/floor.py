"""Whether there are pods for all the traffic, as items of the checklist: what scales them, and how far down.

Pure. While a canary has half of the requests, stable's autoscaler sees half of the load and may take pods
away; a rollback then brings all of it back at once, and pods that load models are not there within seconds.
"""

import re
from collections.abc import Iterator
from math import ceil
from typing import Any

from controller.cluster import arm, autoscalers
from controller.items import Finding, Grounds, Item, Result, worst
from controller.model import Sizing
from controller.neighbours import replicas_before
from controller.sizing import held_before, needed, scaled

Json = Any
HPAS = "horizontalpodautoscalers"
# What a metric is called that follows requests, in the names of model servers, Istio, Knative and KEDA.
OF_INFERENCE = re.compile(
    r"(?i)queue|inference|request|rps|qps|inflight|in_flight|concurren|pending|waiting|running|latency"
    r"|duration|token|gpu|dcgm"
)
QUEUE = "inference_queue_depth"
DENIED = f"{HPAS} may not be read here; ask for the right to list them, or see: kubectl get hpa"


def looked_at(grounds: Grounds) -> list[Item]:
    """Both items."""
    return [
        worst("autoscaling", [_autoscaling(grounds)], mend="scale stable by what waits for its models"),
        worst("floor", _floor(grounds), mend="keep enough pods for all requests, whatever the canary has"),
    ]


def _stable_s(grounds: Grounds) -> list[Json]:
    """The autoscalers of stable's Deployment."""
    return autoscalers(grounds.cluster, grounds.namespace, grounds.plan["stable"])


def _autoscaling(grounds: Grounds) -> Finding:
    """Stable is scaled by a metric of inference."""
    stable = grounds.plan["stable"]
    if HPAS in grounds.unread:
        return Finding(Result.UNKNOWN, DENIED)
    found = _stable_s(grounds)
    if not found:
        patch = grounds.patch(
            "HorizontalPodAutoscaler", "", _new(grounds), "needs a metrics adapter that serves the metric"
        )
        return Finding(Result.FAIL, f"nothing scales {stable}: more requests meet the same pods", patch)
    name = found[0]["metadata"]["name"]
    metrics = found[0]["spec"].get("metrics") or []
    own = [_metric(one) for one in metrics if one["type"] in {"Pods", "Object", "External"}]
    telling = [each for each in own if OF_INFERENCE.search(each)]
    if telling:
        return Finding(Result.PASS, f"HPA {name} scales {stable} by {', '.join(telling)}")
    if own:
        return Finding(
            Result.UNKNOWN,
            f"HPA {name} scales {stable} by {', '.join(own)}; whether that follows requests"
            " cannot be told from the name",
        )
    said = " and ".join(_resource(one) for one in metrics) or "cpu, its default"
    why = (
        f"HPA {name} scales {stable} by {said} alone, which does not show what waits:"
        " a model that waits for its GPU, or for others, has an idle CPU"
    )
    patch = grounds.patch("HorizontalPodAutoscaler", name, {"spec": {"metrics": [*metrics, _queued()]}})
    return Finding(Result.FAIL, why, patch)


def _metric(metric: Json) -> str:
    kind = metric["type"].lower()
    name: str = metric[kind]["metric"]["name"]
    return name


def _resource(metric: Json) -> str:
    part = metric.get("resource") or metric.get("containerResource") or {}
    return str(part.get("name", metric["type"]))


def _queued() -> Json:
    """Requests that wait at a pod, ten of them on the average."""
    target = {"type": "AverageValue", "averageValue": "10"}
    return {"type": "Pods", "pods": {"metric": {"name": QUEUE}, "target": target}}


def _new(grounds: Grounds) -> Json:
    stable, size = grounds.plan["stable"], _size(grounds)
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": stable}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": stable, "namespace": grounds.namespace},
        "spec": {
            "scaleTargetRef": target,
            "minReplicas": size,
            "maxReplicas": 2 * size,
            "metrics": [_queued()],
        },
    }


def _size(grounds: Grounds) -> int:
    """How many pods stable has for the requests of now."""
    return max(1, arm(grounds.cluster, grounds.namespace, grounds.plan["stable"]).wanted)


def _floor(grounds: Grounds) -> Iterator[Finding]:
    there = arm(grounds.cluster, grounds.namespace, grounds.plan["stable"]).wanted
    yield _of_stable(grounds) if there else _nothing(grounds.plan["stable"])
    yield _of_canary(grounds)
    strategy = (grounds.stable["spec"].get("strategy") or {}).get("type", "RollingUpdate")
    if strategy == "Recreate":
        name = grounds.plan["stable"]
        body = {"spec": {"strategy": {"type": "RollingUpdate"}}}
        why = f"{name} has strategy Recreate: a promotion takes all its pods away while they have requests"
        yield Finding(Result.FAIL, why, grounds.patch("Deployment", name, body))


def _of_stable(grounds: Grounds) -> Finding:
    """Stable keeps the pods that it would need for all requests while the canary has some."""
    stable, now = grounds.plan["stable"], _size(grounds)
    if HPAS in grounds.unread:
        return Finding(Result.UNKNOWN, DENIED)
    found = _stable_s(grounds)
    if not found:
        pods = "1 pod" if now == 1 else f"{now} pods"
        return Finding(Result.PASS, f"{stable} has {pods} whatever the canary gets")
    spec, name = found[0]["spec"], found[0]["metadata"]["name"]
    least = spec.get("minReplicas", 1)
    down = (spec.get("behavior") or {}).get("scaleDown") or {}
    if down.get("selectPolicy") == "Disabled":
        return Finding(Result.PASS, f"HPA {name} never takes pods away from {stable}")
    last = grounds.policy.steps[-1]
    left = max(least, ceil(now * (100 - last) / 100))
    if now < least:
        asked = f"{now} {'is' if now == 1 else 'are'} asked for"
        why = f"HPA {name} leaves {stable} {least} pods at least; it has not acted yet, {asked}"
        return Finding(Result.PASS, why)
    if left >= now:
        return Finding(
            Result.PASS, f"HPA {name} leaves {stable} {least} pods at least, and all its requests take {now}"
        )
    why = (
        f"HPA {name} may leave {left} of {stable}'s {now} pods when the canary has {last} %"
        f" (minReplicas {least}); a rollback brings all requests back to them at once"
    )
    patch = grounds.patch(
        "HorizontalPodAutoscaler", name, {"spec": {"minReplicas": now}}, "as many as carry all requests now"
    )
    return Finding(Result.FAIL, why, patch)


def _nothing(stable: str) -> Finding:
    """Stable has no pods, of which no HPA makes more."""
    mend = f"scale Deployment {stable} to as many pods as carry all requests"
    return Finding(Result.FAIL, f"{stable} is scaled to 0: a rollback would lead to no pod", mend=mend)


def _of_canary(grounds: Grounds) -> Finding:
    """The canary can be as large as its largest weight takes, at stable's load per pod."""
    canary, size, last = grounds.plan["canary"], _size(grounds), grounds.policy.steps[-1]
    mine = autoscalers(grounds.cluster, grounds.namespace, canary)
    pods = needed(last, size)
    if mine:
        most, name = mine[0]["spec"]["maxReplicas"], mine[0]["metadata"]["name"]
        if most >= pods:
            return Finding(
                Result.PASS, f"HPA {name} gives {canary} up to {most} pods, and {last} % take {pods}"
            )
        why = f"HPA {name} gives {canary} {most} pods at most, and {last} % of the requests take {pods}"
        body = {"spec": {"maxReplicas": pods}}
        return Finding(Result.FAIL, why, grounds.patch("HorizontalPodAutoscaler", name, body))
    now = arm(grounds.cluster, grounds.namespace, canary).wanted
    now = now or replicas_before(grounds.cluster, grounds.namespace, canary) or 0
    if held_before(grounds.policy, stable=size, canary=now) is None:
        match = grounds.policy.canary_replicas is Sizing.MATCH
        has = "is scaled to its weight (canaryReplicas Match)" if match else f"has {now} pods"
        return Finding(Result.PASS, f"{canary} {has}, and {last} % of the requests take {pods}")
    why = f"{canary} has {now} pods, and {scaled(grounds.policy, size)}; {last} % of the requests take {pods}"
    return Finding(Result.FAIL, why, grounds.patch("Deployment", canary, {"spec": {"replicas": pods}}))
