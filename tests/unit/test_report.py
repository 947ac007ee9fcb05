"""A CanaryRun object as plain text."""

import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from test_machine import a_run, sight

from analysis.evidence import CheckKind, CheckSpec
from analysis.judge import CheckJudgement, Judgement, Verdict
from controller import explain, planning, record, report, resource
from controller.machine import advance
from controller.model import Checkpoint, Phase, Reason, Stage

NOW = datetime(2026, 11, 1, 12, 9, tzinfo=UTC)
CREATED = "2026-11-01T12:00:00Z"
SLOW = {
    "name": "latency-p95",
    "verdict": "Fail",
    "logE": 5.49,
    "logEPass": -3.0,
    "estimate": 2.03,
    "interval": [1.37, 2.9],
    "canaryRequests": 240,
    "stableRequests": 2160,
    "canaryHits": 61,
    "expectedHits": 11.7,
    "threshold": 0.1418,
    "note": "one canary pod; the node may be to blame",
}
WEIGHTS = [
    {"at": "2026-11-01T12:00:10.100Z", "weight": 5, "reason": "WeightRaised"},
    {"at": "2026-11-01T12:01:40.100Z", "weight": 10, "reason": "WeightRaised"},
    {"at": "2026-11-01T12:01:44.300Z", "weight": 0, "reason": "CheckFailed"},
]


def run(**status: Any) -> dict[str, Any]:
    plan = {
        "canary": "model-canary",
        "stable": "model",
        "canaryHash": "6f9c",
        "stableHash": "75b4",
        "virtualService": "model",
        "policy": copy.deepcopy(planning.builtin()),
    }
    meta = {"name": "model-canary-6f9c-1", "namespace": "lab", "creationTimestamp": CREATED}
    return {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "CanaryRun",
        "metadata": meta,
        "spec": {"plan": plan},
    } | ({"status": status} if status else {})


def rolled_back() -> dict[str, Any]:
    return run(
        phase="Failed",
        reason="CheckFailed",
        message="p95 at the canary is 2.03x stable's",
        step="2/4",
        weight=0,
        logE=5.5,
        weights=WEIGHTS,
        checks=[SLOW],
    )


def explained(obj: dict[str, Any]) -> str:
    return report.explanation(obj, now=NOW)


def test_it_says_how_long_stable_was_known_once_the_canary_has_had_traffic() -> None:
    assert "Stable had been read" not in explained(run(phase="Pending", state={"stage": "Waiting"}))
    text = explained(run(phase="Progressing", state={"stableKnown": 612}))
    assert "Stable had been read for 10 min 12 s when the canary got its first requests." in text


def test_a_rollback_is_explained_from_what_was_seen_to_what_to_type() -> None:
    text = explained(rolled_back())
    titles = [line for line in text.splitlines() if line and not line.startswith(" ")]
    assert titles == [
        "model-canary-6f9c-1 in lab: rolled back (CheckFailed: a check failed)",
        "What",
        "How sure",
        "Checks",
        "Weights",
        "What could not have been seen",
        "What happens next",
        "What you can type",
    ]
    assert "p95 at the canary is 2.03x stable's." in text
    assert '245 to 1 against "no worse than the margins"; 100 to 1 rolls back' in text
    assert "61 of 240 canary requests took longer than 142 ms, the margin allows 11.7 on average" in text
    assert "evidence of harm: enough to roll back by itself" in text
    assert "kubectl serin retry model-canary-6f9c-1 -n lab" in text


def test_an_alert_that_does_not_arrive_is_said_where_people_look() -> None:
    """A Secret was missing, and only the controller's log knew that nobody had been told."""
    late = rolled_back()
    sent = {"id": "a", "alert": 0, "outcome": "RolledBack", "reason": "CheckFailed", "sentence": "x"}
    late["status"]["outbox"] = [sent | {"at": (NOW - timedelta(minutes=3)).isoformat()}]
    said = "1 alert has not arrived for 3 min; it is tried again for a day; the Event AlertDelayed of"
    assert said in " ".join(explained(late).split())
    assert said in report.glance(late, now=NOW)
    late["status"]["outbox"][0]["at"] = (NOW - timedelta(seconds=5)).isoformat()
    assert "not arrived" not in explained(late) + report.glance(late, now=NOW)


