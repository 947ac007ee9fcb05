"""The emulated API server: what each request does and what is answered, no matter how it came here.

`ApiServer.answer` is plain and immediate; only watches take time. `world` gives it a clock and a
cluster behind it, `serving` an HTTP port.
"""

import base64
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scenarios.cluster import claims, discovery, messages, refusals, selectors, tables, views
from scenarios.cluster.claims import Writer
from scenarios.cluster.faults import Fault, Faults
from scenarios.cluster.kinds import Kind
from scenarios.cluster.messages import Reply, Request, reply
from scenarios.cluster.patches import merged
from scenarios.cluster.rbac import Attempt, Rights, verb
from scenarios.cluster.refusals import NoSuchPage, Refused
from scenarios.cluster.registry import Registry, Terms
from scenarios.cluster.watching import Asked, events

Json = Any
Verb = Callable[["Request", "Target"], Reply]

LONGEST_WATCH = 1800  # seconds, if the client names none
PAGES_KEPT = 32  # lists that are being paged through
_WRITES = ("POST", "PUT", "PATCH", "DELETE")
_OF_PODS = ("eviction", "binding")  # what else can be made of a pod
_INSIDE = ("log", "exec", "attach", "portforward")  # ways into a pod, which only a kubelet can open
_DONE: Json = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a path leads to."""

    kind: Kind
    version: str
    namespace: str | None = None  # None: all of them, or a cluster-wide resource
    name: str = ""
    part: str = ""  # status, scale, eviction, binding

    @property
    def home(self) -> str:
        """The namespace under which the store keeps the object."""
        return self.namespace or ""


class ApiServer:
    """Requests to answers, over one registry."""

    def __init__(self, registry: Registry, faults: Faults) -> None:
        self._registry = registry
        self._faults = faults
        self.rights = Rights(registry.store)
        self._pages: OrderedDict[tuple[str, str], tuple[Sequence[Json], int]] = OrderedDict()

    def answer(self, request: Request) -> Reply:
        """The answer; what the server refuses is an answer too."""
        try:
            return self._answer(request)
        except Refused as refused:
            return reply(refused.code, refused.status(), request.warnings)
        except NoSuchPage:
            headers = {"Content-Type": "text/plain; charset=utf-8"}
            return Reply(code=404, headers=headers, body=b"404 page not found\n")

    def _answer(self, request: Request) -> Reply:
        text = discovery.plain(request.path, request.headers.get("accept", ""))
        if text is not None:
            return Reply(code=200, headers={"Content-Type": text[0]}, body=text[1])
        document = discovery.document(self._registry.kinds, request.path)
        if document is not None:
            return reply(200, document)
        target = self._target(request.path)
        self.rights.check(request.user, _attempt(request, target))
        does = self._does(request, target)
        if request.method in _WRITES and self._faults.on(Fault.CONFLICT):
            raise refusals.conflict(target.kind.key, target.kind.group, target.name)
        return does(request, target)

    def _target(self, path: str) -> Target:
        parts = [part for part in path.split("/") if part]
        if parts[:1] == ["api"] and len(parts) > 2:
            group, version, rest = "", parts[1], parts[2:]
        elif parts[:1] == ["apis"] and len(parts) > 3:
            group, version, rest = parts[1], parts[2], parts[3:]
        else:
            raise NoSuchPage
        namespace = None
        if rest[0] == "namespaces" and len(rest) > 2 and self._registry.kinds.at(group, version, rest[2]):
            namespace, rest = rest[1], rest[2:]
        kind = self._registry.kinds.at(group, version, rest[0])
        name, part = [*rest[1:3], "", ""][:2]
        if kind is None or len(rest) > 3 or not _has(kind, part):
            built_in = any(one.group == group and not one.custom for one in self._registry.kinds)
            raise refusals.no_such_path() if built_in else NoSuchPage
        return Target(kind=kind, version=version, namespace=namespace, name=name, part=part)

    def _does(self, request: Request, target: Target) -> Verb:
        several = {"GET": self._list, "POST": self._create, "DELETE": self._delete_several}
        one = {"GET": self._get, "PUT": self._replace, "PATCH": self._patch, "DELETE": self._delete}
        if target.part in _OF_PODS:
            one = {"POST": self._evict if target.part == "eviction" else self._bind}
        elif target.part in _INSIDE:
            one = {"GET": self._enter, "POST": self._enter}
        elif target.part:
            one.pop("DELETE")
        method = "GET" if request.method == "HEAD" else request.method
        found = (one if target.name else several).get(method)
        nowhere = target.kind.namespaced and target.namespace is None and method != "GET"
        if found is None or nowhere:
            raise refusals.method_not_allowed()
        return found

    # --- reading

    def _get(self, request: Request, target: Target) -> Reply:
        if not target.part and request.says("watch"):
            return self._watch(request, target)
        obj = self._registry.get(target.kind, target.home, target.name)
        if target.part == "scale":
            sized = Target(kind=tables.SCALE, version="v1")
            return reply(200, self._one(request, sized, views.scale(obj)))
        return reply(200, self._one(request, target, obj))

    def _enter(self, request: Request, target: Target) -> Reply:
        """Nothing runs in an emulated pod: refused, once it is clear that there is such a pod."""
        pod = self._registry.get(target.kind, target.home, target.name)
        asked = request.query.get("container")
        if asked and asked not in [container["name"] for container in pod["spec"]["containers"]]:
            raise refusals.bad_request(f"container {asked} is not valid for pod {target.name}")
        if not pod["spec"].get("nodeName") and target.part == "log":
            return Reply(code=204)
        if not pod["spec"].get("nodeName"):
            raise refusals.bad_request(f"pod {target.name} does not have a host assigned")
        raise refusals.no_kubelet(target.name, target.part)

    def _list(self, request: Request, target: Target) -> Reply:
        if request.says("watch"):
            return self._watch(request, target)
        request.number("resourceVersion")
        objects, version = self._selected(request, target)
        limit = request.number("limit") or len(objects)
        page, rest = objects[:limit], objects[limit:]
        meta: dict[str, Json] = {"resourceVersion": str(version)}
        if rest:
            meta |= {"continue": self._keep(target, rest, version), "remainingItemCount": len(rest)}
        return reply(200, self._shape(request, target, several=True)(page, meta))

    def _selected(self, request: Request, target: Target) -> tuple[Sequence[Json], int]:
        """The objects asked for and the version that they are of."""
        token = request.query.get("continue")
        if token:
            if (target.kind.key, token) not in self._pages:
                raise refusals.continue_expired()
            return self._pages[target.kind.key, token]
        predicate, store = _predicate(request, target), self._registry.store
        return [obj for obj in store.all(target.kind, target.namespace) if predicate(obj)], store.version

    def _keep(self, target: Target, rest: Sequence[Json], version: int) -> str:
        """A token under which the rest of a list can be had, unchanged by what happens meanwhile.

        It says nothing of what is listed: objects of two kinds may have the same name at one version.
        """
        meta = rest[0]["metadata"]
        start = f"{meta.get('namespace', '')}/{meta['name']}"
        token = json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": start})
        text = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
        self._pages[target.kind.key, text] = (rest, version)
        while len(self._pages) > PAGES_KEPT:
            self._pages.popitem(last=False)
        return text

    def _one(self, request: Request, target: Target, obj: Json) -> Json:
        return self._shape(request, target, several=False)([obj], {})

    def _shape(
        self, request: Request, target: Target, *, several: bool
    ) -> Callable[[Sequence[Json], Json], Json]:
        """How objects and list metadata become what the client accepts."""
        kind, version = target.kind, target.version
        wanted = tables.wanted(request.headers.get("accept", ""))
        include = request.query.get("includeObject", "Metadata")
        if wanted == "Table":
            return lambda objects, meta: tables.table(
                kind,
                [views.shown(kind, version, obj) for obj in objects],
                meta,
                now=self._registry.clock(),
                include=include,
            )
        if wanted == "Partial":
            return lambda objects, meta: views.partial(objects, meta, several=several)
        if several:
            return lambda objects, meta: views.listed(kind, version, objects, meta)
        return lambda objects, _meta: views.shown(kind, version, objects[0])

    def _watch(self, request: Request, target: Target) -> Reply:
        initial = request.says("sendInitialEvents")
        predicate = _predicate(request, target)
        if target.name:
            named = selectors.by_fields(f"metadata.name={target.name}", target.kind.key)
            predicate = selectors.both(predicate, named)
        shape = self._shape(request, target, several=False)
        since = request.number("resourceVersion")
        asked = Asked(
            kind=target.kind,
            namespace=target.namespace,
            selected=predicate,
            since=None if initial or not since else since,
            seconds=float(request.number("timeoutSeconds") or LONGEST_WATCH),
            bookmarks=request.says("allowWatchBookmarks"),
            announce=initial,
            show=lambda obj: shape([obj], {"resourceVersion": obj["metadata"]["resourceVersion"]}),
        )
        lines = events(self._registry.store, self._faults, asked)
        return Reply(code=200, headers={"Content-Type": "application/json"}, lines=lines)

    # --- writing

    def _create(self, request: Request, target: Target) -> Reply:
        obj = views.stored(target.kind, _decoded(messages.value(request), target))
        terms, warnings = _terms(request, target)
        made = self._registry.create(target.kind, obj, target.home, terms)
        return reply(201, self._one(request, target, made), warnings)

    def _replace(self, request: Request, target: Target) -> Reply:
        if target.part == "scale":
            wanted = _decoded_as(request, "Scale")
            return self._rescale(request, target, lambda _scale: wanted)
        obj = views.stored(target.kind, _decoded(messages.value(request), target))
        terms, warnings = _terms(request, target)
        there = self._registry.store.get(target.kind, target.home, target.name) is not None
        place = target.home, target.name
        new = self._registry.replace(target.kind, obj, place, part=target.part, terms=terms)
        return reply(200 if there else 201, self._one(request, target, new), warnings)

    def _apply(self, request: Request, target: Target) -> Reply:
        """Server-side apply: the object is made if it is not there."""
        kind, place = target.kind, (target.home, target.name)
        sent = _configuration(request, target)
        if target.part == "scale":
            return self._rescale(request, target, lambda scale: merged(scale, sent))
        config = claims.configuration(kind, views.stored(kind, sent), target.part)
        claims.check_declared(kind, config, "/".join(filter(None, place)))
        terms, warnings = _terms(request, target, config)
        writer = terms.writer
        if not target.part and self._registry.store.get(kind, *place) is None:
            made = self._registry.create(kind, config, target.home, terms)
            return reply(201, self._one(request, target, made), warnings)

        def change(old: Json) -> Json:
            return claims.applied(kind, old, writer) if writer else old

        new = self._registry.update(kind, *place, change, part=target.part, terms=terms)
        return reply(200, self._one(request, target, new), warnings)

    def _patch(self, request: Request, target: Target) -> Reply:
        if request.media == messages.APPLY_PATCH:
            return self._apply(request, target)
        if request.says("force"):
            raise _bad_options("force", "Forbidden", "may not be specified for non-apply patch")
        patch = messages.patch(request, custom=target.kind.custom)
        if target.part == "scale":
            return self._rescale(request, target, patch)
        terms, warnings = _terms(request, target)

        made: Json = None

        def change(old: Json) -> Json:
            nonlocal made
            made = patch(views.shown(target.kind, target.version, old))
            _check_uid(target.kind, made, old)
            return views.stored(target.kind, made)

        try:
            new = self._registry.update(
                target.kind, target.home, target.name, change, part=target.part, terms=terms
            )
        except Refused as refused:
            raise _of_patch(refused, made) from refused
        return reply(200, self._one(request, target, new), warnings)

    def _rescale(self, request: Request, target: Target, change: Callable[[Json], Json]) -> Reply:
        """Writes through /scale: only the replicas, fenced like any other write."""

        def scaled(old: Json) -> Json:
            wanted = change(views.scale(old))
            about, spec = wanted.get("metadata") or {}, wanted.get("spec") or {}
            if not isinstance(about, dict) or not isinstance(spec, dict):
                raise refusals.bad_request("metadata and spec of a Scale are objects")
            version = about.get("resourceVersion") or old["metadata"]["resourceVersion"]
            meta = {**old["metadata"], "resourceVersion": version}
            replicas = spec.get("replicas", 0)
            return {**old, "metadata": meta, "spec": {**old["spec"], "replicas": replicas}}

        terms, _warnings = _terms(request, target)
        new = self._registry.update(target.kind, target.home, target.name, scaled, terms=terms)
        return reply(200, views.scale(new))

    def _delete(self, request: Request, target: Target) -> Reply:
        options = messages.delete_options(request)
        obj, gone = self._registry.delete(target.kind, target.home, target.name, options)
        whole = not gone or target.kind.key == "pods"
        return reply(200, self._one(request, target, obj) if whole else views.success(target.kind, obj))

    def _delete_several(self, request: Request, target: Target) -> Reply:
        objects, version = self._selected(request, target)
        options = messages.delete_options(request)
        for obj in objects:
            meta = obj["metadata"]
            self._registry.delete(target.kind, meta.get("namespace", ""), meta["name"], options)
        meta = {"resourceVersion": str(version)}
        return reply(200, self._shape(request, target, several=True)(objects, meta))

    def _evict(self, request: Request, target: Target) -> Reply:
        eviction = _decoded_as(request, "Eviction")
        self._registry.evict(target.home, target.name, eviction.get("deleteOptions") or {})
        return reply(201, _DONE)

    def _bind(self, request: Request, target: Target) -> Reply:
        node = (_decoded_as(request, "Binding").get("target") or {}).get("name")
        if not node:
            cause = refusals.Cause("target.name", "FieldValueRequired", "Required value")
            raise refusals.invalid("Binding", "", target.name, [cause])
        self._registry.bind(target.home, target.name, node)
        return reply(201, _DONE)


def _attempt(request: Request, target: Target) -> Attempt:
    kind = target.kind
    # a namespace is in itself, as the real server has it
    inside = target.namespace or (target.name if kind.plural == "namespaces" else "")
    resource = f"{kind.plural}/{target.part}" if target.part else kind.plural
    does = verb(request, target.name)
    return Attempt(verb=does, group=kind.group, resource=resource, namespace=inside, name=target.name)


def _has(kind: Kind, part: str) -> bool:
    parts = {"": True, "status": kind.status, "scale": kind.scale}
    return parts.get(part, part in (*_OF_PODS, *_INSIDE) and kind.key == "pods")


def _predicate(request: Request, target: Target) -> selectors.Predicate:
    labels = selectors.by_labels(request.query.get("labelSelector", ""))
    fields = selectors.by_fields(request.query.get("fieldSelector", ""), target.kind.key)
    return selectors.both(labels, fields)


def _terms(request: Request, target: Target, applied: Json = None) -> tuple[Terms, list[str]]:
    """How the client wants its write, and the list that collects warnings for it."""
    warnings = request.warnings
    strictness = request.query.get("fieldValidation") or "Warn"
    dry = request.query.get("dryRun") == "All"
    called = request.query.get("fieldManager") or request.headers.get("user-agent", "").partition("/")[0]
    writer = Writer(
        name=called or "unknown",
        version=target.kind.api_version(target.version),
        part=target.part,
        applied=applied,
        force=request.says("force"),
    )
    return Terms(dry=dry, strictness=strictness, warn=warnings.append, writer=writer), warnings


def _bad_options(field: str, how: str, why: str) -> refusals.Refused:
    """422: the query asks for what does not go together."""
    reason = {"Forbidden": "FieldValueForbidden", "Required value": "FieldValueRequired"}[how]
    return refusals.invalid(
        "PatchOptions", "meta.k8s.io", "", [refusals.Cause(field, reason, f"{how}: {why}")]
    )


def _configuration(request: Request, target: Target) -> Json:
    """The object that is applied, of the path's kind, version and name; raises `Refused`."""
    if not request.query.get("fieldManager"):
        raise _bad_options("fieldManager", "Required value", "is required for apply patch")
    obj = _decoded(messages.configuration(request), target)
    meta = obj.get("metadata") or {}
    if not isinstance(meta, dict) or meta.get("name", target.name) != target.name:
        raise refusals.bad_request(
            f"the name of the object ({meta}) does not match the name on the URL ({target.name})"
        )
    if meta.get("managedFields"):
        raise refusals.bad_request("metadata.managedFields must be nil")
    return {**obj, "metadata": {**meta, "name": target.name}}


