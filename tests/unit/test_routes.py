"""Envoy's files for Istio's objects."""

import json
from typing import Any

import pytest

from scenarios.live import routes


def pod(name: str, ip: str, *, version: str, ready: str = "True", **meta: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"app": "model", "version": version}, **meta},
        "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": ready}]},
    }


def mesh(*pods: Any, **http: Any) -> routes.Mesh:
    split = [
        {"destination": {"host": "model", "subset": "stable"}, "weight": 90},
        {"destination": {"host": "model", "subset": "canary"}, "weight": 10},
    ]
    subsets = [{"name": arm, "labels": {"version": arm}} for arm in ("stable", "canary")]
    ports = [{"port": 80, "targetPort": 9000}]
    return routes.Mesh(
        namespace="lab",
        virtual_services=[
            {"metadata": {"name": "model"}, "spec": {"hosts": ["model"], "http": [{"route": split, **http}]}}
        ],
        destination_rules=[{"spec": {"host": "model.lab.svc.cluster.local", "subsets": subsets}}],
        services=[{"metadata": {"name": "model"}, "spec": {"selector": {"app": "model"}, "ports": ports}}],
        pods=pods,
    )


def written(here: routes.Mesh, name: str) -> list[Any]:
    resources: list[Any] = json.loads(routes.files(here, folder="/f", port=1)[name])["resources"]
    return resources


def the_route(here: routes.Mesh) -> Any:
    (route,) = written(here, "rds.json")[0]["virtual_hosts"][0]["routes"]
    return route


def test_weights_become_weighted_clusters_with_istios_names() -> None:
    clusters = the_route(mesh())["route"]["weighted_clusters"]["clusters"]
    assert clusters == [
        {"name": "outbound|80|stable|model.lab.svc.cluster.local", "weight": 90},
        {"name": "outbound|80|canary|model.lab.svc.cluster.local", "weight": 10},
    ]


def test_a_service_is_called_by_its_short_name_and_all_longer_ones() -> None:
    (config,) = written(mesh(), "rds.json")
    names = ["model", "model.lab", "model.lab.svc", "model.lab.svc.cluster.local"]
    assert config["virtual_hosts"][0]["domains"] == names


def test_only_ready_pods_of_the_subset_that_are_not_leaving_are_endpoints() -> None:
    here = mesh(
        pod("a", "127.1.0.1", version="stable"),
        pod("b", "127.1.0.2", version="stable", ready="False"),
        pod("c", "127.1.0.3", version="stable", deletionTimestamp="2026-01-01T00:00:00Z"),
        pod("d", "127.1.0.4", version="canary"),
    )
    (stable,) = written(here, "eds-model-stable.json")
    ends = [end["endpoint"]["address"]["socket_address"] for end in stable["endpoints"][0]["lb_endpoints"]]
    assert ends == [{"address": "127.1.0.1", "port_value": 9000}]


def test_an_arm_without_ready_pods_has_no_endpoints() -> None:
    (canary,) = written(mesh(), "eds-model-canary.json")
    assert canary["endpoints"] == []


@pytest.mark.parametrize(
    ("match", "wanted"),
    [
        ({"uri": {"exact": "/a"}}, {"path": "/a"}),
        ({"uri": {"prefix": "/v2"}}, {"prefix": "/v2"}),
        ({"uri": {"regex": "/v[0-9]"}}, {"safe_regex": {"regex": "/v[0-9]"}}),
        ({}, {"prefix": "/"}),
    ],
)
def test_a_uri_is_matched_as_the_virtual_service_says(match: Any, wanted: Any) -> None:
    assert the_route(mesh(match=[match]))["match"] == wanted


def test_headers_and_method_are_matched_too() -> None:
    matched = the_route(mesh(match=[{"method": {"exact": "POST"}, "headers": {"x-tester": {}}}]))["match"]
    assert matched["headers"] == [
        {"name": "x-tester", "present_match": True},
        {"name": ":method", "string_match": {"exact": "POST"}},
    ]


def test_there_is_no_timeout_and_no_retry_unless_the_route_says_so() -> None:
    action = the_route(mesh())["route"]
    assert action["timeout"] == "0s"
    assert "retry_policy" not in action


def test_timeouts_and_retries_are_honoured() -> None:
    retries = {"attempts": 3, "perTryTimeout": "250ms", "retryOn": "connect-failure,503"}
    action = the_route(mesh(timeout="1m30s", retries=retries))["route"]
    policy = action["retry_policy"]
    assert action["timeout"] == "90s"
    assert (policy["num_retries"], policy["per_try_timeout"]) == (3, "0.25s")
    assert policy["retry_on"] == "connect-failure,retriable-status-codes"
    assert policy["retriable_status_codes"] == [503]
