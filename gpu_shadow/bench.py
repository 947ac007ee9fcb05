"""`python -m gpu_shadow.bench`: what is promised of shadow replay, measured, each as a ratio of one run.

On a GPU as well, where there is one: `--gpu` measures that alone, `--cpu` the rest alone.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, and what it was to be."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is what it was to be."""
        low = self.at_least is None or self.value >= self.at_least
        return low and (self.at_most is None or self.value <= self.at_most)

    def __str__(self) -> str:
        wanted = "" if self.at_least is None else f" (at least {self.at_least:g})"
        wanted = wanted if self.at_most is None else f" (at most {self.at_most:g})"
        said = "" if not wanted else "ok " if self.ok else "NOT"
        return f"{said:4}{self.name}: {self.value:.4g} {self.unit}{wanted}"


def seconds(work: Callable[[], object], *, times: int = 5) -> float:
    """CPU seconds, the least of some runs: what others do on this machine is not ours."""
    taken = []
    for _ in range(times):
        begun = time.process_time()
        work()
        taken.append(time.process_time() - begun)
    return min(taken)


def main() -> None:
    """Prints a line a figure; ends with 1 if one is not what it was to be."""
    parser = argparse.ArgumentParser(prog="python -m gpu_shadow.bench", description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="what the CPU takes, alone")
    parser.add_argument("--gpu", action="store_true", help="what the GPU takes, alone")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 2**31, help="of all chances")
    asked = parser.parse_args()
    print(f"torch {torch.__version__}, seed {asked.seed}", flush=True)
    ok = True
    for row in _rows(asked.seed, cpu=not asked.gpu, gpu=not asked.cpu):
        print(row, flush=True)
        ok &= row.ok
    sys.exit(0 if ok else 1)


def _rows(seed: int, *, cpu: bool, gpu: bool) -> Iterator[Row]:
    if cpu:
        from gpu_shadow import bench_cpu, bench_door, bench_inputs, bench_replay

        yield from bench_door.rows(seed)
        yield from bench_replay.rows(seed)
        yield from bench_inputs.rows(seed)
        yield from bench_cpu.rows(seed)
    if gpu and torch.cuda.is_available():
        from gpu_shadow import bench_gpu

        print(torch.cuda.get_device_name(), flush=True)
        yield from bench_gpu.rows(seed)


if __name__ == "__main__":
    main()
