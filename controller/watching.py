"""Runs as they go: a line for each change that people can see, until the run has ended or Ctrl-C."""

import json
import sys
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

import click

from controller.command import (
    Failed,
    Taught,
    any_run,
    coloured,
    output_as,
    pointed,
    pointed_kubectl,
    show,
    told,
)

if TYPE_CHECKING:
    from controller.kubectl import Kubectl

Json = Any
INTERRUPTED = 130  # as shells say it of Ctrl-C: neither promoted nor rolled back
GAP = "   "
LEAST = {"PHASE": len("Progressing"), "VERDICT": len("Inconclusive")}  # so that few rows are wider


@click.command(cls=Taught)
@pointed
@any_run
@click.option("-A", "--all-namespaces", is_flag=True, help="Runs of all namespaces.")
@output_as("wide", "json", "yaml", "name")
@told
def watch(*, run: str | None, all_namespaces: bool, output: str | None, **flags: str | None) -> None:
    """Follow a run to its end, or all runs until Ctrl-C: a line for each change.

    With RUN the exit code is 0 when it was promoted, 3 when it was rolled back, and 130 after Ctrl-C.

    Examples:
      serin watch model-canary && echo "stable has the new version"
      serin watch -A -o wide
    """
    kubectl = pointed_kubectl(flags)
    if run is None:
        watch_all(kubectl, output=output, everywhere=all_namespaces)
    if all_namespaces:
        raise click.UsageError("give RUN or -A, not both")
    watch_run(kubectl, kubectl.run(run), output=output)


def watch_all(kubectl: "Kubectl", *, output: str | None, everywhere: bool) -> NoReturn:
    """Those that are there, oldest first, then a line for each change of any run, until Ctrl-C."""
    from controller import record

    lines, where = _Lines(output, namespaces=everywhere), ("--all-namespaces",) if everywhere else ()
    try:
        for obj in sorted(kubectl.runs(*where), key=record.order):
            lines.tell(obj)  # a watch begins with the same ones, by their names
        with closing(kubectl.follow(*where)) as events:
            for _, obj in events:
                lines.tell(obj)
    except KeyboardInterrupt:
        pass
    sys.exit(INTERRUPTED)


def watch_run(kubectl: "Kubectl", run: Json, *, output: str | None) -> NoReturn:
    """A line for each change of the run until it ends, and how it ended; the exit code says it too."""
    from controller import record, report

    name, where = run["metadata"]["name"], f"--namespace={run['metadata']['namespace']}"
    alone = f"--field-selector=metadata.name={name}"  # by its name kubectl loses a change before its watch
    lines = _Lines(output, namespaces=False)
    try:
        with closing(kubectl.follow(alone, where)) as events:
            for kind, obj in events:
                if kind == "DELETED":
                    typed = f"{kubectl.program} list {kubectl.within_reach(run)}"
                    raise Failed(f"CanaryRun {name} was deleted before it ended; see: {typed}")
                lines.tell(obj)
                if record.ended(obj):
                    run = obj
                    break
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    if output in {None, "wide"}:
        show(coloured(report.glance(run, now=datetime.now(UTC), wide=output == "wide")))
    sys.exit(0 if record.status(run).get("phase") == "Succeeded" else 3)


class _Lines:
    """Prints runs whenever they look otherwise than before; as objects, whenever they were written."""

    def __init__(self, output: str | None, *, namespaces: bool) -> None:
        from controller import record

        first, last = ["NAMESPACE"] if namespaces else [], record.WIDE if output == "wide" else []
        self._columns = [*first, *record.COLUMNS, *last]
        self._output = output
        self._widths: list[int] = []
        self._seen: dict[str, Any] = {}

    def tell(self, run: Json) -> None:
        """The run, if that is new."""
        from controller import record

        meta = run["metadata"]
        row = record.row(run, now=datetime.now(UTC))
        looks = [value for column, value in row.items() if column != "AGE"]
        new = looks if self._output in {None, "wide"} else meta["resourceVersion"]
        if self._seen.get(meta["uid"]) == new:
            return
        self._seen[meta["uid"]] = new
        text = coloured(self._row(row)) if self._output in {None, "wide"} else _object(run, self._output)
        show(text)
        sys.stdout.flush()

    def _row(self, row: dict[str, str]) -> str:
        """Beneath the head, which the first row gets; a column is as wide as the widest before."""
        cells = [row[column] for column in self._columns]
        head, at_first = "", not self._widths
        self._widths = [*map(max, map(len, cells), self._widths or self._least())]
        if at_first:
            head = self._joined(self._columns) + "\n"
        return head + self._joined(cells)

    def _least(self) -> list[int]:
        return [max(len(column), LEAST.get(column, 0)) for column in self._columns]

    def _joined(self, cells: list[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, self._widths, strict=True))
        return GAP.join(padded).rstrip()


def _object(run: Json, output: str | None) -> str:
    """As kubectl writes one of many."""
    if output == "name":
        return f"canaryrun.serin.dev/{run['metadata']['name']}"
    if output == "json":
        return json.dumps(run, indent=4)
    import yaml

    return "---\n" + str(yaml.safe_dump(run, sort_keys=False)).rstrip()
