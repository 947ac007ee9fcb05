import copy
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from controller import policies, resource, settings
from controller.shards import lease_names
from gpu_shadow.cli_replay import replay
from gpu_shadow.wording import Misused
from scenarios.cluster import schema

Json = Any
MANIFESTS = Path(__file__).parents[2] / "manifests"
KUBECTL = Path(sys.executable).with_name("kubectl")

# What a structural schema may consist of (apiextensions.k8s.io/v1).
WORDS = {
    "default",
    "description",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minProperties",
    "minLength",
    "minimum",
    "nullable",
    "pattern",
    "properties",
    "required",
    "type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
}


def documents(path: Path) -> list[Json]:
    return [document for document in yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader) if document]


def built(folder: str) -> list[Json]:
    """The objects that `kubectl apply -k` would send."""
    done = subprocess.run(
        [KUBECTL, "kustomize", MANIFESTS / folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader))


CRDS = {crd["spec"]["names"]["kind"]: crd for crd in documents(MANIFESTS / "base" / "crds.yaml")}
SCHEMAS = {kind: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for kind, crd in CRDS.items()}
BASE = built("base")
SAMPLES = built("samples")
ONE_NAMESPACE = built("overlays/one-namespace")


def of(objects: list[Json], kind: str) -> list[Json]:
    return [one for one in objects if one["kind"] == kind]


def named(objects: list[Json], kind: str, name: str) -> Json:
    (found,) = (one for one in of(objects, kind) if one["metadata"]["name"] == name)
    return found


def every(node: Json, path: str = "") -> list[tuple[str, Json]]:
    """Every schema below `node`, itself first."""
    found = [(path, node)]
    for name, child in node.get("properties", {}).items():
        found += every(child, f"{path}.{name}")
    return found + (every(node["items"], f"{path}[]") if "items" in node else [])


def policy(**spec: Json) -> Json:
    return {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "CanaryPolicy",
        "metadata": {"name": "default", "namespace": "lab"},
        "spec": spec,
    }


def run(**spec: Json) -> Json:
    plan = {
        "canary": "model-canary",
        "stable": "model",
        "canaryHash": "6f7",
        "stableHash": "5d9",
        "virtualService": "model",
        "stableSubset": "stable",
        "canarySubset": "canary",
        "policy": {},
    }
    return {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "CanaryRun",
        "metadata": {
            "name": "model-canary-6f7-1",
            "namespace": "lab",
            "creationTimestamp": "2026-03-01T12:00:00Z",
        },
        "spec": {"plan": plan, **spec},
    }


def refused(obj: Json, old: Json = None) -> list[str]:
    """What a server would say against `obj`; nothing if it takes it."""
    root = SCHEMAS[obj["kind"]]
    kept, unknown = schema.pruned(root, schema.defaulted(root, obj))
    return [
        *(f"unknown field {name}" for name in unknown),
        *(str(p) for p in schema.problems(root, kept, old)),
    ]


def defaulted(obj: Json) -> Json:
    return schema.defaulted(SCHEMAS[obj["kind"]], obj)


# -- the CRDs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CRDS)
def test_a_schema_uses_only_words_that_structural_schemas_have(kind: str) -> None:
    for path, node in every(SCHEMAS[kind]):
        assert set(node) <= WORDS, path
        assert "type" in node, f"{path} has no type"


@pytest.mark.parametrize("kind", CRDS)
def test_every_default_is_itself_valid(kind: str) -> None:
    for path, node in every(SCHEMAS[kind]):
        if "default" in node:
            value = schema.defaulted(node, copy.deepcopy(node["default"]))
            assert not list(schema._problems(node, value, path)), path
            assert not list(schema._broken_rules(node, value, None, path)), path


@pytest.mark.parametrize("kind", CRDS)
def test_every_rule_has_a_message_for_people(kind: str) -> None:
    for path, node in every(SCHEMAS[kind]):
        for rule in node.get("x-kubernetes-validations", ()):
            assert len(rule["message"]) > 20, path


@pytest.mark.parametrize("kind", CRDS)
def test_every_list_that_a_rule_may_walk_and_every_text_it_reads_is_bounded(kind: str) -> None:
    spec = SCHEMAS[kind]["properties"]["spec"]
    for path, node in every(spec):
        if node["type"] == "array":
            assert "maxItems" in node, path
        if node["type"] == "string":
            assert "maxLength" in node or "enum" in node, path


