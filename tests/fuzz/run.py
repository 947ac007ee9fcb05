"""All targets for some time, two at once: `make fuzz SECONDS=60`, or `python tests/fuzz/run.py 60 door`."""

import asyncio
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".lab" / "fuzz"  # what was found in other runs, and inputs that broke something
NAMES = ("protocol", "jsonl", "door", "segment", "model", "onnx", "baseline", "question", "answer", "reply")
AT_ONCE = 2
MEMORY = 2_048  # MiB that a target may take, torch with its hundreds among them
PATIENCE = 10  # seconds that one input may take
STARTING = 120  # seconds at most until torch is there and seeds are read


async def fuzzed(name: str, seconds: int, free: asyncio.Semaphore) -> bool:
    """Whether the target held; what it said is printed if not."""
    corpus = KEPT / name
    corpus.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY}", f"-timeout={PATIENCE}"]
    argv = [ROOT / "tests/fuzz/targets.py", name, *limits, f"-artifact_prefix={KEPT}/{name}-", corpus]
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
                said, _ = await asyncio.wait_for(process.communicate(), seconds + STARTING)
            except TimeoutError:
                process.kill()
                said = b"it did not end"
    lines = said.decode(errors="replace").splitlines()
    done = [line for line in lines if line.startswith("Done ")]
    print(f"{name}: {'holds; ' + ' '.join(done) if process.returncode == 0 else 'BROKEN'}", flush=True)
    if process.returncode != 0:
        print("\n".join(lines[-60:]), flush=True)
    return process.returncode == 0


async def main(seconds: int, names: list[str]) -> int:
    """0 if all targets held, 1 if not."""
    each = max(1, seconds * AT_ONCE // len(names))
    free = asyncio.Semaphore(AT_ONCE)
    held = await asyncio.gather(*(fuzzed(name, each, free) for name in names))
    if all(held):
        return 0
    print(f"what broke them is in {KEPT}: python tests/fuzz/targets.py NAME FILE plays it again")
    return 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]), sys.argv[2:] or list(NAMES))))
