"""Models behind servers: a stand-in for one over real HTTP on loopback, and all that may go wrong with it."""

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from analysis.judge import Verdict
from gpu_shadow import endpoints
from gpu_shadow.batches import Cut, answers
from gpu_shadow.compare import Margins
from gpu_shadow.endpoints import Unreachable, opened
from gpu_shadow.model import Answers, Model, Refused
from gpu_shadow.protocol import LENGTH, encoded, request
from gpu_shadow.recorder import Recorded, Recorder
from gpu_shadow.replay import FIRST, Replay
from gpu_shadow.worker import Worker

Json = Any
DIGEST = "ab" * 32
W = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)


@dataclass
class Stand:
    """What the server says of itself, how it answers, and what it was asked."""

    about: Json = field(
        default_factory=lambda: {
            "name": "m",
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
        }
    )
    extensions: tuple[str, ...] = ()
    plain: bool = False  # whether it answers in JSON whatever it is asked in
    ready: int = 200
    asked: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    model: Any = lambda given: next(iter(given.values())) @ W  # its answer to a request's tensors
    wrong: Any = lambda _x: None  # a status, "late", "gone", "huge", "odd" for a request's numbers
    port: int = 0

    @staticmethod
    def read(asked: tuple[str, dict[str, str], bytes]) -> Mapping[str, np.ndarray[Any, Any]]:
        """The tensors of what it was asked."""
        _, headers, body = asked
        length = headers.get(LENGTH.lower())
        return request(body, json_bytes=int(length) if length else None, text=True).tensors

    def answered(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        length = headers.get(LENGTH.lower())
        given = self.read((path, headers, body))
        x = next(iter(given.values()))
        y = self.model(given).astype(np.float32)
        match self.wrong(x):
            case int(status):
                return status, b'{"error": "no"}', {"Location": "/elsewhere"}
            case "late":
                time.sleep(2.5)
            case "gone":
                return 0, b"", {}
            case "huge":
                return 200, b" " * (endpoints.MOST + 1), {}
            case "odd":
                y = y[:, :2]
            case ("tokens", scores):
                y = np.array([scores], np.float32)
        if path.startswith("/v1"):
            return 200, json.dumps({"predictions": y.tolist()}).encode(), {}
        binary = length is not None and not self.plain
        found, head = encoded({"y": y}, called="outputs", binary=binary)
        return 200, found, {LENGTH: str(head)} if binary else {}


def handler(stand: Stand) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            if self.path.endswith("/ready"):
                self.say(stand.ready, b"", {})
            else:
                about = {"name": "s", "extensions": stand.extensions} if self.path == "/v2" else stand.about
                self.say(200 if about else 404, json.dumps(about).encode(), {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            named = {name.lower(): value for name, value in self.headers.items()}
            stand.asked.append((self.path, named, body))
            self.say(*stand.answered(self.path, named, body))

        def say(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.close_connection = not status
            if status:
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(body))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                self.close_connection = True

    return Handler


@pytest.fixture
def stand() -> Iterator[Stand]:
    with standing() as found:
        yield found


@contextmanager
def standing() -> Iterator[Stand]:
    found = Stand()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(found))
    server.daemon_threads = True
    found.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "WITHIN", 1.0)


def reach(stand: Stand, path: str = "/v2/models/m", *, more: str = "", hosts: Any = ("model.lab",)) -> Model:
    name = f"http://127.0.0.1:{stand.port}{path}{more}@sha256:{DIGEST}"
    return opened(name, [f"127.0.0.1:{stand.port}"], production=hosts)


def some(count: int, *, first: int = 0) -> list[dict[str, np.ndarray]]:
    return [
        {"x": np.random.default_rng(first + i).normal(size=(1, 4)).astype(np.float32)} for i in range(count)
    ]


def through(model: Model, requests: list[dict[str, np.ndarray]]) -> Answers:
    rows = [model.fit(one) for one in requests]
    assert not any(isinstance(one, str) for one in rows)
    return answers(model, rows, Cut(64))  # type: ignore[arg-type]


def wanted(requests: list[dict[str, np.ndarray]]) -> np.ndarray:
    return np.concatenate([one["x"] @ W for one in requests])


@pytest.mark.parametrize(
    ("path", "extensions", "more"),
    [
        ("/v2/models/m", (), ""),
        ("/v2/models/m/versions/3", ("binary_tensor_data",), ""),
        ("/v2/models/m/infer", ("binary_tensor_data",), "?output=y"),
        ("/v1/models/m:predict", (), "?task=classification"),
    ],
)
def test_a_server_is_asked_in_its_own_words(stand: Stand, path: str, extensions: Any, more: str) -> None:
    stand.extensions = extensions
    model = reach(stand, path, more=more)
    requests = some(20)
    found = through(model, requests)
    assert np.allclose(found.values.numpy(), wanted(requests), atol=1e-5)
    assert not found.failed
    assert (model.task, model.digest, model.unproven) == ("classification", DIGEST, True)
    where, headers, body = stand.asked[0]
    assert headers["x-shadow-replay"] == "1"
    assert where == path.removesuffix("/infer").removesuffix(":predict") + (
        ":predict" if "v1" in path else "/infer"
    )
    assert (LENGTH.lower() in headers) == bool(extensions)
    if "v2" in path:
        assert json.loads(body[: int(headers.get(LENGTH.lower(), len(body)))])["outputs"][0]["name"] == "y"


def test_a_server_that_reads_binary_tensors_may_answer_in_json(stand: Stand) -> None:
    stand.extensions, stand.plain = ("binary_tensor_data",), True
    requests = some(5)
    assert np.allclose(through(reach(stand), requests).values.numpy(), wanted(requests), atol=1e-5)


def test_a_digest_that_the_server_says_is_proven_or_contradicted(stand: Stand) -> None:
    stand.about["parameters"] = {"sha256": DIGEST}
    assert reach(stand).unproven is False
    stand.about["parameters"] = {"digest": "sha256:" + "cd" * 32}
    with pytest.raises(Refused, match="its metadata's digest is cdcd"):
        reach(stand)


@pytest.mark.parametrize(
    ("hosts", "production"), [(["127.0.0.1"], True), (["*"], True), (["*.0.0.1"], True), (["model"], False)]
)
def test_no_host_that_users_are_served_by_is_called(
    stand: Stand, hosts: list[str], *, production: bool
) -> None:
    if not production:
        reach(stand, hosts=hosts)
        return
    with pytest.raises(Refused, match="is a host of the run's VirtualService, where users are served"):
        reach(stand, hosts=hosts)
    assert stand.asked == []


@pytest.mark.parametrize("called", ["m.lab", "m.lab.svc", "m.lab.svc.cluster.local"])
@pytest.mark.parametrize("host", ["m.lab.svc.cluster.local", "m.lab", "*.lab", "*.local"])
def test_by_none_of_its_names_a_host_that_users_are_served_by_is_called(called: str, host: str) -> None:
    with pytest.raises(Refused, match="where users are served"):
        opened(f"http://{called}:80/v2/models/m@sha256:{DIGEST}", [f"{called}:80"], production=[host])


def test_only_what_the_worker_s_owner_allows_is_called(stand: Stand) -> None:
    name = f"http://127.0.0.1:{stand.port}/v2/models/m@sha256:{DIGEST}"
    with pytest.raises(Refused, match=r"this worker may not call .*; start it with --endpoint 127"):
        opened(name, (), production=())


@pytest.mark.parametrize(
    "name",
    [
        "http://h:80/elsewhere@sha256:" + DIGEST,
        "http://user@h:80/v2/models/m@sha256:" + DIGEST,
        "http://h/v2/models/m@sha256:" + DIGEST,
        "http://h:80/v2/models/m?follow=1@sha256:" + DIGEST,
        "http://h:80/v2/models/m",
        "http://h:80/v2/models/../../admin@sha256:" + DIGEST,
    ],
)
def test_what_is_no_reference_is_refused_with_the_form(name: str) -> None:
    with pytest.raises(Refused, match="expected"):
        opened(name, ["h:80"], production=())


def test_what_its_metadata_leave_open_has_to_be_said(stand: Stand) -> None:
    stand.about["outputs"] = [{"name": "y", "datatype": "FP32", "shape": [-1, -1]}]
    with pytest.raises(Refused, match=r"say it: \?task=classification"):
        reach(stand)
    assert reach(stand, more="?task=embedding").task == "embedding"
    stand.about["outputs"] += [{"name": "z", "datatype": "FP32", "shape": [-1]}]
    with pytest.raises(Refused, match=r"its outputs are y, z; say which is compared: \?output=NAME"):
        reach(stand)
    assert reach(stand, more="?output=z").task == "regression"
    stand.about = None
    with pytest.raises(Unreachable, match="has no metadata; is the name right"):
        reach(stand)


def bad(numbers: np.ndarray) -> bool:
    return bool(numbers.sum() > 1)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        *((status, f"status {status}") for status in (400, 302, 500)),
        *((silent, "no answer within 1 s, twice") for silent in ("late", "gone")),
        ("huge", "an answer of more than 8 MiB, or empty"),
        ("odd", "an answer of 2 numbers, where the first had 3"),
    ],
)
@pytest.mark.usefixtures("brisk")
def test_a_request_without_an_answer_has_failed_and_the_others_have_theirs(
    stand: Stand, how: Any, why: str
) -> None:
    stand.wrong = lambda x: how if bad(x) else None
    model, requests = reach(stand), sorted(some(12), key=lambda one: bad(one["x"]))
    found = through(model, requests)
    lost = {place for place, one in enumerate(requests) if bad(one["x"])}
    assert 0 < len(lost) < 6
    assert found.failed == dict.fromkeys(lost, why)
    right = [place for place in range(12) if place not in lost]
    assert np.allclose(found.values.numpy()[right], wanted(requests)[right], atol=1e-5)
    assert all("elsewhere" not in path for path, *_ in stand.asked)


