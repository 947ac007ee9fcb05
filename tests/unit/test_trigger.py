"""Which run an annotated Deployment asks for, and why not."""

from dataclasses import replace
from typing import Any

import pytest
from test_resource import canary_run

from controller import inspection, resource
from controller.cluster import Cluster
from controller.events import note
from controller.model import Commands
from controller.neighbours import rival, successor
from controller.trigger import (
    NAMING,
    Asked,
    Refused,
    asks,
    frozen,
    plan_of,
    run_name,
    rung,
    wanted,
)
from controller.writing import FENCE

Json = dict[str, Any]
PREFIX = "serin.dev/"


def deployment(name: str, *, notes: dict[str, str] | None = None, **spec: Any) -> Json:
    labels = {"app": "model", "version": name}
    return {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"uid-{name}",
            "generation": 1,
            "annotations": notes or {},
        },
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "m"}]}},
        }
        | spec,
        "status": {"observedGeneration": 1},
    }


def replica_set(owner: Json, template: str, *, revision: int = 1, **spec: Any) -> Json:
    own = owner["spec"]["template"]
    meta = {"labels": own["metadata"]["labels"] | {"pod-template-hash": template}}
    return {
        "metadata": {
            "name": f"{owner['metadata']['name']}-{template}",
            "namespace": "shop",
            "uid": f"uid-{template}",
            "creationTimestamp": f"2026-01-01T00:00:{revision:02}Z",
            "labels": {"pod-template-hash": template},
            "annotations": {"deployment.kubernetes.io/revision": str(revision)},
            "ownerReferences": [
                {"uid": owner["metadata"]["uid"], "controller": True, "kind": "Deployment", "name": "d"}
            ],
        },
        "spec": {"template": own | {"metadata": meta | spec.get("metadata", {})}},
    }


def cluster(*, notes: dict[str, str] | None = None, runs: list[Json] | None = None, **stable: Any) -> Cluster:
    there = Cluster()
    old = deployment("model", **stable)
    new = deployment("model-canary", notes={f"{PREFIX}canary-of": "model"} | (notes or {}))
    there.listed("deployments", [old, new])
    there.listed("replicasets", [replica_set(old, "old"), replica_set(new, "new")])
    there.listed("canaryruns", runs or [])
    return there


def ask(there: Cluster, *, refusal: str | None = None) -> Asked | Refused | None:
    canary = there.get("deployments", "shop", "model-canary")
    return wanted(canary, there, lambda _plan, _deployment: refusal)


def past_run(template: str, *, attempt: int = 1, stage: str = "Ended", reason: str = "CheckFailed") -> Json:
    return {
        "metadata": {
            "name": f"model-canary-{template}-{attempt}",
            "namespace": "shop",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "plan": {"canary": "model-canary", "canaryHash": template, "virtualService": "model"},
        },
        "status": {
            "phase": "Failed" if stage == "Ended" else "Progressing",
            "state": {"stage": stage},
            "reason": reason,
        },
    }


def test_the_run_is_named_for_deployment_template_and_attempt() -> None:
    asked = ask(cluster())

    assert isinstance(asked, Asked)
    assert asked.run["metadata"]["name"] == "model-canary-new-1"
    assert asked.run["metadata"]["ownerReferences"][0]["uid"] == "uid-model-canary"
    plan = asked.run["spec"]["plan"]
    assert (plan["canaryHash"], plan["stableHash"], plan["virtualService"]) == ("new", "old", "model")


def test_asking_twice_asks_for_the_same_run() -> None:
    assert ask(cluster()) == ask(cluster())


def test_a_deployment_without_annotations_asks_for_nothing() -> None:
    there = cluster()

    assert wanted(deployment("other"), there, lambda *_: None) is None


def test_nothing_is_asked_until_the_deployments_controller_has_caught_up() -> None:
    there = cluster()
    there.get("deployments", "shop", "model-canary")["metadata"]["generation"] = 2

    assert ask(there) is None


@pytest.mark.parametrize("reason", ["CheckFailed", "Aborted", "Promoted"])
def test_a_template_that_was_judged_is_not_tried_again(reason: str) -> None:
    assert ask(cluster(runs=[past_run("new", reason=reason)])) is None


