"""The worker's two doors over real HTTP on loopback: copies of requests by one, questions by the other."""

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import numpy as np
import pytest
import torch
from safetensors.torch import save

from analysis.judge import Verdict
from gpu_shadow.__main__ import serving
from gpu_shadow.model import Refused
from gpu_shadow.recorder import Recorder
from gpu_shadow.sketch import captured, written
from gpu_shadow.watch import Watch
from gpu_shadow.worker import FORGOTTEN_AFTER, INPUTS_WITHIN, Worker
from scenarios.live import artifacts, digits
from scenarios.live.load import body

Json = Any
PATH = "/v2/models/digits/infer"
PICTURES = [body(picture.tolist()) for picture in digits.load().pictures]


@dataclass
class Room:
    """A worker that is up, and who talks to it."""

    recorder: Recorder
    worker: Worker
    http: aiohttp.ClientSession
    mirror: str
    control: str
    models: dict[str, str]

    def question(self, model: str = digits.REQUANTISED, **more: Json) -> Json:
        margins = {"maxFlips": 0.02, "alpha": 0.01, "beta": 0.05}
        asked = {"run": "lab/run-1", "generation": "g1", "hosts": ["model.lab"], "margins": margins}
        return asked | {"stable": self.models[digits.MODEL], "canary": self.models[model]} | more

    async def ask(self, question: Json, *, run: str = "lab/run-1") -> tuple[int, Json]:
        async with self.http.put(f"{self.control}/v1/shadows/{run}", json=question) as answer:
            return answer.status, await answer.json()

    async def send(self, sent: bytes, **headers: str) -> int:
        named = {
            "Host": "model.lab-shadow",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        async with self.http.post(self.mirror + PATH, data=sent, headers=named) as answer:
            return answer.status

    async def decided(self, question: Json) -> Json:
        """The answer, once there is one; pictures are sent meanwhile."""
        async with asyncio.timeout(30):
            for number in range(10_000):
                _, answer = await self.ask(question)
                if answer["verdict"] != "Inconclusive":
                    return answer
                for place in range(50):
                    await self.send(
                        PICTURES[(50 * number + place) % len(PICTURES)], x_request_id=f"{number}-{place}"
                    )
        raise AssertionError

    async def counted(self, reason: str) -> None:
        """Returns once something was dropped for this reason."""
        for _ in range(500):
            if self.recorder.dropped[reason]:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(self.recorder.dropped)


@contextlib.asynccontextmanager
async def working(folder: Path, *, state: Path | None = None) -> AsyncIterator[Room]:
    """A worker with the lab's models in this folder, for as long as the block lasts."""
    models = dict(artifacts.write(folder))
    recorder = Recorder(most=100_000)
    worker = Worker(recorder, models=folder, device=torch.device("cpu"), state=state)
    doors = serving(recorder, worker, bind="127.0.0.1", port=0, control_port=0)
    async with doors as (port, control), aiohttp.ClientSession() as http:
        yield Room(recorder, worker, http, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{control}", models)


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    async with working(tmp_path) as found:
        yield found


async def test_a_requantised_model_passes(room: Room) -> None:
    question = room.question()
    answer = await room.decided(question)
    assert answer["asked"] == question
    assert (answer["verdict"], answer["sentence"][:7]) == ("Pass", "At most")
    assert answer["requests"] > 200
    low, high = answer["interval"]
    assert low <= answer["flips"] <= high < 0.02


async def test_wrong_preprocessing_fails_and_nothing_more_is_recorded(room: Room) -> None:
    answer = await room.decided(room.question(digits.UNSCALED))
    assert answer["verdict"] == "Fail"
    async with asyncio.timeout(10):  # an answer comes at once, whatever becomes of the request
        while not room.recorder.dropped["unasked"]:
            await room.send(PICTURES[0])
            await asyncio.sleep(0.02)
    assert room.recorder.held == 0


def narrow(folder: Path, **about: str) -> str:
    """A model that takes one feature less than the lab's, with this beside its architecture."""
    layers = {"0.weight": torch.zeros(10, 63), "0.bias": torch.zeros(10)}
    sent = save(layers, metadata={"architecture": "mlp", "activation": "relu", **about})
    (folder / "narrow.safetensors").write_bytes(sent)
    return f"file://{folder}/narrow.safetensors@sha256:{sha256(sent).hexdigest()}"


async def test_a_canary_that_takes_other_rows_fails_and_says_so(room: Room, tmp_path: Path) -> None:
    answer = await room.decided(room.question(canary=narrow(tmp_path, input="pixels")))
    assert answer["verdict"] == "Fail"
    assert answer["sentence"].startswith(
        "the canary takes 63 features a row as pixels, stable 64 features a row as pixels: "
    )


async def test_which_tensor_a_model_reads_is_said_by_both_files_or_by_neither(
    room: Room, tmp_path: Path
) -> None:
    question = room.question(canary=narrow(tmp_path))
    for _ in range(100):
        answer = (await room.ask(question))[1]
        if answer["verdict"] == "NoData":
            break
        await asyncio.sleep(0.05)
    assert answer["sentence"] == (
        "stable's file says that it reads the tensor pixels, the canary's says nothing;"
        " name it in the metadata's input of both, or of neither"
    )


async def test_a_worker_that_was_restarted_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    compared: list[int] = []
    strict = {"maxFlips": 0.0001, "alpha": 0.01, "beta": 0.05}  # takes more requests than are sent
    for life in range(3):
        async with working(tmp_path, state=tmp_path / "state") as room, asyncio.timeout(30):
            question = room.question(digits.MODEL, margins=strict)
            await room.ask(question)
            for place in range(20):
                await room.send(PICTURES[place], x_request_id=f"{life}-{place}")
            for _ in range(600):
                _, answer = await room.ask(question)
                if answer.get("requests", 0) >= 20 * (life + 1):
                    break
                await asyncio.sleep(0.05)
            compared.append(answer["requests"])
    assert compared == [20, 40, 60]


async def test_a_run_that_is_over_or_asks_something_else_keeps_no_state(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    async with working(tmp_path, state=state) as room:
        await room.decided(room.question(digits.UNSCALED))
        await _until(lambda: len(list(state.iterdir())) == 1)
        _, answer = await room.ask(room.question(digits.UNSCALED, generation="g2"))
        assert answer["verdict"] == "Inconclusive"
        await _until(lambda: not list(state.iterdir()))


async def _until(true: Callable[[], bool]) -> None:
    for _ in range(600):
        if true():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("not within half a minute")


async def test_copies_that_cannot_be_replayed_are_said_to_be_none(room: Room) -> None:
    question = room.question()
    assert (await room.ask(question))[1]["sentence"] == "no request has been mirrored yet"
    await room.send(b'{"text": "no tensor"}')
    await room.counted("malformed")
    wide = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    await room.send(json.dumps({"inputs": [wide]}).encode())
    for _ in range(100):
        said = (await room.ask(question))[1]["sentence"]
        if "without one tensor" in said:
            break
        await asyncio.sleep(0.05)
    assert said == (
        "none of 2 mirrored requests was replayed yet: 1 malformed, 1 without one tensor pixels of 64"
        " features a row"
    )


async def test_two_runs_with_one_name_do_not_share_an_answer(room: Room) -> None:
    first = room.question(digits.UNSCALED)
    await room.decided(first)
    again = room.question(digits.UNSCALED, generation="g2")
    _, answer = await room.ask(again)
    assert (answer["asked"], answer["verdict"]) == (again, "Inconclusive")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"canary": "file:///nowhere/a.safetensors@sha256:" + "0" * 64}, "is not below"),
        ({"canary": "file:///nowhere/a.pkl@sha256:" + "0" * 64}, "may run any code"),
    ],
)
async def test_a_question_that_has_no_answer_says_why(room: Room, change: Json, says: str) -> None:
    question = room.question(**change)
    answer = await room.decided(question)
    assert answer["verdict"] == "NoData"
    assert says in answer["sentence"]


