"""`serin simulate`: figures of a story, many times, and what it refuses."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from scipy.stats import binomtest

from controller import planning
from controller.cli import serin
from scenarios import many
from scenarios import simulate as simulation
from scenarios.cli import simulate
from scenarios.many import Figures, interval, played, said, traffic_of
from scenarios.page import SECONDS
from scenarios.simulate import Ended, Runs
from scenarios.story import BadStory, Story, load, loads

STORY = """
apiVersion: serin.dev/v1alpha1
kind: Scenario
metadata: {name: small}
spec:
  seed: 7
  duration: 45s
  traffic: {requestsPerSecond: 200}
  history: 20s
  stable:
    replicas: 3
    latency: {distribution: lognormal, median: 20ms, p95: 60ms}
    errorRate: 0.1%
    predictions: {distribution: beta, a: 2, b: 5}
  canary: {replicas: 3}
  policy: {steps: [50], warmUp: 5s, minStep: 15s, minRequests: 200}
  expect: {outcome: Promoted}
"""
FAULT = {"at": "10s", "arm": "canary", "latencyFactor": 3}
KEYS = {"runs", "falseRollbackRate", "outcomes", "delay", "samples", "peers", "checks"}
RATE = {"rate", "low", "high"}
SUMMARY = {"median", "p90", "mean", "missed"}


def written(tmp_path: Path, **spec: Any) -> Path:
    """The story in a file, with these fields of its spec instead."""
    whole = yaml.safe_load(STORY)
    whole["spec"] |= spec
    file = tmp_path / "story.yaml"
    file.write_text(yaml.safe_dump(whole))
    return file


def told(tmp_path: Path, **spec: Any) -> Story:
    return load(written(tmp_path, **spec))


def typed(*arguments: object) -> Result:
    return CliRunner().invoke(simulate, [*map(str, arguments)])


# -- figures ---------------------------------------------------------------------------------------


def test_json_has_the_promised_keys_and_no_other(tmp_path: Path) -> None:
    figures = played(told(tmp_path, faults=[FAULT]), runs=6, seed=1).as_json()
    assert set(figures) == KEYS
    assert set(figures["falseRollbackRate"]) == RATE
    assert set(figures["outcomes"]) == {"Held", "Promoted", "RolledBack"}
    assert set(figures["checks"]) == {"latency-p95", "errors", "predictions"}
    assert set(figures["delay"]) == set(figures["samples"]) == SUMMARY
    assert len(figures["peers"]) == 6
    for peer in figures["peers"].values():
        assert set(peer) == {"falseRollbackRate", "delay"}
        assert set(peer["falseRollbackRate"]) == RATE
        assert set(peer["delay"]) == SUMMARY
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_a_fault_is_found_in_every_run_and_timed_from_its_beginning(tmp_path: Path) -> None:
    figures = played(told(tmp_path, faults=[FAULT]), runs=6, seed=1).as_json()
    assert figures["outcomes"] == {"Held": 0, "Promoted": 0, "RolledBack": 6}
    assert figures["checks"] == {"latency-p95": 6, "errors": 0, "predictions": 0}
    assert figures["falseRollbackRate"] == {"rate": 0.0, "low": 0.0, "high": pytest.approx(0.459, abs=0.001)}
    assert 1.0 <= figures["delay"]["median"] <= figures["delay"]["p90"] <= 20.0
    assert figures["delay"]["missed"] == 0
    assert figures["samples"]["median"] == pytest.approx(100 * (10 + figures["delay"]["median"]), rel=0.2)
    fast = next(peer for name, peer in figures["peers"].items() if name.startswith("Flagger (10 s"))
    assert fast["delay"]["median"] >= figures["delay"]["median"]


def test_without_a_fault_there_is_no_delay_and_every_rollback_is_false(tmp_path: Path) -> None:
    figures = played(told(tmp_path), runs=6, seed=1)
    found = figures.as_json()
    assert found["outcomes"]["RolledBack"] == 0
    assert found["outcomes"]["Promoted"] > 0
    assert found["delay"] is None
    assert found["samples"] == {"median": None, "p90": None, "mean": None, "missed": 0}
    assert all(peer["delay"] is None for peer in found["peers"].values())
    assert figures.falsely(np.array([3.0, np.inf, np.inf, 40.0, np.inf, np.inf]))["rate"] == 2 / 6


def test_a_canary_that_is_another_from_the_beginning_is_found_and_no_false_alarm(tmp_path: Path) -> None:
    """It said "rolled back without a fault 100 %", as of a rule that is wrong each time."""
    bad = {"replicas": 1, "errorRate": "30%"}
    figures = played(told(tmp_path, canary=bad, expect={"outcome": "RolledBack"}), runs=4, seed=1).as_json()
    assert figures["falseRollbackRate"]["rate"] == 0
    assert 0 < figures["delay"]["median"] < 30
    fine = {"replicas": 2, "errorRate": "0.1%"}
    other = played(told(tmp_path, canary=fine, expect={"outcome": "Promoted"}), runs=1, seed=1)
    assert other.as_json()["delay"] is None


def test_a_fault_of_stable_s_is_none_of_the_canary_s(tmp_path: Path) -> None:
    figures = played(told(tmp_path, faults=[FAULT | {"arm": "stable"}]), runs=2, seed=1)
    assert figures.onset == np.inf


def figures(onset: float, **found: Any) -> Figures:
    ended = np.array(found["ended"])
    filled = np.zeros(len(ended))
    runs = Runs(ended, np.array(found["at"]), filled.astype(int) - 1, filled.astype(int), filled, filled)
    return Figures(runs=len(ended), onset=onset, found=runs, checks=("latency",), peers={})


def test_a_rollback_before_the_fault_is_false_and_one_at_its_first_moment_too() -> None:
    """A tick that ends as the fault begins has seen nothing of it."""
    back, done, held = Ended.ROLLED_BACK, Ended.PROMOTED, Ended.HELD
    ended = [back, back, back, done, held]
    found = figures(10.0, ended=ended, at=[4.0, 10.0, 13.0, 9.0, np.inf])
    assert found.falsely(found.back_at)["rate"] == 2 / 5
    delay = found.delay(found.back_at)
    assert delay == {"median": None, "p90": None, "mean": 3.0, "missed": 1}  # promoted at 9 s: none to miss


def test_median_and_p90_are_of_all_and_the_mean_is_of_those_that_were_found() -> None:
    at = [10.0 + delay for delay in range(1, 10)] + [np.inf]
    ended = [Ended.ROLLED_BACK] * 9 + [Ended.HELD]
    found = figures(10.0, ended=ended, at=at)
    assert found.delay(found.back_at) == {"median": 6.0, "p90": None, "mean": 5.0, "missed": 1}


@pytest.mark.parametrize(("count", "runs"), [(0, 8), (8, 8), (1, 8), (3, 1000), (999, 1000), (0, 1)])
def test_the_interval_is_the_exact_binomial_one(count: int, runs: int) -> None:
    oracle = binomtest(count, runs).proportion_ci(method="exact")
    assert interval(count, runs) == pytest.approx((oracle.low, oracle.high), abs=1e-9)


def test_of_no_runs_nothing_is_known() -> None:
    assert interval(0, 0) == (0.0, 1.0)


def test_people_are_told_a_line_for_serin_and_one_for_each_peer(tmp_path: Path) -> None:
    story = told(tmp_path, faults=[FAULT])
    lines = list(said(story, played(story, runs=3, seed=1)))
    assert lines[0] == "small: 3 runs: 3 RolledBack"
    assert lines[2].startswith("Serin ")
    assert lines[2].split()[-1] == "0"


def test_peers_that_had_not_looked_before_the_fault_are_not_told_to_be_right(tmp_path: Path) -> None:
    """Of a fault at 30 s it said "rolled back without a fault: 0.0 %" of a rule that looks first at 60 s."""
    story = told(tmp_path, faults=[FAULT])
    lines = list(said(story, played(story, runs=3, seed=1)))
    assert "rolled back before the fault at 10 s" in lines[1]
    (slow,) = [line for line in lines if line.startswith("Flagger (60 s x 5)  ")]
    assert "  first decides at 300 s  " in slow
    assert "0.0 %" in lines[2]
    legend = "\n".join(lines[9:])
    assert all(f"{word}: " in legend for word in ("before the fault", "delay", "missed", "never"))
    healthy = told(tmp_path)
    lines = list(said(healthy, played(healthy, runs=2, seed=1)))
    assert "rolled back without a fault" in lines[1]
    assert len(lines) == 2 + 1 + 6
    assert "first decides" not in "".join(lines)


def test_one_false_rollback_of_many_is_not_said_to_be_none() -> None:
    """Of four in ten thousand it said "0.0 %"."""
    many_runs = [Ended.ROLLED_BACK] * 4 + [Ended.PROMOTED] * 9_996
    found = figures(np.inf, ended=many_runs, at=[5.0] * 10_000)
    assert many._row("Serin", found, found.back_at)[1:3] == ("0.04 %", "0.01 to 0.10 %")
    few = figures(np.inf, ended=[Ended.ROLLED_BACK, *[Ended.PROMOTED] * 999], at=[5.0] * 1_000)
    assert many._row("Serin", few, few.back_at)[1] == "0.1 %"


def test_a_policy_s_gates_are_said_not_to_be_asked(tmp_path: Path) -> None:
    """They were ignored without a word."""
    policy = yaml.safe_load(STORY)["spec"]["policy"] | {"gates": [{"before": "Raise", "manual": {}}]}
    story = told(tmp_path, policy=policy)
    (line,) = [each for each in said(story, played(story, runs=2, seed=1)) if "gate" in each]
    assert line.startswith("its gate is not asked")


def test_rollbacks_for_want_of_evidence_are_told_from_those_by_a_check(tmp_path: Path) -> None:
    """Of a healthy canary it said "rolled back without a fault 100.0 %", as if its tests were wrong."""
    policy = yaml.safe_load(STORY)["spec"]["policy"]
    policy |= {"stepTimeout": "15s", "minStep": "1s", "minRequests": 100_000, "onInconclusive": "RollBack"}
    story = told(tmp_path, policy=policy)
    first, second, *_ = said(story, played(story, runs=2, seed=1))
    assert first == "small: 2 runs: 2 RolledBack"
    assert second == ("2 of them undecided at stepTimeout (onInconclusive: RollBack), by no check")


def test_rollbacks_for_want_of_data_are_told_from_both(tmp_path: Path) -> None:
    """A canary that no request reached was held, whatever `onNoData` said."""
    spec = yaml.safe_load(STORY)["spec"]
    policy = spec["policy"] | {"noDataTimeout": "5s", "warmUp": "1s", "onNoData": "RollBack"}
    story = told(tmp_path, policy=policy, traffic={"requestsPerSecond": 0.001})
    first, second, *_ = said(story, played(story, runs=2, seed=1))
    assert first == "small: 2 runs: 2 RolledBack"
    assert second == "2 of them without data at noDataTimeout (onNoData: RollBack), by no check"


def test_what_a_prometheus_would_be_asked_for_is_said_to_be_later_there(tmp_path: Path) -> None:
    policy = yaml.safe_load(STORY)["spec"]["policy"]
    policy["checks"] = [{"name": "errors", "type": "ErrorRate", "plus": "1%", "source": {"prometheus": {}}}]
    story = told(tmp_path, policy=policy)
    *_, line = said(story, played(story, runs=1, seed=1))
    assert line.startswith("these times are as if pods' pages were read each second; a Prometheus, as errors")


def test_people_are_not_told_never_where_nobody_was_there_for_the_fault() -> None:
    found = figures(100.0, ended=[Ended.PROMOTED], at=[50.0])
    assert many._row("Serin", found, found.back_at)[3:] == ("-", "-", "-")
    found = figures(100.0, ended=[Ended.HELD], at=[np.inf])
    assert many._row("Serin", found, found.back_at)[3:] == ("never", "never", "1")


def test_a_story_without_a_request_is_held_and_nobody_rolls_it_back(tmp_path: Path) -> None:
    """`serin simulate scenarios/no-traffic.yaml` ended in a ZeroDivisionError."""
    policy = yaml.safe_load(STORY)["spec"]["policy"] | {"steps": [10, 50]}
    story = told(tmp_path, traffic={"requestsPerSecond": 0}, policy=policy)
    found = played(story, runs=2, seed=1).as_json()
    assert found["outcomes"] == {"Held": 2, "Promoted": 0, "RolledBack": 0}
    assert {peer["falseRollbackRate"]["rate"] for name, peer in found["peers"].items()} == {0.0}


def test_where_no_rollback_is_expected_that_is_said_of_what_is_missed(tmp_path: Path) -> None:
    """Of a canary within its margin it said that Serin had missed all, and the peers' alarms looked right."""
    story = told(tmp_path, faults=[FAULT | {"latencyFactor": 1.1}])
    lines = list(said(story, played(story, runs=1, seed=1)))
    assert lines[0].startswith("small: 1 run: 1 ")
    assert lines[-1] == (
        "the story expects Promoted: here a rollback is a false alarm, and what is missed is right."
    )
    bad = told(tmp_path, faults=[FAULT], expect={"outcome": "RolledBack"})
    assert "expects" not in "".join(said(bad, played(bad, runs=1, seed=1)))