def test_the_history_of_weights_says_how_long_each_lasted() -> None:
    text = explained(rolled_back())
    assert "2026-11-01 12:01:40Z   10 %  WeightRaised  after 1 min 30 s" in text
    assert "2026-11-01 12:01:44Z    0 %  CheckFailed  after 4.2 s" in text


def test_what_could_not_be_seen_names_margins_few_requests_caveats_and_time() -> None:
    lines = list(report.unseen(rolled_back(), now=NOW))
    assert "latency-p95: what the margin permits (1.2x is allowed)" in lines
    assert "latency-p95: small increases; of 240 canary requests only about 12 lie beyond the p95" in lines
    assert "latency-p95: one canary pod; the node may be to blame" in lines
    assert "predictions: whether predictions are right; only how often each value comes is compared" in lines
    assert "anything but errors while the canary warms up (warmUp: 30s)" in lines
    assert "anything that takes longer to show than the 1 min 34 s with traffic on the canary" in lines


def test_a_kind_of_check_that_the_policy_lacks_is_named_as_blind() -> None:
    obj = rolled_back()
    obj["spec"]["plan"]["policy"]["checks"].pop()
    assert "predictions: the policy has no Predictions check" in list(report.unseen(obj, now=NOW))


def test_what_an_open_interval_does_not_exclude_is_said() -> None:
    open_ = SLOW | {"verdict": "Inconclusive", "interval": [0.9, 1.31]}
    lines = list(report.unseen(run(phase="Progressing", checks=[open_]), now=NOW))
    assert "latency-p95: 1.31x cannot be ruled out with the requests so far" in lines


def test_the_runs_own_latency_margin_stands_above_the_policys() -> None:
    obj = rolled_back()
    obj["spec"]["plan"]["maxLatencyIncrease"] = "35%"
    assert "latency-p95: what the margin permits (1.35x is allowed)" in list(report.unseen(obj, now=NOW))


def test_a_breaker_is_not_called_a_statistical_verdict() -> None:
    obj = run(phase="Failed", reason="CanaryNotAnswering", logE=0.1, weights=WEIGHTS)
    assert "This was not a statistical verdict" in explained(obj)


def test_a_run_that_was_just_created_waits_for_pods() -> None:
    text = explained(run())
    assert "waiting for the canary's pods, no traffic yet" in text
    assert "No evidence yet." in text
    assert "given up after 15m" in text


def replayed(verdict: str, **status: Any) -> dict[str, Any]:
    found = {"name": "shadow", "verdict": verdict, "interval": [0.0, 0.013], "note": "At most 1.3 % differ."}
    obj = run(checks=[found], **status)
    shadow = {"name": "shadow", "type": "Shadow", "maxFlips": "2%"}
    obj["spec"]["plan"]["policy"]["checks"].append(shadow)
    return obj


def test_a_run_with_a_shadow_check_says_what_it_waits_for_and_what_that_cannot_see() -> None:
    text = explained(replayed("Inconclusive", phase="Pending", logE=0.0)).replace("\n  ", " ")
    assert "when the canary's pods are ready and shadow has passed" in text
    assert "shadow: Inconclusive\n    At most 1.3 % differ." in explained(replayed("Inconclusive"))
    unseen = list(report.unseen(replayed("Pass"), now=NOW))
    assert "shadow: what the margin permits (2 % may differ)" in unseen
    assert "shadow: 1.3 % of other answers cannot be ruled out with the requests so far" in unseen
    assert "shadow: whether answers are right, and how fast; only whether they are stable's" in unseen


def test_a_failed_replay_is_not_explained_by_the_odds_of_the_other_checks() -> None:
    text = explained(replayed("Fail", phase="Failed", reason="CheckFailed", logE=0.0)).replace("\n  ", " ")
    assert "shadow decided on replayed requests, no user's answer among them." in text
    assert "All checks together" not in text