def _decoded_as(request: Request, kind: str) -> Json:
    """The object in the body; raises 400 `Refused` if it is none."""
    obj = messages.value(request) or {}
    if not isinstance(obj, dict) or obj.get("kind", kind) != kind:
        raise refusals.bad_request(f"the body is no {kind}")
    return obj


def _decoded(obj: Json, target: Target) -> Json:
    """The object in a body, which must be of the path's kind and version."""
    kind = target.kind
    here = kind.api_version(target.version)
    if not isinstance(obj, dict):
        raise refusals.bad_request(f"the body is no object; expected a {kind.kind} of {here}")
    said, called = obj.get("apiVersion") or here, obj.get("kind") or kind.kind
    if said != here:
        raise refusals.bad_request(
            f"the API version in the data ({said}) does not match the expected API version ({here})"
        )
    if called != kind.kind:
        raise refusals.bad_request(f'{called} in version "{said}" cannot be handled as a {kind.kind}')
    return obj


def _check_uid(kind: Kind, patched: Json, old: Json) -> None:
    meta = patched.get("metadata")
    uid = meta.get("uid", old["metadata"]["uid"]) if isinstance(meta, dict) else old["metadata"]["uid"]
    if isinstance(uid, str) and uid != old["metadata"]["uid"]:
        raise refusals.immutable_uid(kind.kind, kind.group, old["metadata"]["name"], uid)


def _of_patch(refused: Refused, patched: Json) -> Refused:
    """What cannot be decoded after a patch is a 422, where the same object sent whole is a 400."""
    _, found, why = refused.message.partition("json: cannot unmarshal")
    return refusals.unreadable_patch(patched, found + why) if refused.code == 400 and found else refused
