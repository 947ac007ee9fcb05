"""Scenario files: what they mean, and what is said of malformed ones."""

import re
import string
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from scenarios import fields
from scenarios.distributions import Beta, Bimodal, Lognormal, Pareto
from scenarios.objects import objects
from scenarios.plot import Arm, Delete, Ending, Evict, Outcome, Patch, Pods, Target
from scenarios.story import BadStory, load, loads
from scenarios.troubles import told

STORIES = sorted((Path(__file__).parents[2] / "scenarios").glob("*.yaml"))
GOOD = """
apiVersion: serin.dev/v1alpha1
kind: Scenario
metadata: {name: all-words}
spec:
  seed: 7
  duration: 2m
  traffic: {requestsPerSecond: 100}
  propagation: 250ms
  history: 60s
  controllers: 2
  stable:
    replicas: 3
    latency: {distribution: lognormal, median: 20ms, p95: 60ms}
    errorRate: 0.1%
  canary: {replicas: 2, latency: {distribution: pareto, shape: 2.2, p95: 60ms}}
  faults:
  - {at: 20s, arm: canary, latencyFactor: 2.0, for: 5s, pods: one}
  - {at: 20s, arm: stable, coldStart: {factor: 2, decay: 10s}, latencyAdd: 5ms}
  - {at: 40s, target: metrics, kind: outage, for: 30s}
  edits:
  - {at: 30s, patch: {kind: Deployment, name: model, merge: {metadata: {labels: {on: "1"}}}}}
  - {at: 31s, evict: {arm: canary}}
  - {at: 32s, delete: {kind: Deployment, name: model-canary}}
  noise:
    common: {sd: 0.15, tau: 60s, diurnal: 0.3}
    bursts: {perSecond: 0.005, factor: 2, lasting: 3s}
  policy:
    steps: [10, 50]
    checks: [{name: p95, type: Latency, quantile: 0.95, maxIncrease: 20%}]
    alerts: [{slack: {secretRef: {name: alerts}}, on: [Held]}]
  expect: {outcome: RolledBack, within: 6s, check: p95, reason: CheckFailed}
"""


def complaint(text: str) -> str:
    with pytest.raises(BadStory) as bad:
        loads(text, file="scenarios/x.yaml")
    return str(bad.value)


def said_of(text: str) -> str:
    """The complaint, or nothing where the text is a story."""
    try:
        loads(text, file="x.yaml")
    except BadStory as bad:
        return str(bad)
    return ""


def changed(*path: str | int, to: object) -> str:
    """The good file with one field changed."""
    whole = loads_plain()
    inside = whole
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = to
    return yaml.safe_dump(whole)


def loads_plain() -> dict:
    whole = yaml.safe_load(GOOD)
    whole["spec"]["policy"]["alerts"] = []  # PyYAML alone reads the key `on` as true
    return whole


def test_every_word_of_a_file_is_understood() -> None:
    story = loads(GOOD, file="x.yaml")
    assert story.name == "all-words"
    assert story.duration == timedelta(minutes=2)
    assert story.propagation == timedelta(milliseconds=250)
    assert story.controllers == 2
    slow, cold, silent = story.faults
    assert slow.pods is Pods.ONE
    assert slow.lasting == timedelta(seconds=5)
    assert cold.arm is Arm.STABLE
    assert cold.said() == {"latencyAdd": 0.005, "coldStart": {"factor": 2.0, "decay": 10.0}}
    assert silent.target is Target.METRICS
    assert [type(edit) for edit in story.edits] == [Patch, Evict, Delete]
    assert story.noise.bursts.factor == 2
    within = timedelta(seconds=6)
    rolled_back = Ending(outcome=Outcome.ROLLED_BACK, within=within, check="p95", reason="CheckFailed")
    assert story.expect == (rolled_back,)


def test_the_key_on_is_a_word_and_not_true() -> None:
    assert loads(GOOD, file="x.yaml").policy["alerts"][0]["on"] == ["Held"]


def test_what_the_canary_does_not_say_is_as_in_stable() -> None:
    story = loads(GOOD, file="x.yaml")
    assert story.canary.replicas == 2
    assert story.canary.error_rate == story.stable.error_rate == 0.001
    assert isinstance(story.canary.latency, Pareto)


