"""Every command that the docs show is typed here as it stands there, or a comment beside it says why not.

A block of commands runs in a bash of its own that ends at the first one that fails; the exit code that a
comment in it promises is the one it has to end with. The folder has what the pages speak of. The cluster is
an emulated one in a process of its own, with a controller in another; `serin` and kubectl are the installed
ones.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from scenarios.live import artifacts, digits

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
BLOCK = re.compile(
    r"(?:<!-- not run by tests: (?P<why>[^>]+?) -->\n *)?"
    r"```(?P<kind>sh|bash|shell|console)\n(?P<commands>.*?)```",
    re.DOTALL,
)
# Typed from the first to the last, there.
IN_ORDER = dict.fromkeys(("docs/install.md", "docs/quickstart.md"), "tests/adapters/test_install.py") | {
    "docs/adopting.md": "tests/adapters/test_adopting.py"
}
PROMISED = re.compile(r"# exit code (\d)")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LONGEST = 120  # seconds of a block; most take one or two


@dataclass(frozen=True)
class Block:
    """Some commands of a page."""

    page: str
    line: int
    commands: str
    why: str  # not run

    def __str__(self) -> str:
        """Where it stands."""
        return f"{self.page}:{self.line}"


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start("commands")) + 1
            found.append(
                Block(str(page.relative_to(ROOT)), line, block["commands"], (block["why"] or "").strip())
            )
    return found


@dataclass(frozen=True)
class Terminal:
    """Somebody in a folder, before a cluster."""

    folder: Path
    environment: dict[str, str]

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        """`serin` in a terminal of its own."""
        with (self.folder / f"{words[0]}.log").open("wb") as out:
            return subprocess.Popen([BIN / "serin", *words], **self._here(), stdout=out, stderr=out)

    def types(self, commands: str, *, code: int = 0) -> str:
        """What the commands print; what they leave in the background ends with them."""
        with (self.folder / "said.log").open("wb") as out:
            bash = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", commands],
                **self._here(),
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            ended = bash.wait(LONGEST)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(bash.pid, signal.SIGTERM)
        said = (self.folder / "said.log").read_text()
        assert ended == code, f"{commands}\n{said}"
        return said

    def waits(self, command: str) -> None:
        """Until it succeeds."""
        self.types(f"until {command} >/dev/null 2>&1; do sleep 0.2; done")

    def _here(self) -> dict[str, Any]:
        return {"cwd": self.folder, "env": self.environment}


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    folder = tmp_path_factory.mktemp("desk")
    path = f"{BIN}:{os.environ['PATH']}"
    somebody = Terminal(
        folder, os.environ | {"HOME": str(folder), "PATH": path, "KUBECONFIG": "serin.kubeconfig"}
    )
    for each in ("controller", "manifests", "scenarios"):
        (folder / each).symlink_to(ROOT / each)
    (folder / "my_server").mkdir()
    _recorded(folder)
    _trained(folder)
    started = []
    try:
        started.append(somebody.start("scenario", "cluster"))
        somebody.waits("kubectl get namespace default")
        somebody.types("kubectl apply --server-side -k manifests/samples")
        somebody.types("kubectl config set-context --current --namespace models")
        started.append(somebody.start("controller", "--kubeconfig", "serin.kubeconfig", "--port", "0"))
        somebody.waits("kubectl get canaryruns -o name | grep .")
        yield somebody
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGINT)
            process.wait(LONGEST)


def _recorded(folder: Path) -> None:
    """Two models, requests for them, and answers of two others."""
    for version, name in {"v7": digits.MODEL, "v8": digits.REQUANTISED}.items():
        (folder / f"{version}.safetensors").write_bytes(artifacts.contents(name))
    model = digits.load()
    requests = [
        {"inputs": [{"name": model.input, "shape": [1, 64], "datatype": "FP32", "data": picture}]}
        for picture in model.pictures[:200].tolist()
    ]
    (folder / "day.jsonl").write_text("".join(json.dumps(each) + "\n" for each in requests))
    (folder / "request.json").write_text(json.dumps(requests[0]))
    answers = np.random.default_rng(7).normal(size=(3000, 10)).astype(np.float32)
    for name in ("stable", "again", "canary"):
        save_file({"output": answers}, folder / f"{name}.safetensors")


def _trained(folder: Path) -> None:
    """A training set, and a week in which a feature was another."""
    rows = np.random.default_rng(7).normal(size=(2000, 2)).tolist()
    (folder / "training.csv").write_text(
        "age,income\n" + "".join(f"{age},{income}\n" for age, income in rows)
    )
    week = [json.dumps({"age": age + 3, "income": income}) + "\n" for age, income in rows]
    (folder / "last-week.jsonl").write_text("".join(week))


RUN = [block for block in blocks() if not block.why and block.page not in IN_ORDER]


def test_pages_that_are_typed_in_order_are_typed_where_it_says() -> None:
    for page, test in IN_ORDER.items():
        assert f'"docs" / "{Path(page).name}"' in (ROOT / test).read_text()
    assert len(RUN) >= 8


@pytest.mark.parametrize("page", IN_ORDER)
def test_pages_that_are_typed_in_order_have_no_block_that_is_passed_over(page: str) -> None:
    """Four blocks of install.md were `console`, so that nobody typed them, and nothing said why."""
    found = [block for block in BLOCK.finditer((ROOT / page).read_text()) if not block["why"]]
    assert found
    assert [block["commands"] for block in found if block["kind"] != "sh"] == []


def test_no_block_waits_for_a_time_instead_of_for_what_it_needs() -> None:
    """`sleep 10` was as long as a segment lasts, so that on a busy machine there was none yet to replay."""
    assert [str(block) for block in RUN if re.search(r"^sleep\b", block.commands, re.MULTILINE)] == []


@pytest.mark.parametrize("block", RUN, ids=str)
def test_the_commands_do_what_they_promise(block: Block, terminal: Terminal) -> None:
    promised = PROMISED.search(block.commands)
    run = terminal.types("kubectl get canaryruns -o name | head -1 | cut -d/ -f2").strip()
    commands = re.sub(r"\bcrun NAME\b", f"crun {run}", block.commands)
    terminal.types(commands, code=int(promised[1]) if promised else 0)


def test_the_command_for_frozen_namespaces_shows_which_are(terminal: Terminal) -> None:
    """The shell took its backslash, and every namespace seemed to be free."""
    (typed,) = re.findall(r"`(kubectl get ns [^`]+)`", (ROOT / "docs" / "troubleshooting.md").read_text())
    terminal.types("kubectl annotate namespace models serin.dev/freeze=true")
    try:
        assert re.search(r"^models +true$", terminal.types(typed), re.MULTILINE)
    finally:
        terminal.types("kubectl annotate namespace models serin.dev/freeze-")
