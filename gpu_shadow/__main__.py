"""The worker: `python -m gpu_shadow --models DIR`.

Two doors. The recorder's takes what Envoy mirrors and says 202 to everything; the controller's takes
questions. It has no rights in the cluster and talks to nobody by itself.
"""

import asyncio
import contextlib
import gc
import re
import signal
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import structlog
import torch
from aiohttp import web

from gpu_shadow import keeping, keys, redact, segments
from gpu_shadow import recorder as recording
from gpu_shadow.door import Door
from gpu_shadow.keeping import Keeper
from gpu_shadow.recorder import Recorder
from gpu_shadow.worker import MEMORY, Worker, application, device

log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def serving(
    recorder: Recorder, worker: Worker, *, bind: str, port: int, control_port: int
) -> AsyncIterator[tuple[int, int]]:
    """While the block runs both doors are open; yields their ports (0 takes any that is free)."""
    runner = web.AppRunner(application(worker), access_log=None, shutdown_timeout=1.0)
    async with Door(recorder).opened(bind, port) as mirrored:
        try:
            await runner.setup()
            await web.TCPSite(runner, bind, control_port).start()
            yield mirrored, runner.addresses[0][1]
        finally:
            await runner.cleanup()
            await worker.close()


async def run(said: dict[str, Any]) -> None:
    """Records and replays until SIGTERM or Ctrl-C."""
    torch.set_num_threads(said["threads"])
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    recorder = Recorder(
        budget=said["budget"] * 2**20,
        most=said["largest"] * 2**10,
        sample=said["sample"] / 100,
        salt=said["salt"],
        redaction=said["redact"],
    )
    where = device(said["device"])
    keeper = _keeper(said)
    worker = Worker(
        recorder,
        models=said["models"],
        device=where,
        keeper=keeper,
        memory=said["memory"] * 2**20,
        endpoints=said["endpoint"],
        state=said["state"],
    )
    doors = serving(recorder, worker, bind=said["bind"], port=said["port"], control_port=said["control_port"])
    async with contextlib.AsyncExitStack() as block:
        try:
            port, control = await block.enter_async_context(doors)
        except OSError as error:
            message = f"{error.strerror}; choose another --bind, --port or --control-port"
            raise click.ClickException(message) from None
        gc.freeze()  # torch has 200 000 objects: to look through them all is a pause of a tenth of a second
        log.info("started", recorder=port, control=control, device=str(where), models=str(said["models"]))
        if keeper is not None:
            keeper.start()
            log.info("keeping", folder=str(said["keep"]), encrypted=said["key"] is not None)
        await stop.wait()
    if keeper is not None:
        keeper.close()
    log.info("stopped")


def _keeper(said: dict[str, Any]) -> Keeper | None:
    if said["keep"] is None:
        return None
    return Keeper(
        said["keep"],
        keep_for=said["keep_for"],
        key=said["key"],
        most=said["keep_most"] * 2**20,
        rate=said["sample"] / 100,
        salt=said["salt"],
        policy="" if said["redact"] is None else said["redact"].digest,
    )


class Opened(click.ParamType[Any]):
    """A file that is read when the process starts: one that cannot be used is said at once."""

    name = "file"

    def __init__(self, read: Callable[[Path], Any]) -> None:
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """What the file holds."""
        try:
            return self._read(Path(value))
        except ValueError as trouble:
            self.fail(str(trouble), param, ctx)


class Lasting(click.ParamType[timedelta]):
    """A time such as 24h, 90m or 7d."""

    name = "time"
    units = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}  # noqa: RUF012 - read only

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """The time; one that nothing may be kept for is refused."""
        written = re.fullmatch(r"([0-9]{1,5})([mhd])", str(value))
        found = int(written[1]) * self.units[written[2]] if written else timedelta(0)
        if not timedelta(0) < found <= segments.LONGEST:
            self.fail(f'expected a time such as "24h", of at most 7d, got "{value}"', param, ctx)
        return found


@click.command(context_settings={"max_content_width": 100})
@click.option(
    "--models",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with the model files that runs may name; nothing outside it is opened.",
)
@click.option(
    "--memory",
    default=MEMORY // 2**20,
    show_default=True,
    type=click.IntRange(1, 1_048_576),
    help="MiB for the models of all runs at once. Two that do not fit together take turns.",
)
@click.option(
    "--endpoint",
    multiple=True,
    metavar="HOST:PORT",
    help="A model server that runs may name; none by default. Never one that serves users. Repeatable.",
)
@click.option(
    "--bind", default="127.0.0.1", show_default=True, help="Address of both doors; a pod needs 0.0.0.0."
)
@click.option("--port", default=8080, show_default=True, help="Where mirrored requests arrive.")
@click.option("--control-port", default=8081, show_default=True, help="Where the controller asks.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--threads", default=1, show_default=True, help="Of torch, on a CPU.")
@click.option(
    "--budget",
    default=recording.BUDGET // 2**20,
    show_default=True,
    type=click.IntRange(1, 1_048_576),
    help="MiB of requests that are held at once; beyond it they are dropped and counted.",
)
@click.option(
    "--largest",
    default=recording.MOST // 2**10,
    show_default=True,
    type=click.IntRange(1, 1_048_576),
    help="KiB of one request. Envoy mirrors none that is larger than its buffer (1 MiB).",
)
@click.option(
    "--sample",
    default=100.0,
    show_default=True,
    type=click.FloatRange(0, 100),
    help="Percent of requests that are kept, chosen by a hash of their id.",
)
@click.option("--salt", default="", help="Of that hash: another one keeps other requests.")
@click.option(
    "--redact",
    type=Opened(redact.read),
    metavar="FILE",
    help="What must not be recorded as it is, as YAML or JSON: docs/shadow.md has an example.",
)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for segments: what is replayed is kept there as well. Without it, memory only.",
)
@click.option("--keep-for", default="24h", show_default=True, type=Lasting(), help="How long; 7d at most.")
@click.option(
    "--keep-most",
    default=keeping.ROOM // 2**20,
    show_default=True,
    type=click.IntRange(1, 1_048_576),
    help="MiB of segments; the oldest go before there are more.",
)
@click.option(
    "--key",
    type=Opened(keys.read),
    metavar="FILE",
    help="Encrypts segments: 32 random bytes, also in base64 or hexadecimal (openssl rand -base64 32).",
)
@click.option(
    "--state",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    help="Folder in which it keeps how far each run came: a restarted worker goes on from there.",
)
def main(**said: Any) -> None:
    """Record mirrored requests, replay them on two models, say how the answers differ.

    No request is written to disk without --keep. Models are safetensors files with an architecture that is
    known here, ONNX files, or servers of the Open Inference Protocol that --endpoint allows; pickles are
    refused. See docs/operations.md.
    """
    if said["keep"] is None and said["key"] is not None:
        raise click.UsageError("--key: nothing is kept that it could encrypt; give --keep DIR as well")
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    )
    asyncio.run(run(said))


if __name__ == "__main__":
    main()