@pytest.mark.parametrize("reason", ["Superseded", "StableChanged"])
def test_a_template_that_was_never_judged_is_tried_again(reason: str) -> None:
    asked = ask(cluster(runs=[past_run("new", reason=reason)]))

    assert isinstance(asked, Asked)
    assert asked.run["metadata"]["name"] == "model-canary-new-2"


def test_a_retry_whose_plan_is_not_what_annotations_say_now_is_made_up_for_by_one_with_a_new_plan() -> None:
    judged, tried = past_run("new"), past_run("new", attempt=2, reason="Superseded")
    asked = ask(cluster(runs=[tried, judged], notes={"serin.dev/virtual-service": "other"}))
    assert isinstance(asked, Asked)
    assert asked.run["metadata"]["name"].endswith("-new-3")
    assert asked.run["spec"]["plan"]["virtualService"] == "other"
    assert ask(cluster(runs=[judged, tried, past_run("new", attempt=3)])) is None


def test_a_live_run_of_an_older_template_ends_before_the_next_is_made() -> None:
    assert ask(cluster(runs=[past_run("older", stage="Stepping")])) is None


def test_a_rollout_restart_asks_for_nothing_new() -> None:
    there = cluster(runs=[past_run("new")])
    canary = there.get("deployments", "shop", "model-canary")
    restarted = {"annotations": {"kubectl.kubernetes.io/restartedAt": "2026-01-01"}}
    again = replica_set(canary, "restarted", revision=2)
    again["spec"]["template"]["metadata"] |= restarted
    there.changed("replicasets", "ADDED", again)

    assert ask(there) is None


def test_steps_and_margin_come_from_annotations_over_the_policy() -> None:
    asked = ask(cluster(notes={f"{PREFIX}steps": "10, 40", f"{PREFIX}max-latency-increase": "35%"}))

    assert isinstance(asked, Asked)
    assert asked.run["spec"]["plan"]["policy"] == {"steps": [10, 40]}
    assert asked.run["spec"]["plan"]["maxLatencyIncrease"] == "35%"


def test_a_plan_says_by_which_policy_it_is_and_is_made_anew_for_another_and_never_for_its_own() -> None:
    """Its own, however the API server's copies differ: else run would follow run for ever."""
    there = cluster()
    asked = ask(there)
    assert isinstance(asked, Asked)
    plan = asked.run["spec"]["plan"]
    assert (plan["policyName"], plan["policyGeneration"]) == ("", 0)
    run = resource.run(canary_run())
    run = replace(run, plan=replace(run.plan, namespace="shop", canary="model-canary"))
    assert not inspection.replanned(run, plan, there)
    meta = {"name": "default", "namespace": "shop", "generation": 3}
    there.changed("canarypolicies", "ADDED", {"metadata": meta, "spec": {"steps": [20, 50]}})
    assert inspection.replanned(run, plan, there)
    again = ask(there)
    assert isinstance(again, Asked)
    plan = again.run["spec"]["plan"]
    assert (plan["policyName"], plan["policyGeneration"]) == ("default", 3)
    assert not inspection.replanned(run, plan, there)
    assert not inspection.replanned(run, plan | {"policy": {"steps": [20, 50], "pruned": 1}}, there)


@pytest.mark.parametrize(
    ("notes", "field", "remedy"),
    [
        ({f"{PREFIX}stepz": "5"}, "annotation serin.dev/stepz is unknown", "remove it or use one of"),
        ({f"{PREFIX}canary-off": "x"}, "canary-off is unknown", "; did you mean serin.dev/canary-of? remove"),
        ({f"{PREFIX}canaryof": "x"}, "canaryof is unknown", "; did you mean serin.dev/canary-of? remove"),
        ({f"{PREFIX}shadow": "x"}, "serin.dev/shadow is unknown", "is unknown; remove it"),
        ({f"{PREFIX}steps": "5,5"}, 'serin.dev/steps: "5,5"', 'for example "5,10,25,50"'),
        ({f"{PREFIX}steps": "50,100"}, 'serin.dev/steps: "50,100"', "promotion is what follows"),
        ({f"{PREFIX}steps": ""}, 'serin.dev/steps: ""', "1 to 20 rising percentages"),
        ({f"{PREFIX}max-latency-increase": "0.2"}, '"0.2" is not a percentage', 'write for example "20%"'),
        ({f"{PREFIX}max-latency-increase": "0%"}, '"0%" is not a percentage above 0%', "for example"),
        ({f"{PREFIX}max-latency-increase": "20001%"}, "max-latency-increase", "up to 10000%"),
        ({f"{PREFIX}canary-of": "other/model"}, '"other/model"', "share a namespace"),
        ({f"{PREFIX}canary-of": "model-canary"}, "is this Deployment itself", "name the stable one"),
        ({f"{PREFIX}canary-of": "nobody"}, 'no Deployment "nobody"', "create it or correct the name"),
        ({f"{PREFIX}policy": "strict"}, 'no CanaryPolicy "strict"', "remove the annotation"),
        ({f"{PREFIX}pause": "yes"}, 'serin.dev/pause: "yes"', 'its run is paused; remove it or set "true"'),
    ],
)
def test_what_cannot_be_meant_is_refused_with_field_value_and_remedy(
    notes: dict[str, str], field: str, remedy: str
) -> None:
    refused = ask(cluster(notes=notes))

    assert isinstance(refused, Refused)
    assert field in refused.message
    assert remedy in refused.message


