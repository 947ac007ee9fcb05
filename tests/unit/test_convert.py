"""What becomes of Flagger's and Argo Rollouts' objects, and that no field of theirs is lost."""

import copy
import json
import random
import re
import sys
from datetime import timedelta
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from controller import gates, planning
from controller.alerts import ATTEMPT_TIMEOUT
from controller.cli import serin
from controller.convert import policy, promql, receivers, report, whole
from controller.convert.account import Account, BadObject, ClaimedTwice, Fate, Source, Target, leaves, shown
from controller.convert.report import Converted
from tests.asking import asked

Json = Any
PEERS = Path(__file__).parent / "peers"
INPUTS = sorted(PEERS.glob("*.yaml"))
WHOLE = {"flagger-1-simple": "shop/fraud-canary", "argo-2-istio": "shop/fraud-canary"} | {
    "argo-3-subsets": "search/ranker-server-canary"
}


def named(path: Path) -> str:
    return path.stem


def converted(path: Path) -> Converted:
    return whole.converted({path.name: path.read_text()})


def typed(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(serin, ["convert", *arguments], input=stdin)


def documents(path: Path) -> list[Json]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def dumped(objects: list[Json]) -> str:
    return yaml.safe_dump_all(objects, sort_keys=False, allow_unicode=True)


# -- ten of them, looked at ------------------------------------------------------------------------


@pytest.mark.parametrize("path", INPUTS, ids=named)
def test_what_is_written_is_what_was_looked_at(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a look: for f in *.yaml; do serin convert $f > ${f%.yaml}.out 2> ${f%.yaml}.report; done."""
    monkeypatch.chdir(PEERS)
    done = typed(path.name)

    assert done.stdout == path.with_suffix(".out").read_text()
    assert done.stderr == path.with_suffix(".report").read_text()
    assert done.exit_code == 3


def _flagger(tmp_path: Path, analysis: str) -> Converted:
    given = yaml.safe_load_all((PEERS / "flagger-1-simple.yaml").read_text())
    objects = [*given]
    objects[0]["spec"]["analysis"] = yaml.safe_load(analysis)
    file = tmp_path / "canary.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    return converted(file)


def test_an_absolute_limit_that_nothing_is_compared_with_is_told_as_lost(tmp_path: Path) -> None:
    """A `max: 500` of request-duration was counted among what needs nothing."""
    metric = "metrics: [{name: request-duration, thresholdRange: {max: 500}}]"
    done = _flagger(tmp_path, metric)
    (line,) = (one for one in report.lines(done) if "thresholdRange.max" in one)
    assert line.startswith(
        "  !  spec.analysis.metrics[0].thresholdRange.max: 500 - no equivalent: an absolute"
    )
    assert not done.complete
    assert _flagger(tmp_path, "metrics: [{name: request-success-rate, thresholdRange: {min: 99}}]").complete


def _line(done: Converted, field: str) -> str:
    (line,) = (one for one in report.lines(done) if f" {field}: " in one)
    return line


@pytest.mark.parametrize(("timeout", "sign"), [("10s", "="), ("15s", "!"), ("1m", "!"), ("9500ms", "=")])
@pytest.mark.parametrize("kind", ["confirm-rollout", "event"])
def test_a_hook_that_had_longer_than_an_attempt_has_is_told_as_lost(
    tmp_path: Path, kind: str, timeout: str, sign: str
) -> None:
    hook = f"{{name: a, type: {kind}, url: 'https://ci.example/x', timeout: {timeout}}}"
    done = _flagger(tmp_path, f"{{webhooks: [{hook}]}}")
    line = _line(done, "spec.analysis.webhooks[0].timeout")
    assert line.startswith(f"  {sign} ")
    assert ("ten seconds an attempt" in line) == (sign == "=")
    assert timedelta(seconds=gates.PATIENCE) == receivers.ATTEMPT == timedelta(seconds=ATTEMPT_TIMEOUT)


def test_a_gate_whose_receiver_is_told_nothing_to_do_is_told_as_one_that_may_never_open(
    tmp_path: Path,
) -> None:
    hook = "{name: a, type: pre-rollout, url: 'https://load.example/', metadata: {type: bash, cmd: x}}"
    done = _flagger(tmp_path, f"{{webhooks: [{hook}]}}")
    line = _line(done, "spec.analysis.webhooks[0].url")
    assert line.startswith("  !  ")
    assert "no equivalent: spec.gates[0] asks it, and its metadata is not sent" in line
    assert "may NEVER open" in line
    assert done.objects[0]["spec"]["gates"] == [
        {"before": "Start", "webhook": {"url": "https://load.example/"}}
    ]
    plain = _flagger(tmp_path, f"{{webhooks: [{hook.replace('metadata: {type: bash, cmd: x}', '')}]}}")
    assert _line(plain, "spec.analysis.webhooks[0].url").startswith("  -> ")


def test_a_policy_without_checks_says_which_judge_then(tmp_path: Path) -> None:
    done = _flagger(tmp_path, "{interval: 1m}")
    assert "checks" not in done.objects[0]["spec"]
    (said,) = (one for one in done.todo if "nothing became a check" in one)
    assert all(each["name"] in said for each in planning.builtin()["checks"])
    checked = _flagger(tmp_path, "metrics: [{name: request-success-rate, thresholdRange: {min: 99}}]")
    assert not any("nothing became" in one for one in checked.todo)


def test_nothing_of_a_metric_that_became_no_check_is_called_built_in(tmp_path: Path) -> None:
    metric = "{name: cost, interval: 1m, thresholdRange: {max: 5}, query: 'sum(dollars_total)'}"
    done = _flagger(tmp_path, f"{{metrics: [{metric}]}}")
    lines = [line for line in report.lines(done) if "spec.analysis.metrics[0]" in line]
    assert len(lines) == 4
    assert all(line.startswith("  !  ") for line in lines)


@pytest.mark.parametrize(
    ("by", "most", "steps"),
    [(20, 50, [20, 40, 60]), (10, 50, [10, 20, 30, 40, 50]), (60, 50, [60]), (30, 100, [30, 60, 90])],
)
def test_the_last_step_is_where_flagger_stops(tmp_path: Path, by: int, most: int, steps: list[int]) -> None:
    """It raises while the weight is below maxWeight, so that the last one may be above it."""
    done = _flagger(tmp_path, f"{{stepWeight: {by}, maxWeight: {most}}}")
    assert done.objects[0]["spec"]["steps"] == steps
    told = [one for one in report.lines(done) if "reached or passed" in one]
    assert len(told) == (2 if steps[-1] > most else 0)


def test_there_are_five_of_each_peer() -> None:
    assert [sum(path.stem.startswith(peer) for path in INPUTS) for peer in ("flagger", "argo")] == [5, 5]


@pytest.mark.parametrize("path", INPUTS, ids=named)
def test_each_of_the_ten_has_a_report_of_all_that_has_no_equivalent_and_what_to_do_instead(
    path: Path,
) -> None:
    done = converted(path)
    left = [
        entry
        for account in done.accounts
        for entry in account.entries
        if entry.fate in {Fate.MISSING, Fate.UNKNOWN}
    ]
    lines = path.with_suffix(".report").read_text().splitlines()
    told = [line for line in lines if line.startswith(("  !  ", "  ?  "))]
    assert len(told) == len(left)
    for entry, line in zip(left, told, strict=True):
        assert line.startswith((f"  !  {shown(entry.path)}: ", f"  ?  {shown(entry.path)}: "))
        assert line.endswith(f" - {entry.fate}: {entry.says}")
        assert len(entry.says.split()) >= 4 or entry.says.startswith(
            "as "
        )  # what to do, or where that is said
    fields = sum(entry.fields for entry in left)
    counted = re.search(r"(\d+) no equivalent, (\d+) unknown", lines[-1])
    assert counted is not None
    assert fields == int(counted[1]) + int(counted[2])


def test_the_ten_are_varied() -> None:
    """Each has fields that none of the other nine has, but Flagger's simplest; all have a report."""
    paths = {
        path.stem: {
            "/".join(str(part) for part in entry.path if isinstance(part, str))
            for account in converted(path).accounts
            for entry in account.entries
        }
        for path in INPUTS
    }
    own = {
        name: mine - set().union(*(other for one, other in paths.items() if one != name))
        for name, mine in paths.items()
    }
    assert {name for name, fields in own.items() if not fields} == {"flagger-1-simple"}
    assert (
        sum(any("no equivalent" in line for line in report.lines(converted(path))) for path in INPUTS) == 10
    )
    assert len(set().union(*paths.values())) > 150


@pytest.mark.parametrize(("name", "workload"), WHOLE.items())
def test_what_is_written_starts_a_run(name: str, workload: str) -> None:
    """The API server takes it by its schemas and rules, and the controller's own trigger asks for a run."""
    namespace, deployment = workload.split("/")

    place = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    objects = [place, *converted(PEERS / f"{name}.yaml").objects]
    made, refused = asked(objects, (namespace, deployment))
    assert refused == []
    (one,) = made
    assert one["metadata"]["name"].startswith(f"{deployment}-")
    assert "ErrorRate" in {check["type"] for check in one["spec"]["plan"]["policy"]["checks"]}


# -- nothing is lost -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", INPUTS, ids=named)
def test_every_field_is_claimed_once(path: Path) -> None:
    for account in converted(path).accounts:
        assert set(account.claimed) == {leaf for leaf, _ in leaves(account.document)}
        assert sum(entry.fields for entry in account.entries) == len(account.claimed)


def test_a_field_that_two_claim_is_a_mistake_of_ours() -> None:
    account = Account(Source("a.yaml", 1, "Canary", "a"), {"spec": {"a": 1, "b": {"c": 2}}})
    account.becomes("spec.b", Target("CanaryPolicy", "a", ("spec",)))
    account.settle({"spec.a": (Fate.MISSING, "no")})

    with pytest.raises(ClaimedTwice, match=r"spec\.b\.c was claimed"):
        account.built_in("spec.b.c", "again")
    with pytest.raises(ClaimedTwice, match=r"spec\.a"):
        account.missing("spec", "all of it")


def mappings(value: Json) -> list[Json]:
    """Every mapping within, itself first."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value] * isinstance(value, dict) + [each for part in inside for each in mappings(part)]


@pytest.mark.parametrize("path", INPUTS, ids=named)
def test_a_field_that_nobody_knows_is_said_wherever_it_stands(path: Path) -> None:
    """One is put into each mapping in turn: it is unknown, or it is a part of something that went one way."""
    objects = documents(path)
    places = range(len(mappings(objects)))
    for place in random.Random(path.stem).sample(places, min(25, len(places))):
        changed = copy.deepcopy(objects)
        mappings(changed)[place]["neverHeardOf"] = 4711
        try:
            done = whole.converted({"a.yaml": dumped(changed)})
        except BadObject:
            continue
        found = [
            (account, leaf)
            for account in done.accounts
            for leaf, value in leaves(account.document)
            if leaf[-1:] == ("neverHeardOf",) and value == 4711
        ]
        if mappings(changed)[place].get("kind") == "List":
            continue  # no part of any object
        ((account, leaf),) = found
        entry = account.claimed[leaf]
        assert entry.fate is Fate.UNKNOWN or entry.path != leaf or entry.to or entry.says
        assert "neverHeardOf" in str(entry.value) or entry.path == leaf
        assert not done.complete or entry.fate is not Fate.UNKNOWN


@pytest.mark.parametrize("where", ["spec", "spec.analysis", "spec.service", "spec.analysis.metrics[0]"])
def test_a_field_of_the_peer_s_that_is_new_to_us_is_unknown_and_said_so(where: str) -> None:
    objects = documents(PEERS / "flagger-1-simple.yaml")
    Account(Source("a", 1, "", ""), objects[0]).any(where)["next"] = {"year": 1}
    done = whole.converted({"a.yaml": dumped(objects)})

    lines = [line for line in report.lines(done) if "unknown:" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"  ?  {where}.next.year: 1 - unknown: this converter does not know the field")
    assert not done.complete


SLIPS = [
    ("flagger-1-simple", "spec.analysis", "stepWieght", "stepWeight"),
    ("flagger-1-simple", "spec.analysis", "StepWeight", "stepWeight"),
    ("flagger-1-simple", "spec", "analisys", "analysis"),
    ("flagger-1-simple", "spec.analysis.metrics[0]", "treshold", "threshold"),
    ("argo-1-simple", "spec.strategy.canary.steps[0]", "setWieght", "setWeight"),
    ("argo-1-simple", "spec.strategy", "canray", "canary"),
]


@pytest.mark.parametrize(("name", "where", "slip", "meant"), SLIPS)
def test_a_misspelt_field_is_told_with_what_was_meant(name: str, where: str, slip: str, meant: str) -> None:
    objects = documents(PEERS / f"{name}.yaml")
    holder = Account(Source("a", 1, "", ""), objects[0]).any(where)
    holder[slip] = holder.pop(meant, {"a": 1})
    lines = [
        line for line in report.lines(whole.converted({"a.yaml": dumped(objects)})) if "unknown:" in line
    ]

    assert lines
    assert all(
        f".{slip}" in line and f"unknown: did you mean {meant}? this converter" in line for line in lines
    )


def test_a_field_that_is_given_beside_it_was_not_meant() -> None:
    objects = documents(PEERS / "flagger-1-simple.yaml")
    analysis = objects[0]["spec"]["analysis"]
    assert {"stepWeight", "maxWeight"} <= analysis.keys()
    analysis["maxWeigth"] = 5
    (line,) = [one for one in report.lines(whole.converted({"a.yaml": dumped(objects)})) if "unknown:" in one]
    assert "did you mean" not in line
    assert "it is like maxWeight, which is given beside it: leave one out. this converter" in line


@pytest.mark.parametrize("path", INPUTS, ids=named)
def test_what_is_wrong_is_said_with_its_place_and_nothing_escapes(path: Path) -> None:
    """Fields are replaced by what does not belong there: either all are accounted for, or one is named."""
    objects, chance, said = documents(path), random.Random(path.stem), list[str]()
    paths = [leaf for leaf, _ in leaves(objects)]
    for leaf in chance.sample(paths, min(30, len(paths))):
        depth = chance.randint(2, len(leaf)) if len(leaf) > 2 else len(leaf)
        changed = copy.deepcopy(objects)
        holder: Json = changed
        for part in leaf[: depth - 1]:
            holder = holder[part]
        holder[leaf[depth - 1]] = chance.choice([None, 5, -1, "x y", [], {}, True, [{"a": 1}], "1e999"])
        try:
            done = whole.converted({"a.yaml": dumped(changed)})
        except BadObject as error:
            said.append(str(error))
            continue
        for account in done.accounts:
            assert set(account.claimed) == {one for one, _ in leaves(account.document)}
    assert all(each.startswith(("a.yaml", "CanaryPolicy")) for each in said)


@pytest.mark.parametrize("path", INPUTS, ids=named)
def test_the_report_as_json_says_what_is_written_where_it_says(path: Path) -> None:
    done = converted(path)
    said = json.loads(json.dumps(report.as_json(done)))
    by_name = {f"{obj['kind']}/{obj['metadata']['name']}": obj for obj in done.objects}

    entries = [entry for obj in said["objects"] for entry in obj["fields"]]
    assert said["complete"] is done.complete
    assert sum(entry["fields"] for entry in entries) == sum(len(each.claimed) for each in done.accounts)
    for entry in entries:
        if not str(entry.get("to", "Annotations")).startswith("Annotations"):
            assert (
                entry["becomes"] == report.HIDDEN
                or Account(Source("", 1, "", ""), by_name[entry["to"]]).any(entry["path"]) == entry["becomes"]
            )


def test_no_secret_is_in_a_report() -> None:
    for path in INPUTS:
        done = converted(path)
        text = "\n".join([*report.lines(done), json.dumps(report.as_json(done))])
        assert "not-to-be-shown" not in text
        assert "Bearer" not in text


def test_the_files_of_forty_models_are_sent_in_their_order_too(tmp_path: Path) -> None:
    """By their names, as kubectl takes them, "100-" came before "11-", and canaries before their policies."""
    file = tmp_path / "forty.yaml"
    file.write_text("---\n".join(TARGETED.replace("name: a", f"name: model-{place}") for place in range(40)))
    assert typed(str(file), "-o", str(tmp_path / "out")).exit_code == 3
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(names) > 100
    assert [int(name.partition("-")[0]) for name in names] == [*range(1, len(names) + 1)]


def test_steps_that_take_more_pods_than_stable_has_are_left_to_do(tmp_path: Path) -> None:
    """Argo's own example goes up to 80: its run was held at 40 % for good, and nothing had said so."""
    steps = "[{setWeight: 40}, {setWeight: 60}, {setWeight: 80}]"
    (said,) = (each for each in _rollout(tmp_path, f"{{canary: {{steps: {steps}}}}}").todo if "52 %" in each)
    assert said.startswith(
        "steps above 52 % (60, 80) take more pods of the canary than stable has, 37 for stable's 10"
    )
    assert "Deployment a-canary" in said
    fine = _rollout(tmp_path, "{canary: {steps: [{setWeight: 20}, {setWeight: 52}]}}")
    assert not any("52 %" in each for each in fine.todo)


# -- how many pods -------------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", ["replicas: 0", "minReadySeconds: 0"])
def test_a_target_that_flagger_has_scaled_to_zero_is_not_written_so(tmp_path: Path, replicas: str) -> None:
    """What kubectl gets of the target, as docs/migrating.md has it, says 0, and no request finds a pod."""
    deployment = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: a}}