def test_a_run_carries_a_policy_of_the_very_schema_of_policies() -> None:
    plan = SCHEMAS["CanaryRun"]["properties"]["spec"]["properties"]["plan"]
    assert plan["properties"]["policy"] == SCHEMAS["CanaryPolicy"]["properties"]["spec"]


def test_names_are_what_people_type() -> None:
    names = {kind: crd["spec"]["names"] for kind, crd in CRDS.items()}
    assert {kind: name["plural"] for kind, name in names.items()} == {
        "CanaryPolicy": "canarypolicies",
        "CanaryRun": "canaryruns",
    }
    assert names["CanaryRun"]["shortNames"] == ["crun"]
    assert all(name["categories"] == ["canary"] for name in names.values())
    assert all(crd["spec"]["versions"][0]["subresources"] == {"status": {}} for crd in CRDS.values())


def test_the_columns_of_a_run_are_phase_weight_step_verdict_and_workload() -> None:
    columns = CRDS["CanaryRun"]["spec"]["versions"][0]["additionalPrinterColumns"]
    shown = [column["name"] for column in columns if not column.get("priority")]
    assert shown == ["Phase", "Weight", "Step", "Verdict", "Workload", "Age"]
    assert [column["name"] for column in columns if column.get("priority") == 1] == ["Reason", "Policy"]


def test_every_column_shows_a_field_that_exists() -> None:
    for kind, crd in CRDS.items():
        for column in crd["spec"]["versions"][0]["additionalPrinterColumns"]:
            node = SCHEMAS[kind]
            for name in re.findall(r"\w+", column["jsonPath"]):
                if name == "metadata":
                    break
                node = node["properties"][name]


# -- what a policy may say ---------------------------------------------------------------------------


def test_a_policy_that_says_nothing_has_every_documented_default() -> None:
    empty = policy()
    del empty["spec"]
    spec = defaulted(empty)["spec"]
    checks = spec.pop("checks")
    assert spec == {
        "steps": [5, 10, 25, 50],
        "warmUp": "30s",
        "minStep": "60s",
        "minRequests": 300,
        "stepTimeout": "10m",
        "progressDeadline": "15m",
        "alpha": 0.01,
        "beta": 0.05,
        "canaryReplicas": "Match",
        "onInconclusive": "Hold",
        "onNoData": "Hold",
        "noDataTimeout": "5m",
        "burstTolerance": "6s",
        "scaleDownDelay": {"promoted": "30s", "rolledBack": "10m"},
        "promotion": {"mode": "Copy"},
        "historyLimit": 10,
        "preflight": "Warn",
    }
    assert [(check["name"], check["required"]) for check in checks] == [
        ("latency-p95", True),
        ("errors", True),
        ("predictions", True),
    ]
    assert not refused(empty)


LATENCY = {"name": "slow", "type": "Latency", "quantile": 0.95, "maxIncrease": "20%"}
EVERYWHERE = {"name": "slow", "type": "Latency", "quantiles": [0.5, 0.95], "maxIncrease": "20%"}
SHADOW = {"name": "shadow", "type": "Shadow", "maxFlips": "1%"}
CLICKS = {"name": "clicks", "type": "Proportion", "direction": "decrease", "maxDecrease": "15%"}
COMPLAINTS = {"name": "bad", "type": "Proportion", "direction": "increase", "maxIncrease": "20%"}


