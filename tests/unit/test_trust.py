"""What annotations, policies, runs and pods say reaches no further than it should."""

import posixpath
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

import hypothesis
import hypothesis.strategies as st
import pytest
import yarl

from controller import kube, trigger
from controller.cluster import Cluster, path
from controller.model import Page, PodSeen
from controller.queries import query
from controller.surroundings import proxied
from controller.targets import target
from scenarios.cluster import schema
from scenarios.world import manifest

Json = Any
SPECS = {
    crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][
        "spec"
    ]
    for crd in manifest("crds.yaml")
}
# What people may write as they please: it is shown, or compared, and leads nowhere.
FREE = {
    "plan.shadow.stable",  # models: only the worker reads them, within its own folder and list of servers
    "plan.shadow.canary",
    "plan.shadow.baseline",
    "plan.shadow.hosts[]",  # compared with the Host of what is mirrored
    "plan.shadow.host",  # must be the controller's own recorder
    "abort.reason",
    "promote.reason",
    "approved[]",
}
ELSEWHERE = [
    "../model",
    "../../other/deployments/model",
    "other/model",
    "/model",
    "model/",
    "model/scale",
    "model?dryRun=All",
    "model#",
    "model%2F..%2Fother",
    "..",
    ".",
    ".model",
    "model.",
    "model\n",
    "model other",
    "model\\other",
    "Model",
    "*",
]


def texts(node: Json, at: str = "") -> Iterator[tuple[str, Json]]:
    """Every text of a schema, by where it stands."""
    if node.get("type") == "string":
        yield at.lstrip("."), node
    for name, child in node.get("properties", {}).items():
        yield from texts(child, f"{at}.{name}")
    if "items" in node:
        yield from texts(node["items"], f"{at}[]")


def test_every_text_of_a_policy_or_run_has_a_pattern_but_those_that_lead_nowhere() -> None:
    free = {
        at for spec in SPECS.values() for at, node in texts(spec) if not {"pattern", "enum"} & node.keys()
    }
    assert free == FREE


NAMES = {
    (kind, at)
    for kind, spec in SPECS.items()
    for at, _ in texts(spec)
    if at.endswith("secretRef.name") or at in {"plan.canary", "plan.stable", "plan.virtualService"}
}


@pytest.mark.parametrize(("kind", "at"), sorted(NAMES))
def test_no_field_that_names_an_object_can_name_one_elsewhere(kind: str, at: str) -> None:
    node = dict(texts(SPECS[kind]))[at]
    assert not list(schema._problems(node, "model-v1.2", at))
    for name in ELSEWHERE:
        assert list(schema._problems(node, name, at)), name


@pytest.mark.parametrize("name", ["a", "model-v1.2", "x" * 253])
def test_a_path_with_a_name_is_sent_as_it_is(name: str) -> None:
    there = path("deployments", "lab", name, sub="scale")
    assert kube._request("GET", there, query=None).path == there


@pytest.mark.parametrize("name", sorted(set(ELSEWHERE) - {"Model", "model/scale", "other/model"}))
def test_a_path_that_would_be_read_as_another_is_not_sent(name: str) -> None:
    for there in (
        f"/api/v1/namespaces/lab/secrets/{name}",
        f"{path('virtualservices', 'lab')}/{name}",
        f"{path('deployments', 'lab')}/{name}/scale",
    ):
        with pytest.raises(kube.ApiError, match="nothing was sent"):
            kube._request("GET", there, query=None)


@hypothesis.given(st.text(max_size=30))
def test_what_is_sent_is_read_by_the_client_as_it_was_meant(name: str) -> None:
    there = f"/api/v1/namespaces/lab/secrets/{name}"
    try:
        kube._request("GET", there, query=None)
    except kube.ApiError:
        return
    url = yarl.URL(f"https://kubernetes.default.svc{there}")
    assert (url.raw_path, url.raw_query_string, url.raw_fragment) == (there, "", "")


# -- annotations -----------------------------------------------------------------------------------


def deployment(namespace: str, name: str, **notes: str) -> Json:
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"{namespace}/{name}",
            "generation": 1,
            "annotations": {f"serin.dev/{key.replace('_', '-')}": value for key, value in notes.items()},
        },
        "spec": {"selector": {"matchLabels": {}}, "template": {"metadata": {"labels": {}}, "spec": {}}},
        "status": {"observedGeneration": 1},
    }


