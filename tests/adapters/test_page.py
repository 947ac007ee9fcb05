"""The page over HTTP: what is served, how often, and what is not said."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import controller.page
from controller.page import routes, views
from controller.telemetry import Telemetry
from controller.web import Answers, serving
from scenarios.gallery import gallery

FOLDER = Path(controller.page.__file__).parent
ROOM = gallery(many=194)
SHOWN = "/view/ml/fraud-score-canary-6f9c7d5b84-1"
ANSWERS = Answers(
    idle=lambda: timedelta(seconds=1),
    lists=dict,
    metrics=Telemetry().page,
    runs=lambda: ROOM.runs,
    trace=ROOM.traces.get,
)


@asynccontextmanager
async def asked(answers: Answers = ANSWERS) -> AsyncIterator[aiohttp.ClientSession]:
    async with serving(answers, "127.0.0.1", 0) as url, aiohttp.ClientSession(url) as session:
        yield session


@pytest.mark.parametrize("place", ["/", "/page.css", "/page.js", "/icon.svg", "/view", SHOWN])
async def test_a_browser_may_take_nothing_from_elsewhere_and_nobody_may_frame_the_page(place: str) -> None:
    async with asked() as session, session.get(place) as answer:
        assert answer.status == 200
        said = dict(
            each.strip().split(" ", 1) for each in answer.headers["Content-Security-Policy"].split(";")
        )
        assert said.pop("default-src") == said.pop("frame-ancestors") == said.pop("base-uri") == "'none'"
        assert said.pop("form-action") == "'none'"
        assert said.pop("require-trusted-types-for") == "'script'"
        assert set(said.values()) == {"'self'"}
        assert set(said) == {"script-src", "style-src", "img-src", "connect-src"}
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "Set-Cookie" not in answer.headers


def test_the_page_names_no_other_host_and_has_nothing_inline() -> None:
    files = {
        each.name: each.read_text()
        for each in FOLDER.iterdir()
        if each.suffix in {".html", ".css", ".js", ".svg"}
    }
    assert {name for name, _ in routes.FILES.values()} == set(files)
    for name, text in files.items():
        own = text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", own), name
    assert not re.search(r"<script>|<style|\son\w+=|\sstyle=", files["index.html"])
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", files["page.js"]
    )


async def test_what_is_not_new_is_not_sent_again() -> None:
    async with asked() as session:
        for place in ("/page.js", "/view", SHOWN):
            async with session.get(place) as answer:
                tag = answer.headers["ETag"]
                assert answer.headers["Cache-Control"] == "no-cache"
            async with session.get(place, headers={"If-None-Match": tag}) as again:
                assert (again.status, await again.read()) == (304, b"")


async def test_two_hundred_runs_and_one_of_them_with_everything_are_less_than_200_kb() -> None:
    async with asked() as session:
        total = 0
        for place in ("/", "/page.css", "/page.js", "/icon.svg", "/view", SHOWN):
            async with session.get(place) as answer:
                total += len(await answer.read())
        async with session.get("/view") as answer:
            assert len((await answer.json())["runs"]) == 200
    assert total < 200_000


async def test_what_many_ask_for_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def counted(*_: Any, **__: Any) -> Any:
        nonlocal count
        count += 1
        return {"word": "x"}

    monkeypatch.setattr(views, "shown", counted)
    monkeypatch.setattr(routes, "FRESH", 3600.0)
    async with asked() as session:
        for _ in range(20):
            async with session.get(SHOWN) as answer:
                assert answer.status == 200
    assert count == 1


async def test_the_page_takes_a_twentieth_of_the_process_and_then_shows_what_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = routes.Views(lambda: ROOM.runs, ROOM.traces.get)
    monkeypatch.setattr(routes, "FRESH", 0.0)
    first = await told.answer(None)
    told._next += 3600  # as after an answer that took three minutes
    assert await told.answer(None) is first
    told._next = 0.0
    assert await told.answer(None) is not first


async def test_only_rows_of_runs_that_changed_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    line = views.line

    def noted(run: Any) -> Any:
        made.append(run["metadata"]["name"])
        return line(run)

    monkeypatch.setattr(views, "line", noted)
    monkeypatch.setattr(routes, "FRESH", 0.0)
    monkeypatch.setattr(routes, "REST", 0.0)
    runs = [dict(run) for run in ROOM.runs[:5]]
    told = routes.Views(lambda: runs, lambda _: None)
    await told.answer(None)
    assert len(made) == 5
    runs[2] = {**runs[2], "metadata": {**runs[2]["metadata"], "resourceVersion": "2"}}
    await told.answer(None)
    assert made[5:] == [runs[2]["metadata"]["name"]]


def test_a_row_says_how_far_the_evidence_came_that_rolled_back() -> None:
    """The list had nothing there of a run that `explain` puts at 350 to 1."""
    parts = {row["word"]: row["part"] for row in map(views.line, ROOM.runs[:6])}
    assert parts["Worse: rolled back"] == 1.0
    assert parts["No worse: promoted"] == 0.0


async def test_answers_that_nobody_asks_for_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "KEPT", 3)
    monkeypatch.setattr(routes, "REST", 0.0)
    told = routes.Views(lambda: ROOM.runs, lambda _: None)
    keys = [(run["metadata"]["namespace"], run["metadata"]["name"]) for run in ROOM.runs[:5]]
    for key in keys:
        await told.answer(key)
    assert list(told._answers) == keys[2:]


async def test_a_run_that_somebody_made_unreadable_takes_the_list_from_nobody() -> None:
    broken = {**ROOM.runs[0], "status": {"phase": "Progressing", "checks": 7}}
    async with (
        asked(replace(ANSWERS, runs=lambda: [broken, ROOM.runs[1]])) as session,
        session.get("/view") as answer,
    ):
        words = [row["word"] for row in (await answer.json())["runs"]]
    assert words == ["Not readable", "Worse: rolled back"]


async def test_a_run_that_is_not_there_is_not_found() -> None:
    async with asked() as session, session.get("/view/ml/nobody") as answer:
        assert answer.status == 404
        assert "no such run" in (await answer.json())["error"]


async def test_a_standby_shows_every_run_without_curves() -> None:
    async with asked(replace(ANSWERS, trace=lambda _: None)) as session, session.get(SHOWN) as answer:
        told = await answer.json()
    assert told["trace"] is None
    assert told["weights"]
    assert told["sentence"]


async def test_the_page_shows_no_url_of_those_who_are_told_and_nothing_of_the_checkpoint() -> None:
    run = json.loads(json.dumps(ROOM.runs[0]))
    hook = {
        "webhook": {
            "url": "https://hooks.example/T0/very-secret",
            "secretRef": {"name": "sealed", "key": "b"},
        }
    }
    run["spec"]["plan"]["policy"] |= {"alerts": [hook], "gates": [hook]}
    run["status"] |= {"checkpoint": "opaque-evidence", "outbox": [{"sentence": "unsent-words"}]}
    async with asked(replace(ANSWERS, runs=lambda: [run])) as session:
        for place in ("/view", SHOWN):
            async with session.get(place) as answer:
                text = await answer.text()
                assert answer.status == 200
            for secret in ("very-secret", "sealed", "opaque-evidence", "unsent-words"):
                assert secret not in text