def test_a_run_under_way_says_what_the_next_step_needs() -> None:
    text = explained(run(phase="Progressing", step="2/4", weight=10, logE=-0.3, weights=WEIGHTS[:2]))
    assert "in progress at step 2/4, 10 % of requests" in text
    assert "25 % follows when every required check has passed" in text
    assert "serin pause model-canary-6f9c-1" in text
    assert "nothing against" in text.replace("\n  ", " ")


def test_after_the_last_step_comes_promotion() -> None:
    assert "Promotion follows" in explained(run(phase="Progressing", step="4/4", weight=50))


def held(reason: str) -> dict[str, Any]:
    conditions = [{"type": "Progressing", "status": "False", "reason": reason}]
    return run(phase="Paused", step="2/4", weight=10, conditions=conditions)


def test_a_held_run_says_why_and_what_helps() -> None:
    text = explained(held("Inconclusive"))
    assert "held at step 2/4, 10 % of requests (Inconclusive: the step's time was up" in text
    assert "can still roll back" in text.replace("\n  ", " ")
    assert "serin approve" in text
    assert report.approvable(held("Inconclusive"))


def test_what_an_approval_cannot_help_is_not_offered_one() -> None:
    assert not report.approvable(held("CanaryUnderProvisioned"))
    assert "serin approve" not in explained(held("CanaryUnderProvisioned"))
    assert "serin resume" in explained(held("Paused"))


@pytest.mark.parametrize(
    ("reason", "standing", "verb"),
    [
        ("AwaitingApproval", "waiting for approval at step 2/4", "approve"),
        ("GateClosed", "waiting for a webhook at step 2/4", "abort"),
        ("Paused", "paused at step 2/4", "resume"),
        ("Inconclusive", "held at step 2/4", "approve"),
    ],
)
def test_a_pause_a_gate_and_doubt_are_told_apart_though_the_phase_is_one(
    reason: str, standing: str, verb: str
) -> None:
    assert report.headline(held(reason)).partition(": ")[2].startswith(standing)
    assert report.commands(held(reason), program="serin")[0].startswith(f"serin {verb} ")


def unread() -> dict[str, Any]:
    """A run whose pods' pages answer 404, as the controller writes it."""
    seen = sight(weight=0, canary_read=False, trouble="http://10.0.0.9:8080/metrics answered 404")
    waits, _ = advance(a_run(), seen, NOW)
    assert waits.hold is Reason.NO_DATA
    said = held("NoData")
    said["status"] |= {"weight": 0, "message": waits.message, "state": {"stage": "Waiting"}}
    return said


def test_no_approval_is_offered_while_no_page_can_be_read() -> None:
    text = " ".join(explained(unread()).split())
    assert "An approval does not help while no page can be read: mend the pods' port and path" in text
    assert "serin approve" not in text
    assert "serin promote" not in text
    assert "when somebody approves" not in text
    assert not report.approvable(unread())


def test_what_people_asked_for_in_vain_is_shown_with_what_it_waits_for() -> None:
    obj = unread()
    obj["spec"] |= {"approved": ["carol at 08:39", "bob at 08:40:28"], "promote": {"reason": "test"}}
    obj["status"]["state"]["approved"] = 1
    for text in (report.glance(obj, now=NOW), " ".join(explained(obj).split())):
        assert "approved by bob at 08:40:28, waits for a page." in text
        assert "carol" not in text
        assert "promotion asked for (test), waits for a page." in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("it waits", "it waits."),
        ("waiting for approval: kubectl serin approve a-b-1 -n lab", None),
        ("kubectl serin drill model-canary -n lab", None),
        ("see: kubectl get hpa; then go on", "see: kubectl get hpa; then go on."),
    ],
)
def test_no_full_stop_is_copied_with_a_command(text: str, shown: str | None) -> None:
    assert report.full_stop(text) == (shown or text)


