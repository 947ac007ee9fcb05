"""The Helm chart is what kustomize builds: rendered, object by object."""

import copy
import json
import re
import tarfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller import settings
from controller.shards import lease_names
from manifests import chart as making
from tests.unit.test_manifests import BASE, SHADOWED, built, named
from tests.unit.test_monitoring import OBJECTS as MONITORED

Json = Any
Scope = dict[str, Json]
FILES = making.chart()
VALUES = yaml.safe_load(FILES["values.yaml"])
SCHEMA = json.loads(FILES["values.schema.json"])


# -- Helm's language, as much of it as the templates use ------------------------------------------------


def parsed(text: str) -> list[Json]:
    """Texts, expressions ("=", what) and blocks (opening, parts), as they follow one another."""
    stack: list[list[Json]] = [[]]
    for at, part in enumerate(re.split(r"(?:\s*\{\{-|\{\{) (.*?) \}\}", text)):
        if at % 2 == 0:
            stack[-1].append(part)
        elif part == "end":
            stack.pop()
        elif part.split()[0] in {"if", "with", "range"}:
            body: list[Json] = []
            stack[-1].append((part, body))
            stack.append(body)
        else:
            stack[-1].append(("=", part))
    (whole,) = stack
    return whole


def rendered(parts: Sequence[Json], scope: Scope) -> str:
    out = []
    for part in parts:
        if isinstance(part, str):
            out.append(part)
        elif part[0] == "=":
            out.append(evaluated(part[1], scope))
        else:
            out += [rendered(part[1], inner) for inner in scopes(part[0], scope)]
    return "".join(out)


def looked_up(said: str, scope: Scope) -> Json:
    if said == ".":
        return scope["."]
    if said.startswith('"'):
        return json.loads(said)
    name, *path = said.removeprefix(".").split(".")
    value = scope[name]
    for step in path:
        value = value[step]
    return value


def evaluated(said: str, scope: Scope) -> str:
    """An expression's text: a value, perhaps `quote`d, or `toYaml . | nindent n`."""
    first, _, pipe = said.partition(" | ")
    if first == "toYaml .":
        word, indent = pipe.split()
        assert word == "nindent"
        lines = yaml.safe_dump(scope["."], sort_keys=False).splitlines()
        return "".join(f"\n{' ' * int(indent)}{line}" for line in lines)
    assert pipe in {"", "quote"}
    text = str(looked_up(first, scope))
    return json.dumps(text) if pipe else text


def scopes(opening: str, scope: Scope) -> list[Scope]:
    """In which scopes a block's parts are rendered: in one, in none, or in one for each of a range."""
    word, _, rest = opening.partition(" ")
    if word == "with":
        return [{**scope, ".": looked_up(rest, scope)}] if looked_up(rest, scope) else []
    if word == "if":
        more = re.fullmatch(r"gt \(int (\S+)\) (\d+)", rest)
        return [scope] * (looked_up(more[1], scope) > int(more[2]) if more else looked_up(rest, scope))
    names, _, source = rest.partition(" := ")
    if numbers := re.fullmatch(r"untilStep 1 \(int (\S+)\) 1", source):
        return [{**scope, names: number} for number in range(1, looked_up(numbers[1], scope))]
    key, value = names.split(", ")
    return [{**scope, key: each, value: what} for each, what in sorted(looked_up(source, scope).items())]


def merged(values: Json, given: Json) -> Json:
    if not isinstance(given, dict) or not isinstance(values, dict):
        return given
    return {**values, **{key: merged(values.get(key), value) for key, value in given.items()}}


def template(given: Json | None = None, *, namespace: str = "serin-system") -> list[Json]:
    """The objects that `helm template` would print, without what it keeps CRDs by."""
    scope = {
        "Values": merged(copy.deepcopy(VALUES), given or {}),
        "Release": {"Namespace": namespace},
        "Chart": {"AppVersion": "0"},
    }
    texts = [text for name, text in FILES.items() if re.fullmatch(r"templates/.*\.yaml", name)]
    return [obj for text in texts for obj in loaded(rendered(parsed(text), scope))]


