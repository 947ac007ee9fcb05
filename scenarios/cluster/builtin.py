"""What the server does to built-in objects beyond their schema: derived defaults and checks. Pure."""

import base64
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from scenarios.cluster import definitions, metadata
from scenarios.cluster.patches import same
from scenarios.cluster.refusals import Cause
from scenarios.cluster.selectors import selects

Json = Any

MOST_DATA = 1_048_576  # bytes in a ConfigMap or Secret, 1 MiB
_MICRO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")


def completed(plural: str, obj: Json) -> Json:
    """The object with what the server derives from the rest of it."""
    complete = _COMPLETE.get(plural)
    return complete(obj) if complete else obj


def _deployment(obj: Json) -> Json:
    spec = obj["spec"]
    done = {"template": _template(spec["template"]), "strategy": _strategy(spec["strategy"])}
    return {**obj, "spec": {**spec, **done}}


def _strategy(strategy: Json) -> Json:
    if strategy.get("type") != "RollingUpdate":
        return strategy
    return {**strategy, "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}} | {
        key: value for key, value in strategy.items() if value is not None
    }


def _template(template: Json) -> Json:
    return {**template, "metadata": template.get("metadata") or {}, "spec": _pod_spec(template["spec"])}


def _pod_spec(spec: Json) -> Json:
    containers = [_container(container) for container in spec.get("containers") or ()]
    return {**spec, "containers": containers}


def _container(container: Json) -> Json:
    if container.get("imagePullPolicy") or not container.get("image"):
        return container
    image = container["image"].rpartition("/")[2]
    tagged = "@" in image or (":" in image and not image.endswith(":latest"))
    return {**container, "imagePullPolicy": "IfNotPresent" if tagged else "Always"}


def _service(obj: Json) -> Json:
    """With a cluster IP that is derived from the name, so that the same story gives the same addresses."""
    spec, meta = obj["spec"], obj["metadata"]
    if spec["type"] == "ExternalName":
        return obj
    seed = sum(f"{meta.get('namespace')}/{meta['name']}".encode())
    address = spec.get("clusterIP") or f"10.96.{seed % 251}.{seed % 241 + 10}"
    ports = [{"targetPort": port["port"], **port} for port in spec.get("ports") or ()]
    families = {"ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}
    done = {**families, **spec, "ports": ports, "clusterIP": address, "clusterIPs": [address]}
    return {**obj, "spec": done}


def _secret(obj: Json) -> Json:
    plain = obj.get("stringData") or {}
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}
    result = {key: value for key, value in obj.items() if key != "stringData"}
    return {**result, "data": {**(obj.get("data") or {}), **encoded}} if encoded else result


def _namespace(obj: Json) -> Json:
    meta = obj["metadata"]
    labels = {**(meta.get("labels") or {}), "kubernetes.io/metadata.name": meta["name"]}
    spec = {"finalizers": ["kubernetes"], **(obj.get("spec") or {})}
    status = {"phase": "Active", **(obj.get("status") or {})}
    return {**obj, "metadata": {**meta, "labels": labels}, "spec": spec, "status": status}


_COMPLETE: dict[str, Callable[[Json], Json]] = {
    "deployments": _deployment,
    "replicasets": lambda obj: {
        **obj,
        "spec": {**obj["spec"], "template": _template(obj["spec"]["template"])},
    },
    "pods": lambda obj: {**obj, "spec": _pod_spec(obj["spec"])},
    "services": _service,
    "secrets": _secret,
    "namespaces": _namespace,
}


# --- checks

Check = Callable[[Json, Json | None], Iterator[Cause]]


def problems(plural: str, obj: Json, old: Json | None) -> Iterator[Cause]:
    """Everything that is wrong with a built-in object, beyond its schema."""
    check = _CHECKS.get(plural)
    if check is not None:
        yield from check(obj, old)


def _bad(path: str, value: Json, sentence: str) -> Cause:
    shown = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Cause(path, "FieldValueInvalid", f"Invalid value: {shown}: {sentence}")


def _required(path: str) -> Cause:
    return Cause(path, "FieldValueRequired", "Required value")


def _workload(obj: Json, old: Json | None) -> Iterator[Cause]:
    spec = obj["spec"]
    template = spec["template"]
    meta = template.get("metadata") or {}
    if spec["replicas"] < 0:
        yield _bad("spec.replicas", spec["replicas"], "must be greater than or equal to 0")
    if not any(spec["selector"].values()):
        yield _bad("spec.selector", spec["selector"], "empty selector is invalid for deployment")
    elif not selects(spec["selector"], meta.get("labels") or {}):
        sentence = "`selector` does not match template `labels`"
        yield _bad("spec.template.metadata.labels", meta.get("labels") or {}, sentence)
    yield from metadata.labels(meta.get("labels") or {}, "spec.template.labels")
    yield from metadata.annotations(meta.get("annotations") or {}, "spec.template.annotations")
    yield from _containers(template["spec"], "spec.template.spec")
    if old is not None and not same(spec["selector"], old["spec"]["selector"]):
        yield _bad("spec.selector", spec["selector"], "field is immutable")


