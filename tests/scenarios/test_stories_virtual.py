"""Every story, played to its end in virtual time by the controller as it is."""

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from analysis import peers, placebo
from controller import writing
from controller.report import explanation
from scenarios.objects import CANARY, NAMESPACE, STABLE
from scenarios.play import Theatre, play
from scenarios.plot import Arm, ArmFault, Patch, Pods, Story, Target, TargetFault
from scenarios.story import BadStory, load
from scenarios.virtual.loop import run_virtual

SCENARIOS = Path(__file__).parents[2] / "scenarios"
# those with a Shadow check are looked at in test_shadow_stories.py
STORIES = sorted(file.stem for file in SCENARIOS.glob("*.yaml") if not file.stem.startswith("shadow-"))
KEYS = [
    "name",
    "ok",
    "mode",
    "outcome",
    "reason",
    "check",
    "secondsToVerdict",
    "secondsToWeightZero",
    "lastAttempt",
    "weights",
    "requests",
    "evidence",
]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.reset_defaults()


def story(name: str) -> Story:
    return load(SCENARIOS / f"{name}.yaml")


def played(what: Story) -> Theatre:
    return run_virtual(Theatre.play(what))


def events(theatre: Theatre, reason: str) -> list[str]:
    found = [event for event in theatre.world.objects("events", NAMESPACE) if event["reason"] == reason]
    return [event.get("note") or event.get("message", "") for event in found]


def known(runs: list[dict[str, Any]]) -> dict[str, int]:
    """For how many seconds stable had been read when each run's canary got its first requests."""
    return {run["metadata"]["name"]: run["status"]["state"]["stableKnown"] for run in runs}


# -- what every story has to show


def look_bad_annotation(theatre: Theatre) -> None:
    assert theatre.world.objects("canaryruns", NAMESPACE) == []
    assert theatre.result.weights == ((0.0, 0),)
    (said,) = events(theatre, "Refused")
    assert "serin.dev/steps" in said
    assert "5,lots" in said


def look_template_changed(theatre: Theatre) -> None:
    runs = theatre.world.objects("canaryruns", NAMESPACE)
    assert sorted(run["status"]["phase"] for run in runs) == ["Failed", "Succeeded"]
    annotations = theatre.world.get("deployments", NAMESPACE, STABLE)["spec"]["template"]["metadata"]
    assert annotations["annotations"]["example.com/model"] == "v3"
    assert all(seconds > 50 for seconds in known(runs).values())


def look_slack_hangs(theatre: Theatre) -> None:
    assert theatre.receiver.received == []


def look_virtualservice_edited(theatre: Theatre) -> None:
    (route,) = theatre.world.get("virtualservices", NAMESPACE, STABLE)["spec"]["http"]
    assert route["timeout"] == "20s"
    weights = [weight for _, weight in theatre.result.weights]
    assert weights[weights.index(70) - 1] == weights[weights.index(70) + 1] == 20
    assert events(theatre, "WeightRepaired")


def look_promotion_fails(theatre: Theatre) -> None:
    stable = theatre.world.get("deployments", NAMESPACE, STABLE)
    env = stable["spec"]["template"]["spec"]["containers"][0]["env"]
    assert env == [{"name": "MODEL_VERSION", "value": "v1"}]


def look_good_canary(theatre: Theatre) -> None:
    stable = theatre.world.get("deployments", NAMESPACE, STABLE)
    env = stable["spec"]["template"]["spec"]["containers"][0]["env"]
    assert env == [{"name": "MODEL_VERSION", "value": "v2"}]
    assert stable["spec"]["template"]["metadata"]["labels"]["version"] == "stable"
    (run,) = theatre.world.objects("canaryruns", NAMESPACE)
    assert [rule["name"] for rule in run["status"]["peers"]["rules"]] == [str(rule) for rule in peers.RULES]
    assert "since" not in run["status"]["peers"]
    said = " ".join(explanation(run, now=theatre.world.clock()).split())
    assert "3 placebos (1 node of stable each, judged as if it were the canary) since 00:01:0" in said
    assert "Warning" not in said
    assert said.count("(the furthest placebo: ") == len(run["status"]["checks"])
    assert {one["verdict"] for one in run["status"]["checks"]} == {run["status"]["verdict"]} == {"Pass"}
    assert "latency-p95: Pass p95 at the canary is" in said