# -- what becomes of the story ---------------------------------------------------------------------


def policy_of(story: Story) -> Any:
    return many._policy(story)


def test_faults_become_changes(tmp_path: Path) -> None:
    faults = [
        FAULT | {"for": "5s", "pods": "one"},
        {"at": "1s", "arm": "stable", "latencyAdd": "30ms"},
        {"at": "2s", "arm": "canary", "coldStart": {"factor": 3, "decay": "4s"}},
        {"at": "3s", "arm": "canary", "errorRate": "5%"},
    ]
    story = told(tmp_path, faults=faults)
    one, added, cold, errors = traffic_of(story, policy_of(story)).changes
    assert (one.at, one.canary, one.lasting, one.pods, one.factor) == (10.0, True, 5.0, 1, 3.0)
    assert (added.canary, added.add, added.pods, added.lasting) == (False, 0.03, None, np.inf)
    assert (cold.factor, cold.decay) == (3.0, 4.0)
    assert errors.error_rate == 0.05


CLICKS = {"name": "clicks", "type": "Proportion", "direction": "decrease", "maxDecrease": "15%"}
CLICKING = yaml.safe_load(STORY)["spec"]["stable"] | {"clickRate": "40%"}


def test_fewer_clicks_are_found_by_their_check(tmp_path: Path) -> None:
    policy = yaml.safe_load(STORY)["spec"]["policy"] | {"checks": [CLICKS]}
    faults = [{"at": "10s", "arm": "canary", "clickRate": "15%"}]
    figures = played(told(tmp_path, stable=CLICKING, policy=policy, faults=faults), runs=6, seed=1).as_json()
    assert figures["checks"] == {"clicks": 6}
    assert 1.0 <= figures["delay"]["median"] <= 20.0