@pytest.mark.parametrize("file", STORIES, ids=lambda file: file.stem)
def test_a_shipped_story_is_named_after_its_file_and_says_what_it_shows(file: Path) -> None:
    story = load(file)
    assert story.name == file.stem
    assert file.read_text().startswith("# ")
    assert objects(story)[-1]["metadata"]["annotations"]["serin.dev/canary-of"] == "model"


def test_an_edit_at_the_start_describes_how_the_objects_are() -> None:
    story = loads(GOOD.replace("at: 30s, patch", "at: 0s, patch"), file="x.yaml")
    labelled = [obj for obj in objects(story) if "on" in obj["metadata"].get("labels", {})]
    assert [(obj["kind"], obj["metadata"]["name"]) for obj in labelled] == [("Deployment", "model")]


def test_an_edit_at_the_start_of_what_is_not_there_is_refused() -> None:
    text = GOOD.replace(
        "at: 30s, patch: {kind: Deployment, name: model", "at: 0s, patch: {kind: Secret, name: x"
    )
    with pytest.raises(BadStory, match=r"x\.yaml: spec\.edits: there is no Secret x at the start"):
        objects(loads(text, file="x.yaml"))


def test_clicks_are_counted_where_a_rate_is_said_and_a_fault_changes_it() -> None:
    fault = "faults:\n  - {at: 20s, arm: canary, clickRate: 28%}"
    counting = GOOD.replace("errorRate: 0.1%", "errorRate: 0.1%\n    clickRate: 40%", 1)
    story = loads(counting.replace("faults:", fault, 1), file="x.yaml")
    assert story.stable.click_rate == story.canary.click_rate == 0.4
    assert story.arm_faults[0].said() == {"clickRate": 0.28}
    assert loads(GOOD, file="x.yaml").stable.click_rate is None
    with pytest.raises(BadStory, match=r"spec\.faults\[0\]: needs a clickRate of the arm to differ from"):
        loads(GOOD.replace("faults:", fault, 1), file="x.yaml")


@pytest.mark.parametrize(
    ("path", "to", "said"),
    [
        (("spec", "faults", 0, "at"), 20, 'spec.faults[0].at: expected a duration like "20s", got 20'),
        (("spec", "faults", 0, "at"), "3m", "spec.faults[0].at: expected a time before"),
        (
            ("spec", "faults", 0, "arms"),
            "canary",
            "spec.faults[0].arms: is unknown here; did you mean arm? known are at, for",
        ),
        (("spec", "faults", 0, "target"), "metrics", "spec.faults[0]: has arm and target; say one"),
        (
            ("spec", "faults", 0),
            {"at": "1s"},
            "spec.faults[0]: needs either arm (stable, canary) or target (met",
        ),
        (
            ("spec", "faults", 0),
            {"at": "1s", "target": "metrics"},
            "spec.faults[0].kind: is missing; say one of outage, hang, slow",
        ),
        (("spec", "faults", 0), {"at": "1s", "arm": "canary"}, "spec.faults[0]: does nothing; say one of"),
        (("spec", "faults", 0, "latencyFactor"), -1, "latencyFactor: expected a number above 0 to 1000"),
        (("spec", "faults", 0, "latencyFactor"), True, "latencyFactor: expected a number above 0 to 1000"),
        (("spec", "faults", 2, "kind"), "freeze", "spec.faults[2].kind: expected one of outage, hang, slow"),
        (("spec", "faults", 2, "for"), "0s", "spec.faults[2].for: expected a duration above 0s"),
        (("spec", "stable", "errorRate"), 0.1, "expected a percentage from 0% to 100% like"),
        (("spec", "stable", "errorRate"), "101%", "expected a percentage from 0% to 100% like"),
        (("spec", "stable", "replicas"), 1.5, "spec.stable.replicas: expected a whole number from 1"),
        (("spec", "stable", "latency", "p95"), "20ms", "latency.p95: expected more than the median"),
        (
            ("spec", "faults", 0, "errorrate"),
            "5%",
            "spec.faults[0].errorrate: is unknown here; did you mean errorRate?",
        ),
        (("spec", "stable", "latency", "shape"), 2, "spec.stable.latency.shape: is unknown here"),
        (("spec", "seed"), "seven", "spec.seed: expected a whole number"),
        (("spec", "expect", "outcome"), "Fine", "expected one of RolledBack, Promoted, Held, got"),
        (("spec", "expect", "outcome"), "Rolledback", 'Held, got "Rolledback"; did you mean RolledBack?'),
        (("spec", "expect", "check"), "p99", 'spec.expect: there is no check "p99"; known are p95'),
        (
            ("spec", "expect", "reason"),
            "CheckFaild",
            'spec.expect.reason: there is no reason "CheckFaild"; did you mean CheckFailed? known are Check',
        ),
        (
            ("spec", "policy", "checks", 0),
            {"name": "approvals", "type": "Proportion", "direction": "decrease", "maxDecrease": "10%"},
            "spec.stable.clickRate: is missing; check approvals counts clicks, say 40%",
        ),
        (
            ("spec", "expect", "outcome"),
            "Promoted",
            "spec.expect.check: a canary that is promoted has failed",
        ),
        (("spec", "expect", "outcome"), "Held", "spec.expect.within: a held canary keeps its weight"),
        (("spec", "expect"), {"oneOf": []}, "spec.expect.oneOf: expected at least one"),
        (("spec", "edits", 0, "evict"), {"arm": "canary"}, "spec.edits[0]: needs exactly one of"),
        (("spec", "edits"), {}, "spec.edits: expected a list, got {}"),
        (("spec", "edits", 1, "at"), "0s", "spec.edits[1]: only a patch can describe how the objects are"),
        (("spec", "edits", 0, "patch", "kind"), "Pods", "spec.edits[0].patch.kind: expected one of"),
        (("spec", "edits", 2, "delete", "kind"), "model", "spec.edits[2].delete.kind: expected one of"),
        (("spec", "policy"), {"step": [5]}, "x.yaml: spec.policy.step: unknown field; did you mean steps?"),
        (("spec", "policy"), {"minStep": 60}, 'spec.policy.minStep: expected a duration like "60s"'),
        (("metadata", "name"), "Not A Name", "metadata.name: expected a name like"),
        (("kind",), "CanaryRun", 'kind: expected Scenario, got "CanaryRun"'),
        (("spec", "duration"), "9h99999999m", 'spec.duration: expected a duration of at most "24h"'),
        (("spec",), [], "spec: expected a mapping with seed, duration"),
    ],
)
def test_a_wrong_field_is_named_with_what_belongs_there(
    path: tuple[str | int, ...], to: object, said: str
) -> None:
    text = complaint(changed(*path, to=to))
    assert all(line.startswith("scenarios/x.yaml: ") for line in text.splitlines())
    assert said in text