spec: {{{replicas}, selector: {{matchLabels: {{app: a}}}}, template: {{metadata: {{labels: {{app: a}}}}}}}}
"""
    file = tmp_path / "flagger.yaml"
    file.write_text(f"{TARGETED}---{deployment}")
    done = converted(file)
    stable = next(
        each for each in done.objects if each["metadata"]["name"] == "a" and each["kind"] == "Deployment"
    )
    assert "replicas" not in stable["spec"]
    assert any("kubectl scale deployment a --replicas=N" in each for each in done.todo)
    assert not done.complete


def test_the_canary_of_a_long_name_has_one_that_a_run_can_be_labelled_by(tmp_path: Path) -> None:
    file = tmp_path / "rollout.yaml"
    file.write_text(ROLLOUT.replace("{name: a}", f"{{name: {'a' * 60}}}") + "  strategy: {canary: {}}\n")
    (canary,) = (each for each in converted(file).objects if each["metadata"].get("annotations"))
    assert canary["metadata"]["name"] == f"{'a' * 56}-canary"


# -- a Rollout's own ----------------------------------------------------------------------------------

ROLLOUT = """
apiVersion: argoproj.io/v1alpha1
kind: Rollout
metadata: {name: a}
spec:
  replicas: 2
  selector: {matchLabels: {app: a}}
  template: {metadata: {labels: {app: a}}, spec: {containers: []}}