def look_clicks_drop(theatre: Theatre) -> None:
    (run,) = theatre.world.objects("canaryruns", NAMESPACE)
    verdicts = {check["name"]: check["verdict"] for check in run["status"]["checks"]}
    assert verdicts == {"latency-p95": "Pass", "errors": "Pass", "clicks": "Fail"}
    (said,) = events(theatre, "CheckFailed")
    assert re.search(r"the share of clicks is \d+\.?\d* % on the canary, \d+\.?\d* % on stable", said)
    assert "at least 0.85x is required" in said


def look_metrics_outage(theatre: Theatre) -> None:
    assert not [at for at, _ in theatre.result.weights if 22 < at < 50]


def look_two_controllers(theatre: Theatre) -> None:
    (run,) = theatre.world.objects("canaryruns", NAMESPACE)
    (lease,) = theatre.world.objects("leases")
    assert run["status"]["epoch"] == lease["spec"]["leaseTransitions"]
    assert lease["spec"]["leaseTransitions"] >= 1


def look_under_provisioned(theatre: Theatre) -> None:
    assert theatre.result.weights[-1][1] == 20
    assert theatre.world.get("deployments", NAMESPACE, CANARY)["spec"]["replicas"] == 1


@pytest.mark.parametrize("name", STORIES)
def test_a_story_ends_as_its_file_expects(name: str) -> None:
    theatre = played(story(name))
    result = theatre.result
    said = json.loads(json.dumps(dict(result.as_json())))
    assert result.ok, said
    assert list(said) == KEYS
    assert result.requests.failed == 0
    assert not theatre.world.server.rights.denied  # manifests/base/rbac.yaml suffices
    assert {weight for _, weight in result.weights} <= {0, 70, *story(name).policy["steps"]}
    look = globals().get(f"look_{name.replace('-', '_')}")
    if look is not None:
        look(theatre)


# -- the theatre itself


def test_the_same_story_played_twice_is_the_same_to_the_last_request() -> None:
    first, second = (play(story("crash-loop")).as_json() for _ in range(2))
    assert first == second


def test_a_placebo_that_fails_changes_nothing_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    short = replace(story("latency-doubles"), history=timedelta(seconds=20))
    whole = played(short)

    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(placebo, "updated", fails)
    with capture_logs() as lines:
        without = played(short)
    assert [line["onlooker"] for line in lines if line["event"] == "onlooker_dropped"] == ["placebos"]
    assert without.result.as_json() == whole.result.as_json()
    first, second = (
        theatre.world.objects("canaryruns", NAMESPACE)[0]["status"] for theatre in (whole, without)
    )
    assert first["placebos"]["count"] == 3
    assert second == {field: said for field, said in first.items() if field != "placebos"}


def look_gate_stays_shut(theatre: Theatre) -> None:
    assert [weight for _, weight in theatre.result.weights] == [0, 10, 0]
    (said,) = events(theatre, "GateClosed")
    assert said == "gate before step 2 of 2 (50 %): change.example has not answered yet"


def test_a_gate_that_opens_late_delays_the_raise_and_nothing_else() -> None:
    what = story("gate-stays-shut")
    shut = TargetFault(at=timedelta(0), target=Target.ALERTS, kind="outage", lasting=timedelta(seconds=150))
    theatre = played(replace(what, faults=(shut,)))
    result = theatre.result
    assert result.outcome == "Promoted"
    raised = next(at for at, weight in result.weights if weight == 50)
    asked = [at for at, url, _ in theatre.receiver.received if url == "http://change.example/serin"]
    assert len(asked) == 1  # the first answer opened it
    assert 150 < raised < 165