def test_a_missing_field_is_named() -> None:
    whole = loads_plain()
    del whole["spec"]["expect"]
    assert complaint(yaml.safe_dump(whole)) == (
        "scenarios/x.yaml: spec.expect: is missing; say it, such as "
        "expect: {outcome: RolledBack, within: 10s}"
    )


def without(path: tuple[str | int, ...]) -> str:
    """The good story without the field at the path."""
    whole = loads_plain()
    *before, last = path
    inside = whole
    for part in before:
        inside = inside[part]
    del inside[last]
    return said_of(yaml.safe_dump(whole))


def test_a_missing_field_has_an_example_that_is_right() -> None:
    """ "is missing; say it" left open what it looks like."""
    named = 0
    for path in paths(loads_plain()):
        for line in without(path).splitlines():
            if (found := re.search(r"is missing; say it, such as (\w+): (.*)", line)) is None:
                continue
            named += 1
            if "…" not in found[2]:
                value = fields.parse(found[2], file="x").value
                assert "expected" not in said_of(changed(*path, to=value)), line
        assert not re.search(r"is missing; say it$", without(path), re.MULTILINE)
    assert named > 20


@pytest.mark.parametrize(
    ("name", "likely"), [("factor", "latencyFactor"), ("latencyfacter", "latencyFactor"), ("er", "")]
)
def test_a_word_is_meant_that_is_written_nearly_so_or_holds_what_was_written(name: str, likely: str) -> None:
    said = fields.meant(name, ["latencyFactor", "errorRate", "clickRate"])
    assert said.startswith(f"did you mean {likely}? known" if likely else "known")
    assert fields.meant("rate", ["errorRate", "clickRate"]).startswith("known")  # either may be meant


