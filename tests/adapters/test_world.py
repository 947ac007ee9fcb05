"""The emulated cluster as a whole, in virtual time: pods that run, clients that die, faults on command."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import aiohttp
import pytest

from scenarios.cluster.kubelet import NoKubelet
from scenarios.cluster.refusals import Refused
from scenarios.virtual.loop import Process, run_virtual, virtual_loop
from scenarios.world import World

Json = Any
LABELS = {"app": "model"}


def deployment(name: str = "model", *, replicas: int = 2, **spec: Json) -> Json:
    container = {"name": "model", "image": "registry.invalid/model:1"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": LABELS},
            "template": {"metadata": {"labels": LABELS}, "spec": {"containers": [container]}},
            **spec,
        },
    }


def config(name: str = "notes") -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}}


PODS = "/api/v1/namespaces/default/pods"
CONFIGS = "/api/v1/namespaces/default/configmaps"


def a_world(**more: Any) -> World:
    return World(clock=virtual_loop().now, **more)


async def ask(world: World, method: str, path: str, body: Json = None, **query: str) -> tuple[int, Json]:
    payload = None if body is None else json.dumps(body).encode()
    request = world.transport().request(method, path, query=query, headers={}, body=payload)
    async with request as answer:
        return answer.status, json.loads(await answer.read())


def test_a_deployments_pods_are_ready_after_a_moment_each_on_another_node_at_its_own_address() -> None:
    async def story() -> None:
        world = a_world()
        world.create(deployment(replicas=3))
        await asyncio.sleep(1)
        pods = world.objects("pods")
        assert sorted(pod["spec"]["nodeName"] for pod in pods) == ["node-a", "node-b", "node-c"]
        assert len({pod["status"]["podIP"] for pod in pods}) == 3
        assert world.get("deployments", "default", "model")["status"]["availableReplicas"] == 3
        await world.close()

    run_virtual(story())


def test_the_same_seed_makes_the_same_names_and_another_seed_others() -> None:
    async def names(seed: int) -> list[str]:
        world = a_world(seed=seed)
        world.create(deployment())
        await asyncio.sleep(1)
        await world.close()
        return [pod["metadata"]["name"] for pod in world.objects("pods")]

    assert run_virtual(names(1)) == run_virtual(names(1)) != run_virtual(names(2))


class Diary:
    """A kubelet that writes down what it is told."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.told: list[tuple[str, str]] = []

    def started(self, pod: Json) -> None:
        self.told.append(("started", pod["metadata"]["name"]))
        self.world.set_pod("default", pod["metadata"]["name"], ip="127.1.2.3", ready=True)

    def stopping(self, pod: Json) -> None:
        self.told.append(("stopping", pod["metadata"]["name"]))


def test_the_kubelet_is_told_of_each_pod_once_when_it_shall_run_and_once_when_it_shall_stop() -> None:
    async def story() -> None:
        world = a_world(make_kubelet=Diary)
        world.create(deployment(replicas=1))
        await asyncio.sleep(1)
        (pod,) = world.objects("pods")
        name = pod["metadata"]["name"]
        world.patch("pods", "default", name, {"metadata": {"labels": {"x": "y"}}})
        world.patch("deployments", "default", "model", {"spec": {"replicas": 0}})
        await asyncio.sleep(1)
        assert world.kubelet.told == [("started", name), ("stopping", name)]
        assert world.get("pods", "default", name)["metadata"]["deletionGracePeriodSeconds"] == 30
        world.pod_gone("default", name)
        assert world.objects("pods") == []
        world.pod_gone("default", name)  # saying it twice changes nothing
        await world.close()

    run_virtual(story())


def test_a_pod_that_is_deleted_by_force_is_gone_at_once_and_its_kubelet_knows() -> None:
    async def story() -> None:
        world = a_world(make_kubelet=Diary)
        world.create(deployment(replicas=1))
        await asyncio.sleep(1)
        name = world.objects("pods")[0]["metadata"]["name"]
        world.delete("pods", "default", name, gracePeriodSeconds=0)
        assert world.get("pods", "default", name) is None
        await asyncio.sleep(1)
        assert world.kubelet.told[:2] == [("started", name), ("stopping", name)]
        await world.close()

    run_virtual(story())


