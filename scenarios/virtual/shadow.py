"""The shadow worker in virtual time: the real one's recorder and replay, in this process.

Pictures of digits, or sentences, reach it as often as the story's callers send requests, for as long as the
VirtualService mirrors them. torch comes along with it, so that only a story with a Shadow check makes one.
"""

import asyncio
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from scenarios.live import artifacts, digits, sentences
from scenarios.live.load import body as asked
from scenarios.objects import NAMESPACE, STABLE
from scenarios.plot import Story

if TYPE_CHECKING:
    from gpu_shadow.recorder import Recorder
    from gpu_shadow.worker import Worker

HOST = f"{STABLE}.{NAMESPACE}-shadow"  # as Envoy says whom a copy is for
PATH = "/v2/models/digits/infer"
STATE = "state"  # the folder in which it keeps how far it came
MODELS = "/models"  # what the folder is called: pods are named after their template, and it names the models


class VirtualShadow:
    """The worker; a `ports.Ask`."""

    def __init__(self, story: Story) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="serin-shadow-")
        self._bodies = _bodies(story)
        self._rate = story.requests_per_second
        self._rng = np.random.default_rng([story.seed, 0x5AD0])
        self._sent = 0
        self._feeding: asyncio.Task[None] | None = None
        written = artifacts.write(Path(self._folder.name), {story.stable.model, story.canary.model})
        self.artifacts: Mapping[str, str] = {
            name: reference.replace(self._folder.name, MODELS) for name, reference in written.items()
        }
        self.mirrored = False  # whether requests are copied to it
        self.called = False  # whether the story has begun: its history is nobody's requests
        self.faults: set[str] = set()
        self._parts: tuple[Recorder, Worker] | None = None

    def start(self) -> None:
        """It runs, with nothing recorded; after it was killed, from where it was."""
        from gpu_shadow.recorder import Recorder
        from gpu_shadow.worker import Worker, device

        recorder, models = Recorder(), Path(self._folder.name)
        (models / STATE).mkdir(exist_ok=True)
        worker = Worker(recorder, models=models, device=device("cpu"), compute=_here, state=models / STATE)
        self._parts = recorder, worker
        if self._feeding is None:
            self._feeding = asyncio.get_running_loop().create_task(self._feed(), name="mirrored requests")

    async def kill(self) -> None:
        """It is gone, with all that it recorded."""
        parts, self._parts = self._parts, None
        if parts is not None:
            await parts[1].close()

    async def stop(self) -> None:
        """Nothing is left."""
        if self._feeding is not None:
            self._feeding.cancel()
            await asyncio.gather(self._feeding, return_exceptions=True)
        await self.kill()
        self._folder.cleanup()

    async def __call__(self, method: str, url: str, body: bytes) -> tuple[int, bytes]:
        """The worker's answer, if it is there."""
        if "hang" in self.faults:
            await asyncio.Event().wait()
        await asyncio.sleep(0.005)
        if self._parts is None:
            raise ConnectionRefusedError(f"{url}: nobody listens")
        name = urlsplit(url).path.removeprefix("/v1/shadows/")
        if method == "DELETE":
            self._parts[1].forget(name)
            return 200, b"{}"
        here, there = f"file://{self._folder.name}/", f"file://{MODELS}/"
        said = self._parts[1].asked(name, json.loads(body.decode().replace(there, here)))
        return 200, json.dumps(said).replace(here, there).encode()

    async def _feed(self) -> None:
        while True:
            await asyncio.sleep(1)
            count = int(self._rng.poisson(self._rate))
            if not (self.mirrored and self.called) or self._parts is None or "hang" in self.faults:
                continue
            recorder, _ = self._parts
            for place in self._rng.integers(len(self._bodies), size=count):
                self._sent += 1
                recorder.admit(HOST, PATH, {"x-request-id": str(self._sent)}, self._bodies[place])
            while recorder.sift():
                pass


def _bodies(story: Story) -> Sequence[bytes]:
    """The requests that stable's model is asked."""
    if story.stable.model in sentences.VARIANTS:
        return [sentences.body(text) for text in sentences.sentences()]
    return [asked(picture.tolist()) for picture in digits.load().pictures]


async def _here(work: Callable[..., Any], *given: Any) -> Any:
    return work(*given)