def test_a_promotion_that_was_asked_for_says_what_holds_it() -> None:
    for reason, waits in (("Paused", "until somebody resumes it"), ("Frozen", "until the freeze is lifted")):
        obj = held(reason)
        obj["spec"]["promote"] = {"reason": "test"}
        assert f"promotion asked for (test), waits {waits}." in report.glance(obj, now=NOW)


def test_a_promotion_under_way_waits_for_no_turn() -> None:
    """Promoting, and a line below it: promotion asked for (go), waits for its turn."""
    obj = run(phase="Promoting", step="4/4", weight=50)
    obj["spec"]["promote"] = {"reason": "go"}
    assert "asked for" not in report.glance(obj, now=NOW)


def test_a_promoted_run_leaves_nothing_to_type() -> None:
    text = explained(run(phase="Succeeded", reason="Promoted", logE=-1.0))
    assert "What you can type" not in text
    assert "stable runs this version" in text


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("reason", [None, *Reason])
def test_every_phase_with_every_reason_has_words(phase: str, reason: str | None) -> None:
    text = explained(run(phase=str(phase), reason=reason, message="", checks=[SLOW]))
    assert "None" not in text
    assert max(map(len, text.splitlines()[1:])) <= 130


def test_every_reason_that_a_person_may_ask_about_is_in_words() -> None:
    told_by_the_weights = {Reason.STARTED, Reason.WEIGHT_RAISED, Reason.WEIGHT_REPAIRED, Reason.PROMOTING}
    assert {str(each) for each in set(Reason) - told_by_the_weights} <= set(report.REASONS)


def test_evidence_beyond_a_million_is_not_counted_out() -> None:
    assert explain.odds(600.0) == "more than a million to 1"
    assert explain.odds(5.481) == "240 to 1"
    assert explain.odds(-700.0) == "nothing"


PLACEBOS = {
    "count": 4,
    "nodes": 2,
    "since": "2026-11-01T12:00:10.500000Z",
    "logE": 1.4,
    "checks": [{"name": "latency-p95", "logE": 1.39}, {"name": "errors", "logE": -1.0}],
}


def test_placebos_stand_beside_the_canary_s_evidence() -> None:
    text = " ".join(
        explained(rolled_back() | {"status": rolled_back()["status"] | {"placebos": PLACEBOS}}).split()
    )
    assert (
        "4 placebos (2 nodes of stable each, judged as if it were the canary) since 12:00:10Z:"
        " the furthest came to 4 to 1."
    ) in text
    assert "evidence of harm: enough to roll back by itself (the furthest placebo: 4.01 %)" in text
    assert "Warning" not in text


def test_a_placebo_that_nothing_speaks_against_is_none_yet_as_on_the_page() -> None:
    """The page said "none yet", and this "less than 1 %", of the same figure."""
    found = PLACEBOS | {"checks": [{"name": "latency-p95", "logE": 0.1}]}
    text = " ".join(
        explained(rolled_back() | {"status": rolled_back()["status"] | {"placebos": found}}).split()
    )
    assert "(the furthest placebo: none yet)" in text


def test_placebos_that_reach_the_line_are_a_warning() -> None:
    status = run(phase="Progressing", logE=0.0, placebos=PLACEBOS | {"logE": 4.7})
    text = " ".join(explained(status).split())
    assert "Warning: noise on stable's pods alone would have rolled back a canary on 2 nodes" in text
    assert "alpha is not to be relied on" in text
    assert "(among 4 placebos chance alone does this in at most 4 % of runs)" in text


def test_why_there_are_no_placebos_is_said() -> None:
    none = {"count": 0, "note": "stable has fewer than 3 nodes"}
    text = explained(run(phase="Progressing", logE=0.0, placebos=none))
    assert "No placebos to compare that with: stable has fewer than 3 nodes." in text


