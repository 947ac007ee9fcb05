"""A replay for a person at a desk, or for one pod of many: what is asked, how far it came, what it says."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from analysis.judge import Verdict
from gpu_shadow.compare import Comparison, Margins
from gpu_shadow.models import LARGEST, Model, Refused, load
from gpu_shadow.progress import SHOWN, Progress, Unusable, read, unlike, whole
from gpu_shadow.replay import LOOK, Replay
from gpu_shadow.requests import BadRequests, Block, Requests, found
from gpu_shadow.said import Said, Source, told
from gpu_shadow.worker import Allowed, margins_of
from gpu_shadow.worker import device as device_of

Json = Any
UNREADABLE = "that are no requests of the protocol"
ALPHA, BETA = Margins().alpha, Margins().beta


def opened(said: str, models: Path, device: torch.device) -> Model:
    """The model of this name: a file's path, or a reference to one below `models`. Raises `Refused`."""
    if "://" in said:
        return load(said, models, device=device)
    path = Path(said).absolute()
    try:
        if path.stat().st_size > LARGEST:
            raise Refused(f"{said}: {path.stat().st_size} bytes, and at most {LARGEST} are loaded")
        with path.open("rb") as file:
            digest = sha256(file.read()).hexdigest()
    except OSError as error:
        raise Refused(f"{said}: cannot be read ({error.strerror}); name a safetensors file") from None
    return load(f"file://{path}@sha256:{digest}", path.parent, device=device)