"""


def _rollout(tmp_path: Path, strategy: str) -> Converted:
    file = tmp_path / "rollout.yaml"
    file.write_text(f"{ROLLOUT}  strategy: {strategy}\n")
    return converted(file)


def test_blue_green_that_people_promote_is_asked_about_and_splits_the_service_that_callers_name(
    tmp_path: Path,
) -> None:
    """It was promoted without a question, behind a host that nobody calls and no Service has."""
    by_hand = _rollout(tmp_path, "{blueGreen: {activeService: live, autoPromotionEnabled: false}}")
    policy, route = (
        next(each["spec"] for each in by_hand.objects if each["kind"] == kind)
        for kind in ("CanaryPolicy", "VirtualService")
    )
    assert policy["gates"] == [{"before": "Promotion", "manual": {}}]
    assert route["hosts"] == ["live"]
    assert {each["destination"]["host"] for each in route["http"][0]["route"]} == {"live"}
    for strategy in (
        "{blueGreen: {activeService: live}}",
        "{blueGreen: {activeService: live, autoPromotionEnabled: true}}",
    ):
        assert "gates" not in _rollout(tmp_path, strategy).objects[0]["spec"]


def test_a_weight_that_is_set_again_is_not_said_to_be_taken_back(tmp_path: Path) -> None:
    steps = "[{setWeight: 20}, {setWeight: 20}, {setWeight: 10}, {replicaProgressThreshold: {value: 3}}]"
    said = "\n".join(report.lines(_rollout(tmp_path, f"{{canary: {{steps: {steps}}}}}")))
    assert "=  spec.strategy.canary.steps[1].setWeight: 20 - built in: it is that weight already" in said
    assert "!  spec.strategy.canary.steps[2].setWeight: 10 - no equivalent: steps rise" in said
    assert "!  spec.strategy.canary.steps[3].replicaProgressThreshold" in said


# -- what is asked ---------------------------------------------------------------------------------

WHO = 'namespace="{{ namespace }}", pod=~"{{ target }}-.*"'


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        (
            f"histogram_quantile(.99, sum(rate(model_inference_duration_seconds_bucket{{{WHO}}}[1m]))by(le))",
            promql.Quantile(0.99, "model_inference_duration_seconds"),
        ),
        (
            "sum(rate(istio_requests_total{response_code=~'5..'}[1m])) / sum(rate(istio_requests_total[1m]))",
            promql.Errors(good=False, of=1.0),
        ),
        (
            '100 - sum(rate(a_total{status!~"5.*"}[1m])) / sum(rate(a_total[1m])) * 100',
            promql.Errors(good=False, of=100.0, counter="a_total"),
        ),
        (
            '1 - (sum(rate(a_total{status=~"5.*"}[1m])) / sum(rate(a_total[1m])))',
            promql.Errors(good=True, of=1.0, counter="a_total"),
        ),
        *(
            (
                f"sum(rate(istio_requests_total{{response_code=~'{bad}'}}[1m]))/sum(rate(istio_requests_total[1m]))",
                promql.Errors(good=False, of=1.0),
            )
            for bad in ("5.*|503", "(5..)", "^5xx$", "[5]..", "5[0-9]{2}", "(500|502|503)", "500")
        ),
        (
            f"100 * sum(increase(b_total{{{WHO}}}[1m])) / sum(increase(c_total{{{WHO}}}[1m]))",
            promql.Share("b_total", "c_total", inverted=False, of=100.0),
        ),
        (
            "scalar((sum by (pod) (rate(b_total[1m])) / sum(rate(c_total[1m]))))",
            promql.Share("b_total", "c_total", inverted=False, of=1.0),
        ),
    ],
)
def test_a_query_is_read_for_what_it_asks(query: str, asked: promql.Asked) -> None:
    assert promql.asked(query) == asked


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("histogram_quantile(0.2, sum(rate(istio_request_duration_milliseconds_bucket[1m])) by (le))", "0.2"),
        ("histogram_quantile(0.9, sum(rate(other_seconds_bucket[1m])) by (le))", "other_seconds"),
        ('sum(rate(a_total{path="/x"}[1m])) / sum(rate(b_total[1m]))', "path"),
        ('sum(rate(a_total{status="404"}[1m])) / sum(rate(a_total[1m]))', "status"),
        ("sum(rate(a_total[1m])) / sum(rate(a_total[1m]))", "a_total"),
        ("sum(rate(a_total[1m])) / sum(rate(b_total[1m])) / 2", "neither"),
        # it became a check of 5xx, and what was watched beside them was lost without a word
        *(
            (f'sum(rate(a_total{{code=~"{bad}"}}[1m])) / sum(rate(a_total[1m]))', "tells code apart")
            for bad in ("5.*|4.*", "5..|429", "(5|4)..", "[45]..", "5..|", "(4..|5..)")
        ),
        # ... and so did the answers that others gave to the pods
        (
            'sum(rate(http_client_total{status=~"5.."}[1m])) / sum(rate(http_client_total[1m]))',
            "ask of others",
        ),
        ("avg(up)", "neither"),
        ("", "neither"),
        ("((((", "neither"),
    ],
)
def test_a_query_that_no_check_asks_is_said_with_what_to_do(query: str, why: str) -> None:
    asked = promql.asked(query)
    assert isinstance(asked, promql.Other)
    assert why in asked.why


def test_errors_by_another_counter_say_which_one_is_read() -> None:
    """Of `http_requests_total` nothing was said, and it is not what a check counts."""
    made = policy.check(
        promql.Errors(good=False, of=1.0, counter="http_requests_total"), least=None, most=0.02
    )
    assert made[0] == {"type": "ErrorRate", "plus": "2%"}
    assert made[1].startswith(
        "istio_requests_total is read, where failures are 5xx, and not http_requests_total;"
    )


# -- the command -----------------------------------------------------------------------------------

CANARY = "apiVersion: flagger.app/v1beta1\nkind: Canary\nmetadata: {name: a}\n"
TARGETED = f"{CANARY}spec: {{targetRef: {{name: a}}}}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "stdin: line 1, column 5: is not YAML"),
        ("a: 1\na: 2", "'a' stands twice"),
        ("", "stdin: holds no Canary of Flagger and no Rollout"),
        ("just text", "stdin, document 1: is no object"),
        ("kind: Pod\nmetadata: {name: p}", "stdin, document 1: Pod p: kind: is not converted; leave it out"),
        (
            "apiVersion: argoproj.io/v1alpha1\nkind: AnalysisRun\nmetadata: {name: r}",
            "AnalysisRun r: kind: is a record",
        ),
        ("apiVersion: v1\nkind: Canary\nmetadata: {name: a}", "Canary a: apiVersion: is 'v1'"),
        ("apiVersion: flagger.app/v1beta1\nkind: Canary", "metadata.name: is missing; name the object"),
        (
            'apiVersion: flagger.app/v1beta1\nkind: Canary\nmetadata: {name: "a\\n---\\nkind: Pod"}',
            "Canary: metadata.name: 'a\\n---\\nkind: Pod' is no name of an object; correct it",
        ),
        (
            "apiVersion: flagger.app/v1beta1\nkind: Canary\nmetadata: {name: a, namespace: ../x}",
            "Canary a: metadata.namespace: '../x' is no name",
        ),
        (
            f"{CANARY}spec: {{targetRef: {{name: a; $(id)}}}}",
            "Canary a: spec.targetRef.name: 'a; $(id)' is no name of an object; correct it",
        ),
        (f"{CANARY}spec: {{on: 1}}", "has a key that is no text"),
        (f"{CANARY}spec: {{}}", "Canary a: spec.targetRef.name: is missing; name the Deployment"),
        (f"{CANARY}spec: 5", "Canary a: spec: expected a mapping, got 5; correct it"),
        (
            f"{CANARY}spec: {{targetRef: {{name: a}}, analysis: {{interval: soon}}}}",
            "Canary a: spec.analysis.interval: expected a duration such as \"1m\", got 'soon'; correct it",
        ),
        (
            f"{CANARY}spec: {{targetRef: {{name: a}}}}\n---\n{CANARY}",
            "document 2: Canary a: metadata.name: is given twice",
        ),
        (
            f"{TARGETED}---\napiVersion: flagger.app/v1beta1\nkind: Canarry\nmetadata: {{name: b}}",
            "document 2: Canarry b: kind: is not converted; leave it out",
        ),
        (
            f"{TARGETED}---\napiVersion: v1\nkind: Service\nmetadata: {{namespace: b}}",
            "document 2: Service None: metadata.name: is missing; name the object",
        ),
    ],
)
def test_what_cannot_be_converted_is_said_and_nothing_is_written(
    tmp_path: Path, text: str, said: str
) -> None:
    out = tmp_path / "out"
    done = typed("-", "-o", str(out), "--report", str(tmp_path / "report.json"), stdin=text)

    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stderr.endswith("Nothing was written\n")
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_what_nothing_is_read_from_stays_as_it_is_and_is_named(tmp_path: Path) -> None:
    flagger = (PEERS / "flagger-1-simple.yaml").read_text()
    beside = (
        "\n---\napiVersion: v1\nkind: Service\nmetadata: {name: fraud}\nspec: {ports: [{port: 80}]}"
        "\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: other}"
        "\n---\napiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: fraud}"
        "\n---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: 'ours:fraud'}"
    )
    report = tmp_path / "report.json"
    alone, done = typed("-", stdin=flagger), typed("-", "--report", str(report), stdin=flagger + beside)

    assert (done.exit_code, done.stdout) == (alone.exit_code, alone.stdout)
    named = [line for line in done.stderr.splitlines() if "stays as it is" in line]
    assert [line.partition(": ")[2].partition(" - ")[0] for line in named] == [
        "Deployment other",
        "Service fraud",
        "HorizontalPodAutoscaler fraud",
        "ClusterRole ours:fraud",
    ]
    assert done.stderr.replace("".join(f"{line}\n" for line in named), "") == alone.stderr
    assert [one["kind"] for one in json.loads(report.read_text())["aside"]] == [
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "ClusterRole",
    ]


@pytest.mark.parametrize(
    ("third", "said"),
    [
        ("{destination: {host: fraud-old}, weight: 20}", "host fraud-old shares a route with both arms"),
        ("{destination: {host: fraud-stable, subset: eu}, weight: 0}", "host fraud-stable, subset eu shares"),
        ("{destination: {host: fraud-canary}, weight: 0}", "host fraud-stable, subset canary shares"),
    ],
)
def test_no_third_destination_of_a_steered_route_loses_its_weight_unsaid(third: str, said: str) -> None:
    text = (PEERS / "argo-2-istio.yaml").read_text()
    canary = "    - {destination: {host: fraud-canary}, weight: 0}\n"
    assert canary in text
    done = typed("-", stdin=text.replace(canary, f"{canary}    - {third}\n"))

    assert (done.exit_code, done.stdout) == (2, "")
    assert f"spec.http[1].route[2]: {said}" in done.stderr
    assert "give it a route of its own" in done.stderr


def test_a_service_that_argo_keeps_to_its_own_pods_is_left_to_do_before_the_route() -> None:
    done = typed(str(PEERS / "argo-2-istio.yaml"))

    assert done.exit_code == 3
    assert "to do: Service fraud-stable: its selector must not hold rollouts-pod-template-hash" in done.stderr
    steps = (PEERS.parents[2] / "docs" / "migrating.md").read_text().partition("### From Argo Rollouts")[2]
    freed, listed, routed = (
        steps.index(words) for words in ('"stableService":null', "get endpointslices", "the VirtualService,")
    )
    assert freed < listed < routed


def test_each_object_gets_a_file_of_its_own_and_the_report_one_as_json(tmp_path: Path) -> None:
    done = typed(
        str(PEERS / "argo-2-istio.yaml"), "-o", str(tmp_path / "serin"), "--report", str(tmp_path / "r.json")
    )

    assert (done.exit_code, done.stdout) == (3, "")
    names = sorted(path.name for path in (tmp_path / "serin").iterdir())
    assert names == [
        "01-canarypolicy-fraud.yaml",
        "02-deployment-fraud.yaml",
        "03-virtualservice-fraud-routes.yaml",
        "04-destinationrule-fraud-stable.yaml",
        "05-deployment-fraud-canary.yaml",
    ]
    assert json.loads((tmp_path / "r.json").read_text())["complete"] is False


@pytest.mark.parametrize("file", ["argo-2-istio.yaml", "flagger-1-simple.yaml"])
def test_what_asks_for_a_canary_is_sent_when_all_that_it_needs_is_there(file: str, tmp_path: Path) -> None:
    """`kubectl apply -f DIR` made the canary first, and an Event said that there is no Deployment "fraud"."""
    sent = [obj["metadata"]["name"] for obj in yaml.safe_load_all(typed(str(PEERS / file)).stdout)]
    typed(str(PEERS / file), "-o", str(tmp_path))
    by_name = [yaml.safe_load(path.read_text())["metadata"]["name"] for path in sorted(tmp_path.iterdir())]
    assert sent == by_name
    assert sent.index("fraud-canary") == len(sent) - 1 > 2


def test_files_are_not_written_over_unless_one_says_so(tmp_path: Path) -> None:
    arguments = str(PEERS / "flagger-1-simple.yaml"), "-o", str(tmp_path)
    typed(*arguments)
    edited = tmp_path / "02-deployment-fraud.yaml"
    edited.write_text("mine")
    again = typed(*arguments)
    assert again.exit_code == 2
    assert "01-canarypolicy-fraud.yaml: is there already, and nothing was written" in again.stderr
    assert edited.read_text() == "mine"
    assert typed(*arguments, "--force").exit_code == 3
    assert edited.read_text() != "mine"


def test_a_dash_is_standard_output_for_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It made a file that is called "-"."""
    monkeypatch.chdir(tmp_path)
    file = str(PEERS / "argo-2-istio.yaml")
    done = typed(file, "-o", "serin", "--report", "-")
    assert json.loads(done.stdout)["complete"] is False
    assert not (tmp_path / "-").exists()
    both = typed(file, "--report", "-")
    assert (both.exit_code, both.stdout) == (2, "")
    assert "--report -: objects go to standard output as well; give them a folder: --out DIR" in both.stderr