async def test_a_model_that_was_changed_on_disk_is_not_what_was_asked_about(
    room: Room, tmp_path: Path
) -> None:
    file = tmp_path / f"{digits.REQUANTISED}.safetensors"
    file.write_bytes(artifacts.contents(digits.PERMUTED))
    answer = await room.decided(room.question())
    assert answer["verdict"] == "NoData"
    assert "its sha256 is" in answer["sentence"]


async def test_what_is_no_question_is_refused_in_words(room: Room) -> None:
    where = f"{room.control}/v1/shadows/lab/run-1"
    for sent in (b"{", b"[]", b"[" * 50_000, json.dumps(room.question() | {"more": 1}).encode()):
        async with room.http.put(where, data=sent) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]
    async with room.http.put(where, data=b"{}", headers={"Content-Type": "text/x; charset=bogus"}) as answer:
        assert answer.status == 400  # and not 500: JSON is UTF-8, no charset is looked up
    status, answer_ = await room.ask(room.question(), run="lab/other")
    assert (status, "let them agree" in answer_["error"]) == (400, True)
    assert room.worker.shadows == {}


@pytest.mark.parametrize("wrong", ["NaN", "Infinity", "1e999", "0", "1", "-0.1", "null"])
@pytest.mark.parametrize("field", ["maxFlips", "alpha", "beta"])
async def test_a_margin_that_is_no_probability_is_refused(room: Room, field: str, wrong: str) -> None:
    """NaN is not itself: the same question would be another one each second, and never be answered."""
    said = json.dumps(room.question()).replace(
        f'"{field}": {room.question()["margins"][field]}', f'"{field}": {wrong}'
    )
    async with room.http.put(f"{room.control}/v1/shadows/lab/run-1", data=said.encode()) as answer:
        assert answer.status == 400
        why = (await answer.json())["error"]
    assert f"margins.{field}" in why or "not JSON" in why
    with pytest.raises(Refused, match=field):
        room.worker.asked("lab/run-1", room.question(margins=room.question()["margins"] | {field: math.nan}))
    assert room.worker.shadows == {}