def test_of_many_annotations_that_nobody_knows_the_first_are_named() -> None:
    """Found by fuzzing: an Event has 1 024 bytes, and the remedy comes last."""
    said = ask(cluster(notes={f"{PREFIX}{'step' * 20}-{number:02}": "5" for number in range(30)}))
    assert isinstance(said, Refused)
    assert "-02 and 27 more are unknown; remove them or use one of" in said.message
    assert note(said.message) == said.message


def test_what_is_said_fits_into_an_event_in_whatever_letters_it_is() -> None:
    long = "\N{SNOWMAN}" * 200
    notes = {f"{PREFIX}{long}{number}": long for number in range(3)} | {f"{PREFIX}steps": long}
    said = ask(cluster(notes=notes | {f"{PREFIX}canary-of": long}))
    assert isinstance(said, Refused)
    assert note(said.message) == said.message


def test_all_that_is_wrong_with_the_annotations_is_said_at_once_as_far_as_it_fits() -> None:
    """Whoever had three mistakes was told of one, three times."""
    wrong = {f"{PREFIX}stepz": "5", f"{PREFIX}stopz": "5", f"{PREFIX}steps": "5,5", f"{PREFIX}pause": "yes"}
    said = ask(cluster(notes=wrong))
    assert isinstance(said, Refused)
    for each in (
        "annotations serin.dev/stepz, serin.dev/stopz are unknown; did you mean serin.dev/steps?",
        'serin.dev/steps: "5,5"',
        'serin.dev/pause: "yes"',
    ):
        assert each in said.message
    many = {PREFIX + name: "X" * 90 for name in (*NAMING, "steps", "max-latency-increase", "pause")}
    said = ask(cluster(notes=many))
    assert isinstance(said, Refused)
    assert note(said.message) == said.message
    assert said.message.endswith("more: serin preflight names all")
    both = cluster(notes=many).get("deployments", "shop", "model-canary")
    stable = cluster().get("deployments", "shop", "model")
    plan = plan_of(both, stable, cluster())
    assert isinstance(plan, str)
    assert len(plan.splitlines()) == len(many)


def test_a_stable_deployment_without_history_is_refused() -> None:
    refused = ask(cluster(revisionHistoryLimit=0))

    assert isinstance(refused, Refused)
    assert "revisionHistoryLimit 0" in refused.message


def test_what_cannot_be_steered_is_refused() -> None:
    assert ask(cluster(), refusal="no such route") == Refused("no such route")


def test_a_second_live_run_on_one_virtual_service_is_refused() -> None:
    other = past_run("x", stage="Stepping")
    other["spec"]["plan"]["canary"] = "somebody-else"
    refused = ask(cluster(runs=[other]))

    assert isinstance(refused, Refused)
    assert "model-canary-x-1" in refused.message


def test_a_name_too_long_for_a_label_is_cut_and_keeps_hash_and_attempt() -> None:
    name = run_name("m" * 70, "5d9f7c8b6d", 12)

    assert len(name) == 63
    assert name.endswith("-5d9f7c8b6d-12")


def test_doorbells_ring_only_for_the_run_they_name() -> None:
    notes = {f"{PREFIX}abort": "run-2", f"{PREFIX}promote": "run-1", f"{PREFIX}approve": "run-1"}
    said = rung(Commands(), notes, "run-1")

    assert said.abort is None
    assert said.promote is not None
    assert said.approvals == 1