def test_a_canary_that_only_some_met_says_who_meets_it_now_and_writes_its_steps(tmp_path: Path) -> None:
    """Of an A/B Canary it said "rounds without traffic"; until then only insiders had met it."""
    done = _flagger(tmp_path, "{iterations: 10, match: [{headers: {x-canary: {exact: insider}}}]}")
    assert done.objects[0]["spec"]["steps"] == [5, 10, 25, 50]
    line = _line(done, "spec.analysis.iterations")
    assert line.startswith("  !  ")
    assert "until now nobody met the canary but those who match spec.analysis.match" in line
    (told,) = [each for each in done.todo if "all users" in each]
    assert "from now on 5 to 50 % of all users do" in told
    blue = _flagger(tmp_path, "{iterations: 10}")
    assert "until now nobody met the canary before its promotion" in _line(blue, "spec.analysis.iterations")
    weighted = _flagger(tmp_path, "{iterations: 10, stepWeights: [7, 20]}")
    assert weighted.objects[0]["spec"]["steps"] == [7, 20]
    assert not any("all users" in each for each in weighted.todo)


def test_when_an_alert_is_sent_is_not_said_before_its_provider_is_known(tmp_path: Path) -> None:
    """It said "built in: on: [RolledBack, Held, Promoted]", and with the provider it was [RolledBack]."""
    done = _flagger(tmp_path, "{alerts: [{name: oncall, severity: error, providerRef: {name: slack}}]}")
    line = _line(done, "spec.analysis.alerts[0].severity")
    assert line.startswith("  !  ")
    assert "as providerRef.name says" in line
    assert "Held" not in line


