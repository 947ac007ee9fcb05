"""The worker with a folder to keep requests in and a policy of redaction, over real HTTP on loopback."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import torch
from click.testing import CliRunner

from gpu_shadow import keeping, segments
from gpu_shadow.__main__ import main, serving
from gpu_shadow.keeping import Keeper
from gpu_shadow.keys import Key
from gpu_shadow.protocol import request
from gpu_shadow.recorder import Recorder
from gpu_shadow.redact import Policy, Redaction
from gpu_shadow.worker import Worker
from scenarios.live import artifacts, digits
from scenarios.live.load import body

KEY = Key(bytes(range(32)))
PICTURES = [body(picture.tolist()) for picture in digits.load().pictures[:200]]
TENSOR = next(iter(request(PICTURES[0]).tensors))


@asynccontextmanager
async def working(tmp_path: Path, keeper: Keeper, **how: Any) -> AsyncIterator[Any]:
    """A worker; yields how to have a run decided: () -> (its answer, the metrics page)."""
    models = dict(artifacts.write(tmp_path))
    recorder = Recorder(**how)
    worker = Worker(recorder, models=tmp_path, device=torch.device("cpu"), keeper=keeper)
    keeper.start()
    margins = {"maxFlips": 0.02, "alpha": 0.01, "beta": 0.05}
    question = {"run": "lab/run-1", "generation": "g1", "hosts": ["model.lab"], "margins": margins}
    question |= {"stable": models[digits.MODEL], "canary": models[digits.REQUANTISED]}
    doors = serving(recorder, worker, bind="127.0.0.1", port=0, control_port=0)
    async with doors as (port, control), aiohttp.ClientSession() as http:

        async def decided() -> tuple[dict[str, Any], str]:
            async with asyncio.timeout(30):
                while True:
                    where = f"http://127.0.0.1:{control}"
                    async with http.put(f"{where}/v1/shadows/lab/run-1", json=question) as answer:
                        said = await answer.json()
                    if said["verdict"] != "Inconclusive":
                        async with http.get(f"{where}/metrics") as answer:
                            return said, await answer.text()
                    for picture in PICTURES:
                        headers = {"Host": "model.lab-shadow", "x-tenant": "acme"}
                        await http.post(f"http://127.0.0.1:{port}/infer", data=picture, headers=headers)

        yield decided


async def test_what_was_replayed_is_kept_redacted_and_the_verdict_says_so(tmp_path: Path) -> None:
    rules = {"rules": [{"tensor": TENSOR, "do": "zero", "columns": [0, 7]}], "slices": ["x-tenant"]}
    redaction = Redaction(msgspec.convert(rules, Policy), digest="sha256:1")
    keeper = Keeper(tmp_path / "kept", key=KEY, policy=redaction.digest)
    async with working(tmp_path, keeper, redaction=redaction) as decided:
        answer, page = await decided()
    keeper.close()
    assert answer["verdict"] == "Pass"
    assert answer["modifiedInputs"] is True
    assert f" Requests were redacted: {TENSOR}[0, 7] set to zero." in answer["sentence"]
    assert 'shadow_capture_dropped_total{reason="disk"} 0' in page
    assert "shadow_segments_written_total" in page
    kept = [
        one
        for path in segments.found(tmp_path / "kept")
        for one in segments.read(path, key=KEY, now=datetime.now(UTC)).requests()
    ]
    assert len(kept) >= answer["requests"]
    assert {one.slice for one in kept} == {"x-tenant=acme"}
    assert not any(one.tensors[TENSOR].reshape(-1)[[0, 7]].any() for one in kept)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    goes_on = threading.Event()
    monkeypatch.setattr(segments, "write", lambda *_, **__: goes_on.wait(30))
    monkeypatch.setattr(keeping, "LOOK", 0.001)
    monkeypatch.setattr(keeping, "AGE", 0.0)
    monkeypatch.setattr(keeping, "PATIENCE", 0.05)
    yield
    goes_on.set()


@pytest.mark.usefixtures("stuck")
async def test_a_stuck_disk_keeps_no_verdict_waiting_and_is_counted(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "kept", waiting=100_000)
    async with working(tmp_path, keeper) as decided:
        answer, page = await decided()
    keeper.close()
    assert answer["verdict"] == "Pass"
    assert keeper.held <= 100_000
    assert keeper.dropped > 100
    assert f'shadow_capture_dropped_total{{reason="disk"}} {keeper.dropped}' in page


@pytest.mark.parametrize(
    ("option", "text", "says"),
    [
        ("--redact", "rules: [", "line 1: is not YAML"),
        ("--key", "too short", "make one with: openssl rand -base64 32"),
        ("--keep-for", "8d", "of at most 7d"),
        ("--keep-for", "0h", "of at most 7d"),
        ("--key", "0" * 32, "give --keep DIR as well"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_starts(
    tmp_path: Path, option: str, text: str, says: str
) -> None:
    (tmp_path / "file").write_bytes(bytes(range(32)) if text == "0" * 32 else text.encode())
    value = text if option == "--keep-for" else str(tmp_path / "file")
    found = CliRunner().invoke(main, ["--models", str(tmp_path), option, value])
    assert found.exit_code == 2
    assert says in found.output


def test_a_port_that_is_taken_is_named_with_what_to_change(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = CliRunner().invoke(
            main, ["--models", str(tmp_path), "--bind", "127.0.0.1", "--port", str(port)]
        )
    assert found.exit_code == 1
    assert f"('127.0.0.1', {port}): address already in use; choose another --bind, --port" in found.output
