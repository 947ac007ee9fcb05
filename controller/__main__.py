"""The controller as a process: settings -> the real world -> run until SIGTERM."""

import asyncio
import gc
import signal
import sys
from importlib.metadata import version

import structlog

from controller import tracing
from controller.http import outside
from controller.operate import Operator
from controller.ports import Outside
from controller.settings import Settings
from controller.telemetry import start_logging
from controller.web import Answers, serving

log = structlog.get_logger(__name__)

# Objects that are there and were not when Python last looked for cycles among the new ones; among all of them
# it looks a thousand times more seldom. By default (700, 10, 10) it went through all that a thousand canaries
# have every few seconds, for half a second each time. What is evidence has no cycles.
CYCLES = (50_000, 20, 50)


async def operate(settings: Settings, outside: Outside, stop: asyncio.Event) -> None:
    """Canaries are looked after until `stop` is set; the Lease is then released."""
    await Operator(settings, outside).operate(stop)


async def run(settings: Settings) -> None:
    """The process: connected to its cluster, with its page, until SIGTERM or Ctrl-C."""
    start_logging(settings.log_format, level=settings.log_level)
    gc.freeze()  # modules stay
    gc.set_threshold(*CYCLES)
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    agent = f"serin-controller/{version('serin')} ({settings.identity})"
    kubeconfig = None if settings.kubeconfig is None else str(settings.kubeconfig)
    async with outside(
        agent=agent, kubeconfig=kubeconfig, context=settings.context, receivers=settings.receivers
    ) as world:
        operator = Operator(settings, world)
        operator.tracing = tracing.begun(operator.telemetry.spans, identity=settings.identity)
        async with serving(_answers(operator), settings.bind, settings.port) as url:
            log.info("started", identity=settings.identity, page=url)
            await operator.operate(stop)
    if operator.tracing is not None:
        operator.tracing.close()
    log.info("stopped", identity=settings.identity)


def _answers(operator: Operator) -> Answers:
    return Answers(
        idle=operator.idle,
        lists=operator.lists,
        metrics=operator.telemetry.page,
        runs=lambda: list(operator.cluster.all("canaryruns")),
        trace=operator.traces.of,
        shards=operator.shards,
    )


def main() -> None:
    """`python -m controller`: the same as `serin controller`."""
    from controller.cli import main as serin

    serin(["controller", *sys.argv[1:]])


if __name__ == "__main__":
    main()