def test_a_crash_loop_looks_like_one() -> None:
    async def story() -> None:
        world = a_world()
        world.create(deployment(replicas=1))
        await asyncio.sleep(1)
        name = world.objects("pods")[0]["metadata"]["name"]
        world.set_pod("default", name, restarts=3, waiting="CrashLoopBackOff")
        status = world.get("pods", "default", name)["status"]
        (container,) = status["containerStatuses"]
        assert container["restartCount"] == 3
        assert container["state"] == {"waiting": {"reason": "CrashLoopBackOff"}}
        assert container["lastState"]["terminated"]["exitCode"] == 1
        assert {c["type"]: c["status"] for c in status["conditions"]}["Ready"] == "False"
        await asyncio.sleep(0.1)
        assert "readyReplicas" not in world.get("deployments", "default", "model")["status"]
        world.set_pod("default", name, ready=True)
        assert world.get("pods", "default", name)["status"]["containerStatuses"][0]["ready"]
        await world.close()

    run_virtual(story())


def test_an_evicted_pod_says_so_and_is_replaced() -> None:
    async def story() -> None:
        world = a_world(make_kubelet=Diary)
        world.create(deployment(replicas=1))
        await asyncio.sleep(1)
        name = world.objects("pods")[0]["metadata"]["name"]
        world.evict("default", name)
        await asyncio.sleep(1)
        old = world.get("pods", "default", name)
        assert old["metadata"]["deletionTimestamp"]
        assert old["status"]["conditions"][-1]["type"] == "DisruptionTarget"
        assert len(world.objects("pods")) == 2
        await world.close()

    run_virtual(story())


def test_a_rollout_that_does_not_come_up_is_given_up_at_its_deadline() -> None:
    async def story() -> None:
        world = a_world(make_kubelet=NoKubelet)
        world.create(deployment(progressDeadlineSeconds=60))
        await asyncio.sleep(50)
        assert condition(world, "Progressing")["reason"] == "ReplicaSetUpdated"
        await asyncio.sleep(20)
        assert condition(world, "Progressing")["reason"] == "ProgressDeadlineExceeded"
        assert condition(world, "Progressing")["status"] == "False"
        await world.close()

    run_virtual(story())


def condition(world: World, type_: str) -> Json:
    conditions = world.get("deployments", "default", "model")["status"]["conditions"]
    return next(item for item in conditions if item["type"] == type_)


def test_pods_count_as_available_after_min_ready_seconds() -> None:
    async def story() -> None:
        world = a_world()
        world.create(deployment(minReadySeconds=10))
        await asyncio.sleep(5)
        status = world.get("deployments", "default", "model")["status"]
        assert (status["readyReplicas"], status.get("availableReplicas", 0)) == (2, 0)
        await asyncio.sleep(10)
        assert world.get("deployments", "default", "model")["status"]["availableReplicas"] == 2
        await world.close()

    run_virtual(story())


def test_old_replica_sets_are_kept_up_to_the_history_limit() -> None:
    async def story() -> None:
        world = a_world()
        world.create(deployment(revisionHistoryLimit=1))
        for number in range(4):
            template = {"metadata": {"annotations": {"n": str(number)}}}
            world.patch("deployments", "default", "model", {"spec": {"template": template}})
            await asyncio.sleep(5)
        revisions = [
            item["metadata"]["annotations"]["deployment.kubernetes.io/revision"]
            for item in world.objects("replicasets")
        ]
        assert sorted(revisions) == ["3", "4"]
        await world.close()

    run_virtual(story())


def test_a_pod_whose_labels_no_longer_match_is_let_go_and_one_that_matches_is_taken_in() -> None:
    async def story() -> None:
        world = a_world()
        world.create(deployment(replicas=1))
        await asyncio.sleep(1)
        name = world.objects("pods")[0]["metadata"]["name"]
        world.patch("pods", "default", name, {"metadata": {"labels": {"app": "debug"}}})
        await asyncio.sleep(1)
        assert "ownerReferences" not in world.get("pods", "default", name)["metadata"]
        assert len(world.objects("pods")) == 2
        world.patch("pods", "default", name, {"metadata": {"labels": {"app": "model"}}})
        await asyncio.sleep(1)
        assert len(world.objects("pods")) == 1
        await world.close()

    run_virtual(story())