def test_a_check_of_clicks_that_nobody_counts_is_refused(tmp_path: Path) -> None:
    story = told(tmp_path, stable=CLICKING, policy={"steps": [50], "checks": [CLICKS]})
    silent = replace(story.stable, click_rate=None)
    for unsaid in (replace(story, stable=silent), replace(story, canary=silent)):
        with pytest.raises(
            BadStory, match=r"spec\.stable\.clickRate: is missing; check clicks counts clicks"
        ):
            traffic_of(unsaid, policy_of(unsaid))


def test_the_canary_has_as_many_pods_as_its_last_step_needs(tmp_path: Path) -> None:
    story = told(tmp_path, canary={"replicas": 1})
    assert traffic_of(story, policy_of(story)).canary_pods == 3
    story = told(tmp_path, canary={"replicas": 5})
    assert traffic_of(story, policy_of(story)).canary_pods == 5


@pytest.mark.parametrize(
    ("fault", "low", "high"),
    [
        ({"latencyFactor": 2}, 0.004, 1.0),
        ({"latencyAdd": "3s"}, 0.004, 3.2),
        ({"latencyFactor": 50}, 0.004, 6.0),
        ({"coldStart": {"factor": 50, "decay": "5s"}}, 0.004, 6.0),
        ({"latencyFactor": 0.1}, 0.0011, 1.0),
    ],
)
def test_the_buckets_reach_as_far_as_the_faults_do(
    tmp_path: Path, fault: dict[str, Any], low: float, high: float
) -> None:
    story = told(tmp_path, faults=[{"at": "1s", "arm": "canary", **fault}])
    le = traffic_of(story, policy_of(story)).le
    assert set(le) <= set(SECONDS)
    assert le[0] <= low
    assert le[-1] >= high