def replica_set(of: Json) -> Json:
    meta = of["metadata"]
    owner = {"uid": meta["uid"], "controller": True, "kind": "Deployment", "name": meta["name"]}
    labels = {"pod-template-hash": "abc"}
    return {
        "metadata": {
            "name": f"{meta['name']}-abc",
            "namespace": meta["namespace"],
            "uid": f"{meta['uid']}-abc",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": labels,
            "ownerReferences": [owner],
        },
        "spec": {"template": {"metadata": {"labels": labels}, "spec": {}}},
    }


def two_namespaces(**notes: str) -> Cluster:
    """Whatever is named is there, in the other namespace only; a canary asks with these annotations."""
    there = Cluster()
    ours = [deployment("mine", "canary", **notes), deployment("mine", "model")]
    theirs = [deployment("other", name) for name in ("model", "theirs")]
    there.listed("deployments", [*ours, *theirs])
    there.listed("replicasets", [replica_set(one) for one in (*ours, *theirs)])
    policy = {"metadata": {"name": "theirs", "namespace": "other"}, "spec": {"alpha": 0.4}}
    default = {"metadata": {"name": "default", "namespace": "other"}, "spec": {"alpha": 0.5}}
    there.listed("canarypolicies", [policy, default])
    return there


def asked(**notes: str) -> trigger.Asked | trigger.Refused | None:
    there = two_namespaces(**notes)
    return trigger.wanted(there.get("deployments", "mine", "canary"), there, lambda *_: None)


def test_another_namespace_s_default_policy_is_not_ours() -> None:
    found = asked(canary_of="model")
    assert isinstance(found, trigger.Asked)
    assert found.run["metadata"]["namespace"] == "mine"
    assert found.run["spec"]["plan"]["policy"] == {}


@pytest.mark.parametrize("name", ["theirs", "other/theirs", "theirs.other", "../other/theirs"])
@pytest.mark.parametrize("note", ["canary_of", "policy"])
def test_an_annotation_finds_nothing_in_another_namespace(note: str, name: str) -> None:
    found = asked(**{"canary_of": "model"} | {note: name})
    assert isinstance(found, trigger.Refused)
    assert name in found.message


@pytest.mark.parametrize("note", ["virtual_service", "stable_subset", "canary_subset"])
@pytest.mark.parametrize("name", ELSEWHERE)
def test_an_annotation_that_names_what_cannot_be_makes_no_run_and_the_schema_takes_none(
    note: str, name: str
) -> None:
    found = asked(**{"canary_of": "model", note: name})
    assert isinstance(found, trigger.Refused)
    assert found.message.startswith(f"annotation serin.dev/{note.replace('_', '-')}: ")
    assert " is not the name of a " in found.message
    field = note.replace("_s", "S")
    node = dict(texts(SPECS["CanaryRun"]))[f"plan.{field}"]
    assert list(schema._problems(node, name, field))


# -- what pods say ---------------------------------------------------------------------------------


def pod(ip: str = "10.0.0.7", **notes: str) -> PodSeen:
    return PodSeen(
        name="a",
        node="n",
        ip=ip,
        ready=True,
        created=datetime(2026, 1, 1, tzinfo=UTC),
        annotations={f"prometheus.io/{name}": value for name, value in notes.items()},
    )


@hypothesis.given(
    st.text(max_size=40),
    st.sampled_from(
        [
            "/metrics",
            "",
            "@evil.example/",
            "//evil.example/",
            "/../..",
            "?a=b",
            "#",
            "\\evil.example",
            "\r\nHost: b",
        ]
    ),
)
def test_whatever_path_a_pod_names_it_is_asked_itself_at_its_own_port(text: str, start: str) -> None:
    try:
        url = target(pod(port="9000", path=start + text))
    except ValueError:
        return
    for host, port in (
        (urlsplit(url).hostname, urlsplit(url).port),
        (yarl.URL(url).host, yarl.URL(url).port),
    ):
        assert (host, port) == ("10.0.0.7", 9000)
    assert not re.search(r"[\r\n]", str(yarl.URL(url)))


@pytest.mark.parametrize("scheme", ["file", "ftp", "gopher", "http://evil.example/?", "HTTP"])
def test_a_pod_s_page_is_http(scheme: str) -> None:
    with pytest.raises(ValueError, match=r"prometheus\.io/scheme"):
        target(pod(scheme=scheme))


