"""How the API server says no: `Status` objects in the words of a real server.

Clients match on code and reason, people read the message; both are the same as on Kubernetes 1.36, so
that what passes here passes there.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Json = Any


@dataclass(frozen=True, slots=True)
class Cause:
    """One field that is wrong, and why."""

    field: str
    reason: str
    message: str

    @property
    def sentence(self) -> str:
        """Field and message, as they stand in the Status' own message."""
        return f"{self.field}: {self.message}"


class Refused(Exception):
    """The server refuses a request; `status` is the body that it sends."""

    def __init__(self, code: int, reason: str, message: str, *, details: Json = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def status(self) -> Json:
        """The Status object of this refusal."""
        body = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }
        return {key: value for key, value in body.items() if value not in (None, "")}


def qualified(plural: str, group: str) -> str:
    """`deployments.apps`; the core group has no name of its own."""
    return f"{plural}.{group}" if group else plural


def _details(plural: str, group: str, name: str) -> Json:
    return {"name": name, "group": group, "kind": plural} if group else {"name": name, "kind": plural}


def not_found(plural: str, group: str, name: str) -> Refused:
    """404: there is no such object."""
    message = f'{qualified(plural, group)} "{name}" not found'
    return Refused(404, "NotFound", message, details=_details(plural, group, name))


class NoSuchPage(Exception):
    """404 in words for people: in the path's group is no built-in resource."""


def no_such_path() -> Refused:
    """404: there is no such resource at all."""
    return Refused(404, "NotFound", "the server could not find the requested resource", details={})


def already_exists(plural: str, group: str, name: str) -> Refused:
    """409 on create: the name is taken."""
    message = f'{qualified(plural, group)} "{name}" already exists'
    return Refused(409, "AlreadyExists", message, details=_details(plural, group, name))


STALE = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(plural: str, group: str, name: str, why: str = STALE) -> Refused:
    """409 on write: the writer had read an older version."""
    message = f'Operation cannot be fulfilled on {qualified(plural, group)} "{name}": {why}'
    return Refused(409, "Conflict", message, details=_details(plural, group, name))


def invalid(kind: str, group: str, name: str, causes: Sequence[Cause]) -> Refused:
    """422: the object breaks its schema or rules; every cause is named."""
    sentences = [cause.sentence for cause in causes]
    listed = sentences[0] if len(sentences) == 1 else f"[{', '.join(sentences)}]"
    details = {
        "name": name,
        "group": group,
        "kind": kind,
        "causes": [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes],
    }
    message = f'{qualified(kind, group)} "{name}" is invalid: {listed}'
    return Refused(422, "Invalid", message, details=details)


def patch_failed() -> Refused:
    """422: a JSON patch does not apply (a `test` failed, a path is missing). Real servers say no more."""
    message = "the server rejected our request due to an error in our request"
    return Refused(422, "Invalid", message, details={})


def immutable_uid(kind: str, group: str, name: str, uid: Json) -> Refused:
    """422 on a patch: an object keeps its uid. Real servers say so twice."""
    sentence = f"Invalid value: {json.dumps(uid)}: field is immutable"
    return invalid(kind, group, name, [Cause("metadata.uid", "FieldValueInvalid", sentence)] * 2)


def unreadable_patch(patched: Json, why: str) -> Refused:
    """422: what a patch makes of an object cannot be decoded."""
    text = json.dumps(patched, separators=(",", ":"), ensure_ascii=False)
    cause = Cause("patch", "FieldValueInvalid", f"Invalid value: {json.dumps(text)}: {why}")
    details = {"causes": [{"reason": cause.reason, "message": cause.message, "field": cause.field}]}
    return Refused(422, "Invalid", f' "" is invalid: {cause.sentence}', details=details)


def bad_request(message: str) -> Refused:
    """400: the request cannot be read."""
    return Refused(400, "BadRequest", message)


def forbidden(plural: str, group: str, name: str, why: str) -> Refused:
    """403: the request is understood and not allowed."""
    what = qualified(plural, group) + (f' "{name}"' if name else "")
    message = f"{what} is forbidden: {why}"
    return Refused(403, "Forbidden", message, details=_details(plural, group, name))


def method_not_allowed() -> Refused:
    """405: the resource has no such verb."""
    message = "the server does not allow this method on the requested resource"
    return Refused(405, "MethodNotAllowed", message, details={})


def unsupported_media(supported: Sequence[str]) -> Refused:
    """415: the body is of a type that this resource does not take."""
    listed = ", ".join(supported)
    message = f"the body of the request was in an unknown format - accepted media types include: {listed}"
    return Refused(415, "UnsupportedMediaType", message)


def expired(asked: int, oldest: int) -> Refused:
    """410: history before `oldest` is gone; list again."""
    return Refused(410, "Expired", f"too old resource version: {asked} ({oldest})")


def continue_expired() -> Refused:
    """410: the pages of this list are gone; list again from the start."""
    message = (
        "The provided continue parameter is too old to display a consistent list result. "
        "You can start a new list without the continue parameter."
    )
    return Refused(410, "Expired", message)


def no_kubelet(pod: str, part: str) -> Refused:
    """500: the pod's node does not answer. A real server says so in Go's words for a connection."""
    message = f"pod {pod}: there is no {part}: nothing runs inside the pods of an emulated cluster"
    return Refused(500, "", message)


def too_large() -> Refused:
    """500: the object does not fit into etcd's 1.5 MiB."""
    return Refused(500, "", "etcdserver: request is too large")


def body_too_large(limit: int) -> Refused:
    """413: the request itself is over the server's limit."""
    return Refused(413, "RequestEntityTooLarge", f"Request entity too large: limit is {limit}")
