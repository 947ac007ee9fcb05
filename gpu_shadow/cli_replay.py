"""`serin shadow replay` and `serin shadow merge`: recorded requests through two models, whole or in parts."""

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from gpu_shadow.wording import (
    UNPASSED,
    Misused,
    installed,
    json_option,
    max_flips_option,
    plain,
    report_option,
    require_pass_option,
    tell,
    writable,
)

if TYPE_CHECKING:  # torch is imported once a command is typed, not before
    from gpu_shadow.progress import Progress
    from gpu_shadow.replaying import Job

INDEX = "JOB_COMPLETION_INDEX"  # which of an indexed Job's pods this is, from 0
EVERY = 5.0  # seconds between two writings of the state
SILENT = 2.0  # seconds of work about which nothing is said
PART = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


@click.command(short_help="Recorded requests through both models: do more answers differ than may?")
@click.argument("requests", metavar="REQUESTS…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--stable", metavar="MODEL", required=True, help="The model that serves now.")
@click.option("--canary", metavar="MODEL", required=True, help="The one that is to replace it.")
@click.option(
    "--models",
    metavar="DIR",
    default="/",
    type=click.Path(path_type=Path),
    help="Models given as file:///… are opened below it and nowhere else.",
)
@max_flips_option
@click.option("--all", "everything", is_flag=True, help="Replay all, even once it is decided.")
@click.option(
    "--seed",
    type=click.IntRange(-(2**63), 2**63 - 1),
    default=0,
    show_default=True,
    help="Of the order in which requests are replayed.",
)
@click.option(
    "--key",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The key that segments are encrypted with.",
)
@click.option(
    "--memory",
    type=click.IntRange(1, 1_048_576),
    default=4096,
    show_default=True,
    help="MiB for both models' weights. Two that do not fit together take turns.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Of torch, on a CPU."
)
@click.option(
    "--state",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Keep how far it came there, and go on from there. Survives Ctrl-C, SIGTERM and a power cut.",
)
@click.option("--part", metavar="I/N", help="Replay one of N parts of the requests, I from 1.")
@click.option(
    "--parts",
    metavar="N",
    type=click.IntRange(1, 999_999),
    help=f"The same in an indexed Job, whose {INDEX} says which.",
)
@click.option(
    "--partial",
    metavar="OUT",
    type=click.Path(path_type=Path),
    help="Write what was compared there, for `serin shadow merge`. A --state file is the same.",
)
@require_pass_option
@json_option
@report_option
def replay(
    requests: tuple[Path, ...],
    out: Path | None,
    page: Path | None,
    state: Path | None,
    partial: Path | None,
    *,
    part: str | None,
    parts: int | None,
    everything: bool,
    require_pass: bool,
    **how: Any,
) -> None:
    """Replay recorded requests on two models: do more answers differ than may?

    REQUESTS are segments that a worker recorded, or folders of them, or .jsonl files: a line is a request of
    the Open Inference Protocol v2 (or v1) as a client would post it,
    {"id": "7", "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}]}

    A MODEL is a file, safetensors whose metadata name its architecture or .onnx, by its path or as
    file:///models/v8.safetensors@sha256:DIGEST, or a server of that protocol that no user is served by,
    http://HOST:PORT/v2/models/NAME@sha256:DIGEST. Pickles are not opened: they may run any code.

    Every request is answered by stable, by stable again in other batches (what differs is noise) and by the
    canary. Pass, Fail and Inconclusive are those of `serin shadow compare`, and of a Shadow check. It stops
    as soon as that is decided; the requests' order is shuffled by --seed, the same everywhere.

    In parts: give each machine the same command with --partial OUT and --part 1/4, --part 2/4 and so on, and
    let `serin shadow merge` put the parts together, into the same bytes as one replay with --all gives. Parts
    are made of blocks of at most 2048 requests: one block alone is all in part 1.

    Ctrl-C tells what is known by then; with --state the same command goes on from there later.

    Exit codes: 0 not failed, 1 the tool failed, 2 files that cannot be read or do not match, 3 Fail,
    130 Ctrl-C, 143 SIGTERM. A part says nothing about the whole: 0 once all of it is compared.

    \b
    Examples:
      serin shadow replay monday.jsonl tuesday.jsonl --stable v7.safetensors --canary v8.safetensors
      serin shadow replay day.jsonl --stable v7.safetensors --canary v8.safetensors --max-flips 1% --json -
      serin shadow replay day.jsonl --stable v7.safetensors --canary v8.safetensors --state day.state
      serin shadow replay day.jsonl --stable v7.safetensors --canary v8.safetensors \\
        --part 1/4 --partial 1.json
    """  # noqa: D301 - click's mark for lines that stay as written
    for option, path in (("--json", out), ("--report", page), ("--state", state), ("--partial", partial)):
        writable(option, path)
    which, of = _part(part, parts)
    partly = part is not None or parts is not None  # also part 1 of 1, of a Job that was scaled to one pod
    if partly and (out is not None or page is not None or (state is None and partial is None)):
        raise Misused("a part is no finding: keep it with --partial OUT; --json is serin shadow merge's")
    with _refused("serin shadow replay"):
        from gpu_shadow import replaying
        from gpu_shadow.progress import write

        how["everything"] = everything or partly
        job = replaying.prepared(requests, part=which, parts=of, state=state, **how)
        if job.takes:
            click.echo(job.takes, err=True)
        progress, sign = _gone_through(job, state)
        if partial is not None:
            write(partial, progress)
        if sign is not None:
            click.echo(_stopped(progress, state), err=True)
        if partly:
            click.echo("\n".join(map(plain, replaying.part_lines(progress))))
        passed = partly or _told(progress, out, page, require_pass=require_pass)
    sys.exit(128 + sign if sign is not None else 0 if passed else UNPASSED)


