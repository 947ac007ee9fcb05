"""Processes of the lab: they die with the lab, whatever happens to it, and their words go to files."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from pathlib import Path

# Run by a bare interpreter before the program takes its place: the kernel kills it when its parent
# dies (PR_SET_PDEATHSIG is 1), and it ends at once if the parent is gone already.
LEASH = (
    "import ctypes,os,sys\n"
    "ctypes.CDLL(None).prctl(1,9)\n"
    "os.getppid()==int(sys.argv[1]) or os._exit(1)\n"
    "os.execv(sys.argv[2],sys.argv[2:])"
)
GENTLE = 5.0  # seconds that a process gets to end by itself


async def start(argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> Process:
    """The program runs; what it prints is appended to `log`, and Ctrl-C at the terminal does not reach it."""
    leash = [sys.executable, "-I", "-S", "-c", LEASH, str(os.getpid()), *argv]
    with log.open("ab") as out:
        return await asyncio.create_subprocess_exec(
            *leash,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )


async def python(*argv: str, log: Path) -> Process:
    """A Python program of ours runs, with numpy on one thread: the pods share few cores."""
    env = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": _root()}
    return await start([sys.executable, *argv], log=log, env=env)


def _root() -> str:
    return os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])


async def end(process: Process | None, *, seconds: float = GENTLE) -> None:
    """The process is gone: asked first, killed if it stays."""
    if process is None or process.returncode is not None:
        return
    tell(process, signal.SIGCONT)  # a frozen one could not hear the next
    tell(process, signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), seconds)
    except TimeoutError:
        tell(process, signal.SIGKILL)
        await process.wait()


def tell(process: Process, sign: signal.Signals) -> None:
    """Sends the signal, if there still is somebody to hear it.

    Not through `Process.send_signal`: that asks first whether the process has ended, and so may take
    the answer away from the loop that waits for it.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, sign)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