@pytest.mark.parametrize("value", ["true", "True", "yes", "on", "1", "", "TRUE ", "no"])
def test_what_somebody_set_to_hold_traffic_back_does_so_however_it_is_spelt(value: str) -> None:
    """`serin.dev/freeze: "True"` was silently no freeze, and a canary was promoted."""
    assert frozen({"metadata": {"annotations": {f"{PREFIX}freeze": value}}})
    assert rung(Commands(), {f"{PREFIX}pause": value}, "run-1").paused


@pytest.mark.parametrize("name", ["freze", "freezes", "Freeze", "frozen"])
def test_a_misspelt_freeze_is_one(name: str) -> None:
    """`serin.dev/freze` was no freeze, and nobody was told."""
    assert frozen({"metadata": {"annotations": {f"{PREFIX}{name}": "true"}}})
    assert not frozen({"metadata": {"annotations": {f"{PREFIX}{name}": "false", f"{PREFIX}policy": "x"}}})
    assert frozen({"metadata": {"labels": {f"{PREFIX}{name}": "true"}}})  # in a hurry people label, too
    assert not frozen({"metadata": {"labels": {f"{PREFIX}{name}": "false", "team": "freeze"}}})


@pytest.mark.parametrize("notes", [{}, {f"{PREFIX}freeze": "false"}, {f"{PREFIX}freeze": "False"}, None])
def test_a_namespace_without_a_freeze_or_with_a_false_one_is_not_frozen(notes: Json | None) -> None:
    assert not frozen({"metadata": {"annotations": notes}})
    assert not frozen({"metadata": {}})
    assert not frozen(None)
    assert not rung(Commands(), {f"{PREFIX}pause": "false"}, "run-1").paused


def test_a_number_is_not_used_twice_when_old_runs_were_pruned() -> None:
    there = cluster(runs=[past_run("new", attempt=7, reason="Superseded")])
    asked = ask(there)

    assert isinstance(asked, Asked)
    assert asked.run["metadata"]["name"] == "model-canary-new-8"


def later_run(**more: Any) -> Json:
    run = past_run("new", attempt=2, **more)
    run["metadata"]["creationTimestamp"] = "2026-01-01T00:10:00Z"
    return run


def test_the_next_run_of_a_workload_is_its_successor() -> None:
    first, second = past_run("new"), later_run(stage="Waiting")
    there = cluster(runs=[first, second])

    assert successor(there, ("shop", "model-canary"), first) == second
    assert successor(there, ("shop", "model-canary"), second) is None


@pytest.mark.parametrize("templates", [("f4h6", "6ch4"), ("6ch4", "f4h6")])
@pytest.mark.parametrize("later", [{"stage": "Stepping"}, {"reason": "Aborted"}])
def test_of_two_runs_of_one_second_the_successor_is_the_one_that_followed(
    templates: tuple[str, str], later: dict[str, str]
) -> None:
    """By name it was as likely the superseded one: then the other's pods stayed after its end."""
    first, second = past_run(templates[0], reason="Superseded"), past_run(templates[1], **later)
    there = cluster(runs=[first, second])

    assert successor(there, ("shop", "model-canary"), first) == second
    assert successor(there, ("shop", "model-canary"), second) is None
    assert [run for run in (first, second) if rival(there, run)] == []


def test_a_run_made_by_hand_gives_way_to_the_one_that_steers_already() -> None:
    first, second = past_run("x", stage="Stepping"), later_run(stage="Waiting")
    first["spec"]["plan"]["canary"] = "somebody-else"
    there = cluster(runs=[first, second])

    assert rival(there, second) == first
    assert rival(there, first) is None
    first["status"]["state"]["stage"] = "Ended"
    assert rival(there, second) is None


def test_an_approval_by_annotation_counts_beside_one_by_command_and_only_once() -> None:
    notes = {f"{PREFIX}approve": "run-1"}

    assert rung(Commands(approvals=1), notes, "run-1", approved=["ann at noon"]).approvals == 2
    assert rung(Commands(approvals=2), notes, "run-1", approved=["ann at noon", "annotation"]).approvals == 2


@pytest.mark.parametrize("bell", ["abort", "approve", "promote"])
@pytest.mark.parametrize("value", ["true", "now", "", "model-canary"])
def test_a_doorbell_that_can_ring_for_no_run_is_said_to_whoever_rang(bell: str, value: str) -> None:
    """`serin.dev/abort: "true"` was silently nothing, and somebody believed that the canary was gone."""
    said = ask(cluster(notes={PREFIX + bell: value}))
    assert isinstance(said, Refused)
    assert f'{PREFIX}{bell}: "{value}" is not the name of a run; nothing was done' in said.message