def test_another_seed_is_another_day() -> None:
    first, second = (play(replace(story("crash-loop"), seed=seed)) for seed in (1, 2))
    assert first.requests != second.requests


def burst(*more: ArmFault | TargetFault) -> Story:
    """One request in five fails from 20 s on, and something else goes wrong too."""
    what = story("errors-burst")
    return replace(what, history=timedelta(seconds=60), faults=(*what.faults, *more))


@pytest.mark.parametrize("kind", ["outage", "hang", "conflict", "watch-drop", "slow"])
def test_trouble_with_the_api_server_delays_a_rollback_by_no_more_than_it_lasts(kind: str) -> None:
    trouble = TargetFault(
        at=timedelta(seconds=21), target=Target.API_SERVER, kind=kind, lasting=timedelta(seconds=10)
    )
    result = play(burst(trouble))
    assert result.outcome == "RolledBack"
    assert result.check == "errors"
    assert result.seconds_to_weight_zero < 30


class Blinded(Theatre):
    """The leader dies just when its way to zero has arrived, unsaved, and for a while no page is read."""

    struck = False

    def _changed(self, type_: str, resource: str, obj: Any) -> None:
        super()._changed(type_, resource, obj)
        if resource == "virtualservices" and self.now > 20 and not self.struck:
            self.struck = True
            self.controllers.kill(self._leader())
            self.pods.pages.add("outage")
            asyncio.get_running_loop().call_later(20, self.pods.pages.discard, "outage")


def test_a_new_leader_gives_back_nothing_that_the_one_before_took() -> None:
    theatre = run_virtual(Blinded.play(replace(burst(), controllers=2)))
    assert [weight for _, weight in theatre.result.weights] == [0, 10, 0]
    assert (theatre.result.outcome, theatre.result.reason) == ("RolledBack", "LeaderLost")


def test_a_new_leader_raises_nothing_before_it_has_read_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "ours", lambda _vs: False)  # as where a tool strips managedFields
    theatre = run_virtual(Blinded.play(replace(burst(), controllers=2)))
    assert [weight for _, weight in theatre.result.weights] == [0, 10, 0]
    assert (theatre.result.outcome, theatre.result.check) == ("RolledBack", "errors")


@pytest.mark.parametrize("kind", ["outage", "hang"])
def test_after_a_minute_without_the_api_server_a_rollback_takes_two_seconds(kind: str) -> None:
    away = TargetFault(
        at=timedelta(seconds=21), target=Target.API_SERVER, kind=kind, lasting=timedelta(seconds=60)
    )
    result = play(replace(burst(away), controllers=2))
    assert (result.outcome, result.check) == ("RolledBack", "errors")
    assert result.seconds_to_weight_zero < 61 + 2


def test_peers_that_look_on_change_nothing_and_a_fault_in_them_is_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    theatres = []
    for watched in (True, False):
        if not watched:
            structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
            monkeypatch.setattr(peers, "seen", broken)
        theatres.append(played(burst()))
    runs = [theatre.world.objects("canaryruns", NAMESPACE)[0] for theatre in theatres]
    assert ["peers" in run["status"] for run in runs] == [True, False]
    assert theatres[0].result == theatres[1].result
    # as many writes, each of them at the same time
    assert runs[0]["metadata"]["resourceVersion"] == runs[1]["metadata"]["resourceVersion"]


def test_a_frozen_controller_goes_on_when_it_is_thawed() -> None:
    frozen = TargetFault(
        at=timedelta(seconds=21), target=Target.CONTROLLER, kind="freeze", lasting=timedelta(seconds=8)
    )
    result = play(burst(frozen))
    assert result.outcome == "RolledBack"
    assert 8 < result.seconds_to_weight_zero < 30


