"""`make simulate SEEDS=1-1000`: histories of the whole controller in virtual time, one a seed."""

import argparse
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from scenarios.fates.fate import drawn
from scenarios.fates.history import History, history
from scenarios.fates.mutants import MUTANTS
from scenarios.fates.swaps import alive

EVERY = 10.0  # seconds between lines of progress
AT_ONCE = 8  # seeds that a process takes at a time
SHOWN = 5  # broken promises of a history; what follows on them says little more
AGAIN = "make simulate SEEDS={}"  # plays one alone


def seeds(text: str) -> range:
    """`7` or `1-1000`, both ends included."""
    first, _, last = text.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal() or int(last or first) < int(first):
        raise argparse.ArgumentTypeError(f'"{text}": expected a seed or a range such as 1-1000')
    return range(int(first), int(last or first) + 1)


def _one(seed: int) -> History:
    """The seed's history; what ends it otherwise is told as a broken promise, with its causes."""
    fate = drawn(seed)
    try:
        return history(fate)
    except Exception:  # noqa: BLE001 (the other seeds are played all the same)
        return History(fate=fate, outcome="Ended", reason="by an error", broken=(traceback.format_exc(),))


def played(wanted: Sequence[int], *, workers: int) -> Iterator[History]:
    """The histories of these seeds, in order."""
    if workers == 1:
        yield from map(_one, wanted)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(_one, wanted, chunksize=AT_ONCE)


def told(histories: Iterable[History], *, of: int) -> list[History]:
    """Those in which a promise was broken; each is printed as it comes, and what all of them came to."""
    began = said = time.monotonic()
    endings: Counter[str] = Counter()
    broken = []
    for count, one in enumerate(histories, 1):
        endings[f"{one.outcome} {one.reason or ''}".strip()] += 1
        if one.broken:
            broken.append(one)
            print(f"seed {one.fate.seed} ({one.outcome}, {one.reason}):", flush=True)
            for promise in one.broken[:SHOWN]:
                print(f"  {promise}", flush=True)
            print(f"  again: {AGAIN.format(one.fate.seed)}", flush=True)
        if time.monotonic() - said > EVERY:
            said = time.monotonic()
            left = (said - began) / count * (of - count)
            print(
                f"{count} of {of} histories, {len(broken)} broken, {left:.0f} s to go",
                file=sys.stderr,
                flush=True,
            )
    took = time.monotonic() - began
    print(f"{of} histories in {took:.0f} s, {len(broken)} with a broken promise")
    print("; ".join(f"{count} {what}" for what, count in endings.most_common()))
    return broken


def caught(name: str, wanted: Sequence[int]) -> tuple[int, str] | None:
    """The first of these seeds in which the mutant breaks a promise, and which; None if it never does."""
    with alive(MUTANTS[name]):
        for seed in wanted:
            if broken := _one(seed).broken:
                return seed, broken[0].splitlines()[0]
    return None


def hunted(names: Sequence[str], wanted: Sequence[int], *, workers: int) -> list[str]:
    """The mutants that got away; of each it is printed how it was caught."""
    away = []
    with ProcessPoolExecutor(workers) as pool:
        for name, found in zip(names, pool.map(partial(caught, wanted=wanted), names), strict=True):
            where = "got away" if found is None else f"seed {found[0]}, {found[1]}"
            print(f"{name:22} {(MUTANTS[name].__doc__ or '').strip()} {where}", flush=True)
            away += [] if found else [name]
    print(f"{len(names) - len(away)} of {len(names)} mutants caught")
    return away


def main(arguments: Sequence[str] | None = None) -> int:
    """1 if a promise was broken, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m scenarios.fates",
        description="Play whole histories of the controller in virtual time and watch whether it keeps its"
        " promises. A seed gives the same history whenever it is played.",
    )
    parser.add_argument("seeds", type=seeds, help="a seed, or a range such as 1-1000")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: cores)")
    parser.add_argument(
        "--say",
        action="store_true",
        help="print the fate and what happens as it happens; so it is of a single seed",
    )
    parser.add_argument(
        "--mutants",
        nargs="*",
        metavar="NAME",
        help="instead, play the seeds with each of these faults in the controller until it is caught"
        f" (default: all of {', '.join(MUTANTS)})",
    )
    given = parser.parse_args(arguments)
    unknown = set(given.mutants or ()) - MUTANTS.keys()
    if unknown:
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}; there are {', '.join(MUTANTS)}")
    if given.mutants is not None:
        return 1 if hunted(given.mutants or list(MUTANTS), given.seeds, workers=given.workers) else 0
    if given.say or len(given.seeds) == 1:  # whoever plays one wants to see it
        for seed in given.seeds:
            fate = drawn(seed)
            print(fate.told())
            if told([history(fate, report=print)], of=1):
                return 1
        return 0
    return 1 if told(played(given.seeds, workers=given.workers), of=len(given.seeds)) else 0


if __name__ == "__main__":
    sys.exit(main())
