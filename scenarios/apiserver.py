"""The emulated API server: what each request does and what is answered, no matter how it came here.

`ApiServer.answer` is plain and immediate; only watches take time. `world` gives it a clock and a
cluster behind it, `serving` an HTTP port.
"""

import base64
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from scenarios import discovery, refusals, selectors, tables, views
from scenarios.faults import Fault, Faults
from scenarios.kinds import Kind
from scenarios.patches import Mismatch, merged, patched, strategic
from scenarios.refusals import Refused
from scenarios.registry import Registry, Terms
from scenarios.watching import Asked, events

Json = Any

LARGEST_BODY = 3 * 1024 * 1024  # bytes of a request, as on a real server
LONGEST_WATCH = 1800.0  # seconds, if the client names none
PAGES_KEPT = 32  # lists that are being paged through
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
_WRITES = ("POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One HTTP answer: a body, or lines that come as they happen."""

    code: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    lines: AsyncIterator[bytes] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a path leads to."""

    kind: Kind
    version: str
    namespace: str | None = None  # None: all of them, or a cluster-wide resource
    name: str = ""
    part: str = ""  # status, scale, eviction

    @property
    def home(self) -> str:
        """The namespace under which the store keeps the object."""
        return self.namespace or ""


class ApiServer:
    """Requests to answers, over one registry."""

    def __init__(self, registry: Registry, faults: Faults) -> None:
        self.registry = registry
        self.faults = faults
        self._pages: OrderedDict[str, tuple[Sequence[Json], int]] = OrderedDict()

    def answer(self, request: Request) -> Reply:
        """The answer; what the server refuses is an answer too."""
        try:
            return self._answer(request)
        except Refused as refused:
            return _json(refused.code, refused.status())

    def _answer(self, request: Request) -> Reply:
        found = discovery.document(self.registry.kinds, request.path)
        if found is not None:
            return _json(200, found)
        target = self._target(request.path)
        if request.method in _WRITES and self.faults.on(Fault.CONFLICT):
            raise refusals.conflict(target.kind.plural, target.kind.group, target.name)
        return self._verb(request, target)(request, target)

    def _target(self, path: str) -> Target:
        parts = [part for part in path.split("/") if part]
        if parts[:1] == ["api"] and len(parts) > 2:
            group, version, rest = "", parts[1], parts[2:]
        elif parts[:1] == ["apis"] and len(parts) > 3:
            group, version, rest = parts[1], parts[2], parts[3:]
        else:
            raise refusals.no_such_path()
        namespace = None
        if rest[0] == "namespaces" and len(rest) > 2 and self.registry.kinds.at(group, version, rest[2]):
            namespace, rest = rest[1], rest[2:]
        kind = self.registry.kinds.at(group, version, rest[0])
        part = rest[2] if len(rest) > 2 else ""
        if kind is None or len(rest) > 3 or not _has(kind, part):
            raise refusals.no_such_path()
        name = rest[1] if len(rest) > 1 else ""
        return Target(kind=kind, version=version, namespace=namespace, name=name, part=part)

    def _verb(self, request: Request, target: Target) -> Callable[[Request, Target], Reply]:
        several = {"GET": self._list, "POST": self._create, "DELETE": self._delete_several}
        one = {"GET": self._get, "PUT": self._replace, "PATCH": self._patch, "DELETE": self._delete}
        if target.part == "eviction":
            one = {"POST": self._evict}
        elif target.part:
            one.pop("DELETE")
        method = "GET" if request.method == "HEAD" else request.method
        verb = (one if target.name else several).get(method)
        if verb is None or (target.part == "finalize" and method != "PUT"):
            raise refusals.method_not_allowed()
        return verb

    # --- reading

    def _get(self, request: Request, target: Target) -> Reply:
        if target.part != "scale" and _true(request.query.get("watch")):
            return self._watch(request, target)
        obj = self.registry.get(target.kind, target.home, target.name)
        if target.part == "scale":
            return _json(200, views.scale(obj))
        return _json(200, self._shape(request, target, several=False)([obj], {}))

    def _list(self, request: Request, target: Target) -> Reply:
        if _true(request.query.get("watch")):
            return self._watch(request, target)
        _whole_number(request.query.get("resourceVersion"))
        objects, version = self._selected(request, target)
        meta: dict[str, Json] = {"resourceVersion": str(version)}
        limit = _whole_number(request.query.get("limit")) or len(objects)
        page, rest = objects[:limit], objects[limit:]
        if rest:
            meta |= {"continue": self._keep(rest, version), "remainingItemCount": len(rest)}
        return _json(200, self._shape(request, target, several=True)(page, meta))

    def _selected(self, request: Request, target: Target) -> tuple[Sequence[Json], int]:
        """The objects asked for and the version that they are of."""
        token = request.query.get("continue")
        if token:
            if token not in self._pages:
                raise refusals.continue_expired()
            return self._pages[token]
        predicate = _predicate(request, target)
        store = self.registry.store
        return [obj for obj in store.all(target.kind, target.namespace) if predicate(obj)], store.version

    def _keep(self, rest: Sequence[Json], version: int) -> str:
        """A token under which the rest of a list can be had, unchanged by what happens meanwhile."""
        meta = rest[0]["metadata"]
        start = f"{meta.get('namespace', '')}/{meta['name']}"
        token = {"v": "meta.k8s.io/v1", "rv": version, "start": start}
        text = base64.urlsafe_b64encode(json.dumps(token).encode()).decode().rstrip("=")
        self._pages[text] = (rest, version)
        while len(self._pages) > PAGES_KEPT:
            self._pages.popitem(last=False)
        return text

    def _shape(
        self, request: Request, target: Target, *, several: bool
    ) -> Callable[[Sequence[Json], Json], Json]:
        """How objects and list metadata become what the client accepts."""
        kind, version = target.kind, target.version
        wanted = tables.wanted(request.headers.get("accept", ""))
        now = self.registry.clock()
        include = request.query.get("includeObject", "Metadata")
        if wanted == "Table":
            return lambda objects, meta: tables.table(
                kind, [views.shown(kind, version, obj) for obj in objects], meta, now=now, include=include
            )
        if wanted == "Partial":
            return lambda objects, meta: views.partial(objects, meta, several=several)
        if several:
            return lambda objects, meta: views.listed(kind, version, objects, meta)
        return lambda objects, _meta: views.shown(kind, version, objects[0])

    def _watch(self, request: Request, target: Target) -> Reply:
        since = request.query.get("resourceVersion", "")
        initial = _true(request.query.get("sendInitialEvents"))
        predicate = _predicate(request, target)
        if target.name:
            named = selectors.by_fields(f"metadata.name={target.name}", target.kind.plural)
            predicate = _both(predicate, named)
        shape = self._shape(request, target, several=False)
        number = _whole_number(since)
        asked = Asked(
            kind=target.kind,
            namespace=target.namespace,
            selected=predicate,
            since=None if initial or not number else number,
            seconds=float(_whole_number(request.query.get("timeoutSeconds")) or LONGEST_WATCH),
            bookmarks=_true(request.query.get("allowWatchBookmarks")),
            announce=initial,
            show=lambda obj: shape([obj], {"resourceVersion": obj["metadata"]["resourceVersion"]}),
        )
        lines = events(self.registry.store, self.faults, asked)
        return Reply(code=200, headers={"Content-Type": "application/json"}, lines=lines)

    # --- writing

    def _create(self, request: Request, target: Target) -> Reply:
        obj = self._decoded(request, target)
        terms, warnings = _terms(request)
        stored = views.stored(target.kind, obj)
        made = self.registry.create(target.kind, stored, target.home, terms)
        return _json(201, self._one(request, target, made), warnings)

    def _replace(self, request: Request, target: Target) -> Reply:
        if target.part == "scale":
            wanted = _read_json(request)
            return self._rescale(request, target, lambda _scale: wanted)
        obj = views.stored(target.kind, self._decoded(request, target))
        terms, warnings = _terms(request)
        place = target.home, target.name
        new = self.registry.replace(target.kind, obj, place, part=target.part, terms=terms)
        return _json(200, self._one(request, target, new), warnings)

    def _patch(self, request: Request, target: Target) -> Reply:
        patch = _patch_of(request, target)
        if target.part == "scale":
            return self._rescale(request, target, patch)
        terms, warnings = _terms(request)

        def change(old: Json) -> Json:
            return views.stored(target.kind, patch(views.shown(target.kind, target.version, old)))

        new = self.registry.update(
            target.kind, target.home, target.name, change, part=target.part, terms=terms
        )
        return _json(200, self._one(request, target, new), warnings)

    def _rescale(self, request: Request, target: Target, change: Callable[[Json], Json]) -> Reply:
        """Writes through /scale: only the replicas, fenced like any other write."""

        def scaled(old: Json) -> Json:
            wanted = change(views.scale(old))
            version = wanted.get("metadata", {}).get("resourceVersion")
            meta = {**old["metadata"], "resourceVersion": version or old["metadata"]["resourceVersion"]}
            replicas = (wanted.get("spec") or {}).get("replicas", 0)
            return {**old, "metadata": meta, "spec": {**old["spec"], "replicas": replicas}}

        terms, _warnings = _terms(request)
        new = self.registry.update(target.kind, target.home, target.name, scaled, terms=terms)
        return _json(200, views.scale(new))

    def _delete(self, request: Request, target: Target) -> Reply:
        obj, gone = self.registry.delete(target.kind, target.home, target.name, _delete_options(request))
        if not gone or target.kind.plural == "pods":
            return _json(200, self._one(request, target, obj))
        return _json(200, views.success(target.kind, obj))

    def _delete_several(self, request: Request, target: Target) -> Reply:
        objects, version = self._selected(request, target)
        for obj in objects:
            meta = obj["metadata"]
            self.registry.delete(
                target.kind, meta.get("namespace", ""), meta["name"], _delete_options(request)
            )
        meta = {"resourceVersion": str(version)}
        return _json(200, self._shape(request, target, several=True)(objects, meta))

    def _evict(self, request: Request, target: Target) -> Reply:
        options = (_read_json(request) or {}).get("deleteOptions") or {}
        self.registry.delete(target.kind, target.home, target.name, options)
        return _json(201, {**_SUCCESS, "code": 201})

    def _one(self, request: Request, target: Target, obj: Json) -> Json:
        return self._shape(request, target, several=False)([obj], {})

    def _decoded(self, request: Request, target: Target) -> Json:
        """The object in the body, which must be of the path's kind and version."""
        obj = _read_json(request)
        kind = target.kind
        if not isinstance(obj, dict):
            raise refusals.bad_request(f"couldn't get version/kind; json parse error: not an object: {kind.kind}")
        here = kind.api_version(target.version)
        said, called = obj.get("apiVersion") or here, obj.get("kind") or kind.kind
        if said != here:
            raise refusals.bad_request(
                f"the API version in the data ({said}) does not match the expected API version ({here})"
            )
        if called != kind.kind:
            raise refusals.bad_request(f"{called} in version {said!r} cannot be handled as a {kind.kind}")
        return obj


_SUCCESS = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}


