"""What the targets have in common: a target, and libFuzzer on one of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import atheris

from tests.fuzz import nodes

AS_JSON = 0.8  # of the changes, where there is any JSON
DEPTH = 2  # changes of one input; of more, little is left that a reader goes into


@dataclass(frozen=True)
class Target:
    """What is tried, from which beginnings; whatever it raises is a bug."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


def fuzz(argv: list[str], targets: Mapping[str, Target], *, words: Sequence[str], room: Path) -> None:
    """Does not return: libFuzzer ends the process. A corpus gets the seeds first; `words` are tried often."""
    name = argv.pop(1)
    if Path(argv[-1]).is_dir():
        for number, seed in enumerate(targets[name].seeds):
            (Path(argv[-1]) / f"seed-{number}").write_bytes(seed)
    known = room / "words"
    known.write_text("".join(f"{json.dumps(word)}\n".replace("\\r\\n", r"\x0d\x0a") for word in words))

    def changed(given: bytes, most: int, seed: int) -> bytes:
        chance = Random(seed)
        after = nodes.changed(given, chance, words) if chance.random() < AS_JSON else None
        return after if after is not None and len(after) <= most else atheris.Mutate(given, most)

    longest = max(4096, 4 * max(map(len, targets[name].seeds)))
    given = [f"-dict={known}", f"-mutate_depth={DEPTH}", f"-max_len={longest}"]
    atheris.Setup(
        [*argv[:1], *given, *argv[1:]],
        targets[name].run,
        custom_mutator=changed,
    )
    atheris.Fuzz()