def test_recreating_takes_all_old_pods_away_first() -> None:
    async def story() -> None:
        world, most = a_world(), []
        world.on_change(lambda *_told: most.append(len(world.objects("pods"))))
        world.create(deployment(strategy={"type": "Recreate"}))
        await asyncio.sleep(2)
        template = {"metadata": {"annotations": {"a": "b"}}}
        world.patch("deployments", "default", "model", {"spec": {"template": template}})
        await asyncio.sleep(3)
        assert max(most) == 2
        assert condition(world, "Progressing")["reason"] == "NewReplicaSetAvailable"
        await world.close()

    run_virtual(story())


def test_a_paused_deployment_follows_its_size_but_not_its_template() -> None:
    async def story() -> None:
        world = a_world()
        world.create(deployment())
        await asyncio.sleep(1)
        template = {"metadata": {"annotations": {"a": "b"}}}
        world.patch("deployments", "default", "model", {"spec": {"paused": True}})
        world.patch("deployments", "default", "model", {"spec": {"template": template, "replicas": 3}})
        await asyncio.sleep(2)
        (replica_set,) = world.objects("replicasets")
        assert replica_set["spec"]["replicas"] == 3
        world.patch("deployments", "default", "model", {"spec": {"paused": False}})
        await asyncio.sleep(5)
        assert [item["spec"]["replicas"] for item in world.objects("replicasets")].count(3) == 1
        assert len(world.objects("replicasets")) == 2
        await world.close()

    run_virtual(story())


def test_a_namespace_goes_with_all_that_runs_in_it() -> None:
    async def story() -> None:
        world = a_world()
        world.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "lab"}})
        obj = deployment()
        world.create({**obj, "metadata": {**obj["metadata"], "namespace": "lab"}})
        await asyncio.sleep(1)
        world.delete("namespaces", "", "lab")
        await asyncio.sleep(3)
        assert world.get("namespaces", "", "lab") is None
        assert world.objects("pods") == world.objects("replicasets") == []
        await world.close()

    run_virtual(story())


def test_a_controller_tries_again_what_the_server_refuses() -> None:
    async def story() -> None:
        world = a_world()
        full = {"notes": "x" * (262_144 - 5)}
        obj = deployment()
        world.create({**obj, "metadata": {**obj["metadata"], "annotations": full}})
        await asyncio.sleep(5)
        assert world.objects("replicasets") == []  # whose annotations would be a few bytes too long
        world.patch("deployments", "default", "model", {"metadata": {"annotations": {"notes": "short"}}})
        await asyncio.sleep(5)
        assert len(world.objects("pods")) == 2
        await world.close()

    run_virtual(story())


def test_what_is_killed_takes_none_of_the_clusters_work_with_it() -> None:
    async def story() -> None:
        world, client = a_world(), Process("client")
        path = "/apis/apps/v1/namespaces/default/deployments"
        client.start(ask(world, "POST", path, deployment()))
        await asyncio.sleep(0.001)
        assert world.objects("deployments")
        client.kill()
        await asyncio.sleep(2)
        assert world.get("deployments", "default", "model")["status"]["availableReplicas"] == 2
        await client.bury()
        await world.close()

    run_virtual(story())


def test_listeners_hear_every_change_until_they_leave() -> None:
    async def story() -> None:
        world, told = a_world(), []
        leave = world.on_change(
            lambda type_, resource, obj: told.append((type_, resource, obj["metadata"]["name"]))
        )
        world.create(config())
        world.patch("configmaps", "default", "notes", {"data": {"a": "b"}})
        world.patch("configmaps", "default", "notes", {"data": {"a": "b"}})
        world.delete("configmaps", "default", "notes")
        leave()
        world.create(config("later"))
        expected = [(type_, "configmaps", "notes") for type_ in ("ADDED", "MODIFIED", "DELETED")]
        assert told == expected
        await world.close()

    run_virtual(story())