@pytest.mark.parametrize("port", ["0", "65536", "80@evil.example", "80/", "-1", "٣", "8080 "])
def test_a_pod_s_port_is_a_number(port: str) -> None:
    with pytest.raises(ValueError, match=r"prometheus\.io/port"):
        target(pod(port=port))


NO_PODS = ["169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "evil.example"]
# Metadata, written otherwise: mapped, behind NAT64 and 6to4, and what AWS and Google have in IPv6.
NO_PODS += [
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "fd00:ec2::254",
    "fd20:ce::254",
]


@pytest.mark.parametrize("ip", NO_PODS)
def test_a_pod_s_address_is_one_that_a_pod_can_have(ip: str) -> None:
    with pytest.raises(ValueError, match="is no pod's"):
        target(pod(ip))


def test_a_path_has_a_length_that_a_path_can_have() -> None:
    assert target(pod(path="/" + "x" * 511))
    with pytest.raises(ValueError, match=r"prometheus\.io/path has 513 characters"):
        target(pod(path="/" + "x" * 512))
    assert target(pod(), Page(port=1, path="/x"))


ASTRAY = [
    "/../../../../kube-system/services/admin:80/proxy/shutdown?now=1",
    "/../../../../kube-system/secrets",
    "..",
    "/a/../b",
    "/.",
    "/./metrics",
    "//evil.example/metrics",
    "/metrics//",
    "/%2e%2E/secrets",
    "/.%2e/secrets",
    "/a%2f..%2Fb",
    "/..%5csecrets",
    "/\\..\\secrets",
    "/.\t./secrets",
    "/.\n./secrets",
    "/metrics#/../..",
    "/mètrics",
]


@pytest.mark.parametrize("path", ASTRAY)
def test_no_path_of_a_pod_s_page_is_another_path_to_whoever_resolves_it(path: str) -> None:
    with pytest.raises(ValueError, match="the path of the metrics page is"):
        target(pod(path=path))
    with pytest.raises(ValueError, match="the path of the metrics page is"):
        target(pod(), Page(path=path))


@pytest.mark.parametrize(
    "path", ["/.well-known/metrics", "/v1...2/m", "/a.b/..c", "/m?filter=//x/../y", "/a:b@c/~d"]
)
def test_a_path_may_have_dots_in_a_name_and_anything_printed_in_a_query(path: str) -> None:
    assert target(pod(path=path)).endswith(f"7:8080{path}")


@hypothesis.given(
    st.lists(
        st.sampled_from([*"/.\\?#;:@a\t%", "..", "%2e", "%2F", "%252e", "%5C", "secrets"]), max_size=12
    ).map("".join)
)
def test_before_the_api_server_s_proxy_a_pod_s_page_stays_behind_it(path: str) -> None:
    try:
        said = proxied("models", pod(path=path))
    except ValueError:
        return
    asked = said.partition("?")[0]
    for read in (asked, unquote(asked)):
        here = posixpath.normpath(read.replace("\\", "/"))
        assert here.startswith("/api/v1/namespaces/models/pods/a:8080/proxy")


# -- PromQL ----------------------------------------------------------------------------------------

_STRING = re.compile(r'"((?:[^"\\\n]|\\.)*)"')


@hypothesis.given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=3))
def test_no_name_ends_the_string_it_stands_in(namespace: str, pods: list[str]) -> None:
    found = query("clicks_total", namespace, pods)
    assert _STRING.sub("S", found) == "sum by (pod, job, instance) (clicks_total{namespace=S,pod=~S})"
    first, second = (_unquoted(text) for text in _STRING.findall(found))
    assert first == namespace
    assert all(re.fullmatch(second, name) for name in pods)
    assert not re.fullmatch(second, "".join(pods) + "x")


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), text)


@pytest.mark.parametrize("name", ['a"}) or vector(1', "a or b", "a{b=c}", "", "a b", "1a", "a-b", "a\n", "é"])
def test_a_counter_that_is_no_metric_s_name_is_not_asked_for(name: str) -> None:
    with pytest.raises(ValueError, match="is no metric's name"):
        query(name, "lab", ["a"])
    for field in ("hits", "trials"):
        node = dict(texts(SPECS["CanaryPolicy"]))[f"checks[].counters.{field}"]
        assert list(schema._problems(node, name, field))