def test_what_stands_in_another_namespace_is_found_there_and_nowhere_else() -> None:
    """A template and a provider in Flagger's own namespace were "not among the files", which they were."""
    objects = documents(PEERS / "flagger-3-templates.yaml")
    canaries, others = ([o for o in objects if (o["kind"] == "Canary") is mine] for mine in (True, False))
    for canary in canaries:
        analysis = canary["spec"]["analysis"]
        for one in [*analysis.get("metrics", ()), *analysis.get("alerts", ())]:
            for reference in {"templateRef", "providerRef"} & one.keys():
                one[reference]["namespace"] = "flagger"
    shared = [obj for obj in others if obj["kind"] in {"MetricTemplate", "AlertProvider"}]
    assert shared
    decoys = copy.deepcopy(shared)
    for obj, space in [*((each, "flagger") for each in shared), *((each, "decoys") for each in decoys)]:
        obj["metadata"]["namespace"] = space
    for obj in decoys:
        obj["spec"] = {"type": "discord"} if obj["kind"] == "AlertProvider" else {"query": "up"}

    done = whole.converted({"all.yaml": dumped([*decoys, *objects])})

    assert done.objects == converted(PEERS / "flagger-3-templates.yaml").objects


def test_a_pause_that_became_shorter_is_no_field_that_needs_nothing() -> None:
    done = converted(PEERS / "argo-1-simple.yaml")
    line = _line(done, "spec.strategy.canary.steps[5].pause.duration")
    assert line.startswith("  !  ")
    assert "became at least 5m" in line
    assert "minStep: 10m is as long as this" in line


