"""HTTP requests and answers, and what their queries and bodies hold."""

import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from scenarios.cluster import protobuf, refusals
from scenarios.cluster.patches import Mismatch, Unmergeable, merged, patched, strategic

Json = Any

LARGEST_BODY = 3 * 1024 * 1024  # bytes of a request, as on a real server
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
PLAIN = ("application/json", protobuf.MEDIA)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes | None = None
    user: str = "admin"  # who asks; `rbac` says what that one may do
    warnings: list[str] = field(default_factory=list)  # of its answer, whatever that is

    @property
    def media(self) -> str:
        """The type of the body, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip() or "application/json"

    def says(self, key: str) -> bool:
        """A boolean of the query, as the server reads them: there, and neither 0 nor false."""
        return self.query.get(key, "0").lower() not in ("0", "false")

    def number(self, key: str) -> int:
        """A whole number of the query, 0 if it is not there; raises 400 `Refused`."""
        text = self.query.get(key) or "0"
        if not text.isdecimal():
            why = f'strconv.ParseUint: parsing "{text}": invalid syntax'
            raise refusals.bad_request(f'{key}: Invalid value: "{text}": {why}')
        return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One HTTP answer: a body, or lines that come as they happen."""

    code: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    lines: AsyncGenerator[bytes, None] | None = None


def reply(code: int, value: Json, warnings: Sequence[str] = ()) -> Reply:
    """An answer in JSON."""
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json"}
    if warnings:
        quoted = (text.replace('"', '\\"') for text in warnings)
        headers["Warning"] = ", ".join(f'299 - "{text}"' for text in quoted)
    return Reply(code=code, body=body, headers=headers)


def value(request: Request) -> Json:
    """What the body holds; raises 400, 413 or 415 `Refused`. NaN and Infinity are no JSON."""
    body = request.body or b""
    if len(body) > LARGEST_BODY:
        raise refusals.body_too_large(LARGEST_BODY)
    if not body:
        return None
    try:
        if request.media == protobuf.MEDIA:
            return protobuf.decoded(body)
        if request.media not in ("application/json", "*/*") and not request.media.endswith("+json"):
            raise refusals.unsupported_media(PLAIN)
        return json.loads(body, parse_constant=_no_number)
    except ValueError as error:
        raise refusals.bad_request(f"error decoding: {error}") from error


def _no_number(text: str) -> Json:
    raise refusals.bad_request(
        f"error decoding patch: invalid character '{text[0]}' looking for beginning of value"
    )


def delete_options(request: Request) -> Json:
    """From the body, or from the query, which is the older way; raises 400 `Refused`."""
    options = value(request) or {}
    if not isinstance(options, dict):
        raise refusals.bad_request("the body is no DeleteOptions")
    options = dict(options)
    if request.query.get("gracePeriodSeconds"):
        options["gracePeriodSeconds"] = request.number("gracePeriodSeconds")
    for key in ("propagationPolicy", "dryRun"):
        if request.query.get(key):
            options[key] = request.query[key]
    for key, type_ in (("gracePeriodSeconds", int), ("preconditions", dict)):
        if not isinstance(options.get(key) or type_(), type_):
            raise refusals.bad_request(f"DeleteOptions.{key} is of the wrong type")
    return options


def patch(request: Request, *, custom: bool) -> Callable[[Json], Json]:
    """What the patch in the body does to an object; raises 400 or 415 `Refused` if it is none.

    Custom resources take no strategic merge patch. What is applied is no patch: see `configuration`.
    """
    strategic_too = () if custom else (STRATEGIC_PATCH,)
    supported = (JSON_PATCH, MERGE_PATCH, *strategic_too, APPLY_PATCH)
    if request.media not in supported or request.media == APPLY_PATCH:
        raise refusals.unsupported_media(supported)
    wanted = value(request)
    if request.media == JSON_PATCH:
        return _json_patch(wanted)
    if not isinstance(wanted, dict):
        raise refusals.bad_request("error decoding patch: json: cannot unmarshal into a map")
    if request.media == MERGE_PATCH:
        return lambda old: merged(old, wanted)
    return _strategic_patch(wanted)


def configuration(request: Request) -> Json:
    """The object that the body applies, in YAML or JSON; raises 400 or 413 `Refused`."""
    body = request.body or b""
    if len(body) > LARGEST_BODY:
        raise refusals.body_too_large(LARGEST_BODY)
    try:
        found = yaml.load(body, _Plain)  # noqa: S506 (a SafeLoader with less)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise refusals.bad_request(f"error decoding YAML: {error}") from error
    if not isinstance(found, dict):
        raise refusals.bad_request("error decoding YAML: the body is no object")
    return found


class _Plain(yaml.SafeLoader):
    """YAML as Kubernetes reads it: a time is a string."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (as the base class has it)
        first: [rule for rule in rules if rule[0] != "tag:yaml.org,2002:timestamp"]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _strategic_patch(wanted: Json) -> Callable[[Json], Json]:
    def change(old: Json) -> Json:
        try:
            return strategic(old, wanted)
        except Unmergeable as error:
            raise refusals.Refused(500, "", str(error)) from error
        except (TypeError, LookupError, AttributeError) as error:  # a directive of the wrong type
            raise refusals.bad_request(f"error decoding patch: {error}") from error

    return change


def _json_patch(steps: Json) -> Callable[[Json], Json]:
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise refusals.bad_request(
            "error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch"
        )

    def change(old: Json) -> Json:
        try:
            new = patched(old, steps)
        except Mismatch as mismatch:
            raise refusals.patch_failed() from mismatch
        if not isinstance(new, dict):
            raise refusals.bad_request("error decoding patch: the object would be none any more")
        return new

    return change