def test_all_mistakes_are_named_at_once() -> None:
    """docs/testing.md promised it, and only the first was."""
    whole = loads_plain()
    whole["spec"]["canary"] = {"replica": 2}
    whole["spec"]["stable"]["latency"] = {"distribution": "pareto", "shape": 3}
    whole["spec"]["faults"] = [
        {"at": "1s", "crash": True},
        {"at": "1s", "arm": "canary", "latncyAdd": "40ms"},
    ]
    whole["spec"]["expect"] = {"outcome": "Rolledback"}
    whole["spec"]["policy"]["step"] = [5]
    text = complaint(yaml.safe_dump(whole))
    assert text.startswith(
        "scenarios/x.yaml: spec.stable.latency.p95: is missing; say it, such as p95: 60ms\n"
    )
    for said in (
        "spec.canary.replica: is unknown here; did you mean replicas?",
        "spec.faults[0]: needs either arm (stable, canary) or target",
        "spec.faults[1].latncyAdd: is unknown here; did you mean latencyAdd?",
        "spec.expect.outcome: expected one of RolledBack, Promoted, Held",
        "spec.policy.step: unknown field; did you mean steps?",
    ):
        assert f"\nscenarios/x.yaml: {said}" in text


def test_wrong_values_beside_wrong_names_are_named_in_the_same_round() -> None:
    """It took four rounds: a value was only looked at where all before it in its mapping was well."""
    whole = loads_plain()
    whole["spec"]["stable"]["latency"] = {"distribution": "gama", "p95": 80, "median": "20"}
    whole["spec"]["stable"]["predictions"] = {"distribution": "gamma", "a": 0, "b": 20}
    whole["spec"]["faults"] = [{"latencyFactor": "2x"}, {"arm": "canary", "errorRate": 5}]
    whole["spec"]["edits"] = [{"at": "9m", "patch": {"kind": "Deploymint", "merge": {}}}]
    whole["spec"]["expect"] = {"outcome": "Rolledback", "check": "p99"}
    text = complaint(yaml.safe_dump(whole))
    assert text.endswith("\nscenarios/x.yaml: and 5 more, mend these first")
    assert [line.split(": ")[1] for line in text.splitlines()[:-1]] == [
        "spec.stable.latency.distribution",
        "spec.stable.latency.p95",
        "spec.stable.latency.median",
        "spec.stable.predictions.distribution",
        "spec.stable.predictions.a",
        "spec.faults[0]",
        "spec.faults[0].at",
        "spec.faults[0].latencyFactor",
        "spec.faults[1].at",
        "spec.faults[1].errorRate",
    ]
    for name in ("stable", "faults"):
        whole["spec"][name] = loads_plain()["spec"][name]
    assert [line.split(": ")[1] for line in complaint(yaml.safe_dump(whole)).splitlines()] == [
        "spec.edits[0].patch.kind",
        "spec.edits[0].patch.name",
        "spec.expect.outcome",
        "spec.edits[0].at",
        "spec.expect",
    ]


def test_two_mistakes_about_one_field_are_both_named() -> None:
    whole = loads_plain()
    checks = [{"name": name, "type": "Proportion", "direction": "decrease"} for name in ("clicks", "likes")]
    whole["spec"]["policy"]["checks"] = [check | {"maxDecrease": "10%"} for check in checks]
    whole["spec"]["expect"] = {"outcome": "Promoted"}
    assert complaint(yaml.safe_dump(whole)) == (
        "scenarios/x.yaml: spec.stable.clickRate: is missing; check clicks counts clicks, say 40%"
    )
    whole["spec"]["stable"]["clickRate"] = "6%"
    whole["spec"]["policy"]["checks"].append(whole["spec"]["policy"]["checks"][1] | {"name": "views"})
    said = complaint(yaml.safe_dump(whole))
    assert "checks: check likes is of model_likes_total" in said
    assert "checks: check views is of model_views_total" in said


def test_a_proportion_of_what_no_pod_of_a_story_counts_is_refused_with_the_remedy() -> None:
    """It waited for its counters until the story's time was up."""
    whole = loads_plain()
    whole["spec"]["stable"]["clickRate"] = "6%"
    check = {"name": "approvals", "type": "Proportion", "direction": "decrease", "maxDecrease": "10%"}
    whole["spec"]["policy"]["checks"].append(check)
    counters = {"hits": "model_clicks_total", "trials": "model_impressions_total"}
    said = complaint(yaml.safe_dump(whole))
    assert said.startswith(
        "scenarios/x.yaml: spec.policy.checks: check approvals is of model_approvals_total"
    )
    assert said.endswith(
        "call it clicks, or say counters: {hits: model_clicks_total, trials: model_impressions_total}"
    )
    check["counters"] = counters
    assert said_of(yaml.safe_dump(whole)) == ""
    del check["counters"]
    check["name"] = "clicks"
    assert said_of(yaml.safe_dump(whole)) == ""