@pytest.mark.parametrize("how", [503, "late", "gone"])
@pytest.mark.usefixtures("brisk")
def test_a_server_that_answers_nobody_is_unreachable_soon_and_says_nothing_of_its_model(
    stand: Stand, how: Any
) -> None:
    model = reach(stand)
    stand.wrong = lambda _x: how
    began = time.monotonic()
    with pytest.raises(Unreachable, match="requests had no answer"):
        through(model, some(64))
    assert time.monotonic() - began < 10
    stand.wrong = lambda _x: None
    assert not through(model, some(8)).failed


def test_a_server_that_goes_away_on_the_way_is_unreachable(stand: Stand) -> None:
    model = reach(stand)
    stand.wrong, stand.ready = (lambda x: "gone" if bad(x) else None), 503
    with pytest.raises(Unreachable, match="is not ready"):
        through(model, some(12))


def test_nobody_at_the_port_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="cannot be reached"):
        opened(f"http://127.0.0.1:9/v2/models/m@sha256:{DIGEST}", ["127.0.0.1:9"], production=())


def test_what_json_cannot_say_does_not_fit(stand: Stand) -> None:
    model = reach(stand)
    assert model.fit({"x": np.array([[np.nan]])}) == "with numbers that JSON cannot write"
    assert model.fit({"x": np.array([[b"\xff"]], object)}) == (
        "with text in x that JSON cannot write, as it is not UTF-8"
    )
    assert not isinstance(model.fit({"x": np.array([["ö".encode()]], object)}), str)