def question(
    stable: Model, canary: Model, *, margins: Margins, requests: Requests, seed: int
) -> Mapping[str, Json]:
    """All that a comparison depends on; the keys are words for people."""
    return {
        "stable model": stable.digest,
        "canary model": canary.digest,
        "task": margins.task,
        "margins": {"maxFlips": margins.max_flips, "alpha": margins.alpha, "beta": margins.beta},
        "requests": {
            "sha256": requests.digest,
            "count": requests.count,
            "redacted": list(requests.redacted),
        },
        "seed": seed,
        "block size": requests.blocks[0].requests,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One part of a replay, about to go on from where it `begun`."""

    replay: Replay
    blocks: Sequence[Block]
    begun: Progress
    requests: int  # of the part, or what is left out of them

    @property
    def margins(self) -> Margins:
        """What may differ."""
        return self.replay.margins

    def replayed(self) -> Iterator[Progress]:
        """How far it came, after each of the blocks that are left; a block counts whole or not at all.

        It ends before the last one only where the replay stops when it is decided.
        """
        progress, replay = self.begun, self.replay
        for block in self.blocks[progress.done :]:
            if replay.decided and replay.stops:
                return
            some, wrong = block.read()
            replay.go_on(some)
            progress = replace(
                progress,
                comparison=replay.comparison or progress.comparison,
                done=progress.done + 1,
                left_out=_left_out(replay, wrong, progress),
                troubles=tuple(sorted({*progress.troubles, *wrong})[:SHOWN]),
            )
            yield progress
        if progress.parts == 1 and not progress.comparison.requests:
            why = " ".join(_left_over(progress)) or "Stable's own answers are not finite."
            raise BadRequests(f"none of {progress.came} requests could be compared. {why}")


def _left_out(replay: Replay, wrong: Sequence[str], progress: Progress) -> Mapping[str, int]:
    unreadable = progress.left_out.get(UNREADABLE, 0) + len(wrong)
    return dict(replay.unfit) | ({UNREADABLE: unreadable} if unreadable else {})


def prepared(
    paths: Sequence[Path],
    *,
    key: Path | None,
    stable: str,
    canary: str,
    models: Path,
    max_flips: float,
    everything: bool,
    seed: int,
    device: str,
    threads: int,
    part: int,
    parts: int,
    state: Path | None,
    block: int = LOOK,
) -> Job:
    """The replay that is asked for, from where `state` says it came to. Raises what is wrong with a file."""
    torch.set_num_threads(threads)
    where = _device(device)
    first, other = (opened(each, models, where) for each in (stable, canary))
    allowed = margins_of(Allowed(max_flips, ALPHA, BETA), first, other)
    requests = found(paths, seed=seed, block=block, key=key)
    blocks = requests.part(part, parts)
    asked = question(first, other, margins=allowed, requests=requests, seed=seed)
    begun = Progress(
        question=asked,
        comparison=Comparison(task=allowed.task),
        names={"stable": stable, "canary": canary, "requests": " ".join(map(str, paths))},
        part=part,
        parts=parts,
        blocks=len(blocks),
    )
    begun = begun if state is None else kept(state, begun)
    return Job(
        replay=Replay(
            first,
            other,
            allowed,
            comparison=begun.comparison,
            unfit=Counter(_of_models(begun)),
            stops=parts == 1 and not everything,
        ),
        blocks=blocks,
        begun=begun,
        requests=sum(block.requests for block in blocks),
    )


def kept(state: Path, begun: Progress) -> Progress:
    """How far the file says it came, of this very question; `begun` if there is none. Raises `Unusable`."""
    if not state.exists():
        return begun
    there = read(state)
    differs = unlike(begun.question, there.question)
    if not differs and (there.part, there.parts) != (begun.part, begun.parts):
        differs = f"part {there.part}/{there.parts} is"
    if differs:
        raise Unusable(
            f"{state}: is of another replay: its {differs} not what is asked; delete it or name another"
        )
    return there


def _device(said: str) -> torch.device:
    try:
        where = device_of(said)
        torch.empty(1, device=where)
    except (RuntimeError, AssertionError) as error:
        raise Refused(
            f"--device {said}: {str(error).splitlines()[0]}; expected auto, cpu, cuda or cuda:N"
        ) from None
    return where


def _of_models(progress: Progress) -> Mapping[str, int]:
    """What the stable model does not take, by reason."""
    return {why: n for why, n in progress.left_out.items() if why != UNREADABLE}


# -- what it says ----------------------------------------------------------------------------------


def said(progress: Progress) -> Said:
    """What was compared by now, as that of two files is told and drawn."""
    asked, names = progress.question, progress.names
    digests = {
        "stable": asked["stable model"],
        "canary": asked["canary model"],
        "requests": asked["requests"]["sha256"],
    }
    return Said.of(
        progress.comparison,
        _margins(asked),
        sources=tuple(
            Source(role=role, name=names.get(role, role), sha256=each) for role, each in digests.items()
        ),
    )


def merged(parts: Mapping[str, Progress]) -> Progress:
    """All parts of a replay, by the names of their files. Raises `Unusable`."""
    together = whole(parts)
    try:
        said(together)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unusable(f"{next(iter(parts))}: is no part of a serin shadow replay ({error})") from None
    return together


def _margins(asked: Mapping[str, Json]) -> Margins:
    given = asked["margins"]
    return Margins(max_flips=given["maxFlips"], alpha=given["alpha"], beta=given["beta"], task=asked["task"])


def as_json(progress: Progress) -> Mapping[str, Json]:
    """What the finding's JSON has beside the finding; documented in docs/shadow.md."""
    asked = progress.question
    return {
        "replay": {
            "requests": asked["requests"]["count"],
            "replayed": progress.came,
            "leftOut": dict(sorted(progress.left_out.items())),
            "redacted": asked["requests"]["redacted"],
            "seed": asked["seed"],
            "complete": progress.complete,
        }
    }


def lines(progress: Progress) -> Iterator[str]:
    """The finding for people, and how it came about."""
    this = said(progress)
    yield from told(this)
    yield ""
    enough = not progress.complete and this.finding.verdict in {Verdict.PASS, Verdict.FAIL}
    more = ": it is decided, and --all replays the rest." if enough else "."
    yield f"Replayed {progress.came} of {progress.question['requests']['count']} requests{more}"
    yield from _left_over(progress)
    if redacted := progress.question["requests"]["redacted"]:
        yield f"Changed before they were stored, for both models alike: {', '.join(redacted)}."
    yield from (f"{one.role.capitalize()}: {one.name} sha256:{one.sha256}" for one in this.sources)


def part_lines(progress: Progress) -> Iterator[str]:
    """What a part says: nothing about the whole."""
    compared = (
        f"{progress.comparison.requests} requests compared, {progress.done} of {progress.blocks} blocks"
    )
    yield f"Part {progress.part} of {progress.parts}: {compared}; serin shadow merge says what all parts say."
    yield from _left_over(progress)


def _left_over(progress: Progress) -> Iterator[str]:
    """What was no request for these models, and why."""
    for why, n in sorted(progress.left_out.items()):
        shown = f": {'; '.join(progress.troubles)}" if why == UNREADABLE else ""
        yield f"Left out: {n} {why}{shown}."
