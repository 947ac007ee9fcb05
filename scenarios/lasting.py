"""What of a live story lasts: its page, until who looks on has seen its end, and logs that are to be read.

The page only where somebody sits at a terminal: nobody presses a key in CI.
"""

import asyncio
import contextlib
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scenarios.objects import CANARY, NAMESPACE

if TYPE_CHECKING:
    from scenarios.lab import Lab
    from scenarios.result import Result

Say = Callable[[str], None]
LOOKED_AT = 300.0  # seconds at most: what ends by itself does so where nobody comes back, too


def announced(there: "Lab") -> list[str]:
    """Where the story can be looked at while it goes, line by line; empty if no replica serves a page."""
    found = [f"Watch it in a browser while it goes: {url}/" for url in urls(there)]
    typed = f"KUBECONFIG={there.folder / 'kubeconfig'} {serin()} explain {CANARY} -n {NAMESPACE}"
    return [*found, f"or type: {typed}"] if found else []


def serin() -> str:
    """What to type for `serin`: that, where PATH leads to ours; else our path, as no other one will do."""
    ours = Path(sys.executable).with_name("serin")
    found = shutil.which("serin")
    return str(ours) if ours.exists() and not (found and Path(found).samefile(ours)) else "serin"


def urls(there: "Lab") -> Sequence[str]:
    """Of the replicas' pages."""
    return there.replicas.urls if there.replicas else ()


def attended() -> bool:
    """Whether somebody sits there who can press a key."""
    return sys.stdin.isatty() and sys.stdout.isatty()


async def stays(there: "Lab", say: Say) -> None:
    """The page has been looked at: somebody pressed Enter or Ctrl-C, or had the time to, or nobody could."""
    if not (pages := urls(there)) or not attended():
        return
    outcome = f"Over: {there.over.outcome}" if there.over else "Over"
    say(
        f"{outcome}; its page stays at {pages[0]}/ until you press Enter, or for {LOOKED_AT / 60:g} minutes."
        " The story's table follows then; what the page shows meanwhile is after its end."
    )
    loop, seen, before = asyncio.get_running_loop(), asyncio.Event(), signal.getsignal(signal.SIGINT)

    def pressed() -> None:
        sys.stdin.readline()
        seen.set()

    loop.add_reader(sys.stdin.fileno(), pressed)
    loop.add_signal_handler(signal.SIGINT, seen.set)
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(seen.wait(), LOOKED_AT)
    finally:
        loop.remove_reader(sys.stdin.fileno())
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)  # the runner's own, which cancels


def settled(folder: Path, found: "Result", report: Say | None) -> None:
    """The folder is gone, or it is said that it stays: of a story that ended otherwise, or lost requests."""
    if found.ok and not found.requests.failed:
        removed(folder)
    elif report is not None:
        report(f"what its processes wrote stays in {folder}; remove it when you have read it")


def removed(folder: Path) -> None:
    """The folder is gone, and the one for all, unless other stories' logs are there."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()