def _has(kind: Kind, part: str) -> bool:
    parts = {"": True, "status": kind.status, "scale": kind.scale}
    parts |= {"eviction": kind.key == "pods", "finalize": kind.key == "namespaces"}
    return parts.get(part, False)


def _json(code: int, body: Json, warnings: Sequence[str] = ()) -> Reply:
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json"}
    if warnings:
        quoted = (text.replace('"', '\\"') for text in warnings)
        headers["Warning"] = ", ".join(f'299 - "{text}"' for text in quoted)
    return Reply(code=code, body=text, headers=headers)


def _true(text: str | None) -> bool:
    """As the server reads booleans: present and neither 0 nor false."""
    return text is not None and text.lower() not in ("0", "false", "f")


def _whole_number(text: str | None) -> int:
    if not text:
        return 0
    if not text.isdecimal():
        why = f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        raise refusals.bad_request(f"resourceVersion: {why}")
    return int(text)


def _both(first: selectors.Predicate, second: selectors.Predicate) -> selectors.Predicate:
    return lambda obj: first(obj) and second(obj)


def _predicate(request: Request, target: Target) -> selectors.Predicate:
    query, found = request.query, selectors.everything
    if query.get("labelSelector"):
        found = selectors.by_labels(query["labelSelector"])
    if query.get("fieldSelector"):
        found = _both(found, selectors.by_fields(query["fieldSelector"], target.kind.plural))
    return found


