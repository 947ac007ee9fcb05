"""What the shadow worker is asked and how little it matters when it does not answer; in virtual time."""

import asyncio
import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from analysis.judge import Verdict
from controller.replays import EVERY, PATIENCE, STALE, Replays
from scenarios.virtual.loop import virtual_loop

pytestmark = pytest.mark.virtual
Json = Any
RUN = "lab/run-1"
QUESTION = {"run": RUN, "generation": "1"}


@dataclass
class Worker:
    """A `ports.Ask`."""

    verdict: str = "Inconclusive"
    fault: str = ""
    asked: list[tuple[str, str, Json]] = field(default_factory=list)

    async def __call__(self, method: str, url: str, body: bytes) -> tuple[int, bytes]:
        self.asked.append((method, url, json.loads(body or b"null")))
        match self.fault:
            case "hang":
                await asyncio.Event().wait()
            case "gone":
                raise ConnectionRefusedError("nobody listens")
            case "error":
                return 500, b"oh dear"
            case "stale":
                return 200, self._answer({"run": RUN, "generation": "0"})
            case "nonsense":
                return 200, b"\xff"
            case _:
                return 200, self._answer(json.loads(body or b"null"))
        raise AssertionError

    def _answer(self, asked: Json) -> bytes:
        return json.dumps({"asked": asked, "verdict": self.verdict, "sentence": "so", "requests": 9}).encode()


@pytest.fixture
async def worker() -> Worker:
    return Worker()


@pytest.fixture
async def replays(worker: Worker) -> Any:
    found = Replays(worker, "http://worker:8081/")
    yield found
    await found.close()


async def test_the_newest_answer_is_in_memory_and_news_are_told(replays: Replays, worker: Worker) -> None:
    heard: list[str] = []
    replays.on_news = heard.append
    replays.watch(RUN, QUESTION)
    assert replays.read(RUN) is None
    await asyncio.sleep(0.5)
    said = replays.read(RUN)
    assert said is not None
    assert said.verdict is Verdict.INCONCLUSIVE
    worker.verdict = "Fail"
    await asyncio.sleep(2 * EVERY)
    said = replays.read(RUN)
    assert said is not None
    assert said.verdict is Verdict.FAIL
    assert heard == [RUN, RUN]
    assert worker.asked[0] == ("PUT", f"http://worker:8081/v1/shadows/{RUN}", QUESTION)


@pytest.mark.parametrize("fault", ["hang", "gone", "error", "stale", "nonsense"])
async def test_without_an_answer_there_is_none_and_the_reason_is_known(
    replays: Replays, worker: Worker, fault: str
) -> None:
    replays.watch(RUN, QUESTION)
    await asyncio.sleep(0.5)
    worker.fault = fault
    await asyncio.sleep(STALE + PATIENCE + 2 * EVERY)
    assert replays.read(RUN) is None
    assert replays.trouble(RUN)
    assert replays.silent(RUN) > timedelta(seconds=STALE)
    worker.fault = ""
    await asyncio.sleep(PATIENCE + 2 * EVERY)
    assert replays.read(RUN) is not None
    assert replays.trouble(RUN) == ""


async def test_an_answer_that_says_nothing_does_not_end_the_silence(replays: Replays, worker: Worker) -> None:
    worker.verdict = "NoData"
    replays.watch(RUN, QUESTION)
    await asyncio.sleep(30)
    assert replays.read(RUN) is not None
    assert replays.silent(RUN) > timedelta(seconds=25)


async def test_who_is_not_watched_any_more_is_not_asked_about_and_the_worker_hears_of_it(
    replays: Replays, worker: Worker
) -> None:
    replays.watch(RUN, QUESTION)
    replays.watch(RUN, dict(QUESTION))  # the same again changes nothing
    await asyncio.sleep(0.5)
    replays.watch(RUN, None)
    await asyncio.sleep(5)
    assert [method for method, *_ in worker.asked] == ["PUT", "DELETE"]
    assert replays.read(RUN) is None
    assert replays.silent(RUN) == timedelta(0)


async def test_another_question_of_the_same_run_begins_anew(replays: Replays, worker: Worker) -> None:
    replays.watch(RUN, QUESTION)
    await asyncio.sleep(0.5)
    worker.fault = "hang"
    replays.watch(RUN, QUESTION | {"generation": "2"})
    assert replays.read(RUN) is None


async def test_watching_waits_for_nobody(replays: Replays, worker: Worker) -> None:
    worker.fault = "hang"
    began = virtual_loop().time()
    for number in range(100):
        replays.watch(f"lab/run-{number}", QUESTION)
        replays.read(f"lab/run-{number}")
    assert virtual_loop().time() == began