def test_a_run_that_warms_up_says_for_how_much_longer_where_it_is_read() -> None:
    state = {"step": 0, "weightSince": "2026-11-01T12:08:45Z"}
    obj = run(phase="Progressing", weight=5, step="1/4", state=state, checks=[])
    said = "warming up for another 15 s, or until its pods have answered 200 requests each"
    for text in (report.glance(obj, now=NOW), " ".join(explained(obj).split())):
        assert text.count(said) == 2  # latency and predictions; errors count from the first request
    warm = report.explanation(obj, now=NOW + timedelta(seconds=16))
    assert "no p95 to compare" in warm
    assert "warming" not in warm
    later = run(phase="Progressing", weight=10, step="2/4", state=state | {"step": 1}, checks=[])
    assert "warming" not in explained(later)


def test_a_glance_has_a_line_for_each_check() -> None:
    lines = report.glance(rolled_back(), now=NOW).splitlines()
    assert lines[0].startswith("model-canary-6f9c-1 in lab: rolled back")
    assert lines[2] == "  latency-p95   Fail           240 canary and 2160 stable requests"
    assert len(lines) == 5
    assert "2.03x" in report.glance(rolled_back(), now=NOW, wide=True).splitlines()[2]


def test_a_table_is_aligned_and_has_no_trailing_blanks() -> None:
    rows = [record.row(each, now=NOW) for each in (rolled_back(), run())]
    assert record.table(rows, record.COLUMNS) == [
        "NAME                  PHASE    WEIGHT   STEP   VERDICT   WORKLOAD       AGE   REASON",
        "model-canary-6f9c-1   Failed   0        2/4              model-canary   9m    CheckFailed",
        "model-canary-6f9c-1                                      model-canary   9m",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0s"), (45, "45s"), (119, "119s"), (720, "12m"), (10800, "3h"), (777600, "9d")]
)
def test_ages_have_one_unit(seconds: int, text: str) -> None:
    assert record.age(timedelta(seconds=seconds)) == text


def test_the_next_attempt_has_the_same_plan_and_the_next_number() -> None:
    third = copy.deepcopy(rolled_back())
    third["metadata"]["name"] = "model-canary-6f9c-3"
    other = copy.deepcopy(rolled_back())
    other["metadata"]["name"] = "model-canary-aaaa-7"
    made = record.next_attempt(rolled_back(), [rolled_back(), third, other])
    assert made["metadata"]["name"] == "model-canary-6f9c-4"
    assert made["spec"] == {"plan": rolled_back()["spec"]["plan"]}
    assert "status" not in made


RULES = [
    {"name": "Flagger (60 s x 5)"},
    {"name": "Flagger (10 s x 2)", "rolledBackAt": "2026-11-01T12:01:30.100Z", "check": "latency-p95"},
    {"name": "Kayenta (60 s points)"},
]


def others(**changed: Any) -> str:
    obj = rolled_back()
    obj["status"] |= {"peers": {"rules": RULES}} | changed
    return " ".join(explained(obj).split())


def test_what_others_would_have_done_stands_beside_a_rollback() -> None:
    said = others()
    assert "What others would have done on the same requests" in said
    assert (
        "- Flagger (60 s x 5), Kayenta (60 s points): had not decided by then,"
        " 1 min 34 s into the canary's traffic" in said
    )
    assert "- Flagger (10 s x 2): would have rolled back 14 s earlier, by latency-p95" in said
    assert "another leader" not in said


def test_a_rule_that_decides_on_the_last_tick_is_not_called_later() -> None:
    rule = {"name": "Flagger (10 s x 2)", "rolledBackAt": "2026-11-01T12:01:44.300Z", "check": "errors"}
    assert "would have rolled back at the same time, by errors" in others(peers={"rules": [rule]})


def test_of_a_canary_that_got_through_it_is_said_who_would_have_stopped_it() -> None:
    said = others(phase="Succeeded", reason="Promoted")
    assert "Flagger (10 s x 2): would have rolled back after 1 min 20 s, by latency-p95" in said
    assert "Kayenta (60 s points): would not have rolled back in these 1 min 34 s" in said


def test_of_a_run_under_way_nobody_is_said_to_be_done() -> None:
    said = others(phase="Progressing", reason=None, weights=WEIGHTS[:2])
    assert "Kayenta (60 s points): would not have rolled back so far" in said