SENSIBLE: list[Json] = [
    {"steps": [1]},
    {"steps": list(range(1, 21))},
    {"steps": [1, 99]},
    {"warmUp": "0s", "minStep": "1m30s", "stepTimeout": "1h"},
    {"minStep": "500ms"},
    {"alpha": 0.001, "beta": 0.5},
    {"checks": [LATENCY]},
    {"checks": [EVERYWHERE]},
    {"checks": [{**LATENCY, "source": {"scrape": {"port": 9090}}}]},
    {"checks": [{**LATENCY, "source": {"prometheus": {}}}]},
    {
        "checks": [
            {**LATENCY, "share": 0.5},
            {**LATENCY, "name": "p99", "quantile": 0.99, "required": False},
        ]
    },
    {"checks": [{"name": "e", "type": "ErrorRate", "plus": "0.1%"}]},
    {"checks": [{"name": "e", "type": "ErrorRate", "maxIncrease": "0%", "plus": "0.1%"}]},
    {"checks": [LATENCY, {**CLICKS, "required": False}]},
    {"checks": [{**CLICKS, "counters": {"hits": "orders_total", "trials": "carts_total"}}]},
    {"checks": [{**COMPLAINTS, "plus": "0.1%"}]},
    {"alerts": [{"slack": {"secretRef": {"name": "a"}}}]},
    {"alerts": [{"webhook": {"url": "http://receiver.lab:80/x"}, "on": ["Held"]}]},
    {"alerts": [{"webhook": {"url": "https://a/"}, "severity": "critical"}]},
    {"alerts": [{"webhook": {"url": "https://a/"}, "on": ["Held", "Promoted"], "severity": "warning"}]},
    {"gates": []},
    {
        "gates": [
            {"manual": {}, "before": "Promotion"},
            {"webhook": {"url": "https://a/"}, "before": "Raise"},
        ]
    },
    {"scaleDownDelay": {"promoted": "5s"}},
    {"promotion": {"mode": "Handoff"}},
]


@pytest.mark.parametrize("spec", SENSIBLE)
def test_a_sensible_policy_is_taken(spec: Json) -> None:
    assert not refused(policy(**spec))