@click.command(short_help="The parts of a replay, put together: what do they say?")
@click.argument("parts", metavar="PART…", nargs=-1, required=True, type=click.Path(path_type=Path))
@require_pass_option
@json_option
@report_option
def merge(parts: tuple[Path, ...], out: Path | None, page: Path | None, *, require_pass: bool) -> None:
    """Put the parts of one replay together: do more answers differ than may?

    PARTs are the files that `serin shadow replay --part I/N` wrote with --partial or --state, all of them and
    in any order. What they say together is what one replay of all requests says, to the byte. Parts that are
    missing, given twice, not finished, or of other models, margins, requests or another seed are refused.

    Exit codes: 0 not failed, 1 the tool failed, 2 files that cannot be read or do not match, 3 Fail.

    \b
    Example:
      serin shadow merge part-*.json --json finding.json
    """  # noqa: D301
    writable("--json", out)
    writable("--report", page)
    if twice := [str(path) for path in parts if parts.count(path) > 1]:
        raise Misused(f"{twice[0]} is named twice; give each part once")
    with _refused("serin shadow merge"):
        from gpu_shadow.progress import read
        from gpu_shadow.replaying import merged

        found = merged({str(path): read(path) for path in parts})
        passed = _told(found, out, page, require_pass=require_pass)
    sys.exit(0 if passed else UNPASSED)


def _part(said: str | None, parts: int | None) -> tuple[int, int]:
    """Which part of how many: as it is typed, or as the Job says."""
    if said is not None and parts is not None:
        raise Misused(f"--part {said} and --parts {parts}: give one of them")
    if said is None and parts is None:
        return 1, 1
    if said is None:
        index = os.environ.get(INDEX, "")
        if not index.isdigit():
            raise Misused(f"--parts {parts}: {INDEX} is not set, so this is no indexed Job; give --part I/N")
        said = f"{int(index) + 1}/{parts}"
    found = PART.fullmatch(said)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise Misused(f"--part {said}: expected I/N with I from 1 to N, such as 2/5")
    return int(found[1]), int(found[2])


@contextmanager
def _refused(command: str) -> Iterator[None]:
    """What is wrong with a file, a model or a device is said in a sentence."""
    try:
        with installed(command):
            from gpu_shadow.batches import TooLarge
            from gpu_shadow.model import Later, Refused
            from gpu_shadow.progress import Unusable
            from gpu_shadow.requests import BadRequests
        try:
            yield
        except (Later, TooLarge) as error:
            raise click.ClickException(str(error)) from None
        except (Refused, Unusable, BadRequests) as error:
            raise Misused(str(error)) from None
    except KeyboardInterrupt:
        click.echo("Stopped before anything was compared.", err=True)
        sys.exit(128 + signal.SIGINT)
    except OSError as error:
        raise click.ClickException(f"{error.filename}: cannot be written ({error.strerror})") from None


class _Stopped(BaseException):
    """Somebody wants the replay to end."""


def _gone_through(job: "Job", state: Path | None) -> tuple["Progress", int | None]:
    """How far it came, and the signal that stopped it, if one did."""
    from gpu_shadow.progress import write

    progress, kept = job.begun, time.monotonic()
    if state is not None:
        write(state, progress)  # what cannot be written is said now, not in an hour
    signs: list[int] = []
    try:
        with _stoppable(signs), _telling(job) as tell:
            for progress in job.replayed():
                tell(progress)
                if signs:
                    break
                if state is not None and time.monotonic() - kept >= EVERY:
                    write(state, progress)
                    kept = time.monotonic()
    except _Stopped:
        pass
    finally:
        if state is not None:
            write(state, progress)
    return progress, signs[0] if signs else None


@contextmanager
def _stoppable(signs: list[int]) -> Iterator[None]:
    """Ctrl-C and SIGTERM are noted, and end the block."""

    def stop(sign: int, _: FrameType | None) -> NoReturn:
        signs.append(sign)
        raise _Stopped

    before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, done in before.items():
            signal.signal(each, done)


@contextmanager
def _telling(job: "Job") -> Iterator[Callable[["Progress"], None]]:
    """For a person who waits: how far it is, on one line of the terminal."""
    begun, first, said = time.monotonic(), job.begun.done, False

    def tell(progress: "Progress") -> None:
        nonlocal said
        taken = time.monotonic() - begun
        if taken > SILENT and sys.stderr.isatty():
            left = taken / (progress.done - first) * (progress.blocks - progress.done)
            line = f"{progress.came} of {job.requests} requests, at most {left:.0f} s left"
            click.echo(f"\r{line:<60}", err=True, nl=False)
            said = True

    try:
        yield tell
    finally:
        if said:
            click.echo(f"\r{'':<60}\r", err=True, nl=False)


def _stopped(progress: "Progress", state: Path | None) -> str:
    """What has to be known by who stopped it."""
    came = f"Stopped after {progress.done} of {progress.blocks} blocks, {progress.came} requests"
    more = "without --state it begins anew" if state is None else "the same command goes on from there"
    return f"{came}; {more}."


def _told(progress: "Progress", out: Path | None, page: Path | None, *, require_pass: bool) -> bool:
    """Whether it passed; said to people, to programs, and drawn."""
    from gpu_shadow import replaying

    lines, more = replaying.lines(progress), replaying.as_json(progress)
    return tell(replaying.said(progress), lines, out, page, require_pass=require_pass, more=more)
