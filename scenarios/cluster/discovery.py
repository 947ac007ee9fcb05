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
        case []:
            return {"paths": _everywhere(kinds)}
        case ["openapi", *rest]:
            return _openapi(kinds, rest)
        case ["api", *rest]:
            return _core(kinds, rest)
        case ["apis", *rest]:
            return _groups(kinds, rest)
        case _:
            return None


_INFO = {"title": "Kubernetes", "version": VERSION}
# The same in gnostic's protobuf, the only form in which kubectl reads it. It describes no kind: those are
# in v3, which kubectl asks first, and what is in neither it leaves to the server
_TITLE, _NUMBER = _INFO["title"].encode(), VERSION.encode()
_ABOUT = b"\x0a%c%b\x12%c%b" % (len(_TITLE), _TITLE, len(_NUMBER), _NUMBER)
_PROTO = "application/com.github.proto-openapi.spec.v2"


def plain(path: str, accept: str) -> tuple[str, bytes] | None:
    """The media type and text of a document that is no JSON; nothing if `path` leads to none."""
    match [part for part in path.split("/") if part]:
        case ["healthz" | "livez" | "readyz", *_]:
            return "text/plain; charset=utf-8", b"ok"
        case ["openapi", "v2"] if _PROTO in accept:
            return f"{_PROTO}.v1+protobuf", b"\x0a\x032.0\x12%c%b\x42\x00" % (len(_ABOUT), _ABOUT)
        case _:
            return None


def _everywhere(kinds: Kinds) -> list[str]:
    """The paths below which there is something."""
    places = [_place(group, version) for group, versions in kinds.groups().items() for version in versions]
    groups = [f"apis/{group}" for group in kinds.groups() if group]
    others = ["api", "apis", "healthz", "livez", "readyz", "openapi/v2", "openapi/v3", "version"]
    return sorted(f"/{path}" for path in (*others, *groups, *places))


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
        parts.append({**base, "name": "pods/log", "verbs": ["get"]})
        of_streams = ["create", "get"]
        parts += [
            {**base, "name": f"pods/{part}", "kind": f"Pod{kind}Options", "verbs": of_streams}
            for part, kind in (("attach", "Attach"), ("exec", "Exec"), ("portforward", "PortForward"))
        ]
    return parts


# --- OpenAPI: that patches take `fieldValidation`, and the schemas for `kubectl explain`


def _openapi(kinds: Kinds, rest: list[str]) -> Json | None:
    match rest:
        case ["v2"]:
            return {"swagger": "2.0", "info": _INFO, "paths": {}}
        case ["v3"]:
            places = [_place(group, v) for group, versions in kinds.groups().items() for v in versions]
            return {"paths": {p: {"serverRelativeURL": f"/openapi/v3/{p}"} for p in places}}
        case ["v3", "api", "v1"]:
            return _specification(kinds, "", "v1")
        case ["v3", "apis", group, version] if version in kinds.groups().get(group, ()):
            return _specification(kinds, group, version)
        case _:
            return None


def _place(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"


def _specification(kinds: Kinds, group: str, version: str) -> Json:
    found = _of(kinds, group, version)
    return {
        "openapi": "3.0.0",
        "info": _INFO,
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
