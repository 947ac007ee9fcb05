"""The monitoring component: rules by the real promtool, a dashboard that asks for what is there."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from manifests.chart import built as composed
from tests.unit.test_manifests import MANIFESTS, built, of

Json = Any
HERE = Path(__file__).parent
COMPONENT = MANIFESTS / "components" / "monitoring"
PAGES = HERE.parents[1] / "docs"
OBJECTS = built("overlays/monitoring")
RULES = of(OBJECTS, "PrometheusRule")[0]["spec"]
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((COMPONENT / "serin.json").read_text())
# Grafana's own variables, as it would fill them in
FILLED = {"$__rate_interval": "1m", "$__range": "3h", "$namespace": ".*", "$workload": "a|b"}


def promtool(*words: str, within: Path) -> None:
    done = subprocess.run(["promtool", *words], cwd=within, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_should_and_not_otherwise(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULES))
    shutil.copy(HERE / "rules_test.yaml", tmp_path)
    promtool("check", "rules", "rules.yaml", within=tmp_path)
    promtool("test", "rules", "rules_test.yaml", within=tmp_path)


def test_each_alert_is_tried_both_ways() -> None:
    tried: dict[str, set[bool]] = {}
    for story in yaml.safe_load((HERE / "rules_test.yaml").read_text())["tests"]:
        for one in story["alert_rule_test"]:
            tried.setdefault(one["alertname"], set()).add(bool(one["exp_alerts"]))
    assert tried == {rule["alert"]: {True, False} for rule in ALERTS}


def test_each_alert_has_its_place_on_the_page_and_the_page_has_no_other() -> None:
    page = (PAGES / "monitoring.md").read_text()
    rows = re.findall(r"^\| `(Serin\w+)` \| (\w+) \|", page, re.MULTILINE)
    assert rows == [(rule["alert"], rule["labels"]["severity"]) for rule in ALERTS]
    assert re.findall(r"^#### (\w+)$", page, re.MULTILINE) == [name for name, _ in rows]
    for rule in ALERTS:
        assert rule["annotations"]["runbook"] == f"docs/monitoring.md#{rule['alert'].lower()}"


def asked(node: Json) -> Iterator[str]:
    """Every PromQL expression of the dashboard's panels."""
    for panel in node["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def filled(expression: str) -> str:
    for variable, value in FILLED.items():
        expression = expression.replace(variable, value)
    return expression


def test_every_expression_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    expressions = [filled(expression) for expression in asked(DASHBOARD)]
    assert not [one for one in expressions if "$" in one]
    rules = [{"record": f"panel:{at}", "expr": one} for at, one in enumerate(expressions)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", "--lint=none", "rules.yaml", within=tmp_path)


WORDS = {"by", "on", "or", "and", "unless", "offset", "group_left", "group_right", "ignoring", "without"}


def series(expression: str) -> set[str]:
    """The names of the series that an expression asks for; a histogram's by its own name."""
    bare = re.sub(r'"[^"]*"', "", filled(expression))
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", " ", bare)
    bare = re.sub(r"\b(by|on|ignoring|without|group_left|group_right)\s*\([^)]*\)", " ", bare)
    names = {name for name in re.findall(r"[a-zA-Z_:][\w:]*(?!\w|\s*\()", bare) if name not in WORDS}
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names if not re.fullmatch(r"[smhd]", name)}


def test_the_names_are_found_in_an_expression() -> None:
    assert series('sum by (a) (rate(b_bucket{c="d"}[5m])) / on (e) f_total offset 6h > 0') == {"b", "f_total"}


@pytest.mark.parametrize("where", ["alerts", "dashboard"])
def test_only_series_are_asked_for_that_the_metrics_page_lists(where: str) -> None:
    page = (PAGES / "metrics.md").read_text().partition("## What Serin says")[2]
    rows = "".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE))
    listed = set(re.findall(r"`(\w+)`", rows)) | {"up"}
    expressions = [rule["expr"] for rule in ALERTS] if where == "alerts" else asked(DASHBOARD)
    names = {name for expression in expressions for name in series(expression)}
    assert len(names) > 7
    assert {name for name in names if not name.startswith("process_")} <= listed


def test_each_series_of_ours_is_on_a_panel_or_is_said_to_be_on_none() -> None:
    page = (PAGES / "metrics.md").read_text().partition("## What Serin says")[2]
    listed = {
        name
        for row in re.findall(r"^\| (`\w+_.*?) \|", page, re.MULTILINE)
        for name in re.findall(r"\w+", row)
    }
    (said,) = re.findall(r"On no panel, .*?\n\n", (PAGES / "monitoring.md").read_text(), re.DOTALL)
    left_out = {name for name in re.findall(r"`(\w+)`", said) if "_" in name}
    shown = {name for expression in asked(DASHBOARD) for name in series(expression)}
    assert listed >= left_out
    assert listed - shown == left_out


def test_the_dashboard_is_found_and_asks_whichever_prometheus_is_chosen() -> None:
    (map_,) = of(OBJECTS, "ConfigMap")
    assert map_["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(map_["data"]["serin.json"]) == DASHBOARD
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    first, *others = DASHBOARD["templating"]["list"]
    assert (first["name"], first["type"]) == ("datasource", "datasource")
    assert all(one["datasource"] == chosen for one in (*others, *DASHBOARD["panels"]))
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    taken = [
        (x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])
    ]
    assert len(taken) == len(set(taken))  # no panel covers another


def test_the_service_monitor_finds_the_service_its_port_and_pods_whose_page_it_may_read() -> None:
    (monitor,), (service,) = of(OBJECTS, "ServiceMonitor"), of(OBJECTS, "Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,), (port,) = monitor["spec"]["endpoints"], service["spec"]["ports"]
    assert endpoint["port"] == port["name"]
    assert endpoint["honorLabels"]  # a run's namespace is a label of ours
    assert service["metadata"]["name"] == "serin-controller"  # the job that rules and dashboard name
    (policy,) = of(OBJECTS, "NetworkPolicy")
    (rule,) = policy["spec"]["ingress"]
    assert rule["ports"] == [{"port": port["targetPort"]}]
    monitoring = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    assert {"namespaceSelector": monitoring} in rule["from"]


def test_the_pod_monitor_finds_the_worker_s_port_which_prometheus_and_nobody_else_is_let_in_to() -> None:
    objects = composed("shadow", "shadow-monitoring")
    (monitor,) = of(objects, "PodMonitor")
    (worker,) = [one for one in of(objects, "Deployment") if one["metadata"]["name"] == "serin-shadow"]
    template = worker["spec"]["template"]
    selected = monitor["spec"]["selector"]["matchLabels"]
    assert selected.items() <= template["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (container,) = template["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports[endpoint["port"]] == 8081
    named = {one["metadata"]["name"]: one["spec"] for one in of(objects, "NetworkPolicy")}
    opened = named["serin-shadow-metrics"]
    assert opened["podSelector"] == named["serin-shadow"]["podSelector"]
    (rule,) = opened["ingress"]
    assert rule["ports"] == [{"port": endpoint["port"]}]
    (who,) = rule["from"]
    assert set(who) == {"namespaceSelector", "podSelector"}  # both, in one entry
    asked_for = {one["metadata"]["name"] for one in of(composed("shadow"), "NetworkPolicy")}
    assert "serin-shadow-metrics" not in asked_for
