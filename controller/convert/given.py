"""Files of Kubernetes YAML as the objects that are converted, or what is wrong with them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from controller import documents
from controller.convert.account import Account, BadObject, Source

Json = Any

# What is converted, and what belongs to it: the API groups whose objects are meant.
KINDS: Mapping[str, str] = {
    "Canary": "flagger.app",
    "MetricTemplate": "flagger.app",
    "AlertProvider": "flagger.app",
    "Rollout": "argoproj.io",
    "AnalysisTemplate": "argoproj.io",
    "ClusterAnalysisTemplate": "argoproj.io",
    "Deployment": "apps",
    "VirtualService": "networking.istio.io",
    "DestinationRule": "networking.istio.io",
}
PEERS = {"flagger.app", "argoproj.io"}
RECORDS = {"AnalysisRun", "Experiment"}  # what Argo Rollouts writes itself
CLUSTERWIDE = {"ClusterAnalysisTemplate"}


@dataclass(frozen=True, slots=True)
class Given:
    """All objects, in the order of the files; `aside`: those of kinds that nothing is read from."""

    accounts: tuple[Account, ...]
    aside: tuple[Source, ...] = ()

    def of(self, *kinds: str) -> list[Account]:
        """Those of the kinds."""
        return [each for each in self.accounts if each.source.kind in kinds]

    def find(self, kind: str, name: str, near: Source, *, namespace: str | None = None) -> Account | None:
        """The object of that name, in `namespace`, or else in that of `near`, if both say one."""
        for each in self.of(kind):
            spaces = {each.source.namespace, namespace or near.namespace} - {None}
            if each.source.name == name and (kind in CLUSTERWIDE or len(spaces) < 2):
                return each
        return None


def given(files: Mapping[str, str]) -> Given:
    """The objects of the files, by name and text; raises `BadObject`."""
    objects = [each for file, text in files.items() for each in _objects(file, text)]
    accounts = [Account(source, obj) for source, obj in objects if source.kind in KINDS]
    seen: dict[tuple[str, str, str | None], Source] = {}
    for account in accounts:
        at = account.source
        key = (at.kind, at.name, at.namespace)
        if key in seen:
            raise BadObject(f"{at}: metadata.name: is given twice, first in {seen[key]}; leave one out")
        seen[key] = at
    if not any(account.source.kind in {"Canary", "Rollout"} for account in accounts):
        raise BadObject(
            f"{', '.join(files)}: holds no Canary of Flagger and no Rollout of Argo Rollouts; give one, "
            f"and with "
            "it the templates that it names"
        )
    return Given(tuple(accounts), tuple(source for source, _ in objects if source.kind not in KINDS))


def _objects(file: str, text: str) -> Iterator[tuple[Source, Json]]:
    for number, document in enumerate(_documents(file, text), start=1):
        if isinstance(document, dict) and document.get("kind") == "List":
            items = document.get("items")
            if not isinstance(items, list):
                raise BadObject(f"{file}, document {number}: List: items: expected a list; correct it")
            for each in items:
                yield _source(file, number, each), each
        elif document is not None:
            yield _source(file, number, document), document


def _documents(file: str, text: str) -> list[Json]:
    if len(text) > documents.LARGEST:
        raise BadObject(f"{file}: has more than {documents.LARGEST} characters; give a shorter file")
    try:
        return list(yaml.load_all(text, Loader=documents.Document))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        what = error.problem or error.context
        raise BadObject(f"{file}: {where}is not YAML: {what}; correct that place") from error
    except RecursionError:
        raise BadObject(f"{file}: is nested too deep; no object has more than some twenty levels") from None
    except (yaml.YAMLError, TypeError, AttributeError, LookupError, ValueError, OverflowError) as error:
        raise BadObject(
            f"{file}: is not YAML: {' '.join(str(error).split())}; save it as plain YAML in UTF-8"
        ) from error


def _source(file: str, number: int, document: Json) -> Source:
    """What the document says it is; raises `BadObject` if that is nothing to convert."""
    where = f"{file}, document {number}"
    if not isinstance(document, dict):
        raise BadObject(f"{where}: is no object: {document!r:.60}; give objects with apiVersion and kind")
    kind, version = document.get("kind"), document.get("apiVersion")
    found = document.get("metadata")
    metadata = found if isinstance(found, dict) else {}
    name = metadata.get("name")
    said = f"{where}: {kind} {name}"
    if str(kind) in RECORDS:
        raise BadObject(f"{said}: kind: is a record of what was done; leave it out, give the Rollout")
    group = version.partition("/")[0] if isinstance(version, str) else ""
    if not isinstance(kind, str) or (kind not in KINDS and (not group or group in PEERS)):
        raise BadObject(f"{said}: kind: is not converted; leave it out, there are {', '.join(KINDS)}")
    if group != KINDS.get(kind, group):
        raise BadObject(f"{said}: apiVersion: is {version!r}; a {kind} is of {KINDS[kind]}, correct it")
    if not isinstance(name, str) or not name:
        raise BadObject(f"{said}: metadata.name: is missing; name the object")
    if not (documents.NAME.fullmatch(name) or (kind not in KINDS and name.isprintable())):  # a role's: "a:b"
        raise BadObject(f"{where}: {kind}: metadata.name: {name!r:.60} is no name of an object; correct it")
    namespace = metadata.get("namespace")
    if namespace is not None and not isinstance(namespace, str):
        raise BadObject(f"{said}: metadata.namespace: expected text, got {namespace!r:.60}; correct it")
    if namespace and not documents.NAME.fullmatch(namespace):
        raise BadObject(f"{said}: metadata.namespace: {namespace!r:.60} is no name; correct it")
    if not all(isinstance(part, str) for part in _keys(document)):
        raise BadObject(f"{said}: has a key that is no text; put it in quotes (YAML reads on, yes and 1 so)")
    return Source(file, number, kind, name, namespace)


def _keys(value: Json) -> Iterator[Json]:
    if isinstance(value, dict):
        yield from value
        for each in value.values():
            yield from _keys(each)
    elif isinstance(value, list):
        for each in value:
            yield from _keys(each)
