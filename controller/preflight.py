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

NEW_PODS = (
    "# Patches of pod templates start new pods: stable's end a live run, the canary's ask for a new one."
)
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
    grounds = surroundings.found(kubectl, deployment)
    items, skipped = checklist.looked_at(grounds), grounds.policy.preflight_skip
    if output == "json":
        import json

        show(json.dumps([as_json(one) for one in items], indent=2))
    elif output == "yaml":
        show(_yaml([as_json(one) for one in items]).rstrip("\n"))
    else:
        show("\n".join(_told(items, skipped, wide=output == "wide")))
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


def _told(items: Sequence["Item"], skipped: Sequence[str], *, wide: bool) -> Iterator[str]:
    """The table, then what mends what failed (or, if wide, what settles what is unknown)."""
    from controller import record

    rows = [{"ITEM": one.name, "RESULT": one.result.value, "WHY": one.why} for one in items]
    yield from map(coloured, record.table(rows, ["ITEM", "RESULT", "WHY"]))
    counts = {result: sum(one.result == result for one in items) for result in ("Pass", "Fail", "Unknown")}
    said = f"{counts['Pass']} passed, {counts['Fail']} failed, {counts['Unknown']} unknown."
    yield f"\n{said}{_left_out(skipped)}"
    shown = [one for one in items if one.result.value in ({"Fail", "Unknown"} if wide else {"Fail"})]
    for one in shown:
        yield f"\n# {one.name}: {as_called(one.mend)}"
        yield from (text for patch in one.patches for text in commands(patch))
    if any("template" in patch.body.get("spec", {}) for one in shown for patch in one.patches):
        yield f"\n{NEW_PODS}"


def _left_out(skipped: Sequence[str]) -> str:
    """Which items the policy has nobody ask for."""
    return f" Not asked: {', '.join(skipped)} (preflightSkip of the policy)." if skipped else ""


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
    "Service": "service",
}


def _yaml(value: Json) -> str:
    import yaml

    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
    return text
