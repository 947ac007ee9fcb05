"""What the targets have in common: a target, and libFuzzer on one of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import atheris


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
    atheris.Setup([*argv[:1], f"-dict={known}", *argv[1:]], targets[name].run)
    atheris.Fuzz()