def test_a_run_made_by_hand_can_be_rung_for_whatever_its_name() -> None:
    by_hand = past_run("old", stage="Ended")
    by_hand["metadata"]["name"] = "mine"
    assert isinstance(ask(cluster(notes={f"{PREFIX}abort": "mine"}, runs=[by_hand])), Asked)


@pytest.mark.parametrize(
    "name", ["steps", "pause", "max-latency-increase", "policy", "canary-of", "abort", "x" * 60]
)
def test_the_remedy_is_said_however_long_the_value_is(name: str) -> None:
    """An Event has 1 024 bytes: a value of thousands pushed out what to do about it."""
    said = ask(cluster(notes={PREFIX + name: "x" * 5000}))
    assert isinstance(said, Refused)
    assert note(said.message) == said.message


@pytest.mark.parametrize("stage", ["Waiting", "Stepping", "Promoting", "Ended"])
def test_a_policy_that_is_not_there_is_refused_whatever_becomes_of_the_run(stage: str) -> None:
    """Set while a run went on, or after one, it was not even said to be missing."""
    run = past_run("new", stage=stage)
    refused = ask(cluster(runs=[run], notes={f"{PREFIX}policy": "strict"}))
    assert isinstance(refused, Refused)
    assert 'there is no CanaryPolicy "strict" in namespace shop; create it' in refused.message
    assert ask(cluster(runs=[run])) is None


def test_what_a_policy_asks_and_cannot_have_is_said_with_its_name() -> None:
    there = cluster(notes={f"{PREFIX}policy": "strict"})
    spec = {"steps": [10], "checks": [{"name": "a", "type": "Shadow"}, {"name": "b", "type": "Shadow"}]}
    there.listed("canarypolicies", [{"metadata": {"name": "strict", "namespace": "shop"}, "spec": spec}])
    refused = ask(there)
    assert isinstance(refused, Refused)
    assert refused.message.startswith("CanaryPolicy strict: checks")


def test_two_arms_in_one_subset_are_refused() -> None:
    refused = ask(cluster(notes={f"{PREFIX}stable-subset": "canary"}))
    assert refused == Refused(
        'annotations serin.dev/stable-subset and serin.dev/canary-subset: both arms are subset "canary"; '
        "name the one that each is (unset: stable and canary)"
    )


def labelled(place: str, value: str = "model") -> Json:
    """A canary that asks, but not by an annotation of its own."""
    made = deployment("model-canary")
    template = made["spec"]["template"]["metadata"]
    places = {
        "as a label": made["metadata"].setdefault("labels", {}),
        "in its pod template": template.setdefault("annotations", {}),
        "as a label in its pod template": template["labels"],
    }
    places[place][f"{PREFIX}canary-of"] = value
    return made


@pytest.mark.parametrize("place", ["as a label", "in its pod template", "as a label in its pod template"])
def test_an_annotation_that_stands_where_nobody_reads_it_is_said_to(place: str) -> None:
    """There was no run, and no word of why."""
    made, there = labelled(place), cluster()
    refused = wanted(made, there, lambda *_: None)
    assert asks(made)
    assert isinstance(refused, Refused)
    assert f"{PREFIX}canary-of stands {place}, where nothing reads it" in refused.message
    assert refused.message.endswith(
        "kubectl annotate deployment model-canary -n shop serin.dev/canary-of=model"
    )
    made["metadata"]["annotations"] = {f"{PREFIX}canary-of": "model"}
    its = replica_set(made, "new")
    its["spec"]["template"]["metadata"] |= {
        "annotations": made["spec"]["template"]["metadata"].get("annotations", {})
    }
    there.changed("replicasets", "MODIFIED", its)
    assert isinstance(wanted(made, there, lambda *_: None), Asked)