def test_since_when_the_others_look_is_said_where_they_did_not_see_all() -> None:
    said = others(peers={"since": "2026-11-01T12:01:00Z", "rules": RULES})
    assert "They looked from 12:01:00Z on, when another leader took the run over." in said


def test_where_nothing_was_compared_others_are_not_mentioned() -> None:
    assert "others" not in explained(rolled_back())
    assert "others" not in others(weights=[])


def test_what_the_controller_writes_is_what_is_explained() -> None:
    latency = CheckJudgement(
        name="latency-p95",
        verdict=Verdict.INCONCLUSIVE,
        log_e=1.0,
        log_e_pass=0.5,
        estimate=1.1,
        interval=(0.93, 1.31),
        canary_requests=240,
        stable_requests=2160,
        canary_hits=14,
        expected_hits=12.0,
        threshold=0.1418,
        note="coarse buckets",
    )
    judgement = Judgement(verdict=Verdict.INCONCLUSIVE, log_e=1.2, checks=(latency,))
    obj = run()
    obj["spec"]["plan"] |= {"stableSubset": "stable", "canarySubset": "canary"}
    state = replace(resource.run(obj), stage=Stage.STEPPING, weight=10, step=1, hold=Reason.INCONCLUSIVE)
    obj["status"] = resource.status(state, Checkpoint(judgement=judgement), 1, now=NOW)
    text = explained(obj)
    assert "held at step 2/4, 10 % of requests (Inconclusive:" in text
    assert "p95 at the canary is 1.1x stable's (between 0.93x and 1.31x, not certain yet" in text
    assert "14 of 240 canary requests took longer than 142 ms, the margin allows 12 on average" in text
    assert "3 to 1 against" in text


@pytest.mark.parametrize("expected", [0.0, 0.0943, 0.106, 0.0049, 3.456, 11.74, 99.964, 4321.5])
def test_explain_says_of_counts_what_the_alert_said(expected: float) -> None:
    """An alert had "the margin allows 0.11 on average" of the last ten seconds, and `explain` 0.1."""
    spec = CheckSpec(name="errors", kind=CheckKind.ERROR_RATE, max_increase=0.5, plus=0.001)
    figures = {"canary_requests": 9000, "stable_requests": 90000, "canary_hits": 200, "threshold": None}
    for lately in (None, (4900.2, 5000.4, expected)):
        failed = CheckJudgement(
            name="errors",
            verdict=Verdict.FAIL,
            log_e=7.0,
            log_e_pass=-5.0,
            estimate=0.0315,
            interval=(-0.005, 0.114),
            expected_hits=expected,
            lately=None if lately is None else 0.115,
            lately_hits=lately,
            **figures,
        )
        obj = run(checks=[resource._check_status(failed, "")])
        (kept,) = [one for one in record.findings(obj) if one.name == "errors"]
        assert explain.said(kept) == explain.sentence(spec, failed)


def test_a_share_is_explained_from_the_object_with_what_it_cannot_rule_out() -> None:
    obj = run(
        phase="Progressing",
        checks=[
            {
                "name": "clicks",
                "verdict": "Inconclusive",
                "logE": 1.0,
                "estimate": 0.9,
                "interval": [0.74, 1.02],
                "canaryRequests": 900,
                "stableRequests": 8100,
                "canaryHits": 81,
                "expectedHits": 76.5,
                "shares": [0.09, 0.1],
                "note": "",
            }
        ],
    )
    check = {"name": "clicks", "type": "Proportion", "direction": "decrease", "maxDecrease": "15%"}
    obj["spec"]["plan"]["policy"]["checks"] = [check | {"required": False}]
    text = " ".join(explained(obj).split())
    assert (
        "clicks: Inconclusive (not required) the share of clicks is 9 % on the canary, 10 % on stable" in text
    )
    assert "0.9x (between 0.74x and 1.02x, not certain yet, at least 0.85x is required)" in text
    assert "clicks: 0.74x cannot be ruled out with the requests so far" in text
    assert "latency: the policy has no Latency check" in text
