"""A replay for a person at a desk, or for one pod of many: what is asked, how far it came, what it says."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import file_digest
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from analysis.judge import Verdict
from gpu_shadow.batches import Cut, answers
from gpu_shadow.compare import Comparison, Margins
from gpu_shadow.endpoints import opened as reached
from gpu_shadow.model import Model, Refused
from gpu_shadow.models import load
from gpu_shadow.progress import SHOWN, Progress, Unusable, read, unlike, whole
from gpu_shadow.replay import HELD, LOOK, Replay
from gpu_shadow.requests import BadRequests, Block, Requests, found
from gpu_shadow.said import Said, Source, told
from gpu_shadow.turns import both
from gpu_shadow.worker import Allowed, margins_of
from gpu_shadow.worker import device as device_of

Json = Any
UNREADABLE = "that are no requests of the protocol"
EXPECTED = (
    "give segments that a worker recorded, folders of them, or .jsonl files, unpacked, with a request of the"
    ' Open Inference Protocol a line: {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32",'
    ' "data": [1, 2]}]}'
)
PROBED = 64  # requests that are read to find one that the models take
ALPHA, BETA = Margins().alpha, Margins().beta


def opened(
    stable: str, canary: str, *, models: Path, device: torch.device, memory: int
) -> tuple[Model, Model]:
    """Both models: files, by path or as references to what lies below `models`, or servers.

    Two that do not fit into `memory` bytes together take turns. Raises `Refused`.
    """
    references = [_reference(one) for one in (stable, canary)]

    def load_one(reference: str) -> Model:
        if reference.startswith("http://"):  # whoever types it allows it
            return reached(reference, [urlsplit(reference.partition("@")[0]).netloc], production=())
        folder = models if reference in {stable, canary} else Path("/")  # a path that is typed is one's own
        return load(reference, folder, device=device)

    found, _ = both(references, load_one, memory=memory, free=memory)
    return found[0], found[1]


def _reference(said: str) -> str:
    """The model's reference, with its digest; raises `Refused`."""
    if "://" in said:
        return said
    path = Path(said).absolute()
    try:
        with path.open("rb") as file:
            return f"file://{path}@sha256:{file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise Refused(f"{said}: cannot be read ({error.strerror}); name a model's file") from None


def question(replay: Replay, requests: Requests, *, seed: int) -> Mapping[str, Json]:
    """All that a comparison depends on; the keys are words for people."""
    margins = replay.margins
    return {
        "stable model": replay.stable.digest,
        "canary model": replay.canary.digest,
        "task": margins.task,
        "margins": {"maxFlips": margins.max_flips, "alpha": margins.alpha, "beta": margins.beta},
        "requests": {
            "sha256": requests.digest,
            "count": len(requests),
            "redacted": list(requests.redacted),
        },
        "seed": seed,
        "block size": replay.look,
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

    @property
    def takes(self) -> str:
        """What each model takes, in a sentence, where that is not the same; else ""."""
        stable, canary = self.replay.stable.takes, self.replay.canary.takes
        return f"The canary takes {canary}, stable {stable}." if "" != stable != canary != "" else ""

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
            raise BadRequests(f"none of {progress.came} {_nothing(progress)}")


def _nothing(progress: Progress) -> str:
    """Why nothing could be compared; of what holds no request at all, what should have been given."""
    why = " ".join(_left_over(progress)) or "Stable itself has no finite answer to any."
    if progress.left_out.get(UNREADABLE, 0) < progress.came:
        return f"requests could be compared. {why}"
    return f"lines in {progress.names['requests']} is a request; {EXPECTED}. {why}"


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
    memory: int,
    max_flips: float,
    everything: bool,
    seed: int,
    device: str,
    threads: int,
    part: int,
    parts: int,
    state: Path | None,
    block: int = 0,
) -> Job:
    """The replay that is asked for, from where `state` says it came to. Raises what is wrong with a file."""
    torch.set_num_threads(threads)
    first, other = opened(stable, canary, models=models, device=_device(device), memory=memory * 2**20)
    replay = Replay(first, other, margins_of(Allowed(max_flips, ALPHA, BETA), first, other))
    replay.stops = parts == 1 and not everything
    requests = found(paths, seed=seed, key=key)
    replay.look = block or _block(replay, requests)
    blocks = requests.blocks(replay.look, part=part, parts=parts)
    begun = Progress(
        question=question(replay, requests, seed=seed),
        comparison=Comparison(task=replay.margins.task),
        names={"stable": stable, "canary": canary, "requests": " ".join(map(str, paths))} | _unproven(replay),
        part=part,
        parts=parts,
        blocks=len(blocks),
    )
    begun = begun if state is None else kept(state, begun)
    replay.resume(begun.comparison, _of_models(begun))
    return Job(replay=replay, blocks=blocks, begun=begun, requests=sum(one.requests for one in blocks))


def _block(replay: Replay, requests: Requests) -> int:
    """How many requests are replayed at once: so that answers are held, and in seconds rather than minutes.

    The same for every part: it is the same first request that is asked how large an answer is.
    """
    model = replay.stable
    for block in requests.blocks(PROBED):
        rows = [row for one in block.read()[0] if not isinstance(row := model.fit(one.tensors), str)]
        if rows:
            wide = answers(model, rows[:1], Cut(1)).values.shape[-1]
            model.rest()
            return min(replay.turn, max(1, HELD // max(wide, 1)))
    return LOOK  # nothing will be compared


def _unproven(replay: Replay) -> dict[str, str]:
    sides = {"stable": replay.stable, "the canary": replay.canary}
    named = [name for name, one in sides.items() if one.unproven]
    return {"unproven": " and of ".join(named)} if named else {}


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
    if "unproven" in progress.names:
        yield f"Nobody proves the digest of {progress.names['unproven']}: the server says none."
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