async def test_a_run_that_is_over_leaves_nothing(room: Room) -> None:
    await room.ask(room.question())
    await room.send(PICTURES[0])
    async with room.http.delete(f"{room.control}/v1/shadows/lab/run-1") as answer:
        assert answer.status == 200
    assert (room.worker.shadows, room.recorder.held) == ({}, 0)
    async with room.http.get(f"{room.control}/v1/shadows/lab/run-1") as answer:
        assert answer.status == 404


async def test_a_run_that_nobody_asks_for_is_forgotten(room: Room) -> None:
    await room.ask(room.question())
    room.worker.shadows["lab/run-1"].renewed -= FORGOTTEN_AFTER + 1
    await room.ask(room.question() | {"run": "lab/run-2"}, run="lab/run-2")
    assert list(room.worker.shadows) == ["lab/run-2"]


async def test_no_mirrored_request_reaches_the_controller_s_door(room: Room) -> None:
    headers = {"Host": "model.lab-shadow"}
    for method in ("PUT", "GET", "DELETE"):
        async with room.http.request(
            method, f"{room.mirror}/v1/shadows/lab/run-1", headers=headers
        ) as answer:
            assert answer.status == 202
    assert room.worker.shadows == {}


@pytest.mark.parametrize(
    ("sent", "headers", "reason"),
    [
        (b"x" * 200_000, {}, "too-large"),
        (b"\x1f\x8b" + b"\x00" * 90_000, {"Content_Encoding": "gzip"}, "compressed"),
        (b"[" * 90_000, {}, "malformed"),
        (b"{}", {}, "malformed"),
        (PICTURES[0], {"Inference_Header_Content_Length": "99999999999999999999"}, "size"),
    ],
)
async def test_a_hostile_copy_is_answered_like_any_other_and_counted(
    room: Room, sent: bytes, headers: dict[str, str], reason: str
) -> None:
    await room.ask(room.question())
    assert await room.send(sent, **headers) == 202
    await room.counted(reason)
    assert await room.send(PICTURES[0]) == 202
    async with room.http.get(f"{room.control}/metrics") as page:
        assert f'shadow_capture_dropped_total{{reason="{reason}"}} 1' in await page.text()