def test_a_fault_is_told_in_the_words_of_its_file() -> None:
    story = loads(GOOD.replace("latencyAdd: 5ms", "latencyAdd: 40ms, errorRate: 20%"), file="x.yaml")
    assert told(story.faults[1]) == "stable: latencyAdd 40ms, errorRate 20%, coldStart 2.0 10s"


def test_of_very_many_mistakes_ten_are_named() -> None:
    text = complaint(changed("spec", "faults", to=[{}] * 30))
    assert text.count("needs either arm") == 5
    assert text.count("faults[4].at: is missing") == 1
    assert text.endswith("\nscenarios/x.yaml: and 50 more, mend these first")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the whole file: expected a mapping with apiVersion, kind, metadata, spec, got null"),
        ("a: [1", "line 1, column 6: is not YAML: "),
        ("a: 1\na: 2", "line 2, column 1: is not YAML: 'a' stands twice"),
        ("a: &x [*x]", "an alias of what it stands in"),
        ("a: 1e999", "holds what JSON cannot"),
        ("a: !!timestamp x", "is not YAML"),
        ("{[1]: 2}", "is not YAML"),
        ("a: !!python/object:os.system {}", "is not YAML"),
        ("\x00", "is not YAML"),
    ],
)
def test_what_is_no_file_of_ours_is_refused_in_one_line(text: str, said: str) -> None:
    assert said in complaint(text)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_finite_number_is_refused_with_its_field(number: float) -> None:
    said = complaint(changed("spec", "traffic", "requestsPerSecond", to=number))
    assert said.startswith("scenarios/x.yaml: spec.traffic.requestsPerSecond: expected a number")


def test_a_number_may_have_an_exponent_and_no_point() -> None:
    text = changed("spec", "traffic", "requestsPerSecond", to=100)
    assert ": 100\n" in text
    assert said_of(text.replace(": 100\n", ": 1e2\n")) == ""


def test_a_story_of_ours_that_is_called_by_its_name_is_answered_with_its_path() -> None:
    for name in ("errors-burst", "errors-burst.yaml"):
        with pytest.raises(BadStory, match=r"a story of ours has its path, scenarios/errors-burst\.yaml$"):
            load(name)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadStory, match=re.escape(f"{tmp_path / 'no.yaml'}: cannot be read: No such file")):
        load(tmp_path / "no.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(BadStory, match="save it as UTF-8"):
        load(tmp_path / "latin.yaml")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from(["20s"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def paths(value: object, here: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [here] if here else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += paths(inner, (*here, key))
    if isinstance(value, list):
        for at, inner in enumerate(value):
            found += paths(inner, (*here, at))
    return found


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(paths(loads_plain())), VALUES)
def test_a_file_with_any_value_anywhere_is_a_story_or_lines_of_complaint(
    path: tuple[str | int, ...], value: object
) -> None:
    assert re.fullmatch(r"(x\.yaml: [^\n]+\n?)*", said_of(changed(*path, to=value)))


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=string.printable + "é\x00\x07", max_size=40))
def test_any_text_is_a_story_or_lines_of_complaint(text: str) -> None:
    assert re.fullmatch(r"(x\.yaml: [^\n]+\n?)*", said_of(text))


@pytest.mark.parametrize(
    "latency",
    [Lognormal(0.02, 0.06), Pareto(2.2, 0.06), Bimodal((0.02, 0.1), 0.2, 0.2)],
    ids=lambda latency: type(latency).__name__,
)
def test_a_latency_has_the_p95_that_was_said(latency: Lognormal | Pareto | Bimodal) -> None:
    below = latency.cdf(np.array([0.0, latency.p95, 1e6]))
    assert below == pytest.approx([0.0, 0.95, 1.0], abs=1e-6)


def test_scores_lie_between_zero_and_one() -> None:
    assert Beta(2, 5).cdf(np.array([-1.0, 0.0, 1.0, 2.0])).tolist() == [0.0, 0.0, 1.0, 1.0]
