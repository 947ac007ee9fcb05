"""The commands about runs: look at them, steer them."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from controller.command import (
    Taught,
    as_called,
    changed,
    coloured,
    columns,
    object_output,
    output_as,
    pointed,
    pointed_kubectl,
    run_argument,
    show,
    told,
    watched,
    with_reason,
)
from controller.watching import watch_all, watch_run

if TYPE_CHECKING:
    from controller.kubectl import Kubectl

Json = Any
# A run is written by its controller as well: at each change, and every ten seconds. Each try looks anew, with
# two calls of kubectl, so five in a row that all meet another's write are no chance.
TRIES = 5
SOON = 0.1  # seconds


@click.command("list", cls=Taught)
@pointed
@click.option("-A", "--all-namespaces", is_flag=True, help="Runs of all namespaces.")
@output_as("wide", "json", "yaml", "name")
@watched
@told
def list_(*, all_namespaces: bool, watch: bool, output: str | None, **flags: str | None) -> None:
    """List runs, oldest first.

    Examples:
      serin list -n shop
      serin list -A -o wide             with the policy
      serin list --watch                and a line for each change, until Ctrl-C
    """
    kubectl = pointed_kubectl(flags)
    if watch:
        watch_all(kubectl, output=output, everywhere=all_namespaces)
    everywhere = ("--all-namespaces",) if all_namespaces else ()
    if output in {"json", "yaml", "name"}:
        show(kubectl.listed(output, *everywhere))
        return
    runs = kubectl.runs(*everywhere)
    if runs:
        _table(runs, wide=output == "wide", namespaces=all_namespaces)
    else:
        click.echo(kubectl.nothing(everywhere=all_namespaces), err=True)
    for line in _without_run(kubectl, runs, everywhere):
        click.echo(as_called(line), err=True)


def _without_run(kubectl: "Kubectl", runs: list[Json], everywhere: tuple[str, ...]) -> Iterator[str]:
    """What is said of Deployments whose newest request has no run; those of all namespaces may be many."""
    from controller import refused

    events = kubectl.events(f"reason={refused.REFUSED}", *everywhere)
    if events:
        events += kubectl.events(f"reason={refused.MENDED}", *everywhere)
    looked = not everywhere and (events or not runs)
    return refused.listed(
        runs,
        kubectl.deployments() if looked else kubectl.among(refused.standing(events)),
        events,
        now=_now(),
        flags=kubectl.cluster_flags,
        namespaces=bool(everywhere),
    )


def _table(runs: list[Json], *, wide: bool, namespaces: bool) -> None:
    from controller import folding, record

    names = [*(["NAMESPACE"] if namespaces else []), *record.COLUMNS, *(record.WIDE if wide else [])]
    runs.sort(key=record.order)
    rows = [record.row(run, now=_now()) for run in runs]
    shown = names if wide else folding.kept(rows, names, columns())
    show("\n".join(map(coloured, record.table(rows, shown))))


@click.command(cls=Taught)
@pointed
@run_argument
@output_as("wide", "json", "yaml", "name")
@watched
@told
def status(*, run: str, watch: bool, output: str | None, **flags: str | None) -> None:
    """Show where a run stands. Exit code 3 if it was rolled back.

    Examples:
      serin status model-canary
      serin status model-canary -o json | jq .status.verdict
    """
    from controller import folding, record, report

    kubectl = pointed_kubectl(flags)
    found = kubectl.run(run)
    if watch:
        watch_run(kubectl, found, output=output)
    if output in {"json", "yaml", "name"}:
        show(kubectl.shown(found, output).rstrip("\n"))
    else:
        glance = report.glance(found, now=_now(), wide=output == "wide")
        show(coloured(folding.fitted(glance, columns())))
        _show_refusal(kubectl, found)
    if record.status(found).get("phase") == "Failed":
        sys.exit(3)


@click.command(cls=Taught)
@pointed
@run_argument
@output_as("wide", "json", "yaml", "name")
@told
def explain(*, run: str, output: str | None, **flags: str | None) -> None:
    """Say what was seen, how sure, and what could not be seen.

    Exit code 0 whatever became of the run: it is asked why, and status whether.

    Examples:
      serin explain model-canary
      serin explain model-canary-6f9c8d7b5-1 -n shop
    """
    from controller import folding, report

    kubectl = pointed_kubectl(flags)
    found = kubectl.run(run)
    if output in {"json", "yaml", "name"}:
        show(kubectl.shown(found, output).rstrip("\n"))
        return
    width = min(folding.WIDTH, columns() or folding.WIDTH)
    told = report.explanation(
        found, now=_now(), program=kubectl.program, flags=kubectl.cluster_flags, width=width
    )
    show(coloured(folding.fitted(told, columns())))
    _show_refusal(kubectl, found)


def _show_refusal(kubectl: "Kubectl", run: Json) -> None:
    """What a newer request was refused for: that has no run to be looked at."""
    from controller import folding, refused

    within = f"--namespace={run['metadata']['namespace']}"
    name = run["spec"]["plan"]["canary"]
    events = kubectl.events(f"involvedObject.name={name}", within)
    if not any(one["reason"] == refused.REFUSED for one in events):
        return
    if said := refused.since(run, kubectl.deployments(within), events, now=_now()):
        show(f"\n{folding.fitted(as_called(said), columns())}")


def _now() -> datetime:
    return datetime.now(UTC)


# -- steering --------------------------------------------------------------------------------------


def _steer(
    run: str,
    *,
    flags: dict[str, str | None],
    output: str | None,
    spec: Json,
    done: str | Callable[[Json], str],
) -> None:
    """Merges `spec` into a run that has not ended; `done` says what follows, for this run."""
    kubectl = pointed_kubectl(flags)

    def steered() -> tuple[Json, str]:
        found = kubectl.run(run)
        _must_live(found, kubectl=kubectl)
        follows = done if isinstance(done, str) else done(found)
        return kubectl.patch(found, spec), follows

    after, follows = _looking_anew(steered)
    changed(kubectl, after, output=output, done=follows)


def _looking_anew(steered: Callable[[], tuple[Json, str]]) -> tuple[Json, str]:
    """What `steered` comes to; where somebody wrote in between, as the controller does, all is done again."""
    from controller.kubectl import Conflict

    for pause in range(1, TRIES):
        try:
            return steered()
        except Conflict:
            time.sleep(SOON * pause)
    return steered()


def _must_live(run: Json, *, kubectl: "Kubectl") -> None:
    from controller import record, report
    from controller.kubectl import Wrong

    if record.ended(run):
        typed = report.commands(run, program=kubectl.program, flags=kubectl.cluster_flags)
        next_ = f"\nYou can type: {typed[0]}" if typed else ""
        raise Wrong(f"{report.headline(run)}\nIt has ended: nothing is left to steer.{next_}")


@click.command(cls=Taught)
@pointed
@run_argument
@object_output
@told
def pause(*, run: str, output: str | None, **flags: str | None) -> None:
    """Stop raising the weight. Checks go on and can still roll back.

    A promotion that has begun goes on: abort takes it back.

    Example:
      serin pause model-canary          and later: serin resume model-canary
    """
    from controller import record
    from controller.kubectl import Wrong

    def paused(found: Json) -> str:
        """Paused from now on; as kubectl says of a rollout, not twice."""
        name, where = found["metadata"]["name"], kubectl.within_reach(found)
        if found["spec"].get("paused", False):
            raise Wrong(f"{name} is paused already; to go on: {kubectl.program} resume {name} {where}")
        if record.status(found).get("phase") == "Promoting":
            back = f"{kubectl.program} abort {name} {where}"
            return f"paused, which stops no promotion that has begun; to take that back: {back}"
        return "paused"

    kubectl = pointed_kubectl(flags)
    _steer(run, flags=flags, output=output, spec={"paused": True}, done=paused)


@click.command(cls=Taught)
@pointed
@run_argument
@object_output
@told
def resume(*, run: str, output: str | None, **flags: str | None) -> None:
    """Go on after a pause.

    A canary that was paused by the annotation serin.dev/pause is resumed by removing it:

      kubectl annotate deployment model-canary -n shop serin.dev/pause-
    """
    from controller import record, report
    from controller.kubectl import Wrong

    def resumed(found: Json) -> str:
        """Somebody paused it, or nothing is resumed: what else holds it goes on by itself, or does not."""
        name, why = found["metadata"]["name"], record.reason(found)
        canary, where = found["spec"]["plan"]["canary"], kubectl.within_reach(found)
        if found["spec"].get("paused", False):
            return "resumed"
        if why == "Paused":
            typed = f"kubectl annotate deployment {canary} {where} serin.dev/pause-"
            raise Wrong(f"{name} was paused by an annotation of its Deployment; take it away: {typed}")
        typed = f"{kubectl.program} explain {name} {where}"
        held = record.status(found).get("phase") == "Paused"
        but = f"it is held as {why}" if held else report.standing(found)
        raise Wrong(f"{name} was not paused; {but}: {typed}")

    kubectl = pointed_kubectl(flags)
    _steer(run, flags=flags, output=output, spec={"paused": False}, done=resumed)


@click.command(cls=Taught)
@pointed
@run_argument
@with_reason
@object_output
@told
def abort(*, run: str, reason: str, output: str | None, **flags: str | None) -> None:
    """Send all requests to stable and end the run.

    Example:
      serin abort model-canary --reason "support tickets about wrong prices"
    """
    _steer(run, flags=flags, output=output, spec={"abort": {"reason": _said(reason)}}, done="aborted")


@click.command(cls=Taught)
@pointed
@run_argument
@with_reason
@object_output
@told
def promote(*, run: str, reason: str, output: str | None, **flags: str | None) -> None:
    """Promote without waiting for the remaining steps. A failed check still rolls back.

    A pause or a freeze is waited for, and so is a first metrics page: the answer says what to type then,
    and what takes a promotion back that waits. One that has begun can be aborted.

    Example:
      serin promote model-canary --reason "fixes the outage of stable"
    """
    spec = {"promote": {"reason": _said(reason)}}
    kubectl = pointed_kubectl(flags)
    _steer(run, flags=flags, output=output, spec=spec, done=partial(_to_be_promoted, kubectl=kubectl))


def _to_be_promoted(run: Json, *, kubectl: "Kubectl") -> str:
    """When it will be, what it waits for before that, and what to type about it."""
    from controller import record, report

    back = f"\nTo take that back: {report.withdrawal(run, kubectl.cluster_flags)}"
    why, where = record.reason(run), kubectl.within_reach(run)
    name, canary = run["metadata"]["name"], run["spec"]["plan"]["canary"]
    if record.status(run).get("phase") == "Paused" and why in {"Paused", "Frozen"}:
        resume = f"{kubectl.program} resume {name} {where}"
        lift = f"kubectl annotate namespace {run['metadata']['namespace']} serin.dev/freeze-"
        typed = {"Paused": resume, "Frozen": f"{lift} (or without --freeze)"}[why]
        return f"will be promoted, but not while it is {why.lower()}; type: {typed}{back}"
    if record.unread(run):
        return (
            "will be promoted, but not before a page of its pods can be read:"
            " mend their port and path (prometheus.io annotations, docs/metrics.md);"
            f" what is wrong there: {kubectl.program} preflight {canary} {where}{back}"
        )
    first = f"will be promoted, once its first step has begun{back}"
    return first if record.waiting(run) else "will be promoted"


def _said(reason: str) -> str:
    """The reason, which the schema wants between 1 and 1024 characters long."""
    text = " ".join(reason.split())
    if not 1 <= len(text) <= 1024:
        raise click.BadParameter("say why, in 1 to 1024 characters", param_hint="--reason")
    return text


@click.command(cls=Taught)
@pointed
@run_argument
@object_output
@told
def approve(*, run: str, output: str | None, **flags: str | None) -> None:
    """Let a run that holds go on, once.

    Only for a run that holds because a gate of its policy asks a person, or because its evidence is
    unclear or missing. Read first what it could not have seen.

    Example:
      serin explain model-canary
      serin approve model-canary
    """
    from controller import record, report
    from controller.kubectl import Wrong

    kubectl = pointed_kubectl(flags)

    def steered() -> tuple[Json, str]:
        found = kubectl.run(run)
        _must_live(found, kubectl=kubectl)
        if record.unread(found):
            raise Wrong(f"{report.headline(found)}\nNothing was approved. {report.MEND_PAGES}")
        if not report.approvable(found):
            raise Wrong(
                f"{report.headline(found)}\nNothing waits for an approval: that helps a run which is held"
                " with reason AwaitingApproval, Inconclusive, NoData, InputsDrifted or"
                " PreflightFailed."
            )
        approved = [*found["spec"].get("approved", []), f"{_who()} at {_now():%Y-%m-%dT%H:%M:%SZ}"]
        return kubectl.patch(found, {"approved": approved}), "approved"

    after, done = _looking_anew(steered)
    changed(kubectl, after, output=output, done=done)


def _who() -> str:
    """Who types: as they are called here; the cluster's audit log knows them better."""
    import getpass

    try:
        return getpass.getuser()[:200]
    except (KeyError, OSError):  # a container whose user has no name
        return f"uid {os.getuid()}"


