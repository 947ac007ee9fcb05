"""The command that goes through the production checklist before a canary."""

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from controller.command import (
    Taught,
    as_called,
    coloured,
    deployment_argument,
    output_as,
    pointed,
    pointed_kubectl,
    show,
    told,
)

if TYPE_CHECKING:
    from controller.items import Item, Patch

Json = Any

FROM_HERE = "--patch-file /dev/stdin <<'EOF'"


@click.command(cls=Taught)
@pointed
@deployment_argument
@output_as("wide", "json", "yaml")
@told
def preflight(*, deployment: str, output: str | None, **flags: str | None) -> None:
    """Go through the production checklist before a canary. Exit code 3 if an item failed.

    DEPLOYMENT is the canary's, or stable's if one canary asks for it. Every item passes, fails, or is
    unknown where it cannot be told from the objects. What failed comes with the patch that mends it; -o
    wide also says what would settle the unknown ones. Nothing is written.

    Examples:
      serin preflight model-canary -n shop
      serin preflight model-canary -o json | jq '.[] | select(.result == "Fail")'
    """
    from controller import checklist, surroundings

    kubectl = pointed_kubectl(flags)
    items = checklist.looked_at(surroundings.found(kubectl, deployment))
    if output == "json":
        import json

        show(json.dumps([as_json(one) for one in items], indent=2))
    elif output == "yaml":
        show(_yaml([as_json(one) for one in items]).rstrip("\n"))
    else:
        show("\n".join(_told(items, wide=output == "wide")))
    sys.exit(3 if checklist.failed(items) else 0)


def as_json(item: "Item") -> Json:
    """An item for programs."""
    return {
        "item": item.name,
        "result": item.result.value,
        "why": item.why,
        "mend": item.mend,
        "patches": [
            {"kind": one.kind, "name": one.name, "namespace": one.namespace, "type": one.sort}
            | {"note": one.note, "patch": one.body}
            for one in item.patches
        ],
    }


def _told(items: Sequence["Item"], *, wide: bool) -> Iterator[str]:
    """The table, then what mends what failed (or, if wide, what settles what is unknown)."""
    from controller import record

    rows = [{"ITEM": one.name, "RESULT": one.result.value, "WHY": one.why} for one in items]
    yield from map(coloured, record.table(rows, ["ITEM", "RESULT", "WHY"]))
    counts = {result: sum(one.result == result for one in items) for result in ("Pass", "Fail", "Unknown")}
    yield f"\n{counts['Pass']} passed, {counts['Fail']} failed, {counts['Unknown']} unknown."
    shown = {"Fail", "Unknown"} if wide else {"Fail"}
    for one in items:
        if one.result.value in shown:
            yield f"\n# {one.name}: {as_called(one.mend)}"
            yield from (text for patch in one.patches for text in commands(patch))


def commands(patch: "Patch") -> Iterator[str]:
    """What to type, line by line."""
    note = f"   # {patch.note}" if patch.note else ""
    where = f"-n {patch.namespace}"
    if patch.name:
        kind = _KINDS[patch.kind]
        yield f"kubectl patch {kind} {patch.name} {where} --type {patch.sort} {FROM_HERE}{note}"
    else:
        yield f"kubectl apply -f - <<'EOF'{note}"
    yield _yaml(patch.body).rstrip("\n")
    yield "EOF"


_KINDS = {
    "Deployment": "deployment",
    "HorizontalPodAutoscaler": "hpa",
    "VirtualService": "virtualservice",
    "DestinationRule": "destinationrule",
    "CanaryPolicy": "canarypolicy",
}


def _yaml(value: Json) -> str:
    import yaml

    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
    return text
