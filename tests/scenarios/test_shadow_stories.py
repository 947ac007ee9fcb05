"""Shadow checks from the annotation to the end, in virtual time, with the worker's own code."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import structlog

from controller.report import explanation
from gpu_shadow.sketch import captured, written
from scenarios.live import digits
from scenarios.objects import CANARY, NAMESPACE, STABLE, objects
from scenarios.play import Theatre
from scenarios.plot import ArmFault, Patch, Story, Target, TargetFault
from scenarios.story import load
from scenarios.virtual.loop import run_virtual

Json = Any
SCENARIOS = Path(__file__).parents[2] / "scenarios"
STORIES = sorted(file.stem for file in SCENARIOS.glob("shadow-*.yaml"))
AUDIT = {"destination": {"host": "audit", "port": {"number": 80}}}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


def story(name: str, **changes: Any) -> Story:
    return replace(load(SCENARIOS / f"{name}.yaml"), history=timedelta(seconds=15), **changes)


@dataclass
class Watched:
    """A story that was played, with every state of its VirtualService."""

    theatre: Theatre
    services: list[Json] = field(default_factory=list)

    @property
    def run(self) -> Json:
        (run,) = self.theatre.world.objects("canaryruns", NAMESPACE)
        return run

    @property
    def shadow(self) -> Json:
        """What the run's status says of its Shadow check."""
        (found,) = [check for check in self.run["status"]["checks"] if check["name"] == "shadow"]
        return found

    def said(self, reason: str) -> list[str]:
        events = self.theatre.world.objects("events", NAMESPACE)
        return [event.get("note") or event["message"] for event in events if event["reason"] == reason]

    @property
    def mirrored(self) -> list[bool]:
        """Whether requests were mirrored to the recorder, at each change."""
        hosts = [
            [one["destination"]["host"] for http in each["spec"]["http"] for one in http.get("mirrors", ())]
            for each in self.services
        ]
        return [any(host.startswith("serin-shadow") for host in these) for these in hosts]

    def untouched(self) -> bool:
        """Whether the VirtualService is as it was written, but for what the API server keeps of its own."""
        (first,) = [obj for obj in objects(self.theatre.story) if obj["kind"] == "VirtualService"]
        return json.dumps(self.services[-1]["spec"]) == json.dumps(first["spec"])


def played(what: Story) -> Watched:
    async def perform() -> Watched:
        theatre = Theatre(what, report=lambda _line: None)
        seen = Watched(theatre)
        theatre.world.on_change(
            lambda _type, kind, obj: seen.services.append(obj) if kind == "virtualservices" else None
        )
        await theatre.through()
        return seen

    return run_virtual(perform())


def merged(kind: str, name: str, merge: Mapping[str, Json], *, at: float = 0) -> Patch:
    return Patch(at=timedelta(seconds=at), kind=kind, name=name, merge=merge)


def routed(*, at: float = 0, **more: Json) -> Patch:
    """The lab's route with something beside it."""
    (vs,) = [
        obj
        for obj in objects(load(SCENARIOS / "shadow-good-requantised.yaml"))
        if obj["kind"] == "VirtualService"
    ]
    return merged("VirtualService", STABLE, {"spec": {"http": [vs["spec"]["http"][0] | more]}}, at=at)


@pytest.mark.parametrize("name", STORIES)
def test_a_story_with_a_shadow_check_ends_as_its_file_expects(name: str) -> None:
    seen = played(story(name))
    assert seen.theatre.result.ok, seen.theatre.result
    assert seen.theatre.result.requests.failed == 0
    assert True in seen.mirrored
    globals()[f"look_{name.removeprefix('shadow-').replace('-', '_')}"](seen)


def test_a_story_with_a_shadow_check_is_the_same_whenever_it_is_played() -> None:
    short = story("shadow-recorder-dies", duration=timedelta(seconds=3))
    first, second = played(short), played(short)
    assert first.theatre.result == second.theatre.result
    assert first.run["metadata"]["name"] == second.run["metadata"]["name"]