def test_a_file_that_is_not_there_and_one_that_cannot_be_written_are_said(tmp_path: Path) -> None:
    missing = typed(str(tmp_path / "none.yaml"))
    (tmp_path / "file").write_text("")
    blocked = typed(str(PEERS / "flagger-1-simple.yaml"), "-o", str(tmp_path / "file"))

    assert (missing.exit_code, blocked.exit_code) == (2, 1)
    assert "none.yaml: cannot be read: No such file or directory; give the path" in missing.stderr
    assert "cannot be written" in blocked.stderr


def test_templates_may_stand_in_files_of_their_own() -> None:
    objects = documents(PEERS / "flagger-3-templates.yaml")
    files = {f"{place}.yaml": dumped([obj]) for place, obj in enumerate(objects)}

    assert whole.converted(files).objects == converted(PEERS / "flagger-3-templates.yaml").objects


def test_the_docs_show_what_the_command_says() -> None:
    page = (PEERS.parents[2] / "docs" / "migrating.md").read_text()
    shown = page.partition("```console\n")[2].partition("```")[0].splitlines()[2:]
    said = (PEERS / "flagger-1-simple.report").read_text().splitlines()

    assert len([line for line in shown if line != "…"]) == 3
    assert not {line for line in shown if line != "…"} - set(said)


def test_other_commands_do_not_load_the_converter() -> None:
    code = "import sys, controller.cli; print([m for m in sys.modules if 'convert.' in m or m == 'yaml'])"
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