def test_what_is_handed_out_is_a_copy() -> None:
    async def story() -> None:
        world = a_world()
        world.create(config())["metadata"]["name"] = "changed"
        world.objects("configmaps")[0]["metadata"]["name"] = "changed"
        assert world.get("configmaps", "default", "notes")["metadata"]["name"] == "notes"
        with pytest.raises(Refused, match="already exists"):
            world.create(config())
        await world.close()

    run_virtual(story())


# --- faults


def watched(world: World, seconds: float) -> Coroutine[Any, Any, list[Json]]:
    """The events of one watch over ConfigMaps from now on, until it ends or for so long."""
    version = str(world.registry.store.version)

    async def watch() -> list[Json]:
        found: list[Json] = []
        query = {"watch": "1", "resourceVersion": version}
        request = world.transport().request("GET", CONFIGS, query=query, headers={}, body=None)
        try:
            async with asyncio.timeout(seconds), request as answer:
                async for line in answer.lines():
                    found += [json.loads(line)]  # what came stays, however it ends
        except TimeoutError:
            found.append("silence")
        except OSError as error:
            found.append(type(error).__name__)
        return found

    return watch()


def test_in_an_outage_connections_are_refused_and_watches_break() -> None:
    async def story() -> None:
        world = a_world()
        watch = asyncio.create_task(watched(world, 60))
        await asyncio.sleep(1)
        world.fault("outage", seconds=10)
        with pytest.raises(ConnectionRefusedError):
            await ask(world, "GET", CONFIGS)
        assert await watch == ["ConnectionResetError"]
        assert virtual_loop().time() < 2
        await asyncio.sleep(10)
        assert (await ask(world, "GET", CONFIGS))[0] == 200
        await world.close()

    run_virtual(story())


def test_what_is_asked_while_the_server_hangs_is_never_heard_and_watches_fall_silent() -> None:
    async def story() -> None:
        world = a_world()
        watch = asyncio.create_task(watched(world, 60))
        await asyncio.sleep(1)
        world.fault("hang", seconds=10)
        asking = asyncio.create_task(ask(world, "POST", CONFIGS, config("lost")))
        await asyncio.sleep(1)
        world.create(config("made"))
        await asyncio.sleep(8)
        assert not asking.done()
        with pytest.raises(ConnectionResetError):
            await asking
        events = await watch
        assert [event["object"]["metadata"]["name"] for event in events[:-1]] == ["made"]
        assert world.get("configmaps", "default", "lost") is None
        await world.close()

    run_virtual(story())


def test_a_slow_server_takes_a_second_longer() -> None:
    async def story() -> None:
        world = a_world()
        world.fault("slow", seconds=10)
        began = virtual_loop().time()
        assert (await ask(world, "GET", CONFIGS))[0] == 200
        assert virtual_loop().time() - began == 1
        await world.close()

    run_virtual(story())


def test_among_conflicts_every_write_is_a_409_and_reads_go_on() -> None:
    async def story() -> None:
        world = a_world()
        world.fault("conflict", seconds=10)
        code, status = await ask(world, "POST", CONFIGS, config())
        assert (code, status["reason"]) == (409, "Conflict")
        assert (await ask(world, "GET", CONFIGS))[0] == 200
        await asyncio.sleep(11)
        assert (await ask(world, "POST", CONFIGS, config()))[0] == 201
        await world.close()

    run_virtual(story())


def test_dropped_watches_lose_events_and_end_in_a_410() -> None:
    async def story() -> None:
        world = a_world()
        first = asyncio.create_task(watched(world, 60))
        await asyncio.sleep(1)
        world.fault("watch-drop", seconds=10)
        world.create(config("lost"))
        (event,) = await first
        assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
        (event,) = await watched(world, 60)
        assert event["object"]["reason"] == "Expired"
        await asyncio.sleep(10)
        world.create(config("seen"))
        assert await watched(world, 60) == ["silence"]
        await world.close()

    run_virtual(story())


def test_an_unknown_fault_is_refused_with_those_that_are_known() -> None:
    async def story() -> None:
        world = a_world()
        with pytest.raises(ValueError, match="no fault 'fire' of the API server; known are outage, hang"):
            world.fault("fire", seconds=1)
        await world.close()

    run_virtual(story())


