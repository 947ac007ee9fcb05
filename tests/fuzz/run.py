"""All targets for some time, two at once: `make fuzz SECONDS=90`, or `python tests/fuzz/run.py 90 door`.

`python tests/fuzz/run.py runs=100000 annotations policy` tries so many inputs of each instead. A new clone
tries the same inputs each time, as far as it comes, so that a change is judged by what it changed; whoever
hunts for what nobody has found gives another seed: `make fuzz SECONDS=3600 SEED=$RANDOM`.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".lab" / "fuzz"  # what was found in other runs, and inputs that broke something
# The worker's inputs and the controller's, each with the MiB that a target may take: torch has hundreds.
MEMORY = {"targets": 2_048, "steering": 512}
# Atheris keeps what comparisons of numpy return, 11 kB for each checkpoint; without it nothing grows.
HOARDED = {"checkpoint": 2_048}
NAMES = {
    **dict.fromkeys(
        ("protocol", "jsonl", "door", "segment", "model", "onnx", "baseline", "question", "answer", "reply"),
        "targets",
    ),
    **dict.fromkeys(("annotations", "policy", "run", "checkpoint", "ticks", "text", "delimited"), "steering"),
    **dict.fromkeys(("followed", "answered", "prometheus"), "steering"),
}
AT_ONCE = 2
PATIENCE = 10  # seconds that one input may take
STARTING = 120  # seconds at most until torch is there and seeds are read
HOURS = 7_200  # seconds that a target may take for a number of inputs


async def fuzzed(name: str, *, seconds: int, runs: int, seed: int, free: asyncio.Semaphore) -> bool:
    """Whether the target held; what it said is printed if not."""
    corpus = KEPT / name
    corpus.mkdir(parents=True, exist_ok=True)
    limit = f"-runs={runs}" if runs else f"-max_total_time={seconds}"
    limits = [
        limit,
        f"-seed={seed}",
        f"-rss_limit_mb={HOARDED.get(name, MEMORY[NAMES[name]])}",
        f"-timeout={PATIENCE}",
    ]
    argv = [ROOT / f"tests/fuzz/{NAMES[name]}.py", name, *limits, f"-artifact_prefix={KEPT}/{name}-", corpus]
    async with free:
        with tempfile.TemporaryDirectory(prefix="serin-fuzz-") as room:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *map(str, argv),
                cwd=ROOT,
                env=os.environ | {"TMPDIR": room, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            try:
                said, _ = await asyncio.wait_for(process.communicate(), (seconds or HOURS) + STARTING)
            except TimeoutError:
                process.kill()
                said = b"it did not end"
    lines = said.decode(errors="replace").splitlines()
    last = [line for line in lines if "\tDONE " in line]
    done = [line for line in lines if line.startswith("Done ")] + [line[line.find("rss:") :] for line in last]
    print(f"{name}: {'holds; ' + ' '.join(done) if process.returncode == 0 else 'BROKEN'}", flush=True)
    if process.returncode != 0:
        print("\n".join(lines[-60:]), flush=True)
    return process.returncode == 0


async def main(given: argparse.Namespace) -> int:
    """0 if all targets held, 1 if not."""
    limit, names = given.limit, given.names or list(NAMES)
    runs = int(limit.removeprefix("runs=")) if limit.startswith("runs=") else 0
    each = 0 if runs else max(1, int(limit) * AT_ONCE // len(names))
    free = asyncio.Semaphore(1 if runs else AT_ONCE)
    tried = (fuzzed(name, seconds=each, runs=runs, seed=given.seed, free=free) for name in names)
    if all(await asyncio.gather(*tried)):
        return 0
    print(f"what broke them is in {KEPT}: python tests/fuzz/SCRIPT.py NAME FILE plays it again")
    return 1


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python tests/fuzz/run.py", description=__doc__)
    parser.add_argument("limit", help="seconds for all together, or runs=N: so many inputs of each")
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="targets (all)", metavar="name")
    parser.add_argument("--seed", type=int, default=1, help="where the hunt begins (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(asyncio.run(main(arguments().parse_args())))
