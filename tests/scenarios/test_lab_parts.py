"""The live lab's parts on real processes: Envoy, model servers, load. Statistics of traffic are
tested with bounds that chance breaks less than once in a million runs."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Any

import aiohttp
import pytest

from scenarios.conduct import quantiles
from scenarios.distributions import Beta, Lognormal
from scenarios.live import measure, processes, routes
from scenarios.live.envoy import Envoy
from scenarios.live.pods import Life, LivePods

pytestmark = pytest.mark.live

PROPAGATION = 0.3
INFER = "/v2/models/digits/infer"
PICTURE = {"inputs": [{"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": [3.0] * 64}]}


@dataclass
class Street:
    """A stand-in for the emulated API server: pods that are ready, and two weights."""

    folder: Path
    faults: dict[str, Any] = field(default_factory=dict)  # by arm
    weights: dict[str, int] = field(default_factory=lambda: {"stable": 80, "canary": 20})
    pods: dict[str, Any] = field(default_factory=dict)
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.epoch = time()
        self.gone: list[str] = []
        self.changes = asyncio.Event()
        self.envoy = Envoy(self.folder, self.mesh, propagation=PROPAGATION)
        self.kubelet = LivePods(
            self.folder,
            conduct=self.conduct,
            faults=lambda life: self.faults.get(life.arm, {}),
            tell=self.tell,
            gone=self.left,
            propagation=PROPAGATION,
        )

    def conduct(self, life: Life) -> dict[str, Any]:
        return {
            "seed": 7,
            "epoch": self.epoch,
            "version": life.arm,
            "workload": "model",
            "model": "digits",
            "latency": quantiles(Lognormal(0.02, 0.06).cdf, low=1e-6, high=1e4),
            "predictions": quantiles(Beta(2, 5).cdf, low=1e-9, high=1),
            "errorRate": 0.0,
            "noise": {},
        }

    def tell(self, name: str, **said: Any) -> None:
        self.told.append((name, said))
        status = self.pods.get(name, {"status": {}})["status"]
        if "ip" in said:
            status["podIP"] = said["ip"]
        if "ready" in said:
            status["conditions"] = [{"type": "Ready", "status": str(said["ready"])}]
        self.envoy.changed()
        self.changes.set()

    def left(self, name: str) -> None:
        self.gone.append(name)
        self.changes.set()

    def mesh(self) -> routes.Mesh:
        split = [
            {"destination": {"host": "model", "subset": arm}, "weight": weight}
            for arm, weight in self.weights.items()
        ]
        subsets = [{"name": arm, "labels": {"version": arm}} for arm in self.weights]
        ports = [{"port": 80, "targetPort": 8080}]
        return routes.Mesh(
            namespace="lab",
            virtual_services=[
                {"metadata": {"name": "model"}, "spec": {"hosts": ["model"], "http": [{"route": split}]}}
            ],
            destination_rules=[{"spec": {"host": "model", "subsets": subsets}}],
            services=[
                {"metadata": {"name": "model"}, "spec": {"selector": {"app": "model"}, "ports": ports}}
            ],
            pods=list(self.pods.values()),
        )

    def create(self, name: str, arm: str) -> None:
        probe = {"httpGet": {"path": "/v2/models/digits/ready"}, "periodSeconds": 1, "failureThreshold": 2}
        container = {"ports": [{"containerPort": 8080}], "readinessProbe": probe}
        pod = {
            "metadata": {"name": name, "labels": {"app": "model", "version": arm}},
            "spec": {"containers": [container]},
            "status": {},
        }
        self.pods[name] = pod
        self.kubelet.started(pod)

    async def until(self, what: Any, *, seconds: float = 20.0) -> None:
        async with asyncio.timeout(seconds):
            while not what():
                self.changes.clear()
                await self.changes.wait()

    def ready(self) -> int:
        return sum(routes.ready(pod) for pod in self.pods.values())

    def life(self, arm: str) -> Life:
        return next(life for life in self.kubelet.lives.values() if life.arm == arm)


@contextlib.asynccontextmanager
async def street(folder: Path, *, stable: int, canary: int) -> AsyncIterator[Street]:
    """So many ready pods behind an Envoy."""
    here = Street(folder)
    for arm, count in (("stable", stable), ("canary", canary)):
        for number in range(count):
            here.create(f"{arm}-{number}", arm)
    try:
        await here.envoy.start()
        await here.until(lambda: here.ready() == stable + canary)
        await asyncio.sleep(2 * PROPAGATION)
        yield here
    finally:
        await here.envoy.stop()
        await here.kubelet.stop()


@contextlib.asynccontextmanager
async def load(here: Street, *, rate: float) -> AsyncIterator[Path]:
    """So many requests a second; the file says what was sent, complete at the end."""
    out = here.folder / "sent.jsonl"
    told = {"url": here.envoy.url + INFER, "host": "model.lab", "rate": rate, "seed": 7}
    told |= {"epoch": here.epoch, "noise": {}, "out": str(out)}
    (here.folder / "load.json").write_text(json.dumps(told))
    process = await processes.python(
        "-m", "scenarios.live.load", str(here.folder / "load.json"), log=here.folder / "load.log"
    )
    try:
        yield out
    finally:
        await processes.end(process)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


async def test_envoy_splits_traffic_by_weight_and_a_new_weight_holds_after_the_propagation(
    tmp_path: Path,
) -> None:
    async with street(tmp_path, stable=2, canary=1) as here:
        async with load(here, rate=200):
            await asyncio.sleep(3)
            here.weights = {"stable": 100, "canary": 0}
            changed = time()
            here.envoy.changed()
            await asyncio.sleep(2)
            stopped = time()
        await here.envoy.stop()
        log = measure.entries(here.envoy.access_log)
    before = [said for said in log if said.start < changed]
    canary = sum(said.arm == "canary" for said in before)
    assert abs(canary - 0.2 * len(before)) < 5 * (0.16 * len(before)) ** 0.5
    measured = measure.measured(log, until=stopped, excused=lambda _: False)
    assert measured.last_routed is not None
    assert changed < measured.last_routed < changed + PROPAGATION + 0.5
    assert measured.failed == 0
    assert measured.stable + measured.canary == len(log) > 500
    assert {said.host for said in log} == {f"{life.ip}:8080" for life in here.kubelet.lives.values()}


async def test_the_load_is_open_loop_and_says_of_every_request_what_became_of_it(tmp_path: Path) -> None:
    async with street(tmp_path, stable=1, canary=1) as here:
        here.faults["canary"] = {"hang": True}
        await here.kubelet.suffer()
        async with load(here, rate=100) as out:
            await asyncio.sleep(4)
        await here.envoy.stop()
        log = measure.entries(here.envoy.access_log)
    sent = lines(out)
    span = max(said["due"] for said in sent) - min(said["due"] for said in sent)
    # a hanging fifth does not slow the sender down: a closed loop would soon send nothing
    assert abs(len(sent) - 100 * span) < 5 * (100 * span) ** 0.5
    assert sorted(said["id"] for said in sent) == list(range(len(sent)))
    assert {said["error"] for said in sent if "error" in said} == {"unanswered at the end"}
    assert {said["status"] for said in sent if "status" in said} <= {200, 503}
    stuck = [said for said in log if said.code == 0]
    unanswered = sum("error" in said for said in sent)
    # a few were on their way, to Envoy or back, in the millisecond in which the sender gave up
    assert 20 < len(stuck) <= unanswered <= len(stuck) + 5
    assert sum(said.arm == "canary" for said in stuck) > len(stuck) / 2


async def test_a_pod_answers_the_open_inference_protocol_and_counts_what_it_does(tmp_path: Path) -> None:
    async with street(tmp_path, stable=1, canary=0) as here, aiohttp.ClientSession() as session:
        url = here.life("stable").url
        for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/digits"):
            async with session.get(url + path) as answer:
                assert answer.status == 200, path
        pictures = [{**PICTURE, "id": str(number)} for number in range(40)]
        answers = await asyncio.gather(*(_asked(session, url, picture) for picture in pictures))
        status, body = await _asked(session, url, {"inputs": [{"name": "pixels", "data": [1, 2]}]})
        assert (status, list(body)) == (400, ["error"])
        async with session.get(url + "/metrics") as answer:
            page = await answer.text()
    assert {status for status, _ in answers} == {200}
    assert [said["id"] for _, said in answers] == [str(number) for number in range(40)]
    digit, score = answers[0][1]["outputs"]
    assert 0 <= digit["data"][0] <= 9
    assert 0 < score["data"][0] < 1
    counts = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    assert (
        counts['model_inference_duration_seconds_count{model_name="digits",model_version="stable"}'] == "41"
    )
    assert counts['model_prediction_value_count{model_name="digits",model_version="stable"}'] == "40"
    ours = {key: value for key, value in counts.items() if key.startswith("istio_requests_total")}
    assert all('reporter="destination"' in key for key in ours)
    assert {key.split('response_code="')[1][:3]: value for key, value in ours.items()} == {
        "200": "40",
        "400": "1",
    }


async def test_faults_come_and_go_on_command(tmp_path: Path) -> None:
    async with street(tmp_path, stable=0, canary=1) as here, aiohttp.ClientSession() as session:
        url = here.life("canary").url

        async def suffer(**faults: Any) -> None:
            here.faults["canary"] = faults
            await here.kubelet.suffer()

        await suffer(errorRate=1.0)
        async with session.post(url + INFER, json=PICTURE) as answer:
            assert (answer.status, answer.headers["x-lab-injected"]) == (500, "error")
        await suffer(latencyAdd=0.5)
        began = time()
        assert (await _asked(session, url, PICTURE))[0] == 200
        assert time() - began > 0.5
        _, usual = await _asked(session, url, PICTURE)
        await suffer(predictions=quantiles(Beta(8, 2).cdf, low=1e-9, high=1))
        _, shifted = await _asked(session, url, PICTURE)
        assert shifted["outputs"][1]["data"][0] > usual["outputs"][1]["data"][0]
        async with session.get(url + "/metrics") as answer:
            assert "model_clicks_total" not in await answer.text()
        await suffer(clickRate=1.0)
        await _asked(session, url, PICTURE)
        async with session.get(url + "/metrics") as answer:
            page = await answer.text()
        clicks = [line.split()[-1] for line in page.splitlines() if line.startswith("model_clicks_total{")]
        assert clicks == ["1"]
        await suffer(blackhole=True)
        assert await _silent(session.post(url + INFER, json=PICTURE))
        assert not await _silent(session.get(url + "/metrics"))
        await suffer(hang=True)
        assert await _silent(session.get(url + "/metrics"))
        await suffer(metrics="outage")
        async with session.get(url + "/metrics") as answer:
            assert answer.status == 503
        await suffer()
        assert (await _asked(session, url, PICTURE))[0] == 200


async def test_a_crashed_pod_is_unready_at_once_and_restarted_until_it_is_a_crash_loop(
    tmp_path: Path,
) -> None:
    async with street(tmp_path, stable=0, canary=2) as here:
        here.faults["canary"] = {"crash": True}
        began = time()
        await here.kubelet.suffer()
        await here.until(lambda: here.ready() == 0)
        assert time() - began < 2
        await here.until(lambda: {"CrashLoopBackOff"} <= {said.get("waiting") for _, said in here.told})
        assert max(said.get("restarts", 0) for _, said in here.told) == 2


async def test_a_pod_that_leaves_answers_until_the_proxy_has_let_go_of_it(tmp_path: Path) -> None:
    async with street(tmp_path, stable=2, canary=0) as here:
        here.weights = {"stable": 100}
        here.envoy.changed()
        await asyncio.sleep(2 * PROPAGATION)
        async with load(here, rate=100) as out:
            await asyncio.sleep(1.5)
            name = here.life("stable").name
            process = here.life("stable").process
            pod = here.pods.pop(name)
            here.envoy.changed()
            here.kubelet.stopping(pod)
            await here.until(lambda: here.gone == [name])
            assert process is not None
            assert process.returncode == 0
    assert {said.get("status") for said in lines(out) if "error" not in said} == {200}


async def test_processes_end_with_the_lab_even_if_it_is_killed(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    script = (
        "import asyncio, pathlib\n"
        "from scenarios.live import processes\n"
        "async def main():\n"
        f"    child = await processes.start(['/bin/sleep', '60'], log=pathlib.Path({log!r}))\n"
        "    print(child.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    lab = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert lab.stdout is not None
    child = int(await lab.stdout.readline())
    os.kill(lab.pid, signal.SIGKILL)
    await lab.wait()
    for _ in range(250):
        if _state(child) == "Z":
            break
        await asyncio.sleep(0.02)
    assert _state(child) == "Z"


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "Z"


async def _asked(session: aiohttp.ClientSession, url: str, body: Any) -> tuple[int, Any]:
    async with session.post(url + INFER, json=body) as answer:
        return answer.status, await answer.json()


async def _silent(asking: Any) -> bool:
    try:
        async with asyncio.timeout(0.4), asking as answer:
            await answer.read()
    except TimeoutError:
        return True
    return False