@cache
def loaded(text: str) -> Sequence[Json]:
    objects = [obj for obj in yaml.load_all(text, Loader=yaml.CSafeLoader) if obj is not None]
    for obj in objects:
        if obj["kind"] == "CustomResourceDefinition":
            assert obj["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    return objects


def by_name(objects: list[Json]) -> dict[tuple[str, str], Json]:
    assert len(objects) == len({making.name_of(obj) for obj in objects})
    return {making.name_of(obj): obj for obj in objects if obj["kind"] != "Namespace"}


# -- what it renders ----------------------------------------------------------------------------------

SHADOW, MONITORING = {"shadow": {"enabled": True}}, {"monitoring": {"enabled": True}}
SHADOW_KEPT = {"shadow": {"enabled": True, "keep": {"enabled": True}}}
SHADOW_SEEN = {"shadow": {"enabled": True, "monitoring": {"enabled": True}}}


@pytest.mark.parametrize(
    ("values", "objects"),
    [
        ({}, BASE),
        (SHADOW, SHADOWED),
        (SHADOW_SEEN, making.built("shadow", "shadow-monitoring")),
        (SHADOW_KEPT, making.built("shadow", "shadow-keep")),
        (MONITORING, MONITORED),
        ({"replicas": 3, "shards": 6}, built("overlays/shards")),
    ],
    ids=["base", "shadow", "shadow-monitoring", "shadow-keep", "monitoring", "shards"],
)
def test_the_chart_is_what_kustomize_builds(values: Json, objects: list[Json]) -> None:
    assert by_name(template(values)) == by_name(objects)


def test_every_component_at_once_is_each_of_them() -> None:
    values = {**merged(SHADOW_SEEN, SHADOW_KEPT), **MONITORING, "egress": {"enabled": True}}
    names = ("shadow", "shadow-keep", "shadow-monitoring", "monitoring", "egress")
    assert by_name(template(values)) == by_name(making.built(*names))


def test_the_worker_is_not_monitored_where_there_is_none() -> None:
    values = {"shadow": {"enabled": False, "monitoring": {"enabled": True}}}
    assert by_name(template(values)) == by_name(BASE)


def test_in_another_namespace_nothing_is_left_of_ours() -> None:
    values = {**SHADOW_SEEN, **MONITORING, "egress": {"enabled": True}}
    objects = template(values, namespace="canaries")
    assert "serin-system" not in json.dumps(objects)
    (binding,) = (one for one in objects if one["kind"] == "ClusterRoleBinding")
    assert binding["subjects"][0]["namespace"] == "canaries"
    (container,) = named(objects, "Deployment", "serin-controller")["spec"]["template"]["spec"]["containers"]
    environ = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    assert settings.read({}, environ).shadow_url == "http://serin-shadow.canaries.svc.cluster.local:8081"


def test_every_value_is_where_it_belongs_and_nowhere_else() -> None:
    values = {
        **SHADOW,
        "replicas": 4,
        "image": {"repository": "r.example/c", "tag": "7"},
        "imagePullSecrets": [{"name": "key"}],
        "resources": {"requests": {"cpu": "2"}},
        "settings": {"SERIN_FREEZE": "true", "SERIN_PROMETHEUS_URL": "http://prometheus.monitoring:9090"},
        "shards": 3,
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "crds": {"enabled": False},
    }
    values["shadow"] = {
        "enabled": True,
        "image": {"repository": "r.example/s", "tag": "8"},
        "modelsClaim": "mine",
        "resources": {"limits": {"nvidia.com/gpu": 1}},
        "nodeSelector": {"gpu": "yes"},
        "tolerations": [{"key": "b"}],
    }
    objects = template(values)
    assert not [one for one in objects if one["kind"] == "CustomResourceDefinition"]
    deployment = named(objects, "Deployment", "serin-controller")["spec"]
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    assert (deployment["replicas"], container["image"]) == (4, "r.example/c:7")
    assert container["resources"] == {
        "limits": {"memory": "512Mi"},
        "requests": {"cpu": "2", "memory": "256Mi"},
    }
    assert [pod[name] for name in ("imagePullSecrets", "nodeSelector", "tolerations")] == [
        [{"name": "key"}],
        {"disk": "ssd"},
        [{"key": "a", "operator": "Exists"}],
    ]
    environ = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    given = settings.read({}, environ)
    assert (given.freeze, given.shards) == (True, 3)
    assert given.prometheus_url == "http://prometheus.monitoring:9090"
    role = named(objects, "Role", "serin-controller-lease")
    assert role["rules"][1]["resourceNames"] == lease_names(given.lease_name, 3)
    worker = named(objects, "Deployment", "serin-shadow")["spec"]["template"]["spec"]
    assert worker["containers"][0]["image"] == "r.example/s:8"
    assert worker["containers"][0]["resources"]["limits"] == {"memory": "2Gi", "nvidia.com/gpu": 1}
    assert worker["volumes"][0]["persistentVolumeClaim"]["claimName"] == "mine"
    assert [worker[name] for name in ("imagePullSecrets", "nodeSelector", "tolerations")] == [
        [{"name": "key"}],
        {"gpu": "yes"},
        [{"key": "b"}],
    ]


def test_labels_that_an_operator_looks_for_are_added() -> None:
    labelled = {"monitoring": {"enabled": True, "labels": {"release": "prometheus"}}}
    objects = template({**SHADOW_SEEN, **labelled})
    for kind, name in (
        ("ServiceMonitor", "serin-controller"),
        ("PrometheusRule", "serin-controller"),
        ("PodMonitor", "serin-shadow"),
    ):
        labels = named(objects, kind, name)["metadata"]["labels"]
        assert labels == {
            "app.kubernetes.io/name": "serin",
            "app.kubernetes.io/part-of": "serin",
            "release": "prometheus",
        }


# -- what it says of itself ---------------------------------------------------------------------------


def paths(values: Json, at: str = "") -> set[str]:
    names = {path for path, *_ in making.values()}
    found = set()
    for key, value in values.items():
        here = f"{at}{key}"
        found |= {here} if here in names else paths(value, f"{here}.")
    return found


def test_the_values_file_and_its_schema_have_every_value_and_no_other() -> None:
    names = {path for path, *_ in making.values()}
    assert paths(VALUES) == names
    used = {path for text in FILES.values() for path in re.findall(r"\.Values\.([\w.]+)", text)}
    assert used == names
    for path in names:
        node = SCHEMA
        for step in path.split("."):
            assert node["additionalProperties"] is False
            node = node["properties"][step]
        assert len(node["description"]) > 10


def test_a_setting_that_there_is_not_is_refused_and_so_is_one_that_the_chart_gives() -> None:
    node = SCHEMA["properties"]["settings"]
    assert node["additionalProperties"] is False
    known = {one.variable for one in settings.SETTINGS}
    assert set(node["properties"]) == known - {f"SERIN_{name.upper()}" for name in making.GIVEN}


def test_the_chart_is_of_our_version_and_of_a_kubernetes_that_knows_its_objects() -> None:
    about = yaml.safe_load(FILES["Chart.yaml"])
    assert (
        about["version"] == about["appVersion"] == VALUES["image"]["tag"] == VALUES["shadow"]["image"]["tag"]
    )
    assert about["kubeVersion"] == ">=1.29.0-0"


def test_the_notes_say_what_to_type_in_the_release_s_namespace() -> None:
    scope = {"Release": {"Namespace": "canaries"}, "Chart": {"AppVersion": "0.1.0"}}
    notes = rendered(parsed(FILES["templates/NOTES.txt"]), scope)
    assert "kubectl rollout status deployment/serin-controller -n canaries" in notes


def test_what_a_component_takes_away_or_changes_is_refused() -> None:
    assert making.switched([1], [1, 2], "a") == [1, "@@if a", 2, "@@end"]
    with pytest.raises(ValueError, match="component a changes 1 to 2"):
        making.switched({"b": 1}, {"b": 2}, "a")


def test_the_archive_holds_the_chart_and_is_the_same_each_time(tmp_path: Path) -> None:
    first, second = (making.write(tmp_path / name) for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as packed:
        assert set(packed.getnames()) == {f"serin/{name}" for name in FILES}
    assert (tmp_path / "one" / "serin" / "values.yaml").read_text() == FILES["values.yaml"]