def test_history_is_bounded_and_a_watcher_that_comes_too_late_is_told() -> None:
    async def story() -> None:
        world = a_world(history=10)
        late = watched(world, 60)
        for number in range(20):
            world.create(config(f"c-{number}"))
        (event,) = await late
        assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
        assert event["object"]["message"].startswith("too old resource version")
        await world.close()

    run_virtual(story())


def test_bookmarks_come_once_a_minute_and_before_the_end() -> None:
    async def story() -> None:
        world = a_world()
        query = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": "150"}
        request = world.transport().request("GET", CONFIGS, query=query, headers={}, body=None)
        async with request as answer:
            lines = [(virtual_loop().time(), json.loads(line)["type"]) async for line in answer.lines()]
        assert [(round(at), type_) for at, type_ in lines] == [
            (60, "BOOKMARK"),
            (120, "BOOKMARK"),
            (148, "BOOKMARK"),
        ]
        assert virtual_loop().time() == 150
        await world.close()

    run_virtual(story())


def test_initial_events_end_with_a_bookmark_that_says_so() -> None:
    async def story() -> None:
        world = a_world()
        world.create(config())
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "sendInitialEvents": "true",
            "timeoutSeconds": "1",
        }
        _, lines = 0, []
        request = world.transport().request("GET", CONFIGS, query=query, headers={}, body=None)
        async with request as answer:
            lines = [json.loads(line) async for line in answer.lines()]
        assert [event["type"] for event in lines][:2] == ["ADDED", "BOOKMARK"]
        assert lines[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        await world.close()

    run_virtual(story())


def test_two_lists_of_other_kinds_go_on_with_their_own_objects_though_these_have_the_same_names() -> None:
    async def story() -> None:
        world = a_world()
        secrets = CONFIGS.replace("configmaps", "secrets")
        for name in ("a", "b"):
            world.create(config(name) | {"data": {"a": "b"}})
            secret = {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": "default"},
            }
            world.create(secret)
        firsts = [(await ask(world, "GET", path, limit="1"))[1] for path in (CONFIGS, secrets)]
        tokens = [first["metadata"]["continue"] for first in firsts]
        rests = [
            (await ask(world, "GET", path, limit="1", **{"continue": token}))[1]
            for path, token in zip((CONFIGS, secrets), tokens, strict=True)
        ]
        assert ["data" in rest["items"][0] for rest in rests] == [True, False]
        await world.close()

    run_virtual(story())


def test_a_list_whose_pages_were_forgotten_is_a_410() -> None:
    async def story() -> None:
        world = a_world()
        code, status = await ask(world, "GET", CONFIGS, **{"continue": "bm9uZQ"})
        assert (code, status["reason"]) == (410, "Expired")
        await world.close()

    run_virtual(story())


def test_a_definition_that_is_deleted_is_served_no_longer() -> None:
    async def story() -> None:
        world = a_world()
        world.delete("customresourcedefinitions", "", "canaryruns.serin.dev")
        path = "/apis/serin.dev/v1alpha1/namespaces/default/canaryruns"
        async with world.transport().request("GET", path, query={}, headers={}, body=None) as answer:
            assert (answer.status, await answer.read()) == (404, b"404 page not found\n")
        await world.close()

    run_virtual(story())


async def test_over_http_an_outage_breaks_connections_and_passes() -> None:
    from datetime import UTC, datetime

    world = World(clock=lambda: datetime.now(UTC))
    url = await world.serve()
    async with aiohttp.ClientSession() as session:
        async with session.get(url + PODS, params={"watch": "1"}) as watch:
            world.fault("outage", seconds=0.3)
            with pytest.raises(aiohttp.ClientError):
                await watch.content.read()
        with pytest.raises(aiohttp.ClientError):
            await session.get(url + PODS)
        await asyncio.sleep(0.3)
        async with session.get(url + PODS) as answer:
            assert answer.status == 200
    await world.close()


async def test_a_kubeconfig_needs_a_port(tmp_path: Any) -> None:
    from datetime import UTC, datetime

    world = World(clock=lambda: datetime.now(UTC))
    with pytest.raises(RuntimeError, match=r"call serve\(\) before"):
        world.kubeconfig(tmp_path / "kubeconfig")
    await world.close()