SENSELESS: list[tuple[Json, str]] = [
    ({"steps": [50, 10]}, "steps must increase"),
    ({"steps": [10, 10]}, "steps must increase"),
    ({"steps": [*range(1, 20), 19]}, "steps must increase"),
    ({"steps": [50, 100]}, "promotion is what follows the last step"),
    ({"steps": [0, 10]}, "greater than or equal to 1"),
    ({"steps": []}, "at least 1"),
    ({"steps": list(range(1, 22))}, "at most 20"),
    ({"steps": ["5"]}, "integer"),
    ({"steps": [2.5]}, "integer"),
    ({"warmUp": "30"}, "should match"),
    ({"warmUp": "1 m"}, "should match"),
    ({"minStep": "1h", "stepTimeout": "10m"}, "minStep must not be longer than stepTimeout"),
    ({"alpha": 0}, "greater than 0"),
    ({"alpha": 0.9}, "less than or equal"),
    ({"alpha": "1%"}, "number"),
    ({"onInconclusive": "hold"}, "supported values"),
    ({"onNoData": "Proceed"}, "supported values"),
    ({"maxLatencyIncrease": "20%"}, "unknown field"),
    ({"gates": [{"before": "Promotion"}]}, "a gate is exactly one of manual and webhook"),
    ({"gates": [{"manual": {}, "before": "Weekends"}]}, "supported values"),
    ({"alerts": [{}]}, "exactly one of slack and webhook"),
    (
        {"alerts": [{"slack": {"secretRef": {"name": "a"}}, "webhook": {"url": "https://a/"}}]},
        "exactly one of slack and webhook",
    ),
    ({"alerts": [{"webhook": {"url": "ftp://a/"}}]}, "should match"),
    ({"alerts": [{"webhook": {}}]}, "others have a url"),
    ({"alerts": [{"webhook": {"format": "Discord", "url": "https://a/"}}]}, "stands in the Secret"),
    ({"alerts": [{"webhook": {"format": "Teams"}}]}, "stands in the Secret"),
    (
        {
            "alerts": [
                {"webhook": {"format": "Alertmanager", "url": "https://a/", "secretRef": {"name": "a"}}}
            ]
        },
        "Alertmanager checks no signature",
    ),
    ({"alerts": [{"webhook": {"format": "Pager", "url": "https://a/"}}]}, "supported values"),
    ({"alerts": [{"webhook": {"url": "https://user:word@a/"}}]}, "should match"),
    ({"alerts": [{"webhook": {"url": "https://a/"}, "on": ["Failed"]}]}, "supported values"),
    ({"alerts": [{"webhook": {"url": "https://a/"}, "severity": "error"}]}, "supported values"),
    (
        {"alerts": [{"webhook": {"url": "https://a/"}, "on": ["Held"], "severity": "critical"}]},
        "is so severe",
    ),
    (
        {"alerts": [{"webhook": {"url": "https://a/"}, "on": ["Promoted"], "severity": "warning"}]},
        "is so severe",
    ),
    ({"checks": []}, "at least 1"),
    ({"checks": [{**LATENCY, "required": False}]}, "at least one check must be required"),
    ({"checks": [LATENCY, LATENCY]}, "Duplicate"),
    ({"checks": [{**LATENCY, "maxIncrease": "20"}]}, "should match"),
    ({"checks": [{**LATENCY, "maxIncrease": "-5%"}]}, "should match"),
    ({"checks": [{**LATENCY, "maxIncrease": 20}]}, "string"),
    ({"checks": [{**LATENCY, "maxIncrease": "0.0%"}]}, "maxIncrease must be above 0%"),
    ({"checks": [{**LATENCY, "quantile": 95}]}, "less than or equal"),
    ({"checks": [{**LATENCY, "plus": "1%"}]}, "plus belongs to ErrorRate"),
    ({"checks": [{**LATENCY, "tolerance": 0.1}]}, "tolerance belongs to Predictions"),
    ({"checks": [{**LATENCY, "maxFlips": "1%"}]}, "maxFlips belongs to Shadow"),
    ({"checks": [{**LATENCY, "direction": "decrease"}]}, "belong to Proportion"),
    ({"checks": [{**LATENCY, "counters": {"hits": "a", "trials": "b"}}]}, "belong to Proportion"),
    ({"checks": [{**CLICKS, "maxIncrease": "1%"}]}, "needs direction: decrease with maxDecrease"),
    ({"checks": [{**COMPLAINTS, "maxDecrease": "1%"}]}, "direction: increase with maxIncrease"),
    ({"checks": [{**CLICKS, "maxDecrease": "0.0%"}]}, "maxDecrease must be above 0%"),
    ({"checks": [{**CLICKS, "maxDecrease": "100%"}]}, "below 100%, which allows everything"),
    ({"checks": [{**COMPLAINTS, "maxIncrease": "0%"}]}, "one of maxIncrease and plus must be above 0%"),
    ({"checks": [{**CLICKS, "plus": "1%"}]}, "Proportion checks with direction: increase"),
    ({"checks": [{**CLICKS, "counters": {"hits": "a", "trials": "a"}}]}, "must be two counters"),
    ({"checks": [{**CLICKS, "counters": {"hits": "a"}}]}, "Required"),
    ({"checks": [{**CLICKS, "counters": {"hits": "a-b", "trials": "c"}}]}, "should match"),
    ({"checks": [{**LATENCY, "source": {}}]}, "exactly one of scrape and prometheus"),
    (
        {"checks": [{**LATENCY, "source": {"scrape": {"port": 80}, "prometheus": {}}}]},
        "exactly one of scrape and prometheus",
    ),
    ({"checks": [{**LATENCY, "source": {"prometheus": {"url": "http://a"}}}]}, "unknown field"),
    ({"checks": [{**LATENCY, "source": {"scrape": {}}}]}, "at least 1 properties"),
    ({"checks": [{**LATENCY, "source": {"scrape": {"port": 0}}}]}, "greater than or equal"),
    ({"checks": [{**LATENCY, "source": {"scrape": {"path": "metrics"}}}]}, "should match"),
    ({"checks": [{**LATENCY, "source": {"scrape": {"path": "/a/../b"}}}]}, "a path leads where it says"),
    ({"checks": [{"name": "a", "type": "Latency", "quantile": 0.9}]}, "quantiles, such as 0.95, and max"),
    ({"checks": [{**LATENCY, "quantiles": [0.5, 0.9]}]}, "one of quantile and quantiles"),
    ({"checks": [{**EVERYWHERE, "quantiles": [0.9]}]}, "at least 2 items"),
    ({"checks": [{**EVERYWHERE, "quantiles": [0.9, 0.9]}]}, "Duplicate value"),
    ({"checks": [{**EVERYWHERE, "quantiles": [0.4, 0.9]}]}, "greater than or equal"),
    ({"checks": [{"name": "a", "type": "ErrorRate"}]}, "needs maxIncrease or plus"),
    ({"checks": [{"name": "a", "type": "ErrorRate", "plus": "0%"}]}, "must be above 0%"),
    ({"checks": [{"name": "a", "type": "ErrorRate", "plus": "1%", "quantile": 0.9}]}, "quantiles belong"),
    ({"checks": [{"name": "a", "type": "Predictions"}]}, "needs tolerance"),
    (
        {"checks": [{"name": "a", "type": "Predictions", "tolerance": 0.1, "maxIncrease": "1%"}]},
        "maxIncrease belongs",
    ),
    ({"checks": [{"name": "a", "type": "Proportion"}]}, "needs direction: decrease with maxDecrease"),
    ({"checks": [LATENCY, {"name": "a", "type": "Shadow"}]}, "needs maxFlips"),
    ({"checks": [SHADOW]}, "beside at least one of another type"),
    ({"checks": [LATENCY, SHADOW, {**SHADOW, "name": "again"}]}, "there can be one Shadow check"),
    ({"checks": [LATENCY, {**SHADOW, "maxFlips": "0.0%"}]}, "maxFlips must be above 0%"),
    ({"checks": [LATENCY, {**SHADOW, "maxFlips": "100%"}]}, "below 100%, which allows everything"),
    ({"checks": [LATENCY, {**SHADOW, "source": {"prometheus": {}}}]}, "not to Shadow checks"),
    ({"checks": [{"name": "A b", "type": "Latency"}]}, "should match"),
]