def test_a_new_leader_gathers_history_anew_and_a_run_that_began_keeps_its_own() -> None:
    what = story("template-changed")
    killed = TargetFault(
        at=timedelta(seconds=10), target=Target.CONTROLLER, kind="kill", lasting=timedelta(seconds=1)
    )
    theatre = played(replace(what, controllers=2, faults=(killed,)))
    first, second = known(sorted(theatre.world.objects("canaryruns", NAMESPACE), key=_created)).values()
    assert first > 50
    assert second < 20


def _created(run: dict[str, Any]) -> str:
    return str(run["metadata"]["creationTimestamp"])


def test_an_alert_arrives_once_where_nothing_hinders_it() -> None:
    what = story("slack-hangs")
    theatre = played(replace(what, faults=what.arm_faults))
    assert [url for _, url, _ in theatre.receiver.received] == ["http://alerts.lab/slack"]
    assert b"errors" in theatre.receiver.received[0][2]


def test_one_bad_pod_of_two_is_a_fault_of_the_story_and_of_no_other_pod() -> None:
    what = story("canary-hangs")
    (fault,) = what.arm_faults
    theatre = played(replace(what, faults=(replace(fault, pods=Pods.ONE),), duration=timedelta(seconds=60)))
    faulty = [life.pod.name for life in theatre.pods.lives.values() if life.pod.faults]
    assert len(faulty) == 1
    assert all(life.pod.arm is Arm.CANARY for life in theatre.pods.lives.values() if life.pod.faults)


def test_a_policy_that_the_api_server_refuses_is_a_fault_of_the_file() -> None:
    what = story("good-canary")
    broken = replace(what, policy={**what.policy, "steps": [50, 10]})
    with pytest.raises(
        BadStory, match=r"good-canary\.yaml: spec\.policy: the API server refuses the CanaryPolicy"
    ):
        play(broken)


def noted(at: int, **notes: str | None) -> Patch:
    """Somebody annotates the canary's Deployment, or takes an annotation away."""
    merge = {"metadata": {"annotations": {f"serin.dev/{key}": value for key, value in notes.items()}}}
    return Patch(at=timedelta(seconds=at), kind="Deployment", name=CANARY, merge=merge)


@pytest.mark.parametrize("at", [0, 1, 15, 40])
def test_a_policy_that_is_not_there_is_told_at_any_stage_of_a_run_which_goes_on(at: int) -> None:
    """At none of them was there an Event."""
    found = story("good-canary")
    theatre = played(replace(found, edits=(noted(at, policy="strict"), noted(at + 3, policy=None))))
    assert theatre.result.outcome == "Promoted"
    (said,) = events(theatre, "Refused")
    assert 'there is no CanaryPolicy "strict" in namespace' in said
    (mended,) = events(theatre, "Mended")
    (run,) = theatre.world.objects("canaryruns", NAMESPACE)
    assert mended.endswith(f"CanaryRun {run['metadata']['name']} is what they ask for")


def test_each_mistake_is_said_when_it_is_made_and_its_end_too() -> None:
    """A, B and A again were two Events: all who looked were told of B. Nothing said that A was over."""
    edits = (
        noted(0, steps="a"),
        noted(3, steps="b"),
        noted(6, steps="a"),
        noted(9, steps=None, **{"canary-of": None}),
        noted(12, steps="a"),
    )
    theatre = played(replace(story("bad-annotation"), edits=edits))
    told = sorted(theatre.world.objects("events", NAMESPACE), key=lambda event: event["eventTime"])
    said = [re.sub(r".*steps: (\S+) .*", r"\1", event["message"]) for event in told]
    assert [event["reason"] for event in told] == ["Refused", "Refused", "Refused", "Mended", "Refused"]
    assert said[:3] + said[4:] == ['"a"', '"b"', '"a"', '"a"']
    assert said[3] == f"Deployment {CANARY} asks for no canary any more, and nothing about it is refused"