def test_a_model_that_is_faster_than_every_bucket_keeps_them(tmp_path: Path) -> None:
    stable = yaml.safe_load(STORY)["spec"]["stable"]
    stable["latency"] = {"distribution": "pareto", "shape": 50, "p95": "1ms"}
    story = told(tmp_path, stable=stable, canary={"replicas": 3})
    assert len(traffic_of(story, policy_of(story)).le) > 0


# -- refusals --------------------------------------------------------------------------------------

FAULTS = {
    "crash: true, at: 5s, arm: canary": "spec.faults[0].crash: ",
    "hang: true, at: 5s, arm: canary": "spec.faults[0].hang: ",
    "blackhole: true, at: 5s, arm: canary": "spec.faults[0].blackhole: ",
    "target: metrics, kind: outage, at: 5s, for: 5s": "spec.faults[0]: metrics outage ",
    "latencyFactor: 2, pods: new, at: 5s, arm: canary": "spec.faults[0].pods: ",
}


def refused(file: Path) -> str:
    result = typed(file, "--runs", 2)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"Error: {file}: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_traffic_is_refused_with_field_and_remedy(tmp_path: Path, fault: str) -> None:
    message = refused(written(tmp_path, faults=[yaml.safe_load(f"{{{fault}}}")]))
    assert FAULTS[fault] in message
    assert message.endswith("; `serin scenario run` plays it\n")