def _terms(request: Request) -> tuple[Terms, list[str]]:
    """How the client wants its write, and the list that collects warnings for it."""
    warnings: list[str] = []
    strictness = request.query.get("fieldValidation") or "Warn"
    dry = request.query.get("dryRun") == "All"
    return Terms(dry=dry, strictness=strictness, warn=warnings.append), warnings


def _constant(text: str) -> Json:
    raise refusals.bad_request(f"error decoding: invalid character '{text[0]}' looking for beginning of value")


def _read_json(request: Request) -> Json:
    """The body's value; raises 400, 413 or 415 `Refused`. NaN and Infinity are no JSON."""
    body = request.body or b""
    if len(body) > LARGEST_BODY:
        raise refusals.body_too_large(LARGEST_BODY)
    media = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    try:
        if media == "application/yaml":
            return yaml.safe_load(body)
        if media not in ("", "application/json", "*/*") and not media.endswith("+json"):
            raise refusals.unsupported_media(("application/json", "application/yaml"))
        return json.loads(body, parse_constant=_constant) if body else None
    except (ValueError, yaml.YAMLError) as error:
        raise refusals.bad_request(f"error decoding: {error}") from error


def _delete_options(request: Request) -> Json:
    """From the body, or from the query, which is the older way."""
    options = dict(_read_json(request) or {})
    if request.query.get("gracePeriodSeconds"):
        options["gracePeriodSeconds"] = _whole_number(request.query["gracePeriodSeconds"])
    for key in ("propagationPolicy", "dryRun"):
        if request.query.get(key):
            options[key] = request.query[key]
    return options


def _patch_of(request: Request, target: Target) -> Callable[[Json], Json]:
    """What the patch in the body does to an object; raises 400 or 415 `Refused` if it is none."""
    media = request.headers.get("content-type", "").partition(";")[0].strip()
    supported = (JSON_PATCH, MERGE_PATCH) if target.kind.custom else (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH)
    if media not in supported:
        raise refusals.unsupported_media(supported)
    patch = _read_json(request)
    if media == JSON_PATCH:
        return _json_patch(patch)
    if not isinstance(patch, dict):
        raise refusals.bad_request("error decoding patch: the patch is not an object")
    if media == MERGE_PATCH:
        return lambda old: merged(old, patch)
    return lambda old: strategic(old, patch)


def _json_patch(patch: Json) -> Callable[[Json], Json]:
    if not isinstance(patch, list) or not all(isinstance(step, dict) for step in patch):
        raise refusals.bad_request(
            "error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch"
        )

    def change(old: Json) -> Json:
        try:
            return patched(old, patch)
        except Mismatch as mismatch:
            raise refusals.patch_failed() from mismatch

    return change