@pytest.mark.parametrize("name", ["abort", "pause", "steps"])
@pytest.mark.parametrize("place", ["as a label", "in its pod template", "as a label in its pod template"])
def test_so_is_all_else_that_is_asked_where_nobody_reads_it(place: str, name: str) -> None:
    """`kubectl label deployment model-canary serin.dev/abort=…` was silently nothing."""
    made = labelled(place)
    made["metadata"]["annotations"] = {f"{PREFIX}canary-of": "model"}
    for names in (made["metadata"]["labels"], made["spec"]["template"]["metadata"].get("annotations", {})):
        names.pop(f"{PREFIX}canary-of", None)
    template = made["spec"]["template"]["metadata"]
    where = {"as a label": made["metadata"]["labels"], "in its pod template": template.get("annotations")}
    there = where.get(place)
    (template["labels"] if there is None else there)[PREFIX + name] = "5"
    refused = wanted(made, cluster(), lambda *_: None)
    assert isinstance(refused, Refused)
    assert f"{PREFIX}{name} stands {place}, where nothing reads it" in refused.message
    assert refused.message.endswith(f"kubectl annotate deployment model-canary -n shop {PREFIX}{name}=5")


def test_what_is_asked_of_a_run_upon_stable_is_said_to_be_the_canarys() -> None:
    there = cluster()
    stable = there.get("deployments", "shop", "model")
    stable["metadata"]["annotations"] = {f"{PREFIX}pause": "true", f"{PREFIX}policy": "strict"}
    refused = wanted(stable, there, lambda *_: None)
    assert refused == Refused(
        "annotation serin.dev/pause does nothing on model, which is stable; it belongs on its canary: "
        "kubectl annotate deployment model-canary -n shop serin.dev/pause=true"
    )
    del stable["metadata"]["annotations"][f"{PREFIX}pause"]
    assert wanted(stable, there, lambda *_: None) is None


@pytest.mark.parametrize("value", ["model-canary-new-21", "model-canary-nex-2", "other-new-2", "a-b-2"])
def test_a_doorbell_that_names_no_run_there_ever_was_is_said_while_one_goes_on(value: str) -> None:
    """A slip of the pen in its name left a canary at work that somebody believed to be gone."""
    run = past_run("new", attempt=2, stage="Stepping")
    refused = ask(cluster(notes={f"{PREFIX}abort": value}, runs=[run]))
    assert isinstance(refused, Refused)
    said = f'serin.dev/abort: "{value}" is no run that is there; model-canary-new-2 goes on; nothing was done'
    assert said in refused.message
    # with none, nothing is in its way
    assert isinstance(ask(cluster(notes={f"{PREFIX}abort": value})), Asked)


@pytest.mark.parametrize("value", ["model-canary-new-1", "model-canary-9f2c5d7b-4", "model-canary-new-2"])
def test_a_doorbell_for_an_earlier_run_is_a_leftover(value: str) -> None:
    run = past_run("new", attempt=2, stage="Stepping")
    assert ask(cluster(notes={f"{PREFIX}abort": value}, runs=[run])) is None


def test_an_annotation_that_a_promotion_brought_to_stable_s_template_asks_for_nothing() -> None:
    made = labelled("in its pod template", value="model-canary")
    assert not asks(made)
    assert wanted(made, cluster(), lambda *_: None) is None


@pytest.mark.parametrize("spec", [None, {}, {"template": None}, {"template": {"metadata": {"labels": "x"}}}])
def test_what_is_no_deployment_asks_for_nothing(spec: Json | None) -> None:
    assert not asks({"metadata": {"name": "x", "namespace": "shop"}, "spec": spec})


def test_what_we_note_on_stable_for_a_moment_is_no_slip_of_anybody_s_pen() -> None:
    """An Event told its owner to remove the annotation that a rollback gives it, and that goes by itself."""
    assert not asks(deployment("model", notes={FENCE: "1042"}))
    assert asks(deployment("model", notes={FENCE: "1042", f"{PREFIX}fences": "1042"}))


def test_what_is_no_freeze_on_a_namespace_is_refused_with_what_is_read_there() -> None:
    """Nobody said that it is read nowhere. A freeze with a slip of the pen is one, and says so itself."""
    there = cluster()
    notes = {f"{PREFIX}freze": "true", "example.com/team": "a"}
    there.listed("namespaces", [{"metadata": {"name": "shop", "annotations": notes}}])
    assert isinstance(ask(there), Asked)
    notes[f"{PREFIX}stop"] = "true"
    refused = ask(there)
    assert isinstance(refused, Refused)
    assert refused.message == (
        "annotation serin.dev/stop of namespace shop is unknown; remove it or use one of serin.dev/: freeze"
    )
