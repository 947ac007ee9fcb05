"""Recorded ticks: read strictly, and judged as live ones are."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from analysis.judge import Verdict
from controller import backtest, gather, planning, policies
from controller.cli import serin

LE = [round(0.005 * 1.1**step, 6) for step in range(60)]


def arm(rng: np.random.Generator, requests: int, *, slower: float = 1.0) -> dict[str, Any]:
    pods = []
    for index in range(2):
        seconds = rng.lognormal(np.log(0.05), 0.5, requests // 2) * slower
        count, _ = np.histogram(seconds, bins=[0.0, *LE, np.inf])
        latency = {"le": LE, "count": [int(one) for one in count]}
        pods.append({"name": f"pod-{index}", "requests": requests // 2, "errors": 0, "latency": latency})
    return {"requests": requests, "errors": 0, "pods": pods}


def recorded(*, slower: float = 1.0, seconds: int = 90) -> list[dict[str, Any]]:
    rng = np.random.default_rng(5)
    return [
        {
            "t": float(t),
            "weight": 0 if t < 30 else 10,
            "stable": arm(rng, 90),
            "canary": arm(rng, 0 if t < 30 else 10, slower=slower),
        }
        for t in range(seconds)
    ]


def written(folder: Path, lines: list[Any]) -> Path:
    file = folder / "ticks.jsonl"
    file.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines))
    return file


def judged(file: Path) -> backtest.Outcome:
    return replayed(backtest.read(file))


def replayed(lines: Sequence[backtest.Line], **changes: Any) -> backtest.Outcome:
    policy = policies.policy(planning.builtin() | changes)
    return backtest.replay(backtest.moments(lines, policy), policy)


def test_a_slower_canary_would_have_been_rolled_back(tmp_path: Path) -> None:
    outcome = judged(written(tmp_path, recorded(slower=3.0)))

    assert (outcome.judgement.verdict, outcome.judgement.failed) == (Verdict.FAIL, "latency-p95")
    assert 30 <= outcome.at < 89


def test_a_like_canary_would_not(tmp_path: Path) -> None:
    assert judged(written(tmp_path, recorded())).judgement.verdict is not Verdict.FAIL


def test_stable_alone_is_history_at_weight_0_and_a_canary_is_asked_for_above(tmp_path: Path) -> None:
    lines, alone = recorded(slower=3.0), recorded(slower=3.0)
    for line in alone[:30]:
        del line["canary"]
    assert judged(written(tmp_path, alone)) == judged(written(tmp_path, lines))
    done = CliRunner().invoke(serin, ["backtest", str(written(tmp_path, alone))])
    assert done.exit_code == 3
    del alone[30]["canary"]
    with pytest.raises(backtest.BadTicks, match=r":31: canary: is missing at weight 10; say what it served"):
        backtest.read(written(tmp_path, alone))


def cold(*, errors: int = 0) -> list[dict[str, Any]]:
    """A canary whose first twenty seconds are slow, and in which some requests fail."""
    lines = recorded(slower=4.0, seconds=50) + recorded(seconds=120)[50:]
    for line in lines[30:50]:
        for one in line["canary"]["pods"]:
            one["errors"] = errors
    return lines


@pytest.mark.parametrize(("warm_up", "falls"), [("30s", False), ("21s", False), ("5s", True), ("0s", True)])
def test_while_pods_warm_up_latency_is_no_evidence(tmp_path: Path, warm_up: str, *, falls: bool) -> None:
    """The policy's warmUp was ignored: cold caches that a live run forgives failed a recording."""
    outcome = replayed(backtest.read(written(tmp_path, cold())), warmUp=warm_up)
    assert (outcome.judgement.verdict is Verdict.FAIL) is falls


def test_errors_count_from_the_first_request_on(tmp_path: Path) -> None:
    outcome = replayed(backtest.read(written(tmp_path, cold(errors=2))), warmUp="30s")
    assert (outcome.judgement.verdict, outcome.judgement.failed) == (Verdict.FAIL, "errors")
    assert outcome.at < 50


def test_two_hundred_requests_a_pod_are_warm_too(tmp_path: Path) -> None:
    """Ten a second to two pods are warm after forty seconds, before a warmUp of a minute is over."""
    lines = backtest.read(written(tmp_path, recorded(slower=3.0, seconds=90)))
    assert 69 <= replayed(lines, warmUp="1m").at < 89
    assert replayed(lines[:69], warmUp="1m").judgement.verdict is Verdict.NO_DATA


