"""`serin scenario run FILE…`: plays stories and says whether each ended as it expects. `serin simulate`."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

import click

from controller.command import Misused, Taught
from controller.planning import builtin
from controller.telemetry import start_logging
from scenarios.live import digits
from scenarios.people import NotDone
from scenarios.play import Report, play
from scenarios.plot import Story
from scenarios.result import GOES_ON, Result, sure, unmet, wanted
from scenarios.stand import cluster
from scenarios.story import BadStory, load

NOT_MET = 3
INTERRUPTED, TERMINATED = 130, 143  # as a shell says of a process that SIGINT or SIGTERM ended


class Stories(click.Group):
    """A group that is told a story without a verb, and says which one was meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in any group."""
        if args[0] not in self.commands and args[0].endswith((".yaml", ".yml")):
            ctx.fail(f"{args[0]} is no command; did you mean {ctx.command_path} run {args[0]}?")
        return super().resolve_command(ctx, args)


@click.group(cls=Stories, context_settings={"help_option_names": ["-h", "--help"]})
def scenario() -> None:
    """Play stories of canaries, in virtual time or on a real Envoy; or hold a cluster to try things on."""


scenario.add_command(cluster)


@scenario.command()
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path, dir_okay=False)
)
@click.option(
    "--live/--virtual", default=False, help="Live: real Envoy, real model servers. Default: virtual."
)
@click.option(
    "--json",
    "out",
    metavar="OUT",
    type=click.Path(path_type=Path, dir_okay=False, writable=True, allow_dash=True),
    help='Write the results there as a JSON list; "-" is standard output.',
)
@click.option("--quiet", is_flag=True, help="Do not tell what happens while it happens.")
def run(files: Sequence[Path], *, live: bool, out: Path | None, quiet: bool) -> None:
    """Play each story in FILE... and tell what happens.

    Exit 0 if each ends as its file expects, 3 if not, 2 if a file is malformed, 1 if the lab failed.
    On a terminal the page of the last live story stays for five minutes, and serin explain reads its run
    meanwhile; of a virtual one nothing stays.
    Ctrl-C ends it at once (130) and leaves nothing behind. While it is live its logs stand in .lab/ here;
    those of a story that did not end as expected, or lost requests, stay there.
    """
    if out is not None and not out.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {out.parent}", param_hint="--json")
    _hush()
    began = monotonic()
    try:
        stories = [load(file) for file in files]
        if live:
            _playable(stories)
        report = _ignore if quiet else _tell
        results = [_played(story, live=live, report=report, last=story is stories[-1]) for story in stories]
    except BadStory as bad:
        raise Misused(str(bad)) from None
    except (KeyboardInterrupt, asyncio.CancelledError) as told:
        click.echo(f"Ended early at {monotonic() - began:.0f} s; everything is cleaned up.", err=True)
        sys.exit(INTERRUPTED if isinstance(told, KeyboardInterrupt) else TERMINATED)
    _table(stories, results)
    if not live and not quiet:
        _tell(EXPLAINED)
    if out is not None:
        text = json.dumps([dict(result.as_json()) for result in results], indent=2) + "\n"
        with click.open_file(str(out), "w") as file:
            file.write(text)
    sys.exit(0 if all(result.ok for result in results) else NOT_MET)


# Nobody would wait for it; what it is worth is in docs/testing.md.
NO_HISTORY = (
    "live, stable is first read when the canary starts: history is for virtual time alone, and is not played"
)


def _playable(stories: Sequence[Story]) -> None:
    """Raises `BadStory` for the first that the live lab has no model for, before any is played."""
    for story in stories:
        if not {story.stable.model, story.canary.model} <= set(digits.VARIANTS):
            raise BadStory(
                f"{story.file}: spec.stable.model: the live lab's pods serve digits; play it in virtual time"
            )


def _played(story: Story, *, live: bool, report: Report, last: bool) -> Result:
    """The result, in the mode that was asked for."""
    report(f"{story.name} ({'live' if live else 'virtual'}), expected: {wanted(story.expect)}")
    if not live:
        return play(story, report=report)
    report(NO_HISTORY)
    from scenarios import lab, lasting  # needs Linux, Envoy and processes; virtual time needs none of them

    async def watch(there: lab.Lab) -> None:
        for line in lasting.announced(there):
            report(line)

    async def after(there: lab.Lab) -> None:
        if last and report is _tell:  # on a terminal, where somebody is told
            await lasting.stays(there, report)

    try:
        return asyncio.run(lab.play(story, watch=watch, report=report, after=after))
    except NotDone as refused:
        raise BadStory(f"{story.file}: the API server refuses an object: {refused}") from refused
    except lab.LabFailed as failed:
        raise click.ClickException(str(failed)) from failed


def _tell(line: str) -> None:
    click.echo(line, err=True)


def _ignore(_line: str) -> None:
    """Nobody wants to know."""


def _hush() -> None:
    """The controller's own log stays silent below errors: what matters is reported as it happens."""
    start_logging("console", level="error", stream=sys.stderr)