def look_good_requantised(seen: Watched) -> None:
    raised = next(at for at, vs in enumerate(seen.services) if vs["spec"]["http"][0]["route"][1]["weight"])
    assert True in seen.mirrored[:raised]
    assert seen.untouched()
    assert seen.shadow["verdict"] == "Pass"
    assert seen.shadow["canaryRequests"] > 100
    assert "logE" not in seen.shadow
    said = explanation(seen.run, now=seen.theatre.world.clock())
    assert "shadow: Pass" in said
    assert "answers differ beyond the noise floor; 2 % may" in said


def nobody_saw_it(seen: Watched) -> str:
    """The sentence with which a run ended before its canary's first request."""
    assert seen.theatre.result.requests.canary == 0
    assert seen.run["status"].get("weights", []) == []
    assert seen.untouched()
    assert "finalizers" not in seen.run["metadata"]
    (told,) = seen.said("CheckFailed")
    return told


def look_wrong_preprocessing(seen: Watched) -> None:
    assert nobody_saw_it(seen).startswith("shadow: At least ")


def look_label_permuted(seen: Watched) -> None:
    assert nobody_saw_it(seen).startswith("shadow: At least ")
    most = seen.shadow["worst"]  # through the API server's schema, which drops what it does not know
    assert [each["score"] for each in most] == sorted((each["score"] for each in most), reverse=True)
    assert len({each["id"] for each in most}) == 5
    said = explanation(seen.run, now=seen.theatre.world.clock())
    assert f"most different: {most[0]['id']} (another answer), " in " ".join(said.split())


def look_embedding_good(seen: Watched) -> None:
    assert seen.shadow["verdict"] == "Pass"
    assert seen.shadow["canaryRequests"] > 25
    assert seen.untouched()


def look_embedding_wrong(seen: Watched) -> None:
    assert nobody_saw_it(seen).startswith("shadow: At least ")


def look_nan_storm(seen: Watched) -> None:
    assert nobody_saw_it(seen).endswith("answers are NaN or infinite where stable's are numbers.")


def look_schema_renamed(seen: Watched) -> None:
    takes = "shadow: the canary takes 64 features a row as image, stable 64 features a row as pixels: "
    assert nobody_saw_it(seen).startswith(takes)


def look_canary_slow_but_right(seen: Watched) -> None:
    assert seen.shadow["verdict"] == "Pass"
    assert seen.theatre.result.requests.canary > 50
    assert seen.untouched()


def look_recorder_dies(seen: Watched) -> None:
    held(seen)
    worker = "the worker at http://serin-shadow.serin-system.svc.cluster.local:8081"
    why = "cannot be reached (ConnectionRefusedError); see whether its pod is ready"
    assert seen.said("NoData") == [f"shadow has no data: {worker} {why}"]
    assert seen.theatre.result.requests.stable > 700


def look_worker_preempted(seen: Watched) -> None:
    """The Pass takes 870 requests: more than came before, and more than could come again by then."""
    raised = next(at for at, weight in seen.theatre.result.weights if weight)
    assert 10 < raised < 10 + 8.7
    assert seen.shadow["canaryRequests"] > 800
    assert seen.untouched()


def look_empty_capture(seen: Watched) -> None:
    held(seen)
    assert seen.said("NoData") == ["shadow has no data: no request has been mirrored yet"]


def held(seen: Watched) -> None:
    assert seen.theatre.result.requests.canary == 0
    assert seen.run["status"]["phase"] == "Paused"
    assert seen.mirrored[-1] is True  # somebody may still call, or the worker come back
    (told,) = seen.said("NoData")
    assert told.startswith("shadow has no data: ")


def test_a_canary_with_an_output_too_many_is_rolled_back_and_the_form_is_named() -> None:
    base = story("shadow-schema-renamed")
    seen = played(replace(base, canary=replace(base.canary, model="digits-eleven")))
    assert nobody_saw_it(seen).endswith("answers have another form: shape (11,) instead of (10,).")