def _containers(spec: Json, path: str) -> Iterator[Cause]:
    if not spec.get("containers"):
        yield _required(f"{path}.containers")
    seen = set()
    for index, container in enumerate(spec.get("containers") or ()):
        where = f"{path}.containers[{index}]"
        if not container.get("image"):
            yield _required(f"{where}.image")
        if container["name"] in seen:
            yield Cause(f"{where}.name", "FieldValueDuplicate", f'Duplicate value: "{container["name"]}"')
        seen.add(container["name"])


_CHANGEABLE = ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates")


def _pod(obj: Json, old: Json | None) -> Iterator[Cause]:
    yield from _containers(obj["spec"], "spec")
    if old is not None and not same(_fixed(obj["spec"]), _fixed(old["spec"])):
        sentence = "pod updates may not change fields other than " + ", ".join(
            f"`spec.{field}`" for field in ("containers[*].image", *_CHANGEABLE)
        )
        yield Cause("spec", "FieldValueForbidden", f"Forbidden: {sentence}")


def _fixed(spec: Json) -> Json:
    containers = [{k: v for k, v in c.items() if k != "image"} for c in spec.get("containers") or ()]
    rest = {key: value for key, value in spec.items() if key not in _CHANGEABLE}
    return {**rest, "containers": containers}


def _service_ports(obj: Json, old: Json | None) -> Iterator[Cause]:
    del old
    for index, port in enumerate(obj["spec"].get("ports") or ()):
        if not 1 <= port["port"] <= 65535:
            sentence = "must be between 1 and 65535, inclusive"
            yield _bad(f"spec.ports[{index}].port", port["port"], sentence)


def _lease(obj: Json, old: Json | None) -> Iterator[Cause]:
    del old
    spec = obj.get("spec") or {}
    if spec.get("leaseDurationSeconds", 1) <= 0:
        yield _bad("spec.leaseDurationSeconds", spec["leaseDurationSeconds"], "must be greater than 0")
    if spec.get("leaseTransitions", 0) < 0:
        yield _bad("spec.leaseTransitions", spec["leaseTransitions"], "must be greater than or equal to 0")


def _event(obj: Json, old: Json | None) -> Iterator[Cause]:
    about, meta = obj["involvedObject"], obj["metadata"]
    if about.get("namespace", meta["namespace"]) != meta["namespace"]:
        yield _bad("involvedObject.namespace", about["namespace"], "does not match event.namespace")
    if old is None and obj.get("eventTime"):
        yield from _new_event(obj)


def _new_event(obj: Json) -> Iterator[Cause]:
    """What `events.k8s.io/v1` asks of a new Event; the older API lets almost everything through."""
    for field in ("reportingComponent", "reportingInstance", "action", "reason"):
        if not obj.get(field):
            yield _required(field.replace("Component", "Controller"))
    for field, longest in (("action", 128), ("reason", 128), ("message", 1024)):
        if len(obj.get(field) or "") > longest:
            yield _bad(field, "", f"can have at most {longest} characters")
    if obj.get("type") not in ("Normal", "Warning"):
        yield _bad("type", "", 'has invalid value: must be "Normal" or "Warning"')


def _small(obj: Json, old: Json | None) -> Iterator[Cause]:
    del old
    if sum(len(key) + len(text) for key, text in (obj.get("data") or {}).items()) > MOST_DATA:
        yield Cause("data", "FieldValueTooLong", f"Too long: may not be more than {MOST_DATA} bytes")


_CHECKS: dict[str, Check] = {
    "configmaps": _small,
    "secrets": _small,
    "deployments": _workload,
    "replicasets": _workload,
    "pods": _pod,
    "services": _service_ports,
    "leases": _lease,
    "events": _event,
    "customresourcedefinitions": definitions.problems,
}


def unreadable_time(plural: str, obj: Json) -> str | None:
    """A MicroTime that the server cannot decode: six digits after the point are a must."""
    spec = obj.get("spec") or {} if plural == "leases" else obj if plural == "events" else {}
    for field in ("renewTime", "acquireTime", "eventTime"):
        value = spec.get(field)
        if value is not None and not _MICRO.fullmatch(str(value)):
            layout = "2006-01-02T15:04:05.000000Z07:00"
            return f'parsing time "{value}" as "{layout}": cannot parse the fraction'
    return None