def test_pods_that_had_traffic_before_are_warm_at_the_next_weight_and_cold_after_none(tmp_path: Path) -> None:
    lines = recorded(slower=3.0, seconds=110)
    for line in lines[:60]:
        line["canary"]["pods"] = arm(np.random.default_rng(8), 10 if line["weight"] else 0)["pods"]
    for line in lines[60:]:
        line["weight"] = 20
    assert replayed(backtest.read(written(tmp_path, lines))).at < 85
    for line in lines[50:60]:
        line["weight"] = 0
    assert 90 <= replayed(backtest.read(written(tmp_path, lines))).at < 109


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"weight": 101}, "weight: 101 is no percentage; give 0 to 100"),
        ({"t": "soon"}, "Expected `float`, got `str` - at `$.t`"),
        ({"stabel": {}}, "unknown field `stabel`"),
        ({"canary": {"requests": 3, "errors": 4}}, "canary.errors: 4 of 3 requests"),
        (
            {"canary": {"requests": 3, "pods": [{"name": "a", "requests": 2}, {"name": "b", "requests": 2}]}},
            "canary.requests: 3, and its pods have 4; give all, or no pods",
        ),
        ({"canary": {"requests": 3, "latency": {"le": [1, 1], "count": [1, 1, 1]}}}, "bounds have to rise"),
        ({"canary": {"requests": 3, "latency": {"le": [1], "count": [3]}}}, "1 counts for 1 bounds"),
        ({"canary": {"requests": 3, "predictions": {"le": [1], "count": [4, -1]}}}, "a count below 0"),
        ({"canary": {"requests": 3, "predictions": {"le": [1], "count": [4, 2**60]}}}, "or above 9.0072e+15"),
        (
            {"canary": {"requests": 3, "proportions": {"clicks": {"trials": 3, "hits": 4}}}},
            "canary.proportions.clicks: 4 hits of 3 trials; give this tick's, 0 to all of them",
        ),
        ({"canary": {"requests": 10**30}}, "canary.requests: below 0 or more than 9.0072e+15"),
        ({"canary": {"requests": 1, "latency": {"le": [1, 1e300], "count": [1, 0, 0]}}}, "beyond 1e+09"),
        ({"t": -5.0}, "t: -5 does not come after 0; sort the ticks"),
    ],
)
def test_a_line_that_cannot_be_meant_is_named_with_number_field_and_remedy(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    lines = recorded(seconds=2)
    file = written(tmp_path, [lines[0], "", lines[1] | change])

    with pytest.raises(backtest.BadTicks) as caught:
        backtest.read(file)

    assert str(caught.value).startswith(f"{file}:3: ")
    assert complaint in str(caught.value)


@pytest.mark.parametrize("lines", [[], ["", ""], ["not json"]])
def test_a_file_without_ticks_is_refused(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(backtest.BadTicks, match=r"ticks\.jsonl"):
        backtest.read(written(tmp_path, lines))


def test_the_command_says_what_happened_and_exits_with_3_if_the_canary_failed(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    file = written(tmp_path, recorded(slower=3.0))

    run = CliRunner().invoke(serin, ["backtest", str(file), "--json", str(out)])

    assert run.exit_code == 3
    assert "by latency-p95" in run.output
    assert json.loads(out.read_text())["verdict"] == "Fail"


def test_a_dash_is_standard_output_for_the_result_alone(tmp_path: Path) -> None:
    """The report stood before it, which no parser of JSON takes."""
    file = written(tmp_path, recorded(slower=3.0))
    run = CliRunner().invoke(serin, ["backtest", str(file), "--json", "-"])
    assert run.exit_code == 3
    assert json.loads(run.stdout)["verdict"] == "Fail"
    assert "by latency-p95" in run.stderr


def test_bounds_that_were_meant_in_milliseconds_are_doubted_aloud(tmp_path: Path) -> None:
    lines = recorded()
    said = CliRunner().invoke(serin, ["backtest", str(written(tmp_path, lines))])
    assert "milliseconds" not in said.stderr
    for pod in (pod for line in lines for arm in ("stable", "canary") for pod in line[arm]["pods"]):
        pod["latency"] = pod["latency"] | {"le": [1000 * bound for bound in LE]}
    said = CliRunner().invoke(serin, ["backtest", str(written(tmp_path, lines))])
    assert f"latency.le begins at {1000 * LE[0]:g} s: bounds are in seconds; milliseconds?" in said.stderr


def test_two_recordings_at_once_are_bad_usage(tmp_path: Path) -> None:
    both = [str(written(tmp_path, recorded())), "--prometheus", "http://localhost:9"]
    said = CliRunner().invoke(serin, ["backtest", *both])
    assert said.exit_code == 2
    assert "and --prometheus are both recordings; give one of the two" in said.stderr


def test_the_policys_burst_tolerance_counts() -> None:
    policy = policies.policy(planning.builtin() | {"burstTolerance": "25s"})
    assert {one.burst_tolerance for one in gather.begun(policy)} == {25.0}


@pytest.mark.parametrize("out", ["missing/out.json", ".", "ticks.jsonl"])
def test_the_command_refuses_a_result_that_cannot_be_written_before_it_begins(
    tmp_path: Path, out: str
) -> None:
    file = written(tmp_path, recorded(seconds=2))
    before = file.read_text()

    run = CliRunner().invoke(serin, ["backtest", str(file), "--json", str(tmp_path / out)])

    assert run.exit_code == 2
    assert "--json" in run.output
    assert file.read_text() == before


def test_the_command_refuses_a_file_that_is_not_there_with_exit_code_2(tmp_path: Path) -> None:
    run = CliRunner().invoke(serin, ["backtest", str(tmp_path / "nothing.jsonl")])

    assert run.exit_code == 2
    assert "cannot be read" in run.output


def others(lines: list[Any], tmp_path: Path) -> dict[str, Any]:
    policy = policies.policy(planning.builtin())
    recorded = backtest.moments(backtest.read(written(tmp_path, lines)), policy)
    return {one["rule"]: one for one in backtest.compared(recorded, policy)}


def test_the_peers_rules_are_shown_what_the_checks_saw(tmp_path: Path) -> None:
    slow = others(recorded(slower=3.0, seconds=200), tmp_path)
    quick = slow["Flagger (10 s x 2)"]
    assert (quick["check"], quick["at"]) == ("latency-p95", 49.0)  # 20 s after the canary's first requests
    assert "would have rolled back after 20 s" in quick["sentence"]
    assert slow["Argo Rollouts (60 s, failureLimit 0)"]["at"] == 89.0
    assert slow["Flagger (60 s x 5)"]["at"] is None  # the recording is over before its fifth look

    like = others(recorded(seconds=200), tmp_path)
    assert like["Flagger (60 s x 5)"]["at"] is None


def test_of_several_checks_it_is_said_whose_metric_read_what(tmp_path: Path) -> None:
    """ "its metric read x1.06" was of one of three, and nobody knew which."""
    like = others(recorded(seconds=200), tmp_path)["Argo Rollouts (60 s, failureLimit 3)"]
    assert like["at"] is None
    assert like["sentence"].endswith(" (latency-p95)")


def test_a_recording_without_anything_of_a_check_says_so(tmp_path: Path) -> None:
    bare = [
        {"t": float(t), "weight": 10, "stable": {"requests": 90}, "canary": {"requests": 10}}
        for t in range(5)
    ]
    ticks = backtest.read(written(tmp_path, bare))
    policy = policies.policy(planning.builtin())
    only = replace(policy, checks=tuple(one for one in policy.checks if one.name == "predictions"))
    said = backtest.compared(backtest.moments(ticks, only), only)
    assert {one["at"] for one in said} == {None}
    assert all("had nothing to look at" in one["sentence"] for one in said)


def test_what_ticks_cannot_tell_of_is_said_to_be_left_out(tmp_path: Path) -> None:
    shadow = {"name": "shadow", "type": "Shadow", "maxFlips": "1%", "required": True}
    policy = policies.policy(planning.builtin() | {"checks": [*planning.builtin()["checks"], shadow]})
    lines = backtest.read(written(tmp_path, recorded()))
    result = backtest.result(backtest.replay(backtest.moments(lines, policy), policy), policy)
    assert result["checks"][-1]["name"] == "shadow"
    assert result["checks"][-1]["sentence"].startswith("left out: ticks hold no requests")


def test_arms_whose_pods_have_other_buckets_are_compared_in_those_most_have(tmp_path: Path) -> None:
    lines = recorded(slower=3.0, seconds=120)
    lines[40]["canary"]["pods"][0]["latency"] = {"le": [1.0], "count": [3, 2]}
    assert others(lines, tmp_path)["Flagger (10 s x 2)"]["at"] == 49.0


def test_fewer_clicks_would_have_been_rolled_back_by_the_check_of_that_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)

    def arm(trials: int, share: float) -> dict[str, Any]:
        clicks = {"trials": trials, "hits": int(rng.binomial(trials, share))}
        return {"requests": trials, "proportions": {"clicks": clicks, "orders": {"trials": 0, "hits": 0}}}

    lines = [
        {"t": float(t), "weight": 0 if t < 30 else 50, "stable": arm(90, 0.4), "canary": arm(90, 0.2)}
        for t in range(90)
    ]
    check = {"name": "clicks", "type": "Proportion", "direction": "decrease", "maxDecrease": "15%"}
    spec = planning.checked({"checks": [check]}, file=tmp_path)
    policy = policies.policy(spec)
    ticks = backtest.moments(backtest.read(written(tmp_path, lines)), policy)
    outcome = backtest.replay(ticks, policy)
    assert (outcome.judgement.verdict, outcome.judgement.failed) == (Verdict.FAIL, "clicks")
    assert outcome.at < 60
    peers = {one["rule"]: one["check"] for one in backtest.compared(ticks, policy)}
    assert peers["Flagger (10 s x 2)"] == "clicks"


def test_a_file_that_is_no_text_is_refused_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "ticks.jsonl"
    file.write_bytes(b'{"t": 1.0, "name": "\xe4"}')
    with pytest.raises(backtest.BadTicks, match=r"ticks\.jsonl: is not UTF-8; save it as UTF-8"):
        backtest.read(file)


def test_times_since_1970_are_told_to_the_second(tmp_path: Path) -> None:
    """It said "Fail at t = 1.79579e+09"."""
    lines = recorded(slower=3.0)
    for line in lines:
        line["t"] += 1795788000.0
    said = CliRunner().invoke(serin, ["backtest", str(written(tmp_path, lines))])
    at = judged(tmp_path / "ticks.jsonl").at
    assert said.stdout.startswith(f"Fail at t = {at:.0f} by latency-p95")
    lines[1]["t"] = lines[0]["t"]
    with pytest.raises(backtest.BadTicks, match="t: 1795788000 does not come after 1795788000; sort"):
        backtest.read(written(tmp_path, lines))


def test_the_first_tick_is_as_long_as_the_others(tmp_path: Path) -> None:
    """Ticks of 15 s began 14 s late: rules that look each minute were said to look at 61 s, 301 s ..."""
    failing = {"stable": {"requests": 900}, "canary": {"requests": 100, "errors": 10}}
    found = others([{"t": 15.0 * tick, "weight": 10, **failing} for tick in range(1, 41)], tmp_path)
    assert found["Flagger (60 s x 5)"]["sentence"].endswith("after 300 s")
    assert found["Kayenta (60 s points)"]["at"] == 120.0


def test_a_mark_of_the_order_of_bytes_is_no_part_of_the_first_tick(tmp_path: Path) -> None:
    """What Windows saves begins with one; a policy may, too."""
    file = written(tmp_path, recorded(seconds=2))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(backtest.read(file)) == 2


@pytest.mark.parametrize(
    "flag", ["--start", "--end", "--step", "--namespace", "--stable-pods", "--canary-pods"]
)
def test_what_a_prometheus_is_asked_for_is_not_ignored_beside_a_file(tmp_path: Path, flag: str) -> None:
    """`--start` beside a file did nothing, and the whole file was read."""
    said = CliRunner().invoke(serin, ["backtest", str(written(tmp_path, recorded(seconds=2))), flag, "5"])
    assert said.exit_code == 2
    assert f"{flag} says what to ask a Prometheus for; of {tmp_path}" in said.stderr


@pytest.mark.parametrize("of", ["latency", "predictions"])
def test_counts_of_all_below_a_bound_are_doubted_aloud(tmp_path: Path, of: str) -> None:
    """As Prometheus has buckets; each request was counted dozens of times over, without a word."""
    lines = recorded(seconds=40)
    for pod in (pod for line in lines for arm in ("stable", "canary") for pod in line[arm]["pods"]):
        pod[of] = {"le": LE, "count": [int(one) for one in np.cumsum(pod.pop("latency")["count"])]}
    doubt = f"{of}.count never falls and adds up to more than requests: give each bucket's own"
    said = CliRunner().invoke(serin, ["backtest", str(written(tmp_path, lines))])
    assert doubt in said.stderr
    assert (
        "never falls"
        not in CliRunner().invoke(serin, ["backtest", str(written(tmp_path, recorded()))]).stderr
    )