@click.command(cls=Taught, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--runs", type=click.IntRange(1, 1_000_000), default=256, show_default=True, help="How many.")
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), help="Of all chances; the story's own if not given."
)
@click.option(
    "--json",
    "out",
    metavar="OUT",
    type=click.Path(path_type=Path, dir_okay=False, writable=True, allow_dash=True),
    help='Write the figures there as JSON; "-" is standard output.',
)
def simulate(file: Path, *, runs: int, seed: int | None, out: Path | None) -> None:
    """Run the story in FILE many times, in a world of nothing but traffic, and count what comes of it.

    How often is a healthy canary rolled back, how fast an ill one, and what would Flagger, Argo Rollouts and
    Kayenta have done with the same requests? The same seed and number of runs bring the same figures.
    Pods are there from the beginning, as many as the last step needs, and weights change at once.

    Example:
      serin simulate scenarios/latency-doubles.yaml --runs 1000 --json figures.json
    """
    from scenarios import many

    if out is not None and not out.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {out.parent}", param_hint="--json")
    try:
        story = load(file)
        chosen = story.seed if seed is None else seed
        figures = many.played(story, runs=runs, seed=chosen, told=lambda over: _progress(over, runs))
    except BadStory as bad:
        raise Misused(str(bad)) from None
    except KeyboardInterrupt:
        click.echo(f"ended after 0 of {runs} runs", err=True)
        sys.exit(INTERRUPTED)
    if figures.runs < runs:
        click.echo(f"ended after {figures.runs} of {runs} runs", err=True)
    click.echo("\n".join(many.said(story, figures)), err=out is not None and str(out) == "-")
    if out is not None:
        with click.open_file(str(out), "w") as written:
            written.write(json.dumps(figures.as_json(), indent=2) + "\n")
    if figures.runs < runs:
        sys.exit(INTERRUPTED)


def _progress(over: int, runs: int) -> None:
    """How far a long simulation is, where somebody looks on."""
    if sys.stderr.isatty():
        click.echo(f"\r{over} of {runs} runs", err=True, nl=over >= runs)


COLUMNS = ("", "story", "outcome", "reason", "check", "verdict", "weight 0", "lost", "expected")

LEGEND = """verdict: how long until the run ended or was held; weight 0: until the last request was routed to
the canary. Both count from the last fault of an arm before, or from the canary's first request if later.
lost: requests that failed although no fault made them."""

# Who has read of `serin explain` would look for the run of a virtual story in a cluster.
EXPLAINED = (
    """To look at it with serin explain or in a browser: play it --live on a terminal, and it prints how."""
)


def _table(stories: Sequence[Story], results: Sequence[Result]) -> None:
    """One line a story, aligned; seconds count from the fault, or from the canary's first request."""
    rows = [COLUMNS, *(map(_row, stories, results))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row, why in zip(rows, [(), *map(_why, stories, results)], strict=True):
        click.echo("  ".join(map(str.ljust, row, widths)).rstrip(), err=True)
        for line in why:
            click.echo(f"       {line}", err=True)
    click.echo(LEGEND, err=True)


def _why(story: Story, result: Result) -> Sequence[str]:
    """How sure it is, and how a story stood that did not end as it expects."""
    how = list(sure(result, alpha=story.policy.get("alpha", builtin()["alpha"])))
    return how if result.ok else [*how, *unmet(result, story)]


def _row(story: Story, result: Result) -> tuple[str, ...]:
    return (
        "ok" if result.ok else "NOT",
        result.name,
        result.outcome,
        result.reason or (GOES_ON if result.going_on else "-"),
        result.check or "-",
        _seconds(result.seconds_to_verdict),
        _seconds(result.seconds_to_weight_zero),
        str(result.requests.failed),
        wanted(story.expect),
    )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"
