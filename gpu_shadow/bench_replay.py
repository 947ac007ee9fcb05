"""What is promised of a replay at a desk, measured: a process of its own, from its start to its verdict."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file

from gpu_shadow.bench import Row

REQUESTS, FEATURES, WIDE, CLASSES = 50_000, 64, 256, 10
NOISE = 1e-4  # of the canary's weights: a few answers differ


def rows(seed: int) -> Iterator[Row]:
    """A verdict over tabular requests from a JSONL file, cold, on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        _given(Path(folder), torch.Generator().manual_seed(seed))
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        said = _replayed(Path(folder))
        taken, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if said["requests"] != REQUESTS:
        raise RuntimeError(f"{said['requests']} requests were compared, not {REQUESTS}")
    of = f"verdict over {REQUESTS} requests, {FEATURES} features, cold ({said['verdict']})"
    yield Row(of, taken, at_most=60, unit="s")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    yield Row("the same, whatever else the machine did", used, at_most=60, unit="s of CPU")
    yield Row("of which Python, torch and the command start", _started(), unit="s of CPU")


def _given(folder: Path, chance: torch.Generator) -> None:
    layers = (FEATURES, WIDE, WIDE, CLASSES)
    stable = {}
    for place, (one, other) in enumerate(pairwise(layers)):
        stable[f"{2 * place}.weight"] = torch.randn(other, one, generator=chance) / one**0.5
        stable[f"{2 * place}.bias"] = torch.zeros(other)
    canary = {name: each + NOISE * torch.randn(each.shape, generator=chance) for name, each in stable.items()}
    for name, tensors in (("stable", stable), ("canary", canary)):
        save_file(tensors, folder / name, metadata={"architecture": "mlp", "activation": "relu"})
    with (folder / "requests.jsonl").open("w") as file:
        for number, row in enumerate(torch.randn(REQUESTS, FEATURES, generator=chance).tolist()):
            given = {"name": "x", "shape": [1, FEATURES], "datatype": "FP32", "data": row}
            file.write(json.dumps({"id": f"r{number}", "inputs": [given]}) + "\n")


def _replayed(folder: Path) -> dict[str, object]:
    asked = ("--stable", folder / "stable", "--canary", folder / "canary", "--max-flips", "2%")
    _run("replay", folder / "requests.jsonl", *asked, "--all", "--json", folder / "finding")
    found: dict[str, object] = json.loads((folder / "finding").read_text())
    return found


def _started() -> float:
    """Of a command that finds nothing to do: it ends where the work would begin."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _run("merge", "/dev/null", expected=2)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _run(*arguments: object, expected: int = 0) -> None:
    code = "from gpu_shadow.cli import shadow; shadow()"
    done = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != expected:
        raise RuntimeError(f"shadow {arguments[0]} ended with {done.returncode}: {done.stderr}")