@pytest.mark.parametrize(("spec", "says"), SENSELESS)
def test_a_policy_that_makes_no_sense_is_refused_in_words(spec: Json, says: str) -> None:
    assert any(says in text for text in refused(policy(**spec))), refused(policy(**spec))


# Parts of paths: what leads elsewhere, what nearly does, and what does not.
PARTS = (
    "/",
    "//",
    ".",
    "..",
    "...",
    "a",
    "?",
    "#",
    "\\",
    "%2e",
    "%2F",
    "%5c",
    "%00",
    "%2",
    "%20",
    ";",
    "@",
    "~",
    "x=1",
)


@given(st.lists(st.sampled_from(PARTS), max_size=6).map(lambda parts: "/" + "".join(parts)))
@tried(max_examples=400, deadline=None)
def test_the_schema_refuses_the_paths_that_the_controller_would_not_read_and_no_other(path: str) -> None:
    spec = {"checks": [{**LATENCY, "source": {"scrape": {"path": path}}}]}
    assert bool(refused(policy(**spec))) == policies.astray(path), path
    assert (policies.unusable(spec) is not None) == policies.astray(path)


@pytest.mark.parametrize(
    "path", ["/stats/prometheus?filter=istio_request&a=b/../c", "/.well-known/x", "/a..b", "/v1.2/m"]
)
def test_a_path_with_dots_that_leads_nowhere_else_is_taken(path: str) -> None:
    assert not refused(policy(checks=[{**LATENCY, "source": {"scrape": {"path": path}}}]))


def test_each_rule_of_a_policy_refuses_one_of_them() -> None:
    root = SCHEMAS["CanaryPolicy"]
    messages = {
        rule["message"] for _, node in every(root) for rule in node.get("x-kubernetes-validations", ())
    }
    said = [text for spec, _ in SENSELESS for text in refused(policy(**spec))]
    assert len(messages) > 20
    assert not {message for message in messages if not any(message in text for text in said)}


# -- what a run may be ---------------------------------------------------------------------------------


def test_a_run_s_plan_cannot_change_and_its_commands_can() -> None:
    old = defaulted(run())
    assert not refused(run(paused=True, abort={"reason": "seen enough"}, approved=["ann"]), old)
    assert not refused(run(promote={"reason": "hotfix"}), old)
    changed = run()
    changed["spec"]["plan"]["canaryHash"] = "777"
    assert any("spec.plan cannot be changed" in text for text in refused(changed, old))
    loosened = run()
    loosened["spec"]["plan"]["policy"] = {"alpha": 0.5}
    assert any("spec.plan cannot be changed" in text for text in refused(loosened, old))


def test_a_run_without_a_plan_or_with_a_command_without_a_reason_is_refused() -> None:
    empty = run()
    del empty["spec"]["plan"]
    assert any("Required" in text for text in refused(empty))
    assert any("Required" in text for text in refused(run(abort={})))


def test_a_run_of_all_defaults_is_one_the_controller_can_read() -> None:
    obj = defaulted(run())
    read = resource.run(obj)
    assert read.plan.policy.steps == (5, 10, 25, 50)
    assert [check.name for check in read.plan.policy.checks] == ["latency-p95", "errors", "predictions"]
    assert sum(check.share or 0 for check in read.plan.policy.checks) == pytest.approx(1)