async def test_a_body_that_ends_too_early_is_counted(room: Room) -> None:
    await room.ask(room.question())
    port = int(room.mirror.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /x HTTP/1.1\r\nHost: model.lab-shadow\r\nContent-Length: 100\r\n\r\n{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await room.counted("truncated")
    assert await room.send(PICTURES[0]) == 202


async def test_with_a_stuck_sink_every_copy_is_still_answered_and_memory_stays_within_the_budget(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room.recorder, "sift", lambda: False)
    room.recorder.budget = 20_000
    await room.ask(room.question())
    for number in range(300):
        assert await room.send(PICTURES[number]) == 202
        assert room.recorder.held <= 20_000
    assert room.recorder.dropped["budget"] > 200


def baseline(folder: Path, pictures: np.ndarray) -> str:
    """The reference of a baseline that was captured from these pictures."""
    body_ = written(captured({f"pixel{i}": pictures[:, i] for i in range(pictures.shape[1])}))
    path = folder / "digits.baseline.json"
    path.write_bytes(body_)
    return f"file://{path}@sha256:{sha256(body_).hexdigest()}"


async def shuffled(room: Room, question: Json) -> Json:
    """The answer once it is decided, to pictures in no order."""
    order = np.random.default_rng(7).integers(len(PICTURES), size=20_000)
    async with asyncio.timeout(60):
        for at in range(0, len(order), 50):
            _, answer = await room.ask(question)
            if answer["verdict"] != "Inconclusive":
                return answer
            for place in order[at : at + 50]:
                await room.send(PICTURES[place], x_request_id=f"{at}-{place}")
    raise AssertionError(answer)


async def test_inputs_as_in_the_training_have_not_drifted_and_a_pass_waits_to_know(
    room: Room, tmp_path: Path
) -> None:
    answer = await shuffled(room, room.question(baseline=baseline(tmp_path, digits.load().pictures)))
    assert answer["verdict"] == "Pass"
    assert answer["inputs"]["requests"] >= 1_000
    assert (answer["inputs"]["count"], answer["inputs"]["unfit"]) == (0, 0)
    async with room.http.get(f"{room.control}/metrics") as page:
        text = await page.text()
    assert 'model_data_drift_score{model_name="digits-bf16",feature_name="pixel' in text
    assert "shadow_capture_kept_total" in text


async def test_inputs_that_have_drifted_are_said_and_the_verdict_is_what_it_was(
    room: Room, tmp_path: Path
) -> None:
    inverted = 16 - digits.load().pictures
    answer = await shuffled(room, room.question(baseline=baseline(tmp_path, inverted)))
    assert answer["verdict"] == "Pass"
    assert answer["inputs"]["count"] > 30


@pytest.mark.parametrize(
    ("verdict", "inputs", "after", "waits"),
    [
        (Verdict.PASS, 999, 0.0, True),
        (Verdict.PASS, 1_000, 0.0, False),
        (Verdict.PASS, 0, INPUTS_WITHIN - 1, True),
        (Verdict.PASS, 0, INPUTS_WITHIN + 1, False),
        (Verdict.PASS, None, 0.0, False),
        (Verdict.FAIL, 0, 0.0, False),
        (Verdict.INCONCLUSIVE, 0, 0.0, False),
    ],
)
async def test_a_pass_waits_for_inputs_but_not_for_ever_and_a_fail_for_nothing(
    room: Room, verdict: Verdict, inputs: int | None, after: float, *, waits: bool
) -> None:
    await room.ask(room.question())
    shadow = room.worker.shadows["lab/run-1"]
    decided = verdict is not Verdict.INCONCLUSIVE
    found: Any = SimpleNamespace(decided=decided, finding=SimpleNamespace(verdict=verdict))
    watch = None if inputs is None else Watch(captured({"x": np.arange(100.0)}), requests=inputs)
    since = asyncio.get_running_loop().time() - after
    shadow = replace(shadow, replay=found, watch=watch, decided=since)
    assert (shadow.waits, shadow.settled) == (waits, decided and not waits)


async def test_a_baseline_that_cannot_be_read_changes_nothing_but_what_is_said(room: Room) -> None:
    lost = f"file://{room.models[digits.MODEL].partition('@')[0][7:]}@sha256:{'0' * 64}"
    answer = await shuffled(room, room.question(baseline=lost))
    assert answer["verdict"] == "Pass"
    assert "its sha256 is" in answer["inputs"]["trouble"]
    assert " Inputs are not compared with the training's: " in answer["sentence"]


async def test_a_baseline_of_other_features_is_said_beside_the_verdict(room: Room, tmp_path: Path) -> None:
    answer = await shuffled(room, room.question(baseline=baseline(tmp_path, np.ones((10, 3)))))
    assert answer["verdict"] == "Pass"
    assert answer["sentence"].endswith(
        "not compared with the training's: no request has a feature of the baseline's."
    )


async def test_a_watch_that_breaks_is_dropped_and_the_models_are_compared(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watch, "take", lambda *_: 1 / 0)
    answer = await shuffled(room, room.question(baseline=baseline(tmp_path, digits.load().pictures)))
    assert (answer["verdict"], answer["inputs"]) == (
        "Pass",
        {"trouble": "ZeroDivisionError: division by zero"},
    )