def test_a_model_file_that_the_worker_cannot_read_holds_the_run_and_says_why() -> None:
    """What cannot be loaded says nothing of the canary: no data, and neither a Pass nor a Fail."""
    gone = f"file:///models/digits.pt@sha256:{'0' * 64}"
    annotated = {"spec": {"template": {"metadata": {"annotations": {"serin.dev/artifact": gone}}}}}
    edit = merged("Deployment", CANARY, annotated)
    seen = played(story("shadow-empty-capture", edits=(edit,), requests_per_second=50))
    held(seen)
    assert "a .pt file may run any code when it is loaded" in seen.said("NoData")[0]


def test_a_worker_that_hangs_is_as_good_as_dead() -> None:
    fault = TargetFault(at=timedelta(seconds=5), target=Target.SHADOW, kind="hang")
    seen = played(story("shadow-recorder-dies", faults=(fault,)))
    held(seen)
    assert seen.said("NoData")[0].endswith("did not answer within 2 s")


def test_a_new_leader_takes_away_the_mirror_that_the_last_one_left_behind() -> None:
    hangs = TargetFault(at=timedelta(0), target=Target.SHADOW, kind="hang")
    dies = TargetFault(at=timedelta(seconds=3), target=Target.CONTROLLER, kind="kill")
    asks_no_more = merged("Deployment", CANARY, {"metadata": {"annotations": None}}, at=15)
    seen = played(story("shadow-recorder-dies", controllers=2, faults=(hangs, dies), edits=(asks_no_more,)))
    assert True in seen.mirrored
    assert seen.run["status"]["reason"] == "Aborted"
    assert seen.untouched()


def test_a_decision_is_remembered_by_the_next_leader_although_the_worker_is_gone() -> None:
    dies = [
        TargetFault(at=timedelta(seconds=12), target=Target.SHADOW, kind="kill"),
        TargetFault(at=timedelta(seconds=12), target=Target.CONTROLLER, kind="kill"),
    ]
    seen = played(story("shadow-good-requantised", controllers=2, faults=tuple(dies)))
    assert seen.theatre.result.outcome == "Promoted"
    assert seen.untouched()


def test_a_check_that_is_not_required_delays_no_rollback_when_its_worker_hangs() -> None:
    base = load(SCENARIOS / "errors-burst.yaml")
    # nine in ten fail, so that both are found at once, whichever requests were drawn
    worse = (replace(f, error_rate=0.9) if isinstance(f, ArmFault) else f for f in base.faults)
    base = replace(base, faults=tuple(worse))
    shadow = {"name": "shadow", "type": "Shadow", "maxFlips": "2%", "required": False}
    checks = [{"name": "errors", "type": "ErrorRate", "maxIncrease": "50%", "plus": "0.1%"}, shadow]
    hangs = TargetFault(at=timedelta(0), target=Target.SHADOW, kind="hang")
    alone = replace(base, policy=dict(base.policy) | {"checks": checks[:1]}, history=timedelta(seconds=60))
    beside = replace(alone, policy=dict(base.policy) | {"checks": checks}, faults=(*base.faults, hangs))
    without, with_it = played(alone).theatre.result, played(beside)
    assert with_it.theatre.result.check == without.check == "errors"
    assert with_it.theatre.result.seconds_to_weight_zero is not None
    assert without.seconds_to_weight_zero is not None
    # the share of alpha is another one, so that evidence takes a little longer; a wait would be 10 s
    assert with_it.theatre.result.seconds_to_weight_zero < without.seconds_to_weight_zero + 3
    assert with_it.untouched()


def test_a_mirror_of_the_user_s_is_refused_with_an_event_and_left_alone() -> None:
    seen = played(
        story(
            "shadow-good-requantised",
            edits=(routed(mirror={"host": "audit"}),),
            duration=timedelta(seconds=20),
        )
    )
    assert seen.theatre.world.objects("canaryruns", NAMESPACE) == []
    (told,) = seen.said("Refused")
    assert told.startswith("VirtualService model: spec.http[0].mirror is set: Istio takes no other mirror")
    assert len(seen.services) == 1


