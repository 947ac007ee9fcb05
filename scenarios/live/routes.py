"""Envoy's files for what Istio's objects say: what istiod would send, as far as the lab needs it.

Pure: objects in, the text of files out (listeners, routes, clusters, endpoints). Honoured of a
VirtualService: hosts, matches, weighted destinations, mirrors, rewrite, timeout, retries; of a
DestinationRule: subsets and the simple load balancer. Istio's own default of two retries is left out on
purpose: the lab shows what callers lose.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Any

TYPE = "type.googleapis.com/envoy."
HTTP = TYPE + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
BALANCERS = {"ROUND_ROBIN": "ROUND_ROBIN", "RANDOM": "RANDOM"}  # Istio's default is LEAST_REQUEST
PLENTY = 1_000_000  # Istio sets Envoy's circuit breakers out of reach unless a DestinationRule says so
LOGGED = {
    "start": "%START_TIME(%s.%6f)%",
    "took": "%DURATION%",
    "cluster": "%UPSTREAM_CLUSTER_RAW%",
    "code": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "lastAttempt": "%COMMON_DURATION(DS_RX_BEG:US_TX_BEG:us)%",
    "host": "%UPSTREAM_HOST%",
    "injected": "%RESP(x-lab-injected)%",
    "id": "%REQ(x-lab-id)%",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """The objects of one namespace that routing depends on."""

    namespace: str
    virtual_services: Sequence[Json]
    destination_rules: Sequence[Json]
    services: Sequence[Json]
    pods: Sequence[Json]
    recorder: int | None = None  # the port on loopback that stands for the recorder's Service


def files(mesh: Mesh, *, folder: str, port: int) -> dict[str, str]:
    """Name and text of each file; `folder` is where Envoy reads them, `port` where it listens."""
    routes = [_virtual_host(service, mesh) for service in mesh.virtual_services]
    clusters = sorted({(host, subset) for host, subset in _destinations(mesh)})
    config = {"@type": TYPE + "config.route.v3.RouteConfiguration", "name": "http", "virtual_hosts": routes}
    return {
        "lds.json": _resources([_listener(folder=folder, port=port)]),
        "rds.json": _resources([config]),
        "cds.json": _resources(
            [*(_cluster(host, subset, mesh, folder) for host, subset in clusters), *_recorders(mesh)]
        ),
        # Envoy reads one cluster's endpoints from one file
        **{_eds(host, subset): _resources([_endpoints(host, subset, mesh)]) for host, subset in clusters},
    }


def bootstrap(*, folder: str, name: str) -> Json:
    """Envoy's own configuration: where its files are, and an admin page on a free loopback port."""
    return {
        "node": {"id": name, "cluster": "serin-lab"},
        "admin": {"address": _address("127.0.0.1", 0)},
        "stats_flush_interval": "1s",  # histograms latch at the flush; 5 s by default
        "dynamic_resources": {
            "lds_config": _from_file(folder, "lds.json"),
            "cds_config": _from_file(folder, "cds.json"),
        },
    }


def _resources(items: Sequence[Json]) -> str:
    return json.dumps({"resources": items}, indent=1)


def _from_file(folder: str, name: str) -> Json:
    return {"resource_api_version": "V3", "path_config_source": {"path": f"{folder}/{name}"}}


