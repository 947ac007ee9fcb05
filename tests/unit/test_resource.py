"""Runs as JSON: nothing is lost on the way, and what is wrong is named."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from analysis.evidence import SHARES, CheckKind
from analysis.judge import CheckJudgement, Judgement, Verdict
from controller import policies, resource, wire
from controller.model import Checkpoint, Drifted, Inputs, Message, Page, Reason, Run, Stage, WeightChange

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)


def canary_run(**spec: Any) -> dict[str, Any]:
    policy = {
        "steps": [5, 50],
        "warmUp": "30s",
        "minStep": "1m",
        "minRequests": 300,
        "stepTimeout": "10m",
        "progressDeadline": "15m",
        "alpha": 0.01,
        "beta": 0.05,
        "canaryReplicas": "Match",
        "onInconclusive": "Hold",
        "onNoData": "Hold",
        "noDataTimeout": "5m",
        "scaleDownDelay": {"promoted": "30s", "rolledBack": "10m"},
        "promotion": {"mode": "Copy"},
        "historyLimit": 10,
        "burstTolerance": "6s",
        "checks": [
            {"name": "latency-p95", "type": "Latency", "quantile": 0.95, "maxIncrease": "20%"},
            {"name": "errors", "type": "ErrorRate", "maxIncrease": "50%", "plus": "0.1%"},
        ],
        "alerts": [{"slack": {"secretRef": {"name": "slack", "key": "url"}}, "on": ["RolledBack"]}],
    }
    plan = {
        "canary": "model-canary",
        "stable": "model",
        "canaryHash": "new",
        "stableHash": "old",
        "virtualService": "model",
        "stableSubset": "stable",
        "canarySubset": "canary",
        "policy": policy,
    }
    meta = {"name": "model-canary-new-1", "namespace": "shop", "creationTimestamp": "2026-03-01T11:59:00Z"}
    return {"metadata": meta, "spec": {"plan": plan} | spec}


def nothing_yet() -> Checkpoint:
    return Checkpoint(judgement=Judgement(verdict=Verdict.NO_DATA, log_e=0.0))


def far_along() -> Run:
    return replace(
        resource.run(canary_run()),
        stage=Stage.STEPPING,
        step=1,
        weight=50,
        hold=Reason.INCONCLUSIVE,
        message="neither passed nor failed",
        step_since=NOW,
        weight_since=NOW,
        data_since=NOW,
        weights=(WeightChange(at=NOW, weight=50, reason=Reason.WEIGHT_RAISED),),
        passed=True,
        approved=1,
        canary_replicas=3,
        told=("Inconclusive",),
        inputs=Inputs(features=9, requests=1_000, count=1, drifted=(Drifted(name="a", by="psi", value=0.5),)),
        drift_approved=True,
        retraining_asked=NOW,
        outbox=(Message(id="a", alert=0, outcome="Held", reason=Reason.INCONCLUSIVE, sentence="hm", at=NOW),),
    )


def test_a_run_knows_its_own_uid_and_its_deployments() -> None:
    obj = canary_run()
    owner = {"uid": "its owner's", "controller": True, "kind": "Deployment", "name": "model-canary"}
    obj["metadata"] |= {"uid": "its own", "ownerReferences": [owner]}
    assert (resource.run(obj).identity, resource.run(obj).uid) == ("its own", "its owner's")


def test_a_run_survives_the_way_to_the_wire_and_back() -> None:
    run = far_along()

    obj = canary_run() | {"status": resource.status(run, nothing_yet(), 7, now=NOW)}

    assert resource.run(obj) == run
    assert resource.epoch(obj) == 7


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({}, ""),
        ({"hold": Reason.AWAITING_APPROVAL}, "waiting for approval: kubectl serin approve"),
        ({"told": ("WeightRepaired",)}, "waiting for approval: kubectl serin approve"),
        ({"told": ()}, "waiting for approval: kubectl serin approve"),
        ({"stage": Stage.PROMOTING}, ""),
        ({"stage": Stage.ENDED, "reason": Reason.ABORTED}, "waiting for approval: kubectl serin approve"),
        ({"stage": Stage.WAITING, "shadow_since": NOW}, "waiting for approval: kubectl serin approve"),
    ],
)
def test_what_a_hold_said_is_not_said_when_it_is_over(how: dict[str, Any], said: str) -> None:
    """After `serin approve` status went on with: waiting for approval … kubectl serin approve …"""
    waited = replace(far_along(), hold=None, told=("AwaitingApproval",))
    run = replace(waited, message="waiting for approval: kubectl serin approve", **how)
    written = resource.status(run, nothing_yet(), 7, now=NOW)
    assert written["message"] == said
    assert {one["message"] for one in written["conditions"]} == {said}


def test_a_run_without_status_has_just_been_asked_for() -> None:
    run = resource.run(canary_run())

    assert (run.stage, run.weight, run.step) == (Stage.WAITING, 0, 0)
    assert run.plan.policy.warm_up == timedelta(seconds=30)
    assert run.plan.policy.alerts[0].kind == "slack"


@pytest.mark.parametrize("edited", [-1, 10**15, 10**18])
def test_an_edit_of_how_long_stable_was_known_is_not_believed(edited: int) -> None:
    obj = canary_run() | {"status": {"state": {"stableKnown": edited}}}
    assert resource.run(obj).stable_known is None


def test_shares_of_alpha_are_normalised_over_the_plan() -> None:
    checks = resource.run(canary_run()).plan.policy.checks

    assert pytest.approx(1.0) == sum(check.share for check in checks)


def test_the_annotation_overrides_the_latency_margin_alone() -> None:
    obj = canary_run()
    obj["spec"]["plan"]["maxLatencyIncrease"] = "35%"

    latency, errors = resource.run(obj).plan.policy.checks

    assert (latency.max_increase, errors.max_increase) == (0.35, 0.5)


def test_a_check_of_several_quantiles_is_one_of_each_which_share_its_alpha_and_its_page() -> None:
    obj = canary_run()
    obj["spec"]["plan"]["policy"]["checks"][0] = {
        "name": "slow",
        "type": "Latency",
        "quantiles": [0.5, 0.95, 0.999],
        "maxIncrease": "20%",
        "required": False,
        "source": {"scrape": {"port": 9090}},
    }
    policy = resource.run(obj).plan.policy
    *slow, errors = policy.checks
    assert [(one.name, one.quantile) for one in slow] == [
        ("slow-p50", 0.5), ("slow-p95", 0.95), ("slow-p99.9", 0.999),
    ]  # fmt: skip
    assert all((one.max_increase, one.required) == (0.2, False) for one in slow)
    assert [one.share for one in slow] == pytest.approx([0.45 / 0.8 / 3] * 3)
    assert errors.share == pytest.approx(0.35 / 0.8)
    assert policy.pages == {one.name: Page(port=9090) for one in slow}


def test_a_check_may_name_another_page_of_the_pods() -> None:
    obj = canary_run()
    obj["spec"]["plan"]["policy"]["checks"][0]["source"] = {"scrape": {"port": 9090}}
    assert resource.run(obj).plan.policy.pages == {"latency-p95": Page(port=9090)}
    assert resource.run(canary_run()).plan.policy.pages == {}


def test_a_check_may_name_the_prometheus_instead() -> None:
    obj = canary_run()
    obj["spec"]["plan"]["policy"]["checks"][0]["source"] = {"prometheus": {}}
    policy = resource.run(obj).plan.policy
    assert policy.pages == {"latency-p95": None}
    assert policy.queried == {"latency-p95"}
    assert resource.run(canary_run()).plan.policy.queried == frozenset()


@pytest.mark.parametrize("source", [{}, {"scrape": {"port": 1}, "prometheus": {}}])
def test_a_source_that_the_schema_should_have_refused_is_named(source: dict[str, Any]) -> None:
    obj = canary_run()
    obj["spec"]["plan"]["policy"]["checks"][0]["source"] = source
    with pytest.raises(wire.Malformed, match=r"checks\[latency-p95\].source: give exactly one of"):
        resource.run(obj)


def test_a_field_that_cannot_be_read_is_named() -> None:
    obj = canary_run()
    obj["spec"]["plan"]["policy"]["steps"] = ["five"]

    with pytest.raises(wire.Malformed, match=r"model-canary-new-1.*\$\.spec\.plan\.policy\.steps\[0\]"):
        resource.run(obj)


def test_a_check_that_this_version_lacks_is_refused_by_name() -> None:
    said = policies.unusable({"checks": [{"name": "answers", "type": "Ranking"}]})

    assert said is not None
    assert "checks[answers].type: Ranking is not available" in said


SHADOW = {"name": "shadow", "type": "Shadow", "maxFlips": "0.5%"}


def shadowed(*checks: Any) -> Any:
    obj = canary_run()
    given = obj["spec"]["plan"]["policy"]["checks"]
    obj["spec"]["plan"]["policy"]["checks"] = [*given, *checks]
    obj["spec"]["plan"]["shadow"] = {
        "stable": f"file:///models/a@sha256:{'a' * 64}",
        "canary": f"file:///models/b@sha256:{'b' * 64}",
        "hosts": ["model", "model.lab"],
        "host": "serin-shadow.serin-system.svc.cluster.local",
        "port": 8080,
        "percent": 12.5,
    }
    return obj


def test_a_shadow_check_has_the_part_of_alpha_that_the_others_leave() -> None:
    policy = resource.run(shadowed(SHADOW)).plan.policy
    assert policy.shadow is not None
    assert [check.name for check in policy.checks] == ["latency-p95", "errors"]
    assert policy.shadow.share == pytest.approx(0.20 / 1.00)
    assert sum(check.share for check in policy.checks) + policy.shadow.share == pytest.approx(1)
    assert policy.checks[0].share == pytest.approx(0.45 / 1.00)

    given = resource.run(shadowed(SHADOW | {"share": 1.0})).plan.policy.shadow
    assert given is not None
    assert given.share == pytest.approx(1.0 / 1.8)


def test_a_plan_says_what_is_replayed_and_where_it_is_recorded_also_to_who_cannot_read_it() -> None:
    plan = resource.run(shadowed(SHADOW)).plan
    assert plan.artifacts is not None
    assert plan.artifacts.canary.endswith("b" * 64)
    assert plan.recording is not None
    assert plan.recording.percent == 12.5
    place = resource.place(shadowed(SHADOW)).recording
    assert place is not None
    assert (place.host, place.port) == (plan.recording.host, plan.recording.port)
    assert resource.place(canary_run()).recording is None
    assert plan.artifacts.baseline is None
    obj = shadowed(SHADOW)
    obj["spec"]["plan"]["shadow"]["baseline"] = "file:///b.json"
    assert resource.run(obj).plan.artifacts == replace(plan.artifacts, baseline="file:///b.json")


@pytest.mark.parametrize(
    ("checks", "says"),
    [
        ([SHADOW | {"maxFlips": "0%"}], r"checks\[shadow\].maxFlips: 0% proves nothing"),
        ([SHADOW | {"maxFlips": "100%"}], "less than 100%"),
        ([SHADOW, SHADOW | {"name": "again"}], "give one Shadow check"),
    ],
)
def test_a_shadow_check_that_the_schema_should_have_refused_is_named(checks: Any, says: str) -> None:
    with pytest.raises(wire.Malformed, match=says):
        resource.run(shadowed(*checks))


def test_a_severity_that_the_schema_should_have_refused_is_named() -> None:
    obj = canary_run()
    obj["spec"]["plan"]["policy"]["alerts"] = [{"webhook": {"url": "https://a/"}, "severity": "error"}]
    with pytest.raises(wire.Malformed, match="severity: 'error' is none of info, warning, critical"):
        resource.run(obj)


def clicks(**fields: Any) -> Any:
    obj = canary_run()
    check = {"name": "clicks-home", "type": "Proportion", "direction": "decrease", "maxDecrease": "15%"}
    obj["spec"]["plan"]["policy"]["checks"] = [check | fields]
    return obj


def test_a_proportion_has_its_margin_a_tenth_of_alpha_and_the_counters_that_it_names_or_is_named_after() -> (
    None
):
    (check,) = resource.run(clicks()).plan.policy.checks
    assert (check.kind, check.max_decrease) == (CheckKind.PROPORTION, 0.15)
    assert check.counters == ("model_clicks_home_total", "model_impressions_total")
    assert SHARES[CheckKind.PROPORTION] == 0.10
    named = clicks(counters={"hits": "orders_total", "trials": "carts_total"})
    assert resource.run(named).plan.policy.checks[0].counters == ("orders_total", "carts_total")


def test_a_margin_that_allows_everything_is_named() -> None:
    with pytest.raises(wire.Malformed, match=r"checks\[clicks-home\].maxDecrease: 100% allows everything"):
        resource.run(clicks(maxDecrease="100%"))


def test_a_duration_of_more_than_a_year_is_refused_before_a_run_is_made() -> None:
    said = policies.unusable({"warmUp": "9999999999999999999h"})
    assert said is not None
    assert "warmUp: expected a duration of at most a year" in said
    assert "rolledBack" in str(policies.unusable({"scaleDownDelay": {"rolledBack": "8761h"}}))
    assert policies.unusable({"warmUp": "8760h"}) is None


def test_what_onlookers_say_stays_until_the_next_leader_s_have_something_to_say() -> None:
    said = replace(nothing_yet(), beside={"placebos": {"count": 3}})
    first = resource.status(far_along(), said, 1, now=NOW)
    assert first["placebos"] == {"count": 3}
    later = resource.status(far_along(), nothing_yet(), 2, before=first, now=NOW)
    assert later["placebos"] == {"count": 3}
    anew = replace(nothing_yet(), beside={"placebos": {"count": 4}})
    assert resource.status(far_along(), anew, 2, before=later, now=NOW)["placebos"] == {"count": 4}


def test_what_is_not_finite_never_reaches_the_status() -> None:
    check = CheckJudgement(
        name="errors",
        verdict=Verdict.INCONCLUSIVE,
        log_e=1.0,
        log_e_pass=0.0,
        estimate=float("inf"),
        interval=(float("nan"), 2.0),
    )
    judged = Checkpoint(judgement=Judgement(verdict=Verdict.INCONCLUSIVE, log_e=0.0, checks=(check,)))

    written = resource.status(far_along(), judged, 1, now=NOW)["checks"][0]

    assert written["estimate"] is None
    assert written["interval"] == [None, 2.0]


def measured(verdict: Verdict, requests: int) -> Checkpoint:
    check = CheckJudgement(
        name="errors", verdict=verdict, log_e=-1.0, log_e_pass=4.0, estimate=0.1, canary_requests=requests
    )
    return Checkpoint(
        judgement=Judgement(verdict=verdict, log_e=-1.0, checks=(check,)), sentences={"errors": verdict.name}
    )


def read_after(run: Run, now: Checkpoint, *, decided: Checkpoint) -> tuple[str, str, str]:
    """What is read of a run that promotes, on some later save: both verdicts, and the sentence."""
    promoting = replace(far_along(), stage=Stage.PROMOTING, hold=None)
    first = resource.status(promoting, decided, 1, now=NOW)
    later = resource.status(run, now, 1, before=first, now=NOW)
    (check,) = later["checks"]
    (healthy,) = (one for one in later["conditions"] if one["type"] == "Healthy")
    assert (healthy["reason"], check["verdict"]) == (later["verdict"], later["verdict"])
    return later["verdict"], check["sentence"], later["phase"]


@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.INCONCLUSIVE])
def test_what_decided_a_promotion_is_read_afterwards(verdict: Verdict) -> None:
    """A promoted run's checks said NoData: its stable's new pods had begun their evidence anew."""
    promoting = replace(far_along(), stage=Stage.PROMOTING, hold=None, copied=True)
    promoted = replace(promoting, stage=Stage.ENDED, reason=Reason.PROMOTED, ended=NOW)
    for run in (promoting, promoted, replace(promoting, copied=False, hold=Reason.READY_TO_PROMOTE)):
        said = read_after(run, measured(Verdict.NO_DATA, 3), decided=measured(verdict, 900))
        assert said[:2] == (resource.verdict_name(verdict), verdict.name)


def test_a_failure_in_the_promotion_is_read_and_so_is_evidence_that_only_went_on() -> None:
    decided = measured(Verdict.PASS, 900)
    promoting = replace(far_along(), stage=Stage.PROMOTING, hold=None, copied=True)
    failed = replace(promoting, stage=Stage.ENDED, reason=Reason.PROMOTION_FAILED, ended=NOW)
    assert read_after(failed, measured(Verdict.FAIL, 40), decided=decided) == ("Fail", "FAIL", "Failed")
    waiting = replace(promoting, copied=False, hold=Reason.READY_TO_PROMOTE)  # git has not come yet
    doubted = read_after(waiting, measured(Verdict.INCONCLUSIVE, 950), decided=decided)
    assert doubted == ("Inconclusive", "INCONCLUSIVE", "Paused")


def test_a_finished_run_s_evidence_is_that_of_its_end() -> None:
    ended = replace(far_along(), stage=Stage.ENDED, hold=None, reason=Reason.CHECK_FAILED, ended=NOW)
    first = resource.status(ended, measured(Verdict.FAIL, 900), 1, now=NOW)
    chores = replace(ended, scaled_down=True)
    later = resource.status(chores, measured(Verdict.NO_DATA, 0), 1, before=first, now=NOW)
    assert [later[name] for name in resource.EVIDENCE] == [first[name] for name in resource.EVIDENCE]
    assert later["state"]["scaledDown"]


@pytest.mark.parametrize(
    "edit", [{"checks": 7}, {"state": []}, {"verdict": None}, {"checks": [{"canaryRequests": "x"}]}]
)
def test_what_somebody_made_of_the_evidence_does_not_keep_a_status_from_being_written(edit: Any) -> None:
    ended = replace(far_along(), stage=Stage.ENDED, hold=None, reason=Reason.CHECK_FAILED, ended=NOW)
    first = resource.status(ended, measured(Verdict.FAIL, 900), 1, now=NOW)
    later = resource.status(ended, measured(Verdict.FAIL, 900), 1, before=first | edit, now=NOW)
    assert later == first


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    first = resource.status(far_along(), nothing_yet(), 1, now=NOW)
    later = resource.status(
        replace(far_along(), hold=None), nothing_yet(), 1, before=first, now=NOW + timedelta(hours=1)
    )
    times = {item["type"]: item["lastTransitionTime"] for item in later["conditions"]}

    assert times == {
        "Progressing": "2026-03-01T13:00:00Z",
        "Healthy": "2026-03-01T12:00:00Z",
        "Succeeded": "2026-03-01T12:00:00Z",
    }


@pytest.mark.parametrize(
    "before",
    [None, 7, {"type": "Healthy"}, ["Healthy"], [{"type": "Healthy"}], [{"type": [], "status": "True"}]],
)
def test_conditions_that_somebody_made_of_it_do_not_keep_a_status_from_being_written(before: object) -> None:
    """Found by fuzzing."""
    first = resource.status(far_along(), nothing_yet(), 1, now=NOW)
    again = resource.status(far_along(), nothing_yet(), 1, before=first | {"conditions": before}, now=NOW)
    assert again["conditions"] == first["conditions"]


def test_a_checkpoint_of_another_version_is_not_read() -> None:
    status = resource.status(far_along(), replace(nothing_yet(), body="{}"), 1, now=NOW)

    assert resource.checkpoint(canary_run() | {"status": status}) == "{}"
    assert resource.checkpoint(canary_run() | {"status": status | {"evidenceVersion": 99}}) is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("1m30s", 90), ("500ms", 0.5), ("2h", 7200), ("0s", 0)]
)
def test_durations_are_read_as_kubernetes_writes_them(text: str, seconds: float) -> None:
    assert wire.duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "30", "s", "-3s", "1.5s", "3 s"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(wire.Malformed, match=r'warmUp: expected a duration such as "30s"'):
        wire.duration(text, field="warmUp")


@pytest.mark.parametrize(
    "field", ["stepSince", "weightSince", "dataSince", "ended", "podsKnown", "shadowSince"]
)
def test_a_time_without_its_zone_and_one_beyond_the_calendar_are_refused(field: str) -> None:
    obj = canary_run()
    obj["status"] = {"state": {field: "2026-01-01T00:00:00Z"}}
    assert resource.run(obj)

    obj["status"]["state"][field] = "2026-01-01T00:00:00"
    with pytest.raises(wire.Malformed, match=rf"\$\.status\.state\.{field}"):
        resource.run(obj)
    for at in ("9999-12-31T00:00:00Z", "0001-01-01T00:00:00Z"):
        obj["status"]["state"][field] = at
        with pytest.raises(wire.Malformed, match=r"our centuries, got .*\$\.status\.state"):
            resource.run(obj)


@pytest.mark.parametrize("weight", [-1, 100])
def test_a_weight_that_no_step_has_is_refused(weight: int) -> None:
    obj = canary_run()
    obj["status"] = {"weight": weight}

    with pytest.raises(wire.Malformed, match=r"\$\.status\.weight"):
        resource.run(obj)


def test_a_step_that_the_plan_does_not_have_is_refused() -> None:
    obj = canary_run()
    for step in (-1, len(obj["spec"]["plan"]["policy"]["steps"])):
        obj["status"] = {"state": {"step": step}}
        with pytest.raises(
            wire.Malformed, match=rf"model-canary-new-1: status.state.step: {step}, of \d steps"
        ):
            resource.run(obj)


def test_commands_are_heard_from_a_run_whose_plan_and_status_cannot_be_read() -> None:
    obj = canary_run(abort={"reason": "enough"})
    obj["spec"]["plan"]["policy"] = {"from": "another version"}
    obj["status"] = {"reason": "SomethingNew"}

    with pytest.raises(wire.Malformed):
        resource.run(obj)
    assert resource.commands(obj).abort == "enough"
    place = resource.place(obj)
    assert (place.namespace, place.virtual_service, place.canary_subset) == ("shop", "model", "canary")


def test_every_request_may_not_fail() -> None:
    checks = [{"name": "errors", "type": "ErrorRate", "plus": "100%"}]
    assert "checks[errors].plus: 100% allows everything" in str(policies.unusable({"checks": checks}))


def test_a_margin_that_allows_everything_is_refused() -> None:
    checks = [{"name": "latency", "type": "Latency", "maxIncrease": "99999999999%"}]

    assert "checks[latency].maxIncrease: at most 10000%" in str(policies.unusable({"checks": checks}))


def test_what_people_write_moves_nobody_s_terminal() -> None:
    """A reason goes into status, Events, alerts and other people's terminals, and could clear them."""
    obj = canary_run()
    obj["spec"]["abort"] = {"reason": "slow\nsince \x1b[2J\N{RIGHT-TO-LEFT OVERRIDE}noon" + "x" * 2000}
    obj["spec"]["promote"] = {"reason": "tickets: günstig"}
    said = resource.commands(obj)
    assert said.abort is not None
    assert said.abort.startswith("slow since ?[2J?noonxxx")
    assert len(said.abort) == resource.LONGEST_REASON
    assert said.promote == "tickets: günstig"
