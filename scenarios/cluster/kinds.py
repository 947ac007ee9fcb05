"""Which resources the emulated API server serves: names, scope, subresources, schema, columns."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from scenarios.cluster.refusals import qualified

Json = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of `kubectl get`; `path` is JSONPath. Priority above 0 shows with `-o wide` only."""

    name: str
    type: str
    path: str
    priority: int = 0
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One resource as discovery describes it, and the schema its objects must keep."""

    group: str
    versions: tuple[str, ...]  # the first one is stored and preferred
    plural: str
    kind: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    status: bool = False  # has a /status subresource
    scale: bool = False
    custom: bool = False  # defined by a CRD: no strategic merge patch, kind and apiVersion inside lists
    schema: Mapping[str, Json] = field(default_factory=dict)
    columns: tuple[Column, ...] = ()
    stored_as: str = ""  # plural.group of the resource whose objects these are, if not its own

    @property
    def key(self) -> str:
        """Where objects are stored: `deployments.apps`."""
        return self.stored_as or qualified(self.plural, self.group)

    @property
    def singular(self) -> str:
        """The kind in lower case, as kubectl takes it."""
        return self.kind.lower()

    def api_version(self, version: str = "") -> str:
        """`apps/v1`, or `v1` in the core group."""
        version = version or self.versions[0]
        return f"{self.group}/{version}" if self.group else version


class Kinds:
    """All served resources; CRDs add to them at run time."""

    def __init__(self, kinds: tuple[Kind, ...]) -> None:
        self._by_path: dict[tuple[str, str, str], Kind] = {}
        self._by_plural: dict[str, Kind] = {}
        for kind in kinds:
            self.add(kind)

    def __iter__(self) -> Iterator[Kind]:
        return iter({id(kind): kind for kind in self._by_path.values()}.values())

    def add(self, kind: Kind) -> None:
        """`kind` is served from now on, in place of what had its name."""
        for version in kind.versions:
            self._by_path[kind.group, version, kind.plural] = kind
        if not kind.stored_as:
            self._by_plural[kind.plural] = kind

    def remove(self, kind: Kind) -> None:
        """`kind` is not served any more."""
        for version in kind.versions:
            self._by_path.pop((kind.group, version, kind.plural), None)
        self._by_plural.pop(kind.plural, None)

    def at(self, group: str, version: str, plural: str) -> Kind | None:
        """The resource at this place in the URL space."""
        return self._by_path.get((group, version, plural))

    def named(self, plural: str) -> Kind:
        """The resource with this plural, whatever its group; plurals are unique here."""
        return self._by_plural[plural]

    def of(self, obj: Json) -> tuple[Kind, str]:
        """The resource and version that an object's `apiVersion` and `kind` name."""
        group, _, version = str(obj["apiVersion"]).rpartition("/")
        for (a_group, a_version, _), kind in self._by_path.items():
            if (a_group, a_version, kind.kind) == (group, version, obj["kind"]):
                return kind, version
        raise KeyError(f"no resource serves kind {obj['kind']!r} in {obj['apiVersion']!r}")

    def groups(self) -> dict[str, list[str]]:
        """Versions by group, preferred first."""
        found: dict[str, list[str]] = {}
        for group, version, _ in self._by_path:
            versions = found.setdefault(group, [])
            if version not in versions:
                versions.append(version)
        return found