def test_a_route_that_gets_a_mirror_meanwhile_holds_the_run_is_said_once_and_left_alone() -> None:
    synced, undone = routed(at=5, mirror={"host": "audit"}), routed(at=12)
    seen = played(story("shadow-recorder-dies", faults=(), edits=(synced, undone)))
    (told,) = seen.said("NoData")
    assert told == (
        "shadow has no data: VirtualService model: spec.http[0].mirror is set: Istio takes no other mirror"
        " beside it; write it as an entry of mirrors, or take the Shadow check out of the policy"
    )
    assert seen.mirrored == [False, True, False, False, True]  # ours, theirs, nobody's, ours
    assert seen.theatre.result.requests.canary == 0


def test_beside_mirrors_of_the_user_s_ours_comes_and_goes() -> None:
    seen = played(story("shadow-good-requantised", edits=(routed(mirrors=[AUDIT]),)))
    assert seen.theatre.result.outcome == "Promoted"
    assert max(len(vs["spec"]["http"][0]["mirrors"]) for vs in seen.services) == 2
    assert seen.untouched()


def test_a_model_that_is_not_named_is_refused_with_an_event() -> None:
    unnamed = {"spec": {"template": {"metadata": {"annotations": {"serin.dev/artifact": None}}}}}
    seen = played(
        story(
            "shadow-good-requantised",
            edits=(merged("Deployment", STABLE, unnamed),),
            duration=timedelta(seconds=20),
        )
    )
    (told,) = seen.said("Refused")
    assert "Deployment model: spec.template.metadata.annotations[serin.dev/artifact] is missing" in told
    assert len(seen.services) == 1


class Fixed:
    """A folder that is known before the story begins."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)

    def cleanup(self) -> None:
        """The test's own folder stays."""


def trained_on(folder: Path, pictures: Any, monkeypatch: pytest.MonkeyPatch) -> Patch:
    """The canary's template names a baseline of these pictures, in the worker's folder."""
    monkeypatch.setattr("scenarios.virtual.shadow.tempfile.TemporaryDirectory", lambda **_: Fixed(folder))
    body = written(captured({f"x[{i}]": pictures[:, i] for i in range(pictures.shape[1])}))
    (folder / "digits.json").write_bytes(body)
    reference = f"file:///models/digits.json@sha256:{sha256(body).hexdigest()}"
    named = {"metadata": {"annotations": {"serin.dev/baseline": reference}}}
    return merged("Deployment", CANARY, {"spec": {"template": named}})


def test_a_canary_whose_inputs_are_as_in_its_training_is_promoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = trained_on(tmp_path, digits.load().pictures, monkeypatch)
    seen = played(story("shadow-good-requantised", edits=(edit,)))
    assert seen.theatre.result.outcome == "Promoted"
    assert (seen.said("InputsDrifted"), seen.said("RetrainingWanted")) == ([], [])


def test_a_canary_whose_inputs_differ_from_its_training_is_held_and_nothing_is_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = trained_on(tmp_path, 16 - digits.load().pictures, monkeypatch)
    seen = played(story("shadow-good-requantised", edits=(edit,), duration=timedelta(seconds=60)))
    assert seen.theatre.result.outcome == "Held"
    assert seen.theatre.result.requests.canary == 0
    status = seen.run["status"]
    assert (status["phase"], status["reason"]) == ("Paused", "InputsDrifted")
    (shadow,) = [check for check in status["checks"] if check["name"] == "shadow"]
    assert shadow["verdict"] == "Pass"
    for reason in ("InputsDrifted", "RetrainingWanted"):
        (told,) = seen.said(reason)
        assert told.startswith("inputs differ from training: ")
    assert seen.untouched()
    said = " ".join(explanation(seen.run, now=seen.theatre.world.clock()).split())
    assert "inputs differ from training: " in said
    assert "It goes on when somebody approves, or recorded inputs are as in the training again." in said
    assert "serin approve" in said


def test_a_baseline_that_cannot_be_named_is_refused_with_an_event() -> None:
    named = {"metadata": {"annotations": {"serin.dev/baseline": "training.csv"}}}
    edit = merged("Deployment", CANARY, {"spec": {"template": named}})
    seen = played(story("shadow-good-requantised", edits=(edit,), duration=timedelta(seconds=20)))
    (told,) = seen.said("Refused")
    assert 'annotations[serin.dev/baseline] is "training.csv"; give' in told
