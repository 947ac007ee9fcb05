"""A live story's page: where it is, and that it stays for whoever sits there, and for nobody else."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scenarios import lasting

THERE: Any = SimpleNamespace(
    folder=Path("/tmp/lab"),
    replicas=SimpleNamespace(urls=["http://127.0.0.1:8080"]),
    over=SimpleNamespace(outcome="RolledBack"),
)
NOBODY: Any = SimpleNamespace(folder=Path("/tmp/lab"), replicas=None)


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """What is written there, somebody types."""
    theirs, ours = os.openpty()
    with os.fdopen(ours) as typed:
        monkeypatch.setattr(sys, "stdin", typed)
        monkeypatch.setattr(lasting, "attended", typed.isatty)
        yield theirs
    os.close(theirs)


def test_serin_is_named_by_its_path_where_no_folder_of_path_has_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`make demo` leaves PATH alone, so that what it said to type was "command not found"."""
    monkeypatch.setenv("PATH", str(tmp_path))
    typed = lasting.announced(THERE)[-1].split()[3]
    assert Path(typed).is_absolute()
    assert Path(typed).exists()


def test_serin_is_named_by_its_path_where_path_leads_to_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An older one of /usr/local/bin would have been asked about a run whose fields it does not know."""
    (tmp_path / "serin").write_text("#!/bin/sh\n")
    (tmp_path / "serin").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert lasting.serin() == str(Path(sys.executable).with_name("serin"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{tmp_path}")
    assert lasting.serin() == "serin"


def test_the_address_of_the_page_is_said_and_a_command_that_explains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert lasting.announced(THERE) == [
        "Watch it in a browser while it goes: http://127.0.0.1:8080/",
        "or type: KUBECONFIG=/tmp/lab/kubeconfig serin explain model-canary -n lab",
    ]
    assert lasting.announced(NOBODY) == []


@pytest.mark.parametrize("end", ["Enter", "Ctrl-C"])
def test_the_page_stays_until_somebody_has_seen_it(keyboard: int, end: str) -> None:
    said: list[str] = []

    async def look() -> None:
        before = signal.getsignal(signal.SIGINT)
        staying = asyncio.ensure_future(lasting.stays(THERE, said.append))
        await asyncio.sleep(0.1)
        assert not staying.done()
        os.write(keyboard, b"\n") if end == "Enter" else os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(staying, 5)
        assert signal.getsignal(signal.SIGINT) is before

    asyncio.run(look())
    (line,) = said
    assert line.startswith("Over: RolledBack; its page stays at http://127.0.0.1:8080/ until you press Enter")


@pytest.mark.usefixtures("keyboard")
def test_it_ends_by_itself_where_nobody_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lasting, "LOOKED_AT", 0.05)
    asyncio.run(asyncio.wait_for(lasting.stays(THERE, lambda _: None), 5))


def test_where_nobody_sits_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """CI has no keyboard."""
    said: list[str] = []
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        asyncio.run(asyncio.wait_for(lasting.stays(THERE, said.append), 5))
    assert said == []


def test_the_logs_of_a_story_that_ended_otherwise_stay_and_it_is_said(tmp_path: Path) -> None:
    """They stayed, and nothing said so."""
    lines: list[str] = []
    folder = tmp_path / "lab" / "x-1"
    for ok, lost, stays in ((False, 0, True), (True, 1, True), (True, 0, False)):
        found: Any = SimpleNamespace(ok=ok, requests=SimpleNamespace(failed=lost))
        folder.mkdir(parents=True, exist_ok=True)
        lines.clear()
        lasting.settled(folder, found, lines.append)
        assert folder.exists() == stays
        assert [str(folder) in line for line in lines] == ([True] if stays else [])
