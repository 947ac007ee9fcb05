"""Probes, metrics and runs over real HTTP on loopback."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import aiohttp
import pytest

from controller import web
from controller.telemetry import Telemetry
from controller.web import MOST_CALLERS, STUCK_AFTER, Answers, CannotServe, application, serving

RUN: dict[str, Any] = {
    "apiVersion": "serin.dev/v1alpha1",
    "kind": "CanaryRun",
    "metadata": {
        "name": "model-canary-abc-1",
        "namespace": "lab",
        "creationTimestamp": "2026-11-01T12:00:00Z",
        "managedFields": [{"manager": "serin-controller"}],
    },
    "spec": {"plan": {"canary": "model-canary", "stable": "model"}},
    "status": {"phase": "Progressing", "weight": 10, "checkpoint": "x" * 1000, "state": {}, "outbox": []},
}
CALM = Answers(
    idle=lambda: timedelta(seconds=1),
    lists=lambda: {"pods": True, "deployments": True},
    metrics=Telemetry().page,
    runs=lambda: [RUN],
)


@asynccontextmanager
async def asked(answers: Answers) -> AsyncIterator[aiohttp.ClientSession]:
    async with serving(answers, "127.0.0.1", 0) as url, aiohttp.ClientSession(url) as session:
        yield session


async def test_a_turning_loop_is_alive() -> None:
    async with asked(CALM) as session, session.get("/livez") as answer:
        assert (answer.status, await answer.text()) == (200, "ok")


async def test_a_stuck_loop_is_not_alive_and_the_probe_says_for_how_long() -> None:
    stuck = replace(CALM, idle=lambda: STUCK_AFTER + timedelta(seconds=8))
    async with asked(stuck) as session, session.get("/livez") as answer:
        assert answer.status == 503
        assert "[-]loop failed: it last turned 23 s ago" in await answer.text()


async def test_ready_when_every_list_was_delivered() -> None:
    async with asked(CALM) as session, session.get("/readyz?verbose") as answer:
        assert answer.status == 200
        assert await answer.text() == "[+]deployments ok\n[+]pods ok\nreadyz check passed\n"


async def test_the_probe_names_the_shards_that_are_worked_on_and_they_decide_nothing() -> None:
    sharing = replace(CALM, shards=lambda: ["shard 0 of 4", "shard 2 of 4"])
    async with asked(sharing) as session, session.get("/readyz?verbose") as answer:
        assert (await answer.text()).splitlines()[2:4] == ["[+]shard 0 of 4 ok", "[+]shard 2 of 4 ok"]
    blind = replace(sharing, lists=dict)
    async with asked(blind) as session, session.get("/readyz") as answer:
        assert answer.status == 503


async def test_not_ready_while_a_list_is_missing_and_the_probe_names_it() -> None:
    early = replace(CALM, lists=lambda: {"pods": False, "deployments": True})
    async with asked(early) as session, session.get("/readyz") as answer:
        assert answer.status == 503
        text = await answer.text()
    assert "[+]deployments ok" in text
    assert "[-]pods failed: the API server has not delivered this list" in text


async def test_not_ready_before_anything_is_followed() -> None:
    nothing = replace(CALM, lists=dict)
    async with asked(nothing) as session, session.get("/readyz") as answer:
        assert answer.status == 503


async def test_metrics_are_in_the_text_format() -> None:
    async with asked(CALM) as session, session.get("/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert "canary_decision_seconds_count 0.0" in await answer.text()


async def test_runs_are_listed_in_a_line_each() -> None:
    async with asked(CALM) as session, session.get("/runs") as answer:
        assert answer.headers["Cache-Control"] == "no-store"
        (line,) = (await answer.json())["items"]
    assert (line["namespace"], line["name"], line["phase"], line["weight"]) == (
        "lab",
        "model-canary-abc-1",
        "Progressing",
        10,
    )


async def test_one_run_is_shown_without_what_is_nobodys_interface() -> None:
    async with asked(CALM) as session, session.get("/runs/lab/model-canary-abc-1") as answer:
        shown = await answer.json()
    assert shown["status"] == {"phase": "Progressing", "weight": 10}
    assert "managedFields" not in shown["metadata"]
    assert "checkpoint" in RUN["status"]


async def test_a_run_without_status_is_listed_too() -> None:
    fresh = {key: value for key, value in RUN.items() if key != "status"}
    async with asked(replace(CALM, runs=lambda: [fresh])) as session, session.get("/runs") as answer:
        assert (await answer.json())["items"][0]["phase"] is None


async def test_an_unknown_run_is_not_found_and_the_answer_says_where_to_look() -> None:
    async with asked(CALM) as session, session.get("/runs/lab/other") as answer:
        assert answer.status == 404
        assert (await answer.json())["error"] == "no CanaryRun lab/other; /runs lists those there are"


async def test_a_run_is_shown_without_the_urls_of_those_who_are_told() -> None:
    hook = {
        "webhook": {"url": "https://hooks.example/T0/very-secret", "secretRef": {"name": "a", "key": "b"}}
    }
    policy = {"alpha": 0.01, "alerts": [hook], "gates": [hook]}
    plan = {**RUN["spec"]["plan"], "policy": policy}
    applied = {
        "kubectl.kubernetes.io/last-applied-configuration": json.dumps(policy),
        "serin.dev/drill": "yes",
    }
    told = {
        **RUN,
        "metadata": {**RUN["metadata"], "annotations": applied},
        "spec": {"plan": plan, "paused": True},
    }
    async with asked(replace(CALM, runs=lambda: [told])) as session:
        for place in ("/runs", "/runs/lab/model-canary-abc-1"):
            async with session.get(place) as answer:
                text = await answer.text()
                assert "very-secret" not in text
        whole = await answer.json()
    shown = whole["spec"]
    assert whole["metadata"]["annotations"] == {"serin.dev/drill": "yes"}
    assert (shown["paused"], shown["plan"]["policy"]) == (True, {"alpha": 0.01})
    assert policy["alerts"] == [hook]  # what is held is as it was


ROUTES = {route.resource.canonical for route in application(CALM).router.routes() if route.resource}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("place", sorted(ROUTES))
async def test_nothing_can_be_changed(method: str, place: str) -> None:
    where = place.format(namespace="lab", name="model-canary-abc-1")
    async with asked(CALM) as session, session.request(method, where) as answer:
        assert answer.status == 405


async def test_however_many_connect_to_the_page_the_next_one_is_answered() -> None:
    async with serving(CALM, "127.0.0.1", 0) as url:
        port = int(url.rpartition(":")[2])
        waiting = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MOST_CALLERS + 20)]
        try:
            async with aiohttp.ClientSession(url) as session, session.get("/livez") as answer:
                assert answer.status == 200
            first, last = waiting[0][0], waiting[-1][0]
            assert await asyncio.wait_for(first.read(1), 5) == b""  # it had to go
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(last.read(1), 0.05)
        finally:
            for _, writer in waiting:
                writer.close()


async def test_nobody_has_to_go_while_there_is_room() -> None:
    async with serving(CALM, "127.0.0.1", 0) as url:
        port = int(url.rpartition(":")[2])
        waiting = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MOST_CALLERS - 10)]
        try:
            async with aiohttp.ClientSession(url) as session, session.get("/livez") as answer:
                assert answer.status == 200
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(waiting[0][0].read(1), 0.05)
        finally:
            for _, writer in waiting:
                writer.close()


def test_all_that_can_be_asked_is_five_things_and_the_page() -> None:
    methods = {route.method for route in application(CALM).router.routes()}
    assert methods == {"GET", "HEAD"}
    page = {"/", "/page.css", "/page.js", "/icon.svg", "/view", "/view/{namespace}/{name}"}
    assert {"/livez", "/readyz", "/metrics", "/runs", "/runs/{namespace}/{name}"} | page == ROUTES


async def test_a_taken_port_is_named_with_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotServe, match=rf"127\.0\.0\.1:{port}.*--bind and --port"):
            async with serving(CALM, "127.0.0.1", port):
                pass


async def test_who_asks_for_runs_or_metrics_all_the_time_takes_a_tenth_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the page had a bound: a crowd before `/metrics` or `/runs` had the loop for itself."""
    spent, made = [0.0], [0, 0]

    def worked() -> float:
        spent[0] += 0.01  # so that an answer takes 10 ms
        return spent[0]

    def metrics() -> tuple[bytes, str]:
        made[0] += 1
        return b"%d" % made[0], "text/plain"

    def runs() -> list[Any]:
        made[1] += 1
        return [RUN]

    monkeypatch.setattr(web, "perf_counter", worked)
    async with asked(replace(CALM, metrics=metrics, runs=runs)) as session:
        for place in ("/metrics", "/runs", "/runs/lab/model-canary-abc-1"):
            loop = asyncio.get_running_loop()
            before, began = sum(made), loop.time()
            answers = await asyncio.gather(*(session.get(place) for _ in range(8)))
            assert {answer.status for answer in answers} == {200}
            for answer in answers:
                answer.release()
            assert sum(made) - before <= 1 + (loop.time() - began) / 0.08
    assert made[0] <= 2