def _address(host: str, port: int | None) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _listener(*, folder: str, port: int) -> Json:
    log = {
        "name": "file",
        "typed_config": {
            "@type": TYPE + "extensions.access_loggers.file.v3.FileAccessLog",
            "path": f"{folder}/access.jsonl",
            "log_format": {"json_format": LOGGED},
        },
    }
    router = {"@type": TYPE + "extensions.filters.http.router.v3.Router"}
    manager = {
        "@type": HTTP,
        "stat_prefix": "ingress",
        "strip_any_host_port": True,
        "rds": {"route_config_name": "http", "config_source": _from_file(folder, "rds.json")},
        "http_filters": [{"name": "router", "typed_config": router}],
        "access_log": [log],
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return {
        "@type": TYPE + "config.listener.v3.Listener",
        "name": "ingress",
        "address": _address("127.0.0.1", port),
        "filter_chains": [chain],
    }


def _virtual_host(service: Json, mesh: Mesh) -> Json:
    meta, spec = service["metadata"], service["spec"]
    names = {name for host in spec.get("hosts", ()) for name in _names(host, mesh.namespace)}
    routes = [entry for http in spec.get("http", ()) for entry in _routes(http, mesh)]
    return {"name": meta["name"], "domains": sorted(names), "routes": routes}


def _names(host: str, namespace: str) -> Iterable[str]:
    """All the names that a short host is called by within the cluster."""
    if "." in host or host == "*":
        return [host]
    long = f"{host}.{namespace}"
    return [host, long, f"{long}.svc", f"{long}.svc.cluster.local"]


def _routes(http: Json, mesh: Mesh) -> list[Json]:
    """One Envoy route for each of the alternatives that the http route matches."""
    to = _action(http, mesh)
    name = {"name": http["name"]} if "name" in http else {}
    return [{**name, "match": _match(match), "route": to} for match in http.get("match") or [{}]]


def _match(match: Json) -> Json:
    """The match in Envoy's words: uri, headers and method."""
    out: dict[str, Json] = {}
    match match.get("uri"):
        case {"exact": path}:
            out["path"] = path
        case {"regex": pattern}:
            out["safe_regex"] = {"regex": pattern}
        case {"prefix": prefix}:
            out["prefix"] = prefix
        case _:
            out["prefix"] = "/"
    headers = [_header(name, said) for name, said in (match.get("headers") or {}).items()]
    headers += [_header(":method", match["method"])] if "method" in match else []
    return out | ({"headers": headers} if headers else {})


def _header(name: str, said: Mapping[str, str]) -> Json:
    kind, value = next(iter(said.items()), ("present", ""))
    if kind == "present":
        return {"name": name, "present_match": True}
    how: Json = {"safe_regex": {"regex": value}} if kind == "regex" else {kind: value}
    return {"name": name, "string_match": how}


def _action(http: Json, mesh: Mesh) -> Json:
    """Where requests go: clusters by weight, with the route's timeout, retries and rewrite."""
    route = http.get("route", ())
    weights = [(_cluster_name(to["destination"], mesh.namespace), to.get("weight", 0)) for to in route]
    if len(weights) == 1:
        weights = [(weights[0][0], 100)]
    action: dict[str, Json] = {
        "timeout": _seconds(http.get("timeout", "0s")),  # as Istio: none unless there is one
        "weighted_clusters": {"clusters": [{"name": name, "weight": weight} for name, weight in weights]},
    }
    if retries := http.get("retries"):
        action["retry_policy"] = _retries(retries)
    if mirrors := http.get("mirrors"):
        action["request_mirror_policies"] = [_mirrored(one) for one in mirrors]
    if "uri" in (http.get("rewrite") or {}):
        action["prefix_rewrite"] = http["rewrite"]["uri"]
    return action


def _mirrored(mirror: Json) -> Json:
    """A copy of so many of the requests; whatever is answered, or nothing at all, is let fall."""
    share = round(10_000 * float((mirror.get("percentage") or {"value": 100.0})["value"]))
    return {
        "cluster": _recorder_name(mirror["destination"]),
        "runtime_fraction": {"default_value": {"numerator": share, "denominator": "MILLION"}},
    }


def _recorder_name(destination: Json) -> str:
    return f"outbound|{destination['port']['number']}||{destination['host']}"


def _recorders(mesh: Mesh) -> Iterable[Json]:
    """Clusters of what is mirrored to, all of them the one recorder that the lab has."""
    https = [http for service in mesh.virtual_services for http in service["spec"].get("http", ())]
    names = {_recorder_name(one["destination"]) for http in https for one in http.get("mirrors", ())}
    for name in sorted(names if mesh.recorder is not None else ()):
        ends = [{"endpoint": {"address": _address("127.0.0.1", mesh.recorder)}}]
        yield {
            "@type": TYPE + "config.cluster.v3.Cluster",
            "name": name,
            "type": "STATIC",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": ends}]},
        }


def _retries(said: Json) -> Json:
    """Retries as Istio makes them: numbers in `retryOn` are status codes, other hosts are preferred."""
    words = str(said.get("retryOn") or "connect-failure,refused-stream,unavailable,cancelled,503").split(",")
    codes = [int(word) for word in words if word.strip().isdigit()]
    kinds = [word.strip() for word in words if not word.strip().isdigit()]
    previous = TYPE + "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    policy: dict[str, Json] = {
        "retry_on": ",".join([*kinds, *(["retriable-status-codes"] if codes else [])]),
        "num_retries": int(said.get("attempts", 2)),
        "retriable_status_codes": codes,
        "host_selection_retry_max_attempts": 5,
        "retry_host_predicate": [
            {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": previous}}
        ],
    }
    return policy | ({"per_try_timeout": _seconds(said["perTryTimeout"])} if "perTryTimeout" in said else {})


def _seconds(duration: str) -> str:
    """A Go duration as protobuf's JSON wants it: 1m30s is 90s."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3}
    parts = re.findall(r"([0-9.]+)(ms|s|m|h)", duration)
    return f"{sum(float(number) * units[unit] for number, unit in parts):g}s"


def _destinations(mesh: Mesh) -> Iterable[tuple[str, str]]:
    """Host and subset of each destination that a route names."""
    for service in mesh.virtual_services:
        for http in service["spec"].get("http", ()):
            for to in http.get("route", ()):
                yield to["destination"]["host"], to["destination"].get("subset", "")


def _eds(host: str, subset: str) -> str:
    return f"eds-{_short(host)}-{subset or 'all'}.json"


def _short(host: str) -> str:
    return host.partition(".")[0]


def _cluster_name(destination: Json, namespace: str) -> str:
    host = _short(destination["host"])
    return f"outbound|80|{destination.get('subset', '')}|{host}.{namespace}.svc.cluster.local"


def _rule(host: str, mesh: Mesh) -> Json:
    rules = (rule["spec"] for rule in mesh.destination_rules)
    return next((rule for rule in rules if _short(rule["host"]) == _short(host)), {})


def _cluster(host: str, subset: str, mesh: Mesh, folder: str) -> Json:
    rule = _rule(host, mesh)
    said = ((rule.get("trafficPolicy") or {}).get("loadBalancer") or {}).get("simple", "")
    limit = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), PLENTY)
    return {
        "@type": TYPE + "config.cluster.v3.Cluster",
        "name": _cluster_name({"host": host, "subset": subset}, mesh.namespace),
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _from_file(folder, _eds(host, subset))},
        "connect_timeout": "10s",
        "lb_policy": BALANCERS.get(said, "LEAST_REQUEST"),
        "circuit_breakers": {"thresholds": [limit]},
    }


def _endpoints(host: str, subset: str, mesh: Mesh) -> Json:
    """The ready pods that the host's Service and the subset's labels select."""
    service = next((item for item in mesh.services if item["metadata"]["name"] == _short(host)), None)
    subsets = {item["name"]: item.get("labels") or {} for item in _rule(host, mesh).get("subsets") or ()}
    known = service is not None and (not subset or subset in subsets)
    selector = {**((service or {}).get("spec", {}).get("selector") or {}), **subsets.get(subset, {})}
    found = [pod for pod in mesh.pods if known and _selected(pod, selector) and ready(pod)]
    ends = [{"endpoint": {"address": _address(pod["status"]["podIP"], _port(service))}} for pod in found]
    return {
        "@type": TYPE + "config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": _cluster_name({"host": host, "subset": subset}, mesh.namespace),
        "endpoints": [{"lb_endpoints": ends}] if ends else [],
    }


def _port(service: Json) -> int:
    return int(service["spec"]["ports"][0].get("targetPort", 8080))


def _selected(pod: Json, selector: Mapping[str, str]) -> bool:
    labels = pod["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in selector.items())


def ready(pod: Json) -> bool:
    """Whether an EndpointSlice would list the pod as ready."""
    status = pod.get("status") or {}
    conditions = {item["type"]: item["status"] for item in status.get("conditions") or ()}
    leaving = "deletionTimestamp" in pod["metadata"]
    return bool(status.get("podIP")) and conditions.get("Ready") == "True" and not leaving