def test_alerts_keep_their_secret_s_name_and_key_on_the_way_in() -> None:
    obj = run()
    obj["spec"]["plan"]["policy"] = {
        "alerts": [
            {"slack": {"secretRef": {"name": "a"}}},
            {"webhook": {"url": "https://b/", "secretRef": {"name": "b", "key": "c"}}},
            {"webhook": {"url": "https://b/"}, "on": ["Held"], "severity": "warning"},
        ]
    }
    first, second, third = resource.run(defaulted(obj)).plan.policy.alerts
    assert (first.kind, first.secret, first.key) == ("slack", "a", "url")
    assert (second.kind, second.secret, second.key) == ("webhook", "b", "c")
    assert (third.secret, third.key, third.on) == (None, None, ("Held",))
    assert [one.severity for one in (first, second, third)] == ["info", "info", "warning"]


# -- what is installed -----------------------------------------------------------------------------------


def rules(objects: list[Json]) -> list[tuple[str, Json]]:
    roles = of(objects, "ClusterRole") + of(objects, "Role")
    return [(role["metadata"]["name"], rule) for role in roles for rule in role["rules"]]


def test_no_rule_has_a_wildcard_and_no_cluster_role_touches_secrets() -> None:
    for name, rule in rules(BASE + SAMPLES):
        assert "*" not in str(rule), name
    for _, rule in rules(of(BASE, "ClusterRole")):
        assert "secrets" not in rule["resources"]


def test_the_sample_lets_the_controller_get_one_secret_in_one_namespace() -> None:
    ((_, rule),) = rules(of(SAMPLES, "Role"))
    assert rule == {
        "apiGroups": [""],
        "resources": ["secrets"],
        "resourceNames": ["serin-alerts"],
        "verbs": ["get"],
    }
    (binding,) = of(SAMPLES, "RoleBinding")
    (account,) = of(BASE, "ServiceAccount")
    assert binding["subjects"][0]["namespace"] == account["metadata"]["namespace"]


def test_the_controller_may_follow_everything_it_follows_and_write_only_what_it_must() -> None:
    (role,) = (role for role in of(BASE, "ClusterRole") if role["metadata"]["name"] == "serin-controller")
    may = {(r, verb) for rule in role["rules"] for r in rule["resources"] for verb in rule["verbs"]}
    followed = "deployments replicasets pods namespaces horizontalpodautoscalers virtualservices"
    for name in [*followed.split(), "destinationrules", "canarypolicies", "canaryruns"]:
        assert {(name, "list"), (name, "watch")} <= may
    writes = {(name, verb) for name, verb in may if verb not in {"get", "list", "watch"}}
    assert writes == {
        ("deployments", "patch"),
        ("deployments/scale", "patch"),
        ("virtualservices", "patch"),
        ("canaryruns", "create"),
        ("canaryruns", "patch"),
        ("canaryruns", "delete"),
        ("canaryruns/status", "patch"),
        ("events", "create"),
    }


def test_nobody_but_the_controller_may_write_what_a_run_has_found() -> None:
    """Evidence and weights are in a run's status; people have its spec."""
    granted = {name for name, rule in rules(BASE + SAMPLES) if "canaryruns/status" in rule["resources"]}
    assert granted == {"serin-controller"}
    people = {name for name, rule in rules(BASE) if "canaryruns" in rule["resources"]} - granted
    assert people == {"serin-view", "serin-edit"}