def test_edits_are_refused(tmp_path: Path) -> None:
    edits = [{"at": "5s", "delete": {"kind": "Deployment", "name": "model"}}]
    message = refused(written(tmp_path, edits=edits))
    assert "spec.edits: nobody edits objects in a simulation" in message
    assert "`serin scenario run` plays it" in message


def test_too_few_canary_pods_are_refused_with_how_many_there_have_to_be(tmp_path: Path) -> None:
    policy = yaml.safe_load(STORY)["spec"]["policy"] | {"canaryReplicas": "Keep"}
    message = refused(written(tmp_path, policy=policy, canary={"replicas": 1}))
    assert "spec.canary.replicas: 1 pod would be held back as too few for 50 %; give it 3" in message
    steep = written(tmp_path, policy=policy | {"canaryReplicas": "Match", "steps": [10, 80]})
    assert "spec.canary.replicas: 3 pods would be held back as too few for 80 %; give it 11" in refused(steep)
    assert typed(written(tmp_path, policy=policy, duration="2s"), "--runs", 1).exit_code == 0


def test_a_bad_policy_is_refused_in_the_story_s_own_words(tmp_path: Path) -> None:
    message = refused(written(tmp_path, policy={"stepz": [5]}))
    assert "spec.policy.stepz: unknown field; did you mean steps?" in message


def test_a_story_whose_policy_replays_requests_is_refused(tmp_path: Path) -> None:
    errors = {"name": "errors", "type": "ErrorRate", "plus": "1%"}
    shadow = {"name": "shadow", "type": "Shadow", "maxFlips": "1%"}
    message = refused(written(tmp_path, policy={"checks": [errors, shadow]}))
    assert "spec.policy.checks: a Shadow check replays requests" in message


def test_a_malformed_story_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    assert 'spec.duration: expected a duration like "20s", got 30' in refused(written(tmp_path, duration=30))
    assert "cannot be read" in refused(tmp_path / "no.yaml")


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[2] / "scenarios").glob("*.yaml")), ids=lambda file: file.stem
)
def test_every_story_of_ours_is_simulated_or_refused_in_a_sentence(file: Path) -> None:
    story = load(file)
    try:
        traffic_of(story, policy_of(story))
    except BadStory as bad:
        assert str(bad).startswith(f"{file}: spec.")  # noqa: PT017 - both are right


