"""What the page is told of a run: the answer first."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from controller import record, report
from controller.explain import Finding
from controller.page import views
from controller.page.views import answer, line, listed, shown
from scenarios import gallery
from scenarios.gallery import BEGAN, HOSTILE

NOW = datetime(2026, 11, 1, 12, 9, tzinfo=UTC)


def judged(*verdicts: str, **status: Any) -> dict[str, Any]:
    run = gallery.progressing("model", BEGAN)
    for check, verdict in zip(run["status"]["checks"], verdicts, strict=True):
        check["verdict"] = verdict
    run["status"] |= status
    return run


def test_nothing_is_known_of_a_run_without_requests() -> None:
    found = answer(gallery.pending("model", BEGAN))
    assert (found.tone, found.word) == ("open", "Not known yet")
    assert found.sentence == "No request has reached the canary."


def test_an_undecided_run_says_how_far_the_evidence_is_and_what_is_missing() -> None:
    found = answer(judged("Inconclusive", "Pass", "NoData", logE=2.0))
    assert found.word == "Not known yet"
    assert found.sentence == (
        "The evidence against the canary is 7 to 1 at 10 % of requests; 100 to 1 rolls it back."
        " Still to pass: latency-p95 and predictions."
    )


def test_a_gate_a_pause_and_doubt_have_words_of_their_own() -> None:
    run = gallery.held("model", BEGAN)
    found = answer(run)
    assert found.word == "Waiting for approval"
    assert found.sentence.startswith("Waiting for approval of step 3 of 4 (25 %): kubectl serin approve")
    run["status"] |= {"reason": "Paused", "message": "paused: the weight stays, checks go on"}
    assert answer(run).word == "Paused"
    run["status"] |= {"reason": "Inconclusive", "message": "errors passed earlier and would not now"}
    assert (answer(run).word, answer(run).sentence) == ("Held", "errors passed earlier and would not now.")


def test_a_check_that_warms_up_is_not_called_one_without_data() -> None:
    run = judged(
        "NoData", "Pass", "NoData", weight=5, state={"step": 0, "weightSince": "2026-11-01T12:08:45Z"}
    )
    for check in run["status"]["checks"]:
        check["canaryRequests"] = 0 if check["verdict"] == "NoData" else 40
    assert [check["warming"] for check in shown(run, now=NOW)["checks"]] == [True, False, True]
    run["status"]["state"]["weightSince"] = "2026-11-01T12:08:00Z"
    assert not any(check["warming"] for check in shown(run, now=NOW)["checks"])


def test_a_run_against_which_nothing_speaks_says_so_and_is_not_called_fine() -> None:
    found = answer(judged("Inconclusive", "Pass", "Pass", logE=-1.0))
    assert found.tone == "open"
    assert found.sentence.startswith("Nothing speaks against the canary at 10 %")


def test_a_check_that_is_not_required_is_not_waited_for() -> None:
    run = judged("Inconclusive", "Pass", "Pass")
    run["spec"]["plan"]["policy"]["checks"][0]["required"] = False
    assert answer(run).word == "No worse so far"


def test_better_is_said_only_of_a_check_whose_whole_interval_is() -> None:
    run = judged("Pass", "Pass", "Pass")
    run["status"]["checks"][0] |= {"estimate": 0.7, "interval": [0.6, 1.01]}
    assert answer(run).sentence == "Every required check has passed at 10 % of requests."
    run["status"]["checks"][0]["interval"] = [0.6, 0.99]
    assert answer(run).sentence.endswith("latency-p95 is better than stable's.")


def test_fewer_clicks_are_not_better() -> None:
    run = judged("Pass", "Pass", "Pass")
    check = {"name": "latency-p95", "type": "Proportion", "direction": "decrease", "maxDecrease": "15%"}
    run["spec"]["plan"]["policy"]["checks"][0] = check
    run["status"]["checks"][0] |= {"interval": [0.7, 0.9], "shares": [0.1, 0.12]}
    assert "better" not in answer(run).sentence
    run["status"]["checks"][0]["interval"] = [1.1, 1.3]
    assert "latency-p95 is better" in answer(run).sentence


def test_a_run_that_was_rolled_back_says_what_was_worse() -> None:
    found = answer(gallery.rolled_back("model", BEGAN))
    assert (found.tone, found.word) == ("bad", "Worse: rolled back")
    assert found.sentence.startswith("latency-p95: p95 at the canary is 2.03x stable's")


@pytest.mark.parametrize(
    ("reason", "word"),
    [("Aborted", "Aborted"), ("Superseded", "Superseded"), ("StableChanged", "Superseded")],
)
def test_what_ends_a_run_from_outside_says_nothing_about_its_version(reason: str, word: str) -> None:
    """The list called it failed, the status rolled back, the page not known."""
    run = judged("Pass", "Pass", "Pass", phase="Failed", reason=reason, message="")
    found = answer(run)
    assert (found.tone, found.word) == ("ended", word)
    assert found.sentence.endswith(".")
    assert report.standing(run) == word.lower()
    assert record.row(run, now=NOW)["REASON"] == reason
    assert "REASON" in record.COLUMNS


@pytest.mark.parametrize("log_e", [None, 0.0, -3.0])
def test_no_evidence_is_none_and_not_one_percent(log_e: float | None) -> None:
    """Odds of 1 to 1 are alpha of 1/alpha: a run without a request seemed to be at 1 %."""
    run = judged("NoData", "NoData", "NoData", logE=log_e)
    assert line(run)["part"] == 0.0
    for check in run["status"]["checks"]:
        check["logE"] = log_e
    assert {one["part"] for one in shown(run, now=NOW)["ledger"]["checks"]} == {0.0}
    assert "of what rolls back" not in report.explanation(run, now=NOW)
    assert line(judged("Inconclusive", "Pass", "Pass", logE=3.0))["part"] > 0.1


def test_figures_of_checks_say_since_when_they_count_and_how_old_they_may_be() -> None:
    """After a raise they said "0 canary requests" beside full curves."""
    going = judged("NoData", "NoData", "NoData", phase="Progressing", weight=50, step="2/2")
    assert shown(going, now=NOW)["counted"] == (
        "Since step 2/2 began; as of the last checkpoint, at most ten seconds ago."
    )
    assert shown(gallery.rolled_back("model", BEGAN), now=NOW)["counted"] == ""


def test_checks_that_count_fewer_requests_than_errors_say_why() -> None:
    """10 of 38 canary requests were slow, and 2 of 237 failed."""
    going = judged("Inconclusive", "Inconclusive", "Inconclusive", phase="Progressing", weight=10, step="1/2")
    kinds = [one["type"] for one in going["spec"]["plan"]["policy"]["checks"]]
    for kind, check in zip(kinds, going["status"]["checks"], strict=True):
        check["canaryRequests"] = 237 if kind == "ErrorRate" else 38
    assert "leave the warm-up out" in shown(going, now=NOW)["counted"]
    assert "leave the warm-up out" in report.explanation(going, now=NOW)
    for check in going["status"]["checks"]:
        check["canaryRequests"] = 237
    assert "warm-up out" not in report.explanation(going, now=NOW)


def test_the_page_has_what_failed_of_the_checklist_and_the_policy_of_the_plan() -> None:
    run = judged("NoData", "NoData", "NoData", phase="Pending")
    run["status"]["preflight"] = [{"item": "floor", "result": "Fail", "why": "too few", "mend": "more"}]
    run["spec"]["plan"]["policyName"] = ""
    told = shown(run, now=NOW)
    assert told["checklist"] == ["- floor: too few. more."]
    assert "built-in" in told["policy"]


def test_a_time_that_was_up_is_a_rollback_and_no_verdict() -> None:
    assert answer(judged("Pass", "Pass", "Pass", phase="Failed", reason="Inconclusive")).word == "Rolled back"


def test_what_waits_for_people_stands_before_what_goes_on_and_that_before_what_is_over() -> None:
    runs = [gallery.promoted("c", BEGAN), gallery.progressing("b", BEGAN), gallery.held("a", BEGAN)]
    told = listed(map(line, runs))
    assert [row["canary"] for row in told["runs"]] == ["a-canary", "b-canary", "c-canary"]
    assert told["counts"] == {"open": 1, "held": 1, "good": 1, "bad": 0, "ended": 0}


def test_of_very_many_runs_the_newest_are_listed_and_all_are_counted() -> None:
    row = line(gallery.promoted("model", BEGAN))
    told = listed([row | {"name": str(number)} for number in range(views.MOST_LISTED + 7)])
    assert (len(told["runs"]), told["of"]) == (views.MOST_LISTED, views.MOST_LISTED + 7)
    assert told["counts"]["good"] == views.MOST_LISTED + 7


def test_the_ledger_shares_alpha_among_checks_and_steps() -> None:
    ledger = shown(gallery.progressing("model", BEGAN), now=NOW)["ledger"]
    assert sum(check["share"] for check in ledger["checks"]) == pytest.approx(1)
    assert [step["weight"] for step in ledger["steps"]] == [5, 10, 25, 50]
    assert sum(step["share"] for step in ledger["steps"]) == pytest.approx(1)
    latency = ledger["checks"][0]
    assert (latency["share"], latency["part"]) == (0.45, pytest.approx(0.0201, abs=1e-4))  # e^0.7 of 100


def test_a_shadow_check_has_its_part_of_the_ledger() -> None:
    run = gallery.progressing("model", BEGAN)
    run["spec"]["plan"]["policy"]["checks"].append({"name": "replay", "type": "Shadow", "maxFlips": "0.5%"})
    told = shown(run, now=NOW)
    assert told["ledger"]["checks"][-1] == {
        "name": "replay",
        "share": pytest.approx(1 / 6),
        "part": 0.0,
        "placebo": None,
    }
    assert told["checks"][-1]["clauses"] == ["no request has been replayed yet"]


def test_a_policy_that_this_version_cannot_read_has_no_ledger_and_all_else() -> None:
    run = gallery.rolled_back("model", BEGAN)
    run["spec"]["plan"]["policy"]["steps"] = "later"
    told = shown(run, now=NOW)
    assert told["ledger"] is None
    assert told["word"] == "Worse: rolled back"


def test_all_that_explain_says_is_there() -> None:
    told = shown(gallery.rolled_back("model", BEGAN), now=NOW)
    assert any("Argo Rollouts" in each for each in told["peers"])
    assert any("cannot be ruled out" in each for each in told["unseen"])
    assert told["commands"] == [
        "kubectl serin retry model-canary-6f9c7d5b84-1 -n ml   # tries the same version once more"
    ]
    assert [change["reason"] for change in told["weights"]] == [
        "the next step",
        "the next step",
        "a check failed",
    ]


@pytest.mark.parametrize(
    "kind", [gallery.progressing, gallery.rolled_back, gallery.held, gallery.promoted, gallery.pending]
)
def test_every_kind_of_run_can_be_told_in_json(kind: Any) -> None:
    run = kind("model", BEGAN)
    json.dumps([shown(run, now=NOW), line(run)], allow_nan=False)


def test_what_somebody_wrote_is_told_as_it_is() -> None:
    told = shown(gallery.hostile(BEGAN), now=NOW)
    assert told["canary"] == HOSTILE
    assert len(line(gallery.hostile(BEGAN))["sentence"]) <= 320


def test_what_was_replayed_is_told_with_its_figures_and_absent_where_nobody_asks() -> None:
    assert shown(gallery.replayed("model", BEGAN), now=NOW)["shadow"] == {
        "name": "shadow",
        "verdict": "Pass",
        "sentence": "At most 0.31 % of answers differ beyond the noise floor; 0.5 % may.",
        "requests": 18_240,
        "flips": 0.0016,
        "interval": (0.0004, 0.0031),
        "most": 0.005,
        "worst": [
            "7f1c-4be2-9d07-7a30c5 (another answer)",
            "3f1c-4be2-9d07-3a30c5 (another answer)",
            "9f1c-4be2-9d07-9a30c5 (moved)",
        ],
    }
    assert shown(gallery.progressing("model", BEGAN), now=NOW)["shadow"] is None


def test_the_page_never_says_of_evidence_that_it_is_as_much_as_rolls_back_where_it_is_not() -> None:
    run = judged("Inconclusive", "Pass", "Pass", logE=math.log(99.7))
    run["status"]["checks"][0]["logE"] = math.log(99.97)
    assert "is just under 100 to 1 at 10 %" in answer(run).sentence
    told = shown(run, now=NOW)
    assert told["odds"] == "just under 100 to 1"
    assert told["ledger"]["checks"][0]["part"] == 0.999
    assert f"All checks together: {told['odds']} against" in told["sure"][0]


def test_the_margin_that_is_drawn_of_a_share_has_the_points_in_it() -> None:
    """It was drawn where stable is, for a check that says `plus` alone."""
    complaints = Finding(name="complaints", kind="Proportion", verdict="Pass", plus=0.01, shares=(0.05, 0.04))
    assert views._scale(complaints) == (1.0, 1.25)
    assert views._scale(replace(complaints, shares=None)) == (None, None)
    assert views._scale(replace(complaints, plus=0.0, max_increase=0.2)) == (1.0, 1.2)


@pytest.mark.parametrize("name", ["weightSince", "stableKnown", "approved", "step", "stage", "ended"])
@pytest.mark.parametrize("said", [True, 7, -1, "x", "0001-01-01T00:00:00+14:00", [], {}, 1e300])
def test_what_somebody_wrote_into_a_run_s_own_bookkeeping_costs_neither_page_nor_command(
    name: str, said: Any
) -> None:
    """It has no schema: `serin status`, `watch` and `explain` ended in a traceback, and so did the page."""
    for run in (gallery.progressing("model", BEGAN), gallery.held("model", BEGAN)):
        run["status"]["state"] = {"step": 0, "weightSince": "2026-11-01T12:08:45Z"} | {name: said}
        assert record.row(run, now=NOW)["NAME"]
        assert shown(run, now=NOW)["checks"]
        assert "".join(report.explanation(run, now=NOW))
        assert record.asked(run) is not None
        assert record.stable_known(run) is None or name == "stableKnown"
        assert record.instant(run, "ended") is None
