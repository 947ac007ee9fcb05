"""What the server says of itself: groups, resources, version, and as much OpenAPI as kubectl asks for."""

from typing import Any

from scenarios.cluster.kinds import Kind, Kinds

Json = Any

VERSION = "v1.36.0"  # whose behaviour is emulated
_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


def document(kinds: Kinds, path: str) -> Json | None:
    """The document at `path`, or nothing if the path is not of this sort."""
    match [part for part in path.split("/") if part]:
        case ["version"]:
            return _version()
        case ["healthz" | "livez" | "readyz", *_]:
            return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        case ["openapi", "v3", *rest]:
            return _openapi(kinds, rest)
        case ["api", *rest]:
            return _core(kinds, rest)
        case ["apis", *rest]:
            return _groups(kinds, rest)
        case _:
            return None


def _core(kinds: Kinds, rest: list[str]) -> Json | None:
    if not rest:
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    return _resources(kinds, "", "v1") if rest == ["v1"] else None


def _groups(kinds: Kinds, rest: list[str]) -> Json | None:
    match rest:
        case []:
            groups = [_group(name, versions) for name, versions in kinds.groups().items() if name]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        case [group] if group in kinds.groups():
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(group, kinds.groups()[group])}
        case [group, version] if version in kinds.groups().get(group, ()):
            return _resources(kinds, group, version)
        case _:
            return None


def _version() -> Json:
    major, minor, _ = VERSION[1:].split(".")
    return {
        "major": major,
        "minor": minor,
        "gitVersion": f"{VERSION}+serin-lab",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": "linux/amd64",
    }


def _group(name: str, versions: list[str]) -> Json:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def _of(kinds: Kinds, group: str, version: str) -> list[Kind]:
    return [kind for kind in kinds if kind.group == group and version in kind.versions]


def _resources(kinds: Kinds, group: str, version: str) -> Json:
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": [entry for kind in _of(kinds, group, version) for entry in _entries(kind)],
    }


def _entries(kind: Kind) -> list[Json]:
    base = {"singularName": "", "namespaced": kind.namespaced, "kind": kind.kind}
    main: Json = {**base, "name": kind.plural, "singularName": kind.singular, "verbs": _VERBS}
    if kind.short:
        main["shortNames"] = list(kind.short)
    if kind.categories:
        main["categories"] = list(kind.categories)
    parts = [main]
    verbs = ["get", "patch", "update"]
    if kind.status:
        parts.append({**base, "name": f"{kind.plural}/status", "verbs": verbs})
    if kind.scale:
        of = {"group": "autoscaling", "version": "v1", "kind": "Scale"}
        parts.append({**base, **of, "name": f"{kind.plural}/scale", "verbs": verbs})
    if kind.key == "pods":
        of = {"group": "policy", "version": "v1", "kind": "Eviction"}
        parts.append({**base, **of, "name": "pods/eviction", "verbs": ["create"]})
        parts.append({**base, "name": "pods/binding", "kind": "Binding", "verbs": ["create"]})
    return parts


# --- OpenAPI v3: that patches take `fieldValidation`, and the schemas for `kubectl explain`


def _openapi(kinds: Kinds, rest: list[str]) -> Json | None:
    match rest:
        case []:
            places = [_place(group, v) for group, versions in kinds.groups().items() for v in versions]
            return {"paths": {p: {"serverRelativeURL": f"/openapi/v3/{p}"} for p in places}}
        case ["api", "v1"]:
            return _specification(kinds, "", "v1")
        case ["apis", group, version] if version in kinds.groups().get(group, ()):
            return _specification(kinds, group, version)
        case _:
            return None


def _place(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"


def _specification(kinds: Kinds, group: str, version: str) -> Json:
    found = _of(kinds, group, version)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": {f"/{_place(group, version)}/{_under(kind)}": _paths(kind, version) for kind in found},
        "components": {"schemas": {_model(kind, version): _described(kind, version) for kind in found}},
    }


def _under(kind: Kind) -> str:
    return (
        f"namespaces/{{namespace}}/{kind.plural}/{{name}}" if kind.namespaced else f"{kind.plural}/{{name}}"
    )


def _paths(kind: Kind, version: str) -> Json:
    query = [
        {"name": name, "in": "query", "schema": {"type": "string"}} for name in ("dryRun", "fieldValidation")
    ]
    operation = {
        "parameters": query,
        "x-kubernetes-group-version-kind": _gvk(kind, version),
        "responses": {"200": {"description": "OK"}},
    }
    return {"get": {**operation, "parameters": []}, "patch": operation, "put": operation}


def _gvk(kind: Kind, version: str) -> Json:
    return {"group": kind.group, "version": version, "kind": kind.kind}


def _model(kind: Kind, version: str) -> str:
    return ".".join([*reversed((kind.group or "core").split(".")), version, kind.kind])


def _described(kind: Kind, version: str) -> Json:
    head = {name: {"type": "string"} for name in ("apiVersion", "kind")} | {"metadata": {"type": "object"}}
    fields = {**head, **kind.schema.get("properties", {})}
    about = {"x-kubernetes-group-version-kind": [_gvk(kind, version)]}
    return {"type": "object", **kind.schema, "properties": fields, **about}
