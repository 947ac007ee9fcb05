"""`python -m scenarios.scale.sampled FILE MODULE ARGUMENT...`: the module, and where its processor time went.

Every five milliseconds of processor time the stack is looked at, from the beginning or from the last SIGUSR1
to SIGUSR2. FILE gets a line for each different one at the end, as flame graphs want it: functions from the
outside in, and how often.
"""

import runpy
import signal
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

EVERY = 0.005  # seconds of processor time
ROOT = str(Path(__file__).parents[2]) + "/"

Stack = tuple[CodeType, ...]


def _stack(frame: FrameType | None) -> Stack:
    found = []
    while frame is not None:
        found.append(frame.f_code)
        frame = frame.f_back
    return tuple(reversed(found))


def _name(code: CodeType) -> str:
    path = code.co_filename.removeprefix(ROOT)
    return f"{path.rpartition('site-packages/')[2].rpartition('python3.11/')[2]}:{code.co_name}"


def run(file: Path, module: str) -> None:
    """The module has run, and `file` says where the time went."""
    stacks: Counter[Stack] = Counter()
    signal.signal(signal.SIGPROF, lambda _number, frame: stacks.update([_stack(frame)]))
    signal.signal(signal.SIGUSR1, lambda _number, _frame: stacks.clear())
    signal.signal(signal.SIGUSR2, lambda _number, _frame: signal.setitimer(signal.ITIMER_PROF, 0))
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))  # unless the module has its own way
    signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        folded = (f"{';'.join(map(_name, stack))} {count}\n" for stack, count in stacks.items())
        file.write_text("".join(folded))


if __name__ == "__main__":
    file, module = sys.argv[1:3]
    del sys.argv[1:3]
    run(Path(file), module)
