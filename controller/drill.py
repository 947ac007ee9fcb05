"""The command that measures a rollback."""

import sys
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import click

from controller.command import Taught, deployment_argument, output_as, pointed, pointed_kubectl, show, told

if TYPE_CHECKING:
    from controller.drilling import Measured

Json = Any


@click.command(cls=Taught)
@pointed
@deployment_argument
@click.option("--other-version", is_flag=True, help="The canary may run another version than stable.")
@click.option(
    "--patience",
    type=click.IntRange(10, 3600),
    default=600,
    metavar="SECONDS",
    show_default=True,
    help="How long to wait for the first weight.",
)
@output_as("json", "yaml")
@told
def drill(
    *, deployment: str, other_version: bool, patience: int, output: str | None, **flags: str | None
) -> None:
    """Measure a rollback: a real run gets its first weight and is aborted. Exit code 3 if it took too long.

    DEPLOYMENT is the canary's. Its run can only end in a rollback: nothing is promoted, and if this
    terminal is lost it ends by itself after two minutes with a weight. Use it while the canary runs what
    stable runs, as after a promotion. Ctrl-C takes the traffic back. Alerts go out as for any rollback.
    What was measured stands on the run, and serin preflight knows of it.

    Examples:
      serin drill model-canary -n shop
      serin drill model-canary -n shop -o json | jq .secondsToWeightZero
    """
    from controller import checklist, drilling, surroundings

    kubectl = pointed_kubectl(flags)
    grounds = surroundings.found(kubectl, deployment, pages=0)
    run = drilling.asked(grounds, other_version=other_version)
    steps = drilling.drilled(
        kubectl,
        grounds,
        run,
        clock=time.monotonic,
        told=lambda line: click.echo(line, err=True),
        patience=float(patience),
        limit=2 * checklist.DRILL_WITHIN,
    )
    measured = driven(steps, sleep=time.sleep)
    slow = max(measured.zero, measured.last or 0.0) > checklist.DRILL_WITHIN
    show(shown(measured, slow=slow, output=output))
    sys.exit(3 if slow else 0)


def driven(steps: Generator[float, None, "Measured"], *, sleep: Callable[[float], None]) -> "Measured":
    """What the steps come to; a Ctrl-C while they pause is theirs to clean up after."""
    try:
        pause = next(steps)
        while True:
            try:
                sleep(pause)
            except KeyboardInterrupt as stop:
                pause = steps.throw(stop)
            else:
                pause = next(steps)
    except StopIteration as end:
        found: Measured = end.value
        return found


def as_json(measured: "Measured") -> Json:
    """What was measured, for programs."""
    return {
        "run": measured.run,
        "weight": measured.weight,
        "secondsToWeightZero": round(measured.zero, 2),
        "secondsToLastRequest": None if measured.last is None else round(measured.last, 2),
    }


def shown(measured: "Measured", *, slow: bool, output: str | None) -> str:
    """What was measured, in the form that was asked for."""
    found = as_json(measured) | {"ok": not slow}
    if output == "json":
        import json

        return json.dumps(found, indent=2)
    if output == "yaml":
        import yaml

        text: str = yaml.safe_dump(found, sort_keys=False)
        return text.rstrip("\n")
    return _said(measured, slow=slow)


def _said(measured: "Measured", *, slow: bool) -> str:
    last = (
        f"when its last request was answered is not known ({measured.why})"
        if measured.last is None
        else f"the last request within {measured.last + 1:.0f} s"  # pages are read once a second
    )
    verdict = "longer than the 5 minutes that are allowed" if slow else "under 5 minutes"
    took = f"From {measured.weight} % to weight 0 in {measured.zero:.1f} s"
    return f"{took}, {last}: {verdict}.\nRun {measured.run} says so."
