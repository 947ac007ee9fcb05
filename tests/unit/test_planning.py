"""Policies before they are used."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller import planning
from scenarios.cluster import schema


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "policy.yaml"


def test_the_builtin_policy_is_what_the_schema_says() -> None:
    spec = planning.builtin()
    assert spec["steps"] == [5, 10, 25, 50]
    assert (spec["alpha"], spec["minRequests"], spec["promotion"]) == (0.01, 300, {"mode": "Copy"})
    assert [check["name"] for check in spec["checks"]] == ["latency-p95", "errors", "predictions"]
    assert all(check["required"] for check in spec["checks"])


def test_the_printed_policy_reads_back_as_itself(file: Path) -> None:
    file.write_text(planning.as_yaml(planning.builtin()))
    assert planning.read(file) == planning.builtin()


def test_what_a_file_leaves_out_is_filled_in(file: Path) -> None:
    file.write_text("kind: CanaryPolicy\nspec: {steps: [10, 50], scaleDownDelay: {promoted: 5s}}")
    spec = planning.read(file)
    assert spec["steps"] == [10, 50]
    assert spec["scaleDownDelay"] == {"promoted": "5s", "rolledBack": "10m"}


def test_a_bare_spec_will_do(file: Path) -> None:
    file.write_text("steps: [20]")
    assert planning.read(file)["steps"] == [20]


SEVERAL = "checks: [{name: a, type: Latency, quantiles: [0.5, 0.9], maxIncrease: 20%}]"
FEWER = "checks: [{name: a, type: Proportion, direction: decrease, maxDecrease: 1%}]"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("apiVersion: serin.dev/v1alpha1\nspec: {}", "kind is missing; expected CanaryPolicy"),
        ("kind: Deployment\nspec: {}", 'kind is "Deployment"; expected CanaryPolicy'),
        (
            "kind: Scenario\nspec: {}",
            'kind is "Scenario"; expected CanaryPolicy; a story\'s spec.policy in a file of its own will do',
        ),
        ("- a\n- b", 'expected a CanaryPolicy; begin with "kind: CanaryPolicy"'),
        ("steps: [", "is not YAML"),
        ("stepz: [5]", "spec.stepz: unknown field; did you mean steps?"),
        (
            "checks:\n- {name: a, type: ErrorRate, plus: 1%, metric: http_requests_total}",
            "spec.checks[0].metric: unknown field; leave it out: which series a type of check reads is fixed",
        ),
        ("steps: five", "spec.steps: expected a list, got 'five'"),
        ("steps: [5, true]", "spec.steps[1]: expected a whole number, got True"),
        ("steps: [50, 10]", "spec.steps: [50, 10] must increase and end below 100"),
        ("steps: [50, 100]", "must increase and end below 100"),
        ("warmUp: soon", "spec.warmUp: 'soon' does not have the form of \"30s\""),
        ("minStep: 60", 'spec.minStep: expected a duration like "60s" (ms, s, m, h), got 60'),
        ("minStep: 1min", "spec.minStep: '1min' does not have the form of \"60s\" (ms, s, m, h)"),
        (
            "checks: [{name: a, type: Latency, quantile: 0.9, maxIncrease: 20}]",
            'spec.checks[0].maxIncrease: expected a percentage like "20%", got 20',
        ),
        ("alpha: 1%", "spec.alpha: expected a number such as 0.01 (1 %), got '1%'"),
        (
            "checks: [{name: a, type: Predictions, tolerance: 5%}]",
            "spec.checks[0].tolerance: expected a number such as 0.05 (5 %), got '5%'",
        ),
        ("minRequests: 5%", "spec.minRequests: expected a whole number, got '5%'"),
        ("alpha: 0", "spec.alpha: 0 is not between 0 and 0.5"),
        ("alpha: 0.9", "spec.alpha: 0.9 is not between 0 and 0.5"),
        ("alpha: 4.9e-324", "alpha: 4.94066e-324 is too small to reckon with; give 0.000000001 or more"),
        ("beta: 1e-12", "beta: 1e-12 is too small to reckon with"),
        (
            "checks: [{name: a, type: Predictions, tolerance: 0.1, share: 1e-300}]",
            "checks[a].share: 1e-300 is too small to reckon with",
        ),
        ("onNoData: Proceed", "spec.onNoData: 'Proceed' is not one of Hold, RollBack"),
        ("checks: [{name: a}]", "spec.checks[0].type: is missing"),
        ("checks: [{name: a, type: Latency, maxIncrease: a lot}]", "does not have the form of"),
        ("checks: [{name: a, type: Shadow, maxFlips: 1%}]", "Shadow"),
        ("kind: CanaryPolicy\nspeck: {}", "speck: unknown field; did you mean spec?"),
        ("apiVersion: serin.dev/v2\nkind: CanaryPolicy", "expected serin.dev/v1alpha1"),
        ("a: 1\n---\nb: 1", "holds several documents"),
        ("[" * 5000, "is nested too deep"),
        ("steps: []", "spec.steps: has 0 entries; expected 1 to 20"),
        ("minRequests: 0", "spec.minRequests: 0 is not between 1 and"),
        (f"minRequests: {10**30}", "is not between 1 and"),
        ("warmUp: 9999999999999999h", 'warmUp: expected a duration of at most a year ("8760h")'),
        ("minStep: 20m", "spec.minStep: 20m is longer than stepTimeout (10m)"),
        ("gates: [{before: Start}]", "spec.gates[0]: a gate is exactly one of manual and webhook"),
        ("alerts: [{}]", "spec.alerts[0]: an alert goes to exactly one of slack and webhook"),
        ("alerts: [{on: [Held]}]", 'spec.alerts[0].on: write "on" in quotes'),
        (
            "alerts: [{webhook: {}}]",
            "spec.alerts[0].webhook: the URL of Teams and Discord stands in the Secret",
        ),
        ("alerts: [{webhook: {url: 'https://a/', format: Teams}}]", "Discord stands in the Secret"),
        (
            "alerts: [{webhook: {url: 'https://a/', format: Alertmanager, secretRef: {name: a}}}]",
            "spec.alerts[0].webhook: Alertmanager checks no signature",
        ),
        ("alerts: [{webhook: {url: ftp://a}}]", 'does not have the form of "https://'),
        ("checks: [{name: a, type: Latency, maxIncrease: 20%}]", "spec.checks[0].quantile: is missing"),
        (
            "checks: [{name: a, type: Latency, quantile: 0.5, quantiles: [0.5, 0.9], maxIncrease: 20%}]",
            "spec.checks[0].quantiles: stands beside quantile; say one of the two",
        ),
        (
            "checks: [{name: a, type: Latency, quantiles: [0.9, 0.9], maxIncrease: 20%}]",
            "spec.checks[0].quantiles: [0.9, 0.9] has an entry twice; say each once",
        ),
        (
            SEVERAL.replace("}]", "}, {name: a-p90, type: ErrorRate, plus: 1%}]"),
            "checks[a-p90].name: a check of quantiles has one of this name; choose another",
        ),
        ("checks: [{name: a, type: ErrorRate}]", "needs maxIncrease or plus"),
        ("checks: [{name: a, type: ErrorRate, plus: 0.0%}]", "must be above 0%"),
        ("checks: [{name: a, type: ErrorRate, plus: 1%, quantile: 0.9}]", "belongs to Latency checks"),
        ("checks: [{name: a, type: Proportion}]", "direction: is missing; a Proportion check needs it"),
        (
            "checks: [{name: a, type: Proportion, direction: decrease}]",
            'spec.checks[0].maxDecrease: is missing; direction: decrease needs it, such as "15%"',
        ),
        (
            "checks: [{name: a, type: Proportion, direction: increase, maxIncrease: 1%, maxDecrease: 1%}]",
            "spec.checks[0].maxDecrease: belongs to direction: decrease",
        ),
        (
            "checks: [{name: a, type: Proportion, direction: decrease, maxDecrease: 1%, plus: 1%}]",
            "spec.checks[0].plus: belongs to direction: increase; leave it out",
        ),
        (
            "checks: [{name: a, type: Proportion, direction: decrease, maxDecrease: 100%}]",
            "checks[a].maxDecrease: 100% allows everything; give less than 100%",
        ),
        (
            "checks: [{name: a, type: Proportion, direction: decrease, maxDecrease: 0%}]",
            "spec.checks[0].maxDecrease: must be above 0%",
        ),
        (
            FEWER.replace("}", ", counters: {hits: b, trials: b}}"),
            "spec.checks[0].counters: hits and trials are one counter; name two, such as model_clicks_total",
        ),
        (
            FEWER.replace("}", ", counters: {hits: a-b, trials: b}}"),
            "spec.checks[0].counters.hits: 'a-b' does not have the form of \"model_clicks_total\"",
        ),
        (
            "checks: [{name: a, type: Latency, quantile: 0.9, maxIncrease: 1%, plus: 1%}]",
            "belongs to ErrorRate and Proportion checks, not to Latency",
        ),
        ("checks: [{name: a, type: Predictions, tolerance: 1}]", "tolerance: 1 is not between 0 and 1"),
        ("checks: [{name: a, type: ErrorRate, plus: 1%, required: false}]", "require one"),
        (
            "checks: [{name: a, type: ErrorRate, plus: 1%}, {name: a, type: ErrorRate, plus: 1%}]",
            "is there twice",
        ),
    ],
)
def test_a_bad_policy_is_refused_with_file_field_and_remedy(file: Path, text: str, complaint: str) -> None:
    file.write_text(text)
    with pytest.raises(planning.BadPolicy) as refused:
        planning.read(file)
    assert str(refused.value).startswith(f"{file}: ")
    assert complaint in str(refused.value)


def test_all_mistakes_that_do_not_depend_on_each_other_are_named_at_once(file: Path) -> None:
    """Whoever had five had to run it five times."""
    file.write_text(
        "steps: [50, 10]\nminStp: 1m\nalpha: 7\nminStep: 20m\n"
        "checks: [{name: a, type: Latency}, {name: B, type: Predictions, tolerance: 0.1}]"
    )
    with pytest.raises(planning.BadPolicy) as refused:
        planning.read(file)
    said = str(refused.value).splitlines()
    assert [line.removeprefix(f"{file}: ").partition(":")[0] for line in said] == [
        "spec.minStp",
        "spec.alpha",
        "spec.checks[1].name",
        "spec.steps",
        "spec.minStep",
    ]
    file.write_text(
        "minStep: 20m\nstepTimeout: soon"
    )  # that it is longer than nobody knows what is no mistake
    with pytest.raises(planning.BadPolicy) as refused:
        planning.read(file)
    assert len(str(refused.value).splitlines()) == 1


def test_of_a_great_many_mistakes_the_first_are_named(file: Path) -> None:
    """Found by fuzzing: a list of lists had a line for each of them."""
    file.write_text(f"steps: {[[10, 25]] * 120}")
    with pytest.raises(planning.BadPolicy) as refused:
        planning.read(file)
    said = str(refused.value).splitlines()
    assert len(said) == planning.MOST + 1
    assert said[-1] == f"{file}: and 111 more; mend these first"


def test_a_missing_file_is_refused(file: Path) -> None:
    with pytest.raises(planning.BadPolicy, match="No such file"):
        planning.read(file)


def test_a_step_lasts_until_it_has_its_requests() -> None:
    spec = planning.builtin() | {"steps": [10, 50], "minRequests": 600, "minStep": "30s"}
    lines = planning.schedule(spec, 50)
    assert lines[0] == " 10 %         5 canary requests/s  at least 2 min (600 requests)"
    assert lines[1] == " 50 %        25 canary requests/s  at least 30 s (750 requests)"
    assert lines[2].startswith("Promotion after at least 2 min 30 s")


def test_a_step_that_cannot_get_its_requests_in_time_is_said_to_hold() -> None:
    lines = planning.schedule(planning.builtin(), 1)
    assert lines[0].endswith("longer than stepTimeout (10m): Hold")


def test_a_step_in_which_silence_is_usual_is_said_to_be_without_data() -> None:
    """With onNoData: Proceed it said "held", of a canary that silence would have promoted."""
    spec = planning.builtin() | {"noDataTimeout": "20s", "onNoData": "Proceed", "steps": [10, 50]}
    first, second, _ = planning.schedule(spec, 0.2)
    assert first.endswith("; not one request in noDataTimeout (20s): Proceed")
    assert "noDataTimeout" not in second


def test_a_step_that_would_take_for_ever_takes_a_year_on_paper() -> None:
    lines = planning.schedule(planning.builtin() | {"minRequests": 2**63 - 1}, 0.001)
    assert "at least 8760 h" in lines[0]


def test_what_each_check_lets_pass_is_said() -> None:
    """Of a Pass that proves less it said nothing, and foretold that none of what it lets by is promoted."""
    narrow = planning.builtin()
    assert planning.permitted(narrow)[1] == (
        "errors: error rate, 1.5x stable's rate plus 0.1 points is allowed;"
        " a step is passed once at most 1.5x stable's rate plus 1 point is proved"
    )
    assert planning.permitted(narrow)[2].endswith("; a step is passed once a shift below 0.1 is proved")
    wide = narrow | {"checks": [narrow["checks"][1] | {"plus": "1%"}]}
    assert planning.permitted(wide) == ["errors: error rate, 1.5x stable's rate plus 1 point is allowed"]


def test_what_several_quantiles_permit_is_said_of_each() -> None:
    check = {"name": "slow", "type": "Latency", "quantiles": [0.5, 0.999], "maxIncrease": "20%"}
    assert planning.permitted(planning.builtin() | {"checks": [check]}) == [
        "slow-p50: p50, 1.2x is allowed",
        "slow-p99.9: p99.9, 1.2x is allowed",
    ]


def test_every_default_of_the_schema_is_printed() -> None:
    printed = yaml.safe_load(planning.as_yaml(planning.builtin()))["spec"]
    fields = planning._schema()["properties"]
    assert {name for name, each in fields.items() if "default" in each} == set(printed)


LATENCY = {"name": "a", "type": "Latency", "quantile": 0.9, "maxIncrease": "20%"}
SHADOW = {"name": "d", "type": "Shadow", "maxFlips": "1%"}
ERRORS = {"name": "b", "type": "ErrorRate", "maxIncrease": "0%", "plus": "1%"}
PREDICTIONS = {"name": "c", "type": "Predictions", "tolerance": 0.05}
CLICKS = {"name": "d", "type": "Proportion", "direction": "decrease", "maxDecrease": "15%"}
COMPLAINTS = {"name": "e", "type": "Proportion", "direction": "increase", "maxIncrease": "20%"}
HITS = {"hits": "model_clicks_total", "trials": "model_impressions_total"}
EVERYWHERE = {"name": "f", "type": "Latency", "quantiles": [0.5, 0.95], "maxIncrease": "20%"}
EVERY = (LATENCY, ERRORS, PREDICTIONS, CLICKS, COMPLAINTS, EVERYWHERE)
POLICIES: list[dict[str, Any]] = [
    {"checks": [LATENCY, ERRORS, PREDICTIONS]},
    {"checks": [ERRORS | {"plus": "0%"}]},
    {"checks": [{"name": "b", "type": "ErrorRate"}]},
    {"checks": [LATENCY | {"maxIncrease": "0.00%"}]},
    {"checks": [LATENCY | {"required": False}]},
    {"checks": [LATENCY | {"required": False}, ERRORS]},
    *({"checks": [PREDICTIONS | {"source": source}]} for source in (
        {}, {"scrape": {"port": 80}}, {"scrape": {}}, {"prometheus": {}},
        {"scrape": {"port": 80}, "prometheus": {}},
    )),
    *({"checks": [check | {field: value}]} for check in EVERY for field, value in (
        ("quantile", 0.9), ("quantiles", [0.5, 0.9]), ("maxIncrease", "5%"), ("plus", "1%"),
        ("tolerance", 0.1), ("direction", "increase"), ("direction", "decrease"), ("maxDecrease", "1%"),
        ("maxFlips", "1%"), ("counters", HITS),
    )),
    *({"checks": [CLICKS | {"maxDecrease": value}]} for value in (
        "0%", "00.0%", "0.01%", "99.9%", "100%", "100.0%", "099%", "250%",
    )),
    *({"checks": [CLICKS | {"counters": HITS | change}]} for change in (
        {"hits": "model_impressions_total"}, {"hits": "a b"}, {"trials": ""}, {"hits": "a:b_2"},
    )),
    *({"checks": [EVERYWHERE | {"quantiles": value}]} for value in (
        [], [0.9], [0.9, 0.9], [0.9, 0.5, 0.99], [0.4, 0.9], [0.5, 0.6, 0.7, 0.8, 0.9, 0.99],
    )),
    {"checks": [CLICKS | {"counters": {"hits": "a"}}]},
    {"checks": [COMPLAINTS | {"maxIncrease": "0%"}]},
    {"checks": [COMPLAINTS | {"maxIncrease": "0%", "plus": "0.1%"}]},
    {"checks": [COMPLAINTS | {"maxIncrease": "0%", "plus": "0%"}]},
    *({"checks": [{key: each for key, each in check.items() if key != field}]}
      for check in EVERY for field in check),
    {"checks": [SHADOW]}, {"checks": [LATENCY, SHADOW]},
    {"checks": [LATENCY, SHADOW, SHADOW | {"name": "e"}]},
    *({"checks": [LATENCY, SHADOW | {"maxFlips": share}]}
      for share in ("0%", "0.1%", "99.9%", "100%", "200%")),
    {"checks": [LATENCY, SHADOW | {"source": {"prometheus": {}}}]},
    {"checks": [LATENCY | {"maxFlips": "1%"}]},
    {"checks": [LATENCY, LATENCY]},
    {"checks": [LATENCY | {"name": "A"}]},
    {"steps": [1, 99]}, {"steps": [5, 5]}, {"steps": [99, 1]}, {"steps": [100]},
    {"steps": list(range(1, 30))},
    {"minStep": "10m"}, {"minStep": "10m1s"}, {"stepTimeout": "59s"},
    {"gates": []}, {"gates": [{"before": "Start", "manual": {}}]},
    {"gates": [{"before": "Start"}]}, {"gates": [{"before": "Start", "manual": {}, "webhook": {"url": "https://a/"}}]},
    {"preflight": "Off"}, {"preflight": "Enforce"},
    {"alerts": [{"slack": {"secretRef": {"name": "a"}}}]},
    {"alerts": [{"slack": {"secretRef": {"name": ""}}}]},
    {"alerts": [{"slack": {"secretRef": {"name": "a"}}, "webhook": {"url": "https://a"}}]},
    {"alerts": [{"webhook": {"url": "https://a"}, "on": []}]},
    {"historyLimit": 100}, {"historyLimit": 101}, {"minRequests": 0}, {"beta": 0.5}, {"beta": 0},
]  # fmt: skip


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "1E-03", "0.001"])
def test_a_number_is_read_as_kubectl_reads_it(file: Path, text: str) -> None:
    file.write_text(f"alpha: {text}")
    assert planning.read(file)["alpha"] == 0.001


@pytest.mark.parametrize("spec", POLICIES, ids=json.dumps)
def test_a_policy_is_refused_exactly_where_the_api_server_would(file: Path, spec: dict[str, Any]) -> None:
    shape = {"type": "object", "properties": {"spec": planning._schema()}}
    theirs = list(schema.problems(shape, schema.defaulted(shape, {"spec": spec}), None))
    file.write_text(json.dumps({"kind": "CanaryPolicy", "spec": spec}))
    if theirs:
        with pytest.raises(planning.BadPolicy):
            planning.read(file)
    else:
        planning.read(file)
