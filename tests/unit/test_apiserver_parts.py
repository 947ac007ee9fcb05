"""The smaller parts of the emulated API server: selectors, ages, protobuf, names."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from scenarios.cluster import catalogue, metadata, protobuf, selectors, tables
from scenarios.cluster.faults import Faults
from scenarios.cluster.kinds import Kinds
from scenarios.cluster.refusals import Refused
from scenarios.cluster.store import Store
from scenarios.virtual.loop import run_virtual

Json = Any
NOW = datetime(2026, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (600, "10m"),
        (659, "10m"),
        (10_799, "179m"),
        (10_800, "3h"),
        (11_100, "3h5m"),
        (28_800, "8h"),
        (172_799, "47h"),
        (172_800, "2d"),
    ],
)
def test_ages_are_written_as_kubectl_writes_them(seconds: int, said: str) -> None:
    then = (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert tables.age(then, NOW) == said


def test_a_path_leads_through_keys_indexes_and_all_of_a_list() -> None:
    obj = {"a": [{"b": 1}, {"b": 2}], "c": {"x.y": 3, "n": None}}
    assert tables.at(obj, ".a[*].b") == [1, 2]
    assert tables.at(obj, ".a[1].b") == [2]
    assert tables.at(obj, ".a[7].b") == []
    assert tables.at(obj, ".c['x.y']") == [3]
    assert tables.at(obj, ".c.n") == tables.at(obj, ".none.deeper") == []


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", ""),
        ("application/json", ""),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "Table"),
        ("application/vnd.kubernetes.protobuf,application/json", ""),
        ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", "Partial"),
        ("application/json;as=Poem,application/json", ""),
    ],
)
def test_the_first_form_that_there_is_is_taken(accept: str, wanted: str) -> None:
    assert tables.wanted(accept) == wanted


def test_a_selector_that_cannot_be_read_is_refused() -> None:
    for text in ("a=b=c", "a in b", "=x", "a,,b"):
        with pytest.raises(Refused):
            selectors.by_labels(text)
    with pytest.raises(Refused, match="field label not supported"):
        selectors.by_fields("spec.replicas=1", "deployments")


def test_a_specs_selector_selects_and_can_be_written_as_a_query() -> None:
    spec = {
        "matchLabels": {"app": "model"},
        "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]},
            {"key": "debug", "operator": "DoesNotExist"},
            {"key": "zone", "operator": "Exists"},
            {"key": "x", "operator": "NotIn", "values": ["y"]},
        ],
    }
    good = {"app": "model", "tier": "a", "zone": "z"}
    for labels, selected in (
        (good, True),
        (good | {"debug": "1"}, False),
        (good | {"tier": "c"}, False),
        (good | {"x": "y"}, False),
        ({"app": "model", "tier": "a"}, False),
    ):
        assert selectors.selects(spec, labels) is selected
        by_text = selectors.by_labels(selectors.as_text(spec))
        assert by_text({"metadata": {"labels": labels}}) is selected


def field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


def test_kubernetes_protobuf_is_read_as_far_as_kubectl_writes_it() -> None:
    about = field(1, field(1, b"v1") + field(2, b"Secret"))
    entry = field(2, field(1, b"url") + field(2, b"http://x"))
    labels = field(11, field(1, b"a") + field(2, b"b"))
    secret = field(1, field(1, b"alerts") + labels) + entry + field(3, b"Opaque") + b"\x48\x07"
    assert protobuf.decoded(b"k8s\x00" + about + field(2, secret)) == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "alerts", "labels": {"a": "b"}},
        "data": {"url": "aHR0cDovL3g="},
        "type": "Opaque",
    }


def number(at: int, value: int) -> bytes:
    return bytes([at << 3, value])


def test_protobuf_of_workloads_holds_numbers_lists_and_either() -> None:
    about = field(1, field(1, b"apps/v1") + field(2, b"Deployment"))
    port = field(6, number(3, 80) + field(4, b"TCP"))
    container = field(2, field(1, b"web") + field(3, b"sleep") + field(3, b"9") + port + field(8, b""))
    spec = number(1, 2) + field(2, field(1, field(1, b"a") + field(2, b"b"))) + field(3, field(2, container))
    assert protobuf.decoded(b"k8s\x00" + about + field(2, field(2, spec)))["spec"] == {
        "replicas": 2,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {
            "spec": {
                "containers": [
                    {
                        "name": "web",
                        "command": ["sleep", "9"],
                        "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    }
                ]
            }
        },
    }
    about = field(1, field(1, b"policy/v1") + field(2, b"PodDisruptionBudget"))
    spec = field(1, number(1, 1) + field(3, b"50%")) + field(3, number(1, 0) + number(2, 1))
    found = protobuf.decoded(b"k8s\x00" + about + field(2, field(2, spec)))
    assert found["spec"] == {"minAvailable": "50%", "maxUnavailable": 1}


def test_other_protobuf_is_refused() -> None:
    with pytest.raises(ValueError, match="does not begin"):
        protobuf.decoded(b"nothing")
    about = field(1, field(1, b"v1") + field(2, b"Pod"))
    with pytest.raises(Refused) as refused:
        protobuf.decoded(b"k8s\x00" + about)
    assert refused.value.code == 415
    secret = field(1, field(1, b"v1") + field(2, b"Secret"))
    with pytest.raises(ValueError, match="a number where there should be content"):
        protobuf.decoded(b"k8s\x00" + secret + field(2, number(3, 7)))
    with pytest.raises(ValueError, match="ends within a number"):
        protobuf.decoded(b"k8s\x00\x80")


@pytest.mark.parametrize(
    ("meta", "path"),
    [
        ({"name": ""}, "metadata.name"),
        ({"name": "a" * 254}, "metadata.name"),
        ({"name": "Upper"}, "metadata.name"),
        ({"name": "a", "labels": {"-": "b"}}, "metadata.labels"),
        ({"name": "a", "labels": {"a": "b c"}}, "metadata.labels"),
        ({"name": "a", "labels": {"UP/a": "b"}}, "metadata.labels"),
        ({"name": "a", "labels": {"a" * 64: ""}}, "metadata.labels"),
        ({"name": "a", "annotations": {"a b": ""}}, "metadata.annotations"),
        (
            {"name": "a", "ownerReferences": [{"kind": "A", "name": "a", "uid": "1"}]},
            "metadata.ownerReferences[0].apiVersion",
        ),
    ],
)
def test_wrong_metadata_is_named(meta: Json, path: str) -> None:
    assert [cause.field for cause in metadata.problems(meta, is_label=False)] == [path]


def test_right_metadata_is_let_through() -> None:
    meta = {
        "name": "a.b-c",
        "labels": {"serin.dev/workload": "model", "plain": "", "A_b.c": "1"},
        "annotations": {"serin.dev/pause": "any text, of any length"},
    }
    assert list(metadata.problems(meta, is_label=False)) == []


class Woken(asyncio.Event):
    """A watcher that notes when it is woken."""

    def __init__(self, number: int, order: list[int]) -> None:
        super().__init__()
        self.number, self.order = number, order

    def set(self) -> None:
        self.order.append(self.number)


def test_watchers_are_woken_in_the_order_in_which_they_came() -> None:
    """A set's order is that of addresses: the same seed was another history in another process."""
    order: list[int] = []
    watchers = [Woken(number, order) for number in range(50)]

    async def woken() -> None:
        faults, store = Faults(), Store(log_size=8)
        pods = Kinds(catalogue.BUILT_IN).named("pods")
        for watcher in watchers:
            faults.join(watcher)
            store.join(pods, watcher)
        for gone in watchers[::7]:
            faults.leave(gone)
            store.leave(pods, gone)
        faults.begin("outage", seconds=1)
        store.put(pods, {"metadata": {"name": "a", "namespace": "b"}})

    run_virtual(woken())
    left = [watcher.number for watcher in watchers if watcher.number % 7]
    assert order == [*left, *left]
