"""A peer's objects as Serin's: what `serin convert` does between reading files and writing them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controller import planning
from controller.convert import analyses, argo, flagger, receivers
from controller.convert.account import BadObject
from controller.convert.given import given
from controller.convert.report import Converted

Json = Any
BESIDE = ("Deployment", "VirtualService", "DestinationRule")


def converted(files: Mapping[str, str]) -> Converted:
    """What becomes of the files, by name and text; raises `BadObject`."""
    found = given(files)
    written = [flagger.convert(each, found) for each in found.of("Canary")]
    written += [argo.convert(each, found) for each in found.of("Rollout")]
    flagger.templates(found)
    receivers.providers(found)
    analyses.templates(found)
    unnamed = [each.source for each in found.of(*BESIDE) if not each.claimed]
    accounts = [each for each in found.accounts if each.source not in unnamed]
    done = Converted(written, accounts, [*unnamed, *found.aside])
    _checked(done)
    return done


def _checked(done: Converted) -> None:
    """Every policy is valid, and every field that was converted is where its account says."""
    for obj in done.objects:
        if obj["kind"] == "CanaryPolicy":
            try:
                planning.checked(obj["spec"], file=Path(obj["metadata"]["name"]))
            except planning.BadPolicy as error:
                raise BadObject(f"CanaryPolicy {error}; correct what it comes from") from error
    for account in done.accounts:
        for entry in account.entries:
            if entry.to is not None:
                done.at(entry)