def words(count: int) -> list[Recorded]:
    """Requests of text, of other lengths, and of a number beside it."""
    told = ["".join(np.random.default_rng(i).choice(list("abcö"), size=3 + i % 9)) for i in range(count)]
    tensors = ({"t": np.array([one.encode()], object), "x": np.ones(1, np.float32)} for one in told)
    return [Recorded(id=f"r{i}", tensors=one, size=1, order=i + 1) for i, one in enumerate(tensors)]


def counted(tensors: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Scores: how many of two letters are in the text, and the number."""
    text = tensors["t"].flat[0].decode()
    return np.array([[text.count("a"), text.count("b"), float(tensors["x"].flat[0])]], np.float32)


def otherwise(tensors: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """The same for the other letter."""
    return counted(tensors)[:, [1, 0, 2]]


@pytest.mark.parametrize(
    ("path", "extensions"),
    [("/v2/models/m", ()), ("/v2/models/m", ("binary_tensor_data",)), ("/v1/models/m", ())],
)
def test_text_is_replayed_by_servers_that_read_it(stand: Stand, path: str, extensions: Any) -> None:
    margins = Margins(max_flips=0.02, alpha=0.01, beta=0.05)
    stand.extensions, stand.model = extensions, counted
    stable = reach(stand, path, more="?task=classification")
    asked = words(300)
    found = Replay(stable, reach(stand, path, more="?task=classification"), margins).go_on(asked)
    assert found is not None
    assert (found.verdict, found.overall and found.overall.flips) == (Verdict.PASS, 0)
    arrived = {given["t"].flat[0] for given in map(stand.read, stand.asked)}
    assert arrived == {one.tensors["t"][0] for one in asked[: found.requests]}
    with standing() as other:
        other.extensions, other.model = extensions, otherwise
        worse = Replay(stable, reach(other, path, more="?task=classification"), margins).go_on(asked)
    assert worse is not None
    assert worse.overall is not None
    flips = [
        np.argmax(counted(one.tensors)) != np.argmax(otherwise(one.tensors))
        for one in asked[: worse.requests]
    ]
    assert (worse.verdict, worse.overall.flips) == (Verdict.FAIL, np.mean(flips))


def test_two_servers_are_compared_like_two_files_and_an_error_is_the_canary_s(stand: Stand) -> None:
    margins = Margins(max_flips=0.02, alpha=0.01, beta=0.05)
    asked = [Recorded(id=f"r{i}", tensors=one, size=1, order=i + 1) for i, one in enumerate(some(300))]
    found = Replay(reach(stand), reach(stand), margins).go_on(asked)
    assert found is not None
    assert found.verdict is Verdict.PASS
    with standing() as other:
        other.wrong = lambda x: 500 if bad(x) else None
        found = Replay(reach(stand), reach(other), margins).go_on(asked[:40])
    assert found is not None
    assert found.verdict is Verdict.FAIL
    assert "failed to answer" in found.why[0]
    assert found.why[0].endswith("requests that stable answered: status 500.")


def completion(x: np.ndarray) -> list[float]:
    """Log-probabilities of as many tokens as the request's first number says."""
    return [-0.01 * (at + 1) - abs(float(x[0, 1])) for at in range(3 + int(9 * abs(x[0, 0])) % 5)]


def test_texts_are_compared_by_the_log_probabilities_that_servers_give(stand: Stand) -> None:
    margins = Margins(max_flips=0.02, alpha=0.01, beta=0.05, task="text")
    asked = [Recorded(id=f"r{i}", tensors=one, size=1, order=i + 1) for i, one in enumerate(some(500))]
    lengths = {len(completion(one.tensors["x"])) for one in asked}
    assert len(lengths) > 3
    stand.wrong = lambda x: ("tokens", completion(x))
    stable = reach(stand, more="?task=text&output=y")
    assert stable.task == "text"
    same = Replay(stable, reach(stand, more="?task=text&output=y"), margins)
    found = same.go_on(asked)
    assert found is not None
    assert (found.verdict, found.requests) == (Verdict.PASS, 256)
    assert same.comparison is not None
    assert not same.comparison.unusable
    with standing() as other:
        other.wrong = lambda x: ("tokens", [one - 0.3 * bad(x) for one in completion(x)])
        worse = Replay(stable, reach(other, more="?task=text&output=y"), margins)
        found = worse.go_on(asked[:200])
        assert found is not None
        assert found.overall is not None
        assert found.overall.flips == np.mean([bad(one.tensors["x"]) for one in asked[:200]])
        assert "Perplexity" in found.why[-1]


def test_a_completion_of_another_number_of_tokens_is_none(stand: Stand) -> None:
    margins = Margins(max_flips=0.02, alpha=0.01, beta=0.05, task="text")
    asked = [Recorded(id=f"r{i}", tensors=one, size=1, order=i + 1) for i, one in enumerate(some(40))]
    stand.wrong = lambda _: ("tokens", [-0.5, -0.25])
    with standing() as other:
        other.wrong = lambda x: ("tokens", [-0.5, -0.25, -1.0] if bad(x) else [-0.5, -0.25])
        models = (reach(one, more="?task=text&output=y") for one in (stand, other))
        found = Replay(*models, margins).go_on(asked)
    assert found is not None
    lost = sum(bad(one.tensors["x"]) for one in asked)
    assert found.why[0] == (
        f"The canary failed to answer {lost} of 40 requests that stable answered: "
        "3 log-probabilities, where stable has 2."
    )


async def spoken(worker: Worker, question: Json, until: str) -> Json:
    """The worker's answer, once its verdict or its sentence is this one; requests arrive meanwhile."""
    recorder = worker._recorder
    async with asyncio.timeout(30):
        for number in itertools.count():
            answer = worker.asked("lab/run", question)
            if until in {answer["verdict"], answer["sentence"].partition(" ")[0]}:
                return answer
            for one in range(20):
                x = np.random.default_rng(20 * number + one).normal(size=(1, 4)).astype(np.float32)
                recorder.admit("model.lab", "/v2/models/m/infer", {}, encoded({"x": x}, binary=False)[0])
            while recorder.sift():
                pass
            await asyncio.sleep(0.05)
    raise AssertionError


def asking(stable: str, canary: str, **more: Any) -> Json:
    margins = {"maxFlips": 0.02, "alpha": 0.01, "beta": 0.05}
    asked = {"run": "lab/run", "generation": "g", "hosts": ["model.lab"], "margins": margins}
    return asked | {"stable": stable, "canary": canary} | more


async def test_a_worker_waits_for_servers_that_are_not_there_and_then_compares_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_shadow.worker.LATER", 0.05)
    monkeypatch.setattr("gpu_shadow.worker.EVERY", 0.05)
    with standing() as stand:
        place = f"127.0.0.1:{stand.port}"
        about, stand.about = stand.about, None  # the model is not loaded yet
        worker = Worker(Recorder(), models=tmp_path, device=torch.device("cpu"), endpoints=[place])
        question = asking(*[f"http://{place}/v2/models/m@sha256:{DIGEST}"] * 2)
        try:
            answer = await spoken(worker, question, "NoData")
            assert "has no metadata; is the name right" in answer["sentence"]
            stand.about = about
            answer = await spoken(worker, question, "Pass")
            assert answer["sentence"].endswith(
                "Nobody proves the digest of stable and of the canary: its server's metadata do not say one."
            )
        finally:
            await worker.close()


async def test_a_server_that_dies_is_no_data_and_never_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_shadow.worker.LATER", 0.05)
    monkeypatch.setattr("gpu_shadow.worker.EVERY", 0.05)
    with standing() as stand, standing() as other:
        places = [f"127.0.0.1:{one.port}" for one in (stand, other)]
        other.wrong = lambda _x: "gone"
        worker = Worker(Recorder(), models=tmp_path, device=torch.device("cpu"), endpoints=places)
        question = asking(*[f"http://{place}/v2/models/m@sha256:{DIGEST}" for place in places])
        try:
            answer = await spoken(worker, question, "NoData")
            assert "requests had no answer" in answer["sentence"]
            other.wrong = lambda _x: None
            assert (await spoken(worker, question, "Pass"))["requests"] > 100
        finally:
            await worker.close()


async def test_a_canary_whose_server_dies_of_a_few_requests_never_passes_on_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_shadow.worker.LATER", 0.02)
    monkeypatch.setattr("gpu_shadow.worker.EVERY", 0.02)
    deaths = 0

    def dying(x: np.ndarray) -> str | None:
        """The request of which it dies takes the connection along; a probe does not find it ready."""
        nonlocal deaths
        deaths += bool(x[0, 0] == 99)
        return "gone" if x[0, 0] == 99 else None

    with standing() as stand, standing() as other:
        other.wrong, other.ready = dying, 503
        places = [f"127.0.0.1:{one.port}" for one in (stand, other)]
        recorder = Recorder()
        worker = Worker(recorder, models=tmp_path, device=torch.device("cpu"), endpoints=places)
        question = asking(*[f"http://{place}/v2/models/m@sha256:{DIGEST}" for place in places])
        number = 0
        try:
            while deaths < 4:  # two tries each time: the second time that it is asked
                answer = worker.asked("lab/run", question)
                assert answer["verdict"] != "Pass"
                for one in range(20):
                    x = np.full((1, 4), 99 if (number, one) == (3, 7) else number + one / 20, np.float32)
                    recorder.admit("model.lab", "/v2/models/m/infer", {}, encoded({"x": x}, binary=False)[0])
                while recorder.sift():
                    pass
                number += 1
                await asyncio.sleep(0.04)
            other.wrong = lambda _x: None  # it was the node that died, not the model
            assert (await spoken(worker, question, "Pass"))["verdict"] == "Pass"
            shadow = worker.shadows["lab/run"]
            assert not shadow.again
            assert shadow.replay is not None
            assert shadow.replay.turn <= FIRST  # a turn is one look: what is replayed again was not counted
        finally:
            await worker.close()
        recorder.sift()
        assert recorder.held == 0


@pytest.mark.parametrize(
    ("endpoints_", "hosts", "says"),
    [
        ([], ["model.lab"], "this worker may not call"),
        (["127.0.0.1:1"], ["127.0.0.1"], "where users are served"),
    ],
)
async def test_a_worker_refuses_servers_that_it_may_not_call(
    tmp_path: Path, endpoints_: list[str], hosts: list[str], says: str
) -> None:
    worker = Worker(Recorder(), models=tmp_path, device=torch.device("cpu"), endpoints=endpoints_)
    question = asking(*[f"http://127.0.0.1:1/v2/models/m@sha256:{DIGEST}"] * 2, hosts=hosts)
    try:
        answer = await spoken(worker, question, "NoData")
        assert says in answer["sentence"]
    finally:
        await worker.close()


async def test_models_that_do_not_fit_together_are_compared_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_shadow.worker.EVERY", 0.05)
    made = {"0.weight": torch.from_numpy(W.T.copy()), "0.bias": torch.zeros(3)}
    body = save(made, metadata={"architecture": "mlp", "activation": "relu"})
    (tmp_path / "m.safetensors").write_bytes(body)
    reference = f"file://{tmp_path}/m.safetensors@sha256:{sha256(body).hexdigest()}"
    for memory, verdict in ((len(body), "Pass"), (len(body) - 1, "NoData")):
        worker = Worker(Recorder(), models=tmp_path, device=torch.device("cpu"), memory=memory)
        try:
            answer = await spoken(worker, asking(reference, reference), verdict)
            assert ("raise --memory" in answer["sentence"]) == (verdict == "NoData")
            await asyncio.sleep(0.1)
            assert worker.shadows["lab/run"].resident == 0
        finally:
            await worker.close()


@pytest.mark.parametrize("said", ["\xb2", "9" * 5_000, "-1", ""])
def test_a_length_that_isdigit_takes_for_one_is_a_failed_answer_and_stops_no_replay(said: str) -> None:
    server = endpoints.Server("host", 80, "/v2/models/m", v1=False, output="y")
    body, _ = encoded({"y": np.ones((1, 2), "<f4")}, called="outputs")
    assert isinstance(endpoints._read(server, body, {LENGTH.lower(): said}), endpoints.Failed)