@click.command(cls=Taught)
@pointed
@run_argument
@object_output
@told
def retry(*, run: str, output: str | None, **flags: str | None) -> None:
    """Try a rolled back version once more: a new run, the same plan.

    Where the annotations, or stable, have changed since, that run ends at once and without traffic, and
    the next one, by what they say now, follows by itself.

    Example:
      serin retry model-canary          after the cause was found outside the model
    """
    from controller import record, report
    from controller.kubectl import Wrong

    kubectl = pointed_kubectl(flags)

    def steered() -> tuple[Json, str]:
        found = kubectl.run(run)
        if record.status(found).get("phase") != "Failed":
            raise Wrong(f"{report.headline(found)}\nOnly a run that was rolled back can be tried again.")
        canary = found["spec"]["plan"]["canary"]
        siblings = [each for each in kubectl.siblings(found) if each["spec"]["plan"]["canary"] == canary]
        live = next((each for each in siblings if not record.ended(each)), None)
        if live is not None:
            typed = f"{kubectl.program} abort {live['metadata']['name']} {kubectl.within_reach(live)}"
            wait = f"One run at a time: wait for it, or type: {typed} --reason '...'"
            raise Wrong(f"{report.headline(live)}\n{wait}")
        created = kubectl.create(record.next_attempt(found, siblings))
        return created, f"created, after {found['metadata']['name']}"

    after, done = _looking_anew(steered)
    changed(kubectl, after, output=output, done=done)
