"""Every object of ours against Kubernetes' own types, as the client library has them from OpenAPI: no field
that there is not, none of another type, none missing; and nothing of an API that is on its way out.
"""

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes_asyncio.client import models

from manifests import chart
from tests.unit.test_manifests import BASE, ONE_NAMESPACE, REPLAYED, SAMPLES, SHADOWED, built
from tests.unit.test_monitoring import OBJECTS as MONITORED

Json = Any
SCALARS: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "bool": bool,
    "float": (int, float),
    "datetime": str,
}
OTHERS = {"monitoring.coreos.com", "networking.istio.io", "serin.dev"}  # with schemas of their own
SETS = {
    "base": BASE,
    "samples": SAMPLES,
    "quickstart": built("quickstart"),
    "shadow": SHADOWED,
    "shadow-replay": REPLAYED,
    "shards": built("overlays/shards"),
    "one-namespace": ONE_NAMESPACE,
    "monitoring": MONITORED,
    "components": chart.built("shadow", "shadow-keep", "egress"),
}


def misfits(value: Json, kind: str, path: str) -> Iterator[str]:
    """What of the value does not fit the type, each with where it stands."""
    if kind == "object" or kind.endswith("IntOrString"):
        return
    if items := re.fullmatch(r"list\[(.*)\]", kind):
        if not isinstance(value, list):
            yield f"{path}: no list"
            return
        for at, item in enumerate(value):
            yield from misfits(item, items[1], f"{path}[{at}]")
    elif items := re.fullmatch(r"dict[(\[]str, (.*)[)\]]", kind):
        for key, item in value.items():
            yield from misfits(item, items[1], f"{path}.{key}")
    elif kind in SCALARS:
        if not isinstance(value, SCALARS[kind]) or (kind == "int" and isinstance(value, bool)):
            yield f"{path}: {value!r} is no {kind}"
    else:
        yield from _fields(value, getattr(models, kind), path)


def _fields(value: Json, model: Any, path: str) -> Iterator[str]:
    names = {wire: name for name, wire in model.attribute_map.items()}
    for key, item in value.items():
        if key in names:
            yield from misfits(item, model.openapi_types[names[key]], f"{path}.{key}")
        else:
            yield f"{path}.{key}: there is no such field"
    try:  # the library refuses what is required and not there
        model(**{names[key]: item for key, item in value.items() if key in names})
    except ValueError as error:
        yield f"{path}: {error}"


def model_of(obj: Json) -> str | None:
    """The library's type of the object; None for kinds that are no part of Kubernetes."""
    group, _, version = obj["apiVersion"].rpartition("/")
    assert not re.search("alpha|beta", version) or group in OTHERS, (
        f"{obj['apiVersion']} is not there to stay"
    )
    return None if group in OTHERS else f"{version.capitalize()}{obj['kind']}"


@pytest.mark.parametrize("name", SETS)
def test_every_field_is_one_of_kubernetes_own_and_of_its_type(name: str) -> None:
    looked = 0
    for obj in SETS[name]:
        if kind := model_of(obj):
            looked += 1
            assert list(misfits(obj, kind, obj["kind"])) == []
    assert looked >= 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda spec: spec.update(replica=2), "Deployment.spec.replica: there is no such field"),
        (lambda spec: spec.update(replicas="2"), "Deployment.spec.replicas: '2' is no int"),
        (lambda spec: spec.pop("selector"), "Deployment.spec: Invalid value for `selector`"),
        (
            lambda spec: spec["template"]["spec"]["containers"][0]["ports"][0].update(containerport=1),
            "Deployment.spec.template.spec.containers[0].ports[0].containerport: there is no such field",
        ),
    ],
)
def test_a_field_that_does_not_fit_is_found(change: Any, says: str) -> None:
    (deployment,) = (copy.deepcopy(obj) for obj in BASE if obj["kind"] == "Deployment")
    change(deployment["spec"])
    (said,) = misfits(deployment, "V1Deployment", "Deployment")
    assert said.startswith(says)