# -- the command -----------------------------------------------------------------------------------


def test_figures_go_to_a_file_and_words_to_the_screen(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    result = typed(written(tmp_path, duration="5s"), "--runs", 3, "--seed", 5, "--json", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("small: 3 runs: 3 Held\n")
    assert json.loads(out.read_text())["runs"] == 3
    again = tmp_path / "again.json"
    typed(written(tmp_path, duration="5s"), "--runs", 3, "--seed", 5, "--json", again)
    assert again.read_text() == out.read_text()


def test_figures_on_standard_output_are_alone_there(tmp_path: Path) -> None:
    result = typed(written(tmp_path, duration="5s"), "--runs", 2, "--json", "-")
    assert result.exit_code == 0
    assert set(json.loads(result.stdout)) == KEYS
    assert result.stderr.startswith("small: 2 runs")


def test_the_seed_is_the_story_s_own_unless_another_is_given(tmp_path: Path) -> None:
    def run(*more: object) -> str:
        file = written(tmp_path, duration="25s", faults=[FAULT | {"latencyFactor": 2}])
        return typed(file, "--runs", 3, "--json", "-", *more).stdout

    assert run() == run("--seed", 7)
    assert run() != run("--seed", 8)


def test_a_folder_that_is_not_there_is_bad_usage_before_anything_is_simulated(tmp_path: Path) -> None:
    result = typed(written(tmp_path), "--json", "/no/such/folder/out.json")
    assert result.exit_code == 2
    assert "there is no folder /no/such/folder" in result.stderr


@pytest.mark.parametrize("wrong", [["--runs", "0"], ["--runs", "many"], ["--seed", "-1"]])
def test_a_number_that_cannot_be_meant_is_bad_usage(tmp_path: Path, wrong: list[str]) -> None:
    assert typed(written(tmp_path), *wrong).exit_code == 2


def test_help_teaches_with_an_example_that_is_there() -> None:
    result = CliRunner().invoke(serin, ["simulate", "--help"])
    assert result.exit_code == 0
    example = next(line.strip() for line in result.output.splitlines() if "serin simulate scen" in line)
    assert (Path(__file__).parents[2] / example.split()[2]).is_file()
    for word in ("--runs", "--seed", "--json", "Flagger", "weights change at once"):
        assert word in " ".join(result.output.split())


def test_where_scenarios_are_not_installed_simulate_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "scenarios.cli", None)
    result = CliRunner().invoke(serin, ["simulate", "x.yaml"])
    assert result.exit_code == 1
    assert "serin simulate needs scenarios.cli, which is not installed" in result.stderr
    assert "pip install 'serin[lab]'" in result.stderr


def test_serin_simulate_passes_arguments_and_exit_codes_on(tmp_path: Path) -> None:
    result = CliRunner().invoke(serin, ["simulate", str(tmp_path / "no.yaml"), "--runs", "3"])
    assert result.exit_code == 2
    assert "cannot be read" in result.stderr


def test_the_defaults_of_a_policy_are_those_of_the_builtin_one(tmp_path: Path) -> None:
    story = told(tmp_path, policy={})
    assert policy_of(story).steps == tuple(planning.builtin()["steps"])
    assert loads(STORY, file="x").seed == 7


def test_a_simulation_that_is_interrupted_says_after_how_many_runs_and_what_they_came_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    played = simulation._Stage.played

    def interrupted(stage: simulation._Stage) -> Runs:
        begun.append(stage.world.runs)
        if len(begun) > enough:
            raise KeyboardInterrupt
        return played(stage)

    monkeypatch.setattr(simulation, "SIDE_BY_SIDE", 4)
    monkeypatch.setattr(simulation._Stage, "played", interrupted)
    enough = 2
    some = typed(written(tmp_path), "--runs", 20)
    assert some.exit_code == 130
    assert "ended after 8 of 20 runs" in some.stderr
    assert "small: 8 runs: " in some.stdout
    begun.clear()
    enough = 0
    none = typed(written(tmp_path), "--runs", 20)
    assert (none.exit_code, none.stdout) == (130, "")
    assert "ended after 0 of 20 runs" in none.stderr
