"""What people do to a story's objects, whatever becomes of its run."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from scenarios.fates.spells import CALM, ms

Json = Any


def drawn(chance: Random) -> list[Json]:
    """What people do meanwhile."""
    found = [
        {"at": ms(chance.uniform(1, CALM))} | chance.choice(EDITS)(chance)
        for _ in range(chance.randint(1, 2))
    ]
    return sorted(found, key=lambda edit: int(edit["at"].removesuffix("ms")))


def _merged(kind: str, name: str, merge: Json) -> Json:
    return {"patch": {"kind": kind, "name": name, "merge": merge}}


def weights(chance: Random) -> Json:
    """Somebody weighs the arms by hand."""
    canary = chance.choice([0, 30, 100])
    route = [
        {"destination": {"host": "model", "subset": "stable"}, "weight": 100 - canary},
        {"destination": {"host": "model", "subset": "canary"}, "weight": canary},
    ]
    http = {"name": "primary", "timeout": "20s", "route": route}
    return _merged("VirtualService", "model", {"spec": {"http": [http]}})


def _annotated(chance: Random) -> Json:
    notes = chance.choice(
        [{"serin.dev/canary-of": None}, {"serin.dev/pause": "true"}, {"example.com/x": "1"}]
    )
    return _merged("Deployment", "model-canary", {"metadata": {"annotations": notes}})


def _templated(chance: Random) -> Json:
    name = chance.choice(["model", "model-canary"])
    notes = {"example.com/build": str(chance.randint(1, 99))}
    return _merged(
        "Deployment", name, {"spec": {"template": {"metadata": {"annotations": notes}, "spec": {}}}}
    )


def _scaled(chance: Random) -> Json:
    name = chance.choice(["model", "model-canary"])
    return _merged("Deployment", name, {"spec": {"replicas": chance.randint(1, 3)}})


def _frozen(_: Random) -> Json:
    return _merged("Namespace", "lab", {"metadata": {"annotations": {"serin.dev/freeze": "true"}}})


def _evicted(chance: Random) -> Json:
    return {"evict": {"arm": chance.choice(["stable", "canary"]), "pods": chance.randint(1, 2)}}


def _deleted(_: Random) -> Json:
    return {"delete": {"kind": "Deployment", "name": "model-canary"}}


EDITS: Sequence[Callable[[Random], Json]] = (
    weights,
    _annotated,
    _templated,
    _scaled,
    _frozen,
    _evicted,
    _deleted,
)