def test_the_controller_s_pods_fit_the_restricted_profile() -> None:
    (deployment,) = of(BASE, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert deployment["spec"]["replicas"] == 2
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "volumes"} & set(pod)
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"]
        assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    (namespace,) = of(BASE, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_selectors_find_the_pods_and_the_lease_is_the_one_that_may_be_taken() -> None:
    (deployment,) = of(BASE, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for service in of(BASE, "Service"):
        assert service["spec"]["selector"].items() <= labels.items()
    names = [name for _, rule in rules(of(BASE, "Role")) for name in rule.get("resourceNames", [])]
    assert names == ["serin-controller"]


def test_with_shards_the_leases_that_may_be_taken_are_theirs() -> None:
    objects = built("overlays/shards")
    (deployment,) = of(objects, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    environ = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    given = settings.read({}, environ)
    assert given.shards == 2 * deployment["spec"]["replicas"]
    names = [name for _, rule in rules(of(objects, "Role")) for name in rule.get("resourceNames", [])]
    assert names == lease_names(given.lease_name, given.shards)


def test_a_serin_for_one_namespace_overwrites_nothing_of_the_first_and_takes_nothing_along() -> None:
    """`kubectl delete -k` of a second one would have taken everybody's policies and runs."""
    names = {(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in BASE}
    mine = {(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in ONE_NAMESPACE}
    assert not names & mine
    assert {name for kind, namespace, name in mine if namespace != "models"} == {"serin-namespaces.models"}
    assert "serin-system" not in str(ONE_NAMESPACE)
    assert "NAMESPACE" not in str([one["metadata"] for one in ONE_NAMESPACE])


def test_a_serin_for_one_namespace_looks_at_that_which_it_runs_in() -> None:
    pod = named(ONE_NAMESPACE, "Deployment", "serin-controller")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    environ = {one["name"]: one.get("valueFrom") for one in container["env"]}
    runs_in = {"fieldRef": {"fieldPath": "metadata.namespace"}}
    assert environ["SERIN_NAMESPACE"] == environ["SERIN_LEASE_NAMESPACE"] == runs_in
    assert pod["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"


def test_every_sample_of_ours_is_valid_and_fully_known() -> None:
    ours = of(SAMPLES, "CanaryPolicy")
    assert ours
    for obj in ours:
        assert not refused(obj)


def test_the_sample_s_subsets_tell_the_two_deployments_apart() -> None:
    stable, canary = of(SAMPLES, "Deployment")
    (rule,) = of(SAMPLES, "DestinationRule")
    (route,) = of(SAMPLES, "VirtualService")[0]["spec"]["http"]
    weights = {one["destination"]["subset"]: one["weight"] for one in route["route"]}
    assert weights == {"stable": 100, "canary": 0}
    assert canary["metadata"]["annotations"]["serin.dev/canary-of"] == stable["metadata"]["name"]
    for subset, own, other in zip(rule["spec"]["subsets"], (stable, canary), (canary, stable), strict=True):
        assert subset["labels"].items() <= own["spec"]["template"]["metadata"]["labels"].items()
        assert not subset["labels"].items() <= other["spec"]["template"]["metadata"]["labels"].items()


# -- the shadow worker -----------------------------------------------------------------------------

SHADOWED = built("overlays/shadow")


def shadow_worker() -> Json:
    return named(SHADOWED, "Deployment", "serin-shadow")


def test_the_shadow_worker_has_no_rights_and_no_token() -> None:
    pod = shadow_worker()["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "serin-shadow"
    assert pod["automountServiceAccountToken"] is False
    bindings = [*of(SHADOWED, "ClusterRoleBinding"), *of(SHADOWED, "RoleBinding")]
    assert not [one for one in bindings for who in one["subjects"] if who["name"] == "serin-shadow"]
    account = named(SHADOWED, "ServiceAccount", "serin-shadow")
    assert account["automountServiceAccountToken"] is False


def test_the_shadow_worker_gives_way_to_everything_else_and_fits_the_restricted_profile() -> None:
    priority = named(SHADOWED, "PriorityClass", "serin-shadow")
    assert (priority["value"] < 0, priority["preemptionPolicy"]) == (True, "Never")
    pod = shadow_worker()["spec"]["template"]["spec"]
    assert pod["priorityClassName"] == priority["metadata"]["name"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_only_the_controller_may_ask_the_shadow_worker_and_it_may_ask_nobody() -> None:
    policy_ = named(SHADOWED, "NetworkPolicy", "serin-shadow")
    assert policy_["spec"]["egress"] == []
    copies, questions = policy_["spec"]["ingress"]
    assert "from" not in copies
    (who,) = questions["from"]
    controller = named(SHADOWED, "Deployment", "serin-controller")
    labels = controller["spec"]["template"]["metadata"]["labels"]
    assert who["podSelector"]["matchLabels"].items() <= labels.items()
    ports = {port["name"]: port["containerPort"] for port in _ports(shadow_worker())}
    assert [ports[copies["ports"][0]["port"]], ports[questions["ports"][0]["port"]]] == [8080, 8081]


def test_the_shadow_worker_keeps_how_far_it_came_where_it_may_write() -> None:
    pod = shadow_worker()["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    state = container["args"][container["args"].index("--state") + 1]
    (mount,) = (one for one in container["volumeMounts"] if one["mountPath"] == state)
    assert not mount.get("readOnly")
    assert mount["name"] in {volume["name"] for volume in pod["volumes"]}


def test_the_controller_is_told_where_the_shadow_worker_is() -> None:
    controller = named(SHADOWED, "Deployment", "serin-controller")
    (container,) = controller["spec"]["template"]["spec"]["containers"]
    environ = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    said = settings.read({}, environ)
    service = named(SHADOWED, "Service", "serin-shadow")
    where = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local"
    assert said.shadow_url == f"http://{where}:8081"
    assert said.recorder == {"host": where, "port": 8080, "percent": 100.0}
    assert [port["port"] for port in service["spec"]["ports"]] == [8080, 8081]


# -- replays on many machines ----------------------------------------------------------------------

REPLAYED = built("overlays/shadow-replay")


def replay_job() -> Json:
    (found,) = of(REPLAYED, "Job")
    return found


def test_a_replay_s_parts_are_the_job_s_indexes_and_its_command_is_one_that_there_is() -> None:
    spec = replay_job()["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert container["command"] == ["serin", "shadow", "replay"]
    # as `serin shadow` has it: click keeps the first one's option of help, for every test after this one
    helped = {"help_option_names": ["-h", "--help"]}
    asked = replay.make_context("replay", list(container["args"]), **helped).params
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == asked["parts"]
    assert "$(JOB_COMPLETION_INDEX)" in str(asked["state"])
    written = {one["mountPath"] for one in container["volumeMounts"] if not one.get("readOnly")}
    assert str(asked["state"].parent) in written


def test_a_replay_that_is_preempted_goes_on_and_one_that_is_asked_wrongly_ends() -> None:
    spec = replay_job()["spec"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # what podFailurePolicy takes
    assert spec["backoffLimitPerIndex"] > 0
    ignored, failed = spec["podFailurePolicy"]["rules"]
    assert ignored == {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    (container,) = spec["template"]["spec"]["containers"]
    assert failed["action"] == "FailJob"
    assert failed["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [Misused.exit_code],
    }


def test_a_replay_has_no_rights_no_network_and_gives_way_as_the_worker_does() -> None:
    pod, theirs = replay_job()["spec"]["template"]["spec"], shadow_worker()["spec"]["template"]["spec"]
    for name in (
        "serviceAccountName",
        "automountServiceAccountToken",
        "priorityClassName",
        "securityContext",
    ):
        assert pod[name] == theirs[name]
    assert pod["automountServiceAccountToken"] is False
    (container,), (worker,) = pod["containers"], theirs["containers"]
    assert container["securityContext"] == worker["securityContext"]
    assert container["image"] == worker["image"]
    (policy_,) = of(REPLAYED, "NetworkPolicy")
    assert (policy_["spec"]["ingress"], policy_["spec"]["egress"]) == ([], [])
    labels = replay_job()["spec"]["template"]["metadata"]["labels"]
    assert policy_["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    for theirs_ in of(SHADOWED, "NetworkPolicy"):
        assert not theirs_["spec"]["podSelector"]["matchLabels"].items() <= labels.items()


def _ports(deployment: Json) -> list[Json]:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    ports: list[Json] = container["ports"]
    return ports


def test_the_worker_keeps_requests_only_where_the_component_says_so_encrypted_and_within_its_disk(
    tmp_path: Path,
) -> None:
    assert not [
        arg for arg in shadow_worker()["spec"]["template"]["spec"]["containers"][0]["args"] if "keep" in arg
    ]
    up = os.path.relpath(MANIFESTS, tmp_path)
    wanted = {
        "resources": [f"{up}/base"],
        "components": [f"{up}/components/shadow{n}" for n in ("", "-keep")],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(wanted))
    (found,) = (
        one for one in of(built(str(tmp_path)), "Deployment") if one["metadata"]["name"] == "serin-shadow"
    )
    pod = found["spec"]["template"]["spec"]
    args = dict(arg.split("=") for arg in pod["containers"][0]["args"] if "=" in arg)
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert (args["--keep"], Path(args["--key"]).parent) == (mounts["kept"], Path(mounts["key"]))
    assert volumes["key"]["secret"]["secretName"] == "serin-shadow-key"
    room = int(volumes["kept"]["emptyDir"]["sizeLimit"].removesuffix("Mi"))
    assert room >= 1.25 * int(args["--keep-most"])  # the kubelet evicts whoever fills it
    from gpu_shadow.__main__ import main  # torch comes with it

    known = {option for one in main.params for option in one.opts}
    assert args.keys() <= known
