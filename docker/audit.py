"""Every package here is the pinned one, and its licence one that is allowed: python docker/audit.py [--list].

Looks at the environment of the Python that runs it and at nothing outside, so it says the same without a
network. What is known to be vulnerable only a registry knows: docs/security.md.
"""

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OURS = {"serin", "pip"}  # what is audited, and what installed it
_BETWEEN = re.compile(r"\s+WITH\s+[\w.-]+|\s+(?:AND|OR)\s+|[()]")  # an OR is for people to decide: all count


def name_of(text: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", text).lower()


def pins(text: str) -> Mapping[str, str]:
    """The versions in a constraints file, by package."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return {name_of(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def licence(found: Distribution, terms: Mapping[str, Any]) -> str:
    """The package's licence as an SPDX expression; what nobody knows is called as the package calls it."""
    meta = found.metadata
    classifiers = [
        text.rpartition(" :: ")[2] for text in meta.get_all("Classifier") or () if "License" in text
    ]
    said = meta.get("License-Expression") or next(iter(classifiers), None) or meta.get("License") or ""
    return str(terms["packages"].get(name_of(found.name)) or terms["said"].get(said, said))


def wrong(found: Distribution, pinned: Mapping[str, str], terms: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a package, with a remedy."""
    name, version = name_of(found.name), found.version.partition("+")[0]
    if pinned.get(name) != version:
        known = pinned.get(name, "there is none")
        yield f"{name} {version} is not the pinned one ({known}): put it into constraints.txt"
    expression = licence(found, terms)
    parts = {part.strip() for part in _BETWEEN.split(expression)} - {""}
    if not parts or parts - set(terms["allowed"]):
        yield f'{name}: licence "{expression}" is not in docker/licences.toml: read it, then decide'


def main(arguments: list[str]) -> int:
    """1 if anything is wrong with any package."""
    terms = tomllib.loads((ROOT / "docker" / "licences.toml").read_text())
    pinned = pins((ROOT / "constraints.txt").read_text())
    here = sorted((one for one in distributions() if one.name not in OURS), key=lambda one: name_of(one.name))
    if "--list" in arguments:
        for one in here:
            print(f"{name_of(one.name)}=={one.version}\t{licence(one, terms)}")
    faults = [fault for one in here for fault in wrong(one, pinned, terms)]
    for fault in faults:
        print(f"audit: {fault}", file=sys.stderr)
    print(f"audit: {len(here)} packages, {len(faults)} faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
