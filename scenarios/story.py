"""A scenario file as values: who serves how, what breaks when, what should come of it.

    apiVersion: serin.dev/v1alpha1
    kind: Scenario
    metadata: {name: latency-doubles}
    spec:
      seed: 7
      duration: 120s                       # give up after
      traffic: {requestsPerSecond: 100}    # open loop, Poisson
      propagation: 300ms                   # from the weight patch to the proxy
      history: 600s                        # of stable before the run (virtual only)
      controllers: 1                       # replicas of `serin controller`; one leads
      stable: {replicas: 3, latency: {…}, errorRate: 0.1%, predictions: {…}, clickRate: 40%}
      canary: {replicas: 2}                # what is not said is as in stable
      faults: [{at: 20s, arm: canary, latencyFactor: 2.0}]
      edits: [{at: 30s, patch: {kind: Deployment, name: model, merge: {…}}}]
      noise: {…}
      policy: {…}                          # a CanaryPolicy's spec; preflight is Off if not said
      expect: {outcome: RolledBack, within: 6s, check: latency-p95, reason: CheckFailed}

Times count from the moment the canary's pods are started. A fault without `for` lasts to the end.
An arm fault touches every pod of the arm unless it says `pods: one` (the first by name) or
`pods: new` (those started after `at`). `edits` are what people do meanwhile: `patch` merges into
an object (RFC 7386), `delete` removes one, `evict` lets the node's pressure push `pods` pods of an arm
out; an edit at 0s describes how the objects are from the start. The objects are the Deployments
`model` and `model-canary`, and a Service, a VirtualService and a DestinationRule called `model`.

    latency: {distribution: lognormal, median: 20ms, p95: 60ms}
    latency: {distribution: pareto, shape: 2.5, p95: 60ms}
    latency: {distribution: bimodal, medians: [20ms, 100ms], weight: 0.1, p95: 120ms}
    predictions: {distribution: beta, a: 2, b: 5}

With a `clickRate` pods count their answers (`model_impressions_total`), and those that somebody clicked on
(`model_clicks_total`); without one they do not. `model` says which model an arm is: `digits`,
`digits-bf16` (requantised), `digits-unscaled` (wrong preprocessing), `digits-permuted` (labels mixed up),
`digits-overflowing` (float16, NaN for bright pictures), `digits-renamed` (its input has another name) or
`digits-eleven` (an output too many), or, in virtual time only, of a real sentence embedding: `minilm`,
`minilm-bf16` or `minilm-first-token` (another pooling); a Shadow check in the policy replays the requests on
both. An arm fault says one or more of latencyFactor, latencyAdd, errorRate, predictions, clickRate,
`crash: true`, `hang: true`, `blackhole: true` and `coldStart: {factor: 3, decay: 60s}`; a target fault says
`target` and `kind`. docs/stories.md has every field with its values, read out of this code.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from controller.model import Reason
from controller.planning import BadPolicy, builtin, checked
from controller.policies import IMPRESSIONS
from scenarios.distributions import Beta, Bimodal, Latency, Lognormal, Pareto
from scenarios.fields import LONGEST, BadStory, Field, Table, meant, parse, read, shown
from scenarios.live import digits, sentences
from scenarios.people import PLACES
from scenarios.plot import (
    KINDS,
    Arm,
    ArmFault,
    Behaviour,
    Bursts,
    ColdStart,
    Common,
    Delete,
    Edit,
    Ending,
    Evict,
    Fault,
    Noise,
    Outcome,
    Patch,
    PodNoise,
    Pods,
    Story,
    Target,
    TargetFault,
    names_of,
)

__all__ = ["Arm", "BadStory", "Outcome", "Story", "load", "loads"]

API_VERSION = "serin.dev/v1alpha1"
SCORES = Beta(2.0, 5.0)  # predictions where a story does not care
COUNTED = ("model_clicks_total", IMPRESSIONS)  # by the pods of an arm with a clickRate
_UNREAD = Behaviour(replicas=1, latency=Lognormal(0.02, 0.06), error_rate=0.0, predictions=SCORES)


def load(path: Path | str) -> Story:
    """The story in the file; `BadStory` says what to mend, a line for each mistake."""
    return _story(read(Path(path)))


def loads(text: str, *, file: str) -> Story:
    """The story in the text; `file` is only its name in complaints."""
    return _story(parse(text, file=file))


def _story(whole: Field) -> Story:
    """The story, or `BadStory` with all that is wrong."""
    with whole.noting():
        story = _read(whole)
        if not whole.noted:
            return story
    raise whole.misread()


def _read(whole: Field) -> Story:
    """The story, with something in place of what was noted as wrong."""
    top = whole.table("apiVersion", "kind", "metadata", "spec")
    top.need("kind").one_of("Scenario")
    top.must("apiVersion", lambda f: f.one_of(API_VERSION), API_VERSION)
    name = ""
    with whole.noting():
        named = top.need("metadata").table("name")
        name = named.need("name").matching(r"[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?", "latency-doubles")
    spec = top.need("spec").table(*_SPEC)
    stable = spec.must("stable", lambda f: _behaviour(f, None), _UNREAD)
    story = Story(
        file=whole.file,
        name=name,
        seed=spec.get("seed", lambda f: f.whole(least=0, most=2**32 - 1), 1),
        duration=spec.must("duration", lambda f: f.duration(positive=True), LONGEST),
        requests_per_second=spec.must("traffic", _rate, 0.0),
        propagation=spec.get("propagation", Field.duration, timedelta(milliseconds=300)),
        history=spec.get("history", Field.duration, timedelta(seconds=600)),
        controllers=spec.get("controllers", lambda f: f.whole(least=1, most=3), 1),
        stable=stable,
        canary=spec.get("canary", lambda f: _behaviour(f, stable), stable),
        faults=spec.get("faults", lambda f: f.each(_fault), ()),
        edits=spec.get("edits", lambda f: f.each(_edit), ()),
        noise=spec.get("noise", _noise, Noise()),
        policy=spec.get("policy", _policy, {}),
        expect=spec.must("expect", _expect, ()),
    )
    _fits(story, spec)
    return story


def _policy(policy: Field) -> Mapping[str, Any]:
    """The policy, read as `serin plan` reads it, before an API server has to refuse it in its own words."""
    said = policy.mapping()
    try:
        checked(dict(said), file=Path(policy.file))
    except BadPolicy as bad:
        for line in str(bad).splitlines():
            wrong = line.removeprefix(f"{policy.file}: ")
            policy.noted.append(wrong.replace("spec", policy.path, 1) if wrong[:4] == "spec" else wrong)
    return said


_SPEC = (
    "seed",
    "duration",
    "traffic",
    "propagation",
    "history",
    "controllers",
    "stable",
    "canary",
    "faults",
    "edits",
    "noise",
    "policy",
    "expect",
)


def _rate(traffic: Field) -> float:
    rate = traffic.table("requestsPerSecond").need("requestsPerSecond")
    return rate.number(most=100_000)


def _behaviour(arm: Field, like: Behaviour | None) -> Behaviour:
    """What the arm says, and for what it does not say: what `like` does."""
    said = arm.table("replicas", "latency", "errorRate", "predictions", "clickRate", "model")
    if like is None:
        like = replace(
            _UNREAD,
            replicas=said.must("replicas", _replicas, _UNREAD.replicas),
            latency=said.must("latency", _latency, _UNREAD.latency),
        )
    return Behaviour(
        replicas=said.get("replicas", _replicas, like.replicas),
        latency=said.get("latency", _latency, like.latency),
        error_rate=said.get("errorRate", Field.percent, like.error_rate),
        predictions=said.get("predictions", _beta, like.predictions),
        click_rate=said.get("clickRate", Field.percent, like.click_rate),
        model=said.get("model", lambda f: f.one_of(*digits.VARIANTS, *sentences.VARIANTS), like.model),
    )


def _replicas(replicas: Field) -> int:
    return replicas.whole(least=1, most=200)


def _latency(latency: Field) -> Latency:
    names = {"lognormal": ("median",), "pareto": ("shape",), "bimodal": ("medians", "weight")}
    said, before = (
        latency.table("distribution", "median", "p95", "shape", "medians", "weight"),
        latency.wrongs,
    )
    distribution = said.must("distribution", lambda f: f.one_of(*names), "")
    # of a distribution that nobody knows, what is there
    of = names.get(distribution) or tuple(said.inside)
    said = latency.table("distribution", "p95", *of)
    p95 = said.must("p95", _seconds, 1.0)
    median = said.must("median", _seconds, 1.0) if "median" in of else 1.0
    shape = said.must("shape", lambda f: f.number(least=0.1, most=100), 1.0) if "shape" in of else 1.0
    medians = said.must("medians", _medians, (1.0, 1.0)) if "medians" in of else (1.0, 1.0)
    weight = said.must("weight", lambda f: f.number(above=0, most=1), 1.0) if "weight" in of else 1.0
    if latency.wrongs > before:
        return _UNREAD.latency
    if distribution == "pareto":
        return Pareto(shape, p95)
    if distribution == "bimodal":
        mixture = Bimodal(medians, weight, p95)
        if medians[0] >= medians[1] or not mixture.possible:
            raise said.need("p95").bad("a p95 that two such modes, the faster first, can have")
        return mixture
    if p95 <= median:
        raise said.need("p95").bad("more than the median")
    return Lognormal(median, p95)


def _medians(medians: Field) -> tuple[float, float]:
    pair = medians.items()
    if len(pair) != 2:
        raise medians.bad('two durations like ["20ms", "100ms"]')
    fast, slow = map(_seconds, pair)
    return fast, slow


def _seconds(value: Field) -> float:
    return value.duration(positive=True).total_seconds()


def _beta(predictions: Field) -> Beta:
    said = predictions.table("distribution", "a", "b")
    said.must("distribution", lambda f: f.one_of("beta"), "beta")
    a = said.must("a", lambda f: f.number(above=0, most=1000), 1.0)
    return Beta(a, said.must("b", lambda f: f.number(above=0, most=1000), 1.0))


_EFFECTS = (
    "latencyFactor",
    "latencyAdd",
    "errorRate",
    "predictions",
    "clickRate",
    "crash",
    "hang",
    "blackhole",
    "coldStart",
)


def _fault(fault: Field) -> Fault:
    said = fault.table("at", "for", "arm", "pods", *_EFFECTS, "target", "kind")
    if "target" in said and "arm" not in said:
        return _target_fault(fault)
    with fault.noting():
        if "target" in said:
            raise fault.wrong("has arm and target; say one: an arm's fault, or a target's")
        if "arm" not in said:
            raise fault.wrong(f"needs either arm (stable, canary) or target ({', '.join(KINDS)})")
        said = fault.table("at", "for", "arm", "pods", *_EFFECTS)
        if not any(effect in said for effect in _EFFECTS) and len(said.inside) == len(fault.value):
            raise fault.wrong(f"does nothing; say one of {', '.join(_EFFECTS)}")
    return _arm_fault(said)


def _lasting(said: Table) -> timedelta | None:
    return said.get("for", lambda f: f.duration(positive=True), None)


def _arm_fault(said: Table) -> ArmFault:
    return ArmFault(
        at=said.must("at", Field.duration, timedelta(0)),
        lasting=_lasting(said),
        arm=said.get("arm", lambda f: Arm(f.one_of(*Arm)), Arm.CANARY),
        pods=said.get("pods", lambda f: Pods(f.one_of(*Pods)), Pods.ALL),
        latency_factor=said.get("latencyFactor", lambda f: f.number(above=0, most=1000), 1.0),
        latency_add=said.get("latencyAdd", Field.duration, timedelta(0)),
        error_rate=said.get("errorRate", Field.percent, None),
        predictions=said.get("predictions", _beta, None),
        click_rate=said.get("clickRate", Field.percent, None),
        crash=said.get("crash", Field.true, default=False),
        hang=said.get("hang", Field.true, default=False),
        blackhole=said.get("blackhole", Field.true, default=False),
        cold_start=said.get("coldStart", _cold_start, None),
    )


def _cold_start(cold: Field) -> ColdStart:
    said = cold.table("factor", "decay")
    return ColdStart(
        factor=said.must("factor", lambda f: f.number(least=1, most=1000), 1.0),
        decay=said.must("decay", lambda f: f.duration(positive=True), LONGEST),
    )


def _target_fault(fault: Field) -> TargetFault:
    said = fault.table("at", "for", "target", "kind")
    target, kind = said.get("target", lambda f: Target(f.one_of(*Target)), None), ""
    if target is not None:
        with fault.noting():
            kind = said.need("kind", of=KINDS[target]).one_of(*KINDS[target])
    return TargetFault(
        at=said.must("at", Field.duration, timedelta(0)),
        lasting=_lasting(said),
        target=target or Target.METRICS,
        kind=kind,
    )


def _edit(edit: Field) -> Edit:
    said = edit.table("at", "patch", "delete", "evict")
    verbs = [verb for verb in ("patch", "delete", "evict") if verb in said]
    if len(verbs) != 1:
        raise edit.wrong("needs exactly one of patch, delete, evict")
    at = said.must("at", Field.duration, LONGEST)
    if not at and verbs != ["patch"]:
        raise edit.wrong("only a patch can describe how the objects are from the start; say a later time")
    if verbs == ["evict"]:
        evict = said.need("evict").table("arm", "pods")
        pods = evict.get("pods", lambda f: f.whole(least=1, most=200), 1)
        return Evict(at=at, arm=evict.must("arm", lambda f: Arm(f.one_of(*Arm)), Arm.CANARY), pods=pods)
    if verbs == ["delete"]:
        gone = said.need("delete").table("kind", "name")
        kind = gone.must("kind", lambda f: f.one_of(*PLACES), "")
        return Delete(at=at, kind=kind, name=gone.must("name", Field.text, ""))
    patch = said.need("patch").table("kind", "name", "merge")
    return Patch(
        at=at,
        kind=patch.must("kind", lambda f: f.one_of(*PLACES), ""),
        name=patch.must("name", Field.text, ""),
        merge=patch.must("merge", Field.mapping, {}),
    )


def _noise(noise: Field) -> Noise:
    said = noise.table("common", "pod", "bursts")
    return Noise(
        common=said.get("common", _common, Common()),
        pod=said.get("pod", _pod_noise, PodNoise()),
        bursts=said.get("bursts", _bursts, Bursts()),
    )


def _spread(value: Field) -> float:
    return value.number(most=3)


def _tau(value: Field) -> timedelta:
    return value.duration(positive=True)


def _common(common: Field) -> Common:
    said, default = common.table("sd", "tau", "diurnal"), Common()
    return Common(
        sd=said.get("sd", _spread, default.sd),
        tau=said.get("tau", _tau, default.tau),
        diurnal=said.get("diurnal", _spread, default.diurnal),
    )


def _pod_noise(pod: Field) -> PodNoise:
    said, default = pod.table("sd", "tau", "static"), PodNoise()
    return PodNoise(
        sd=said.get("sd", _spread, default.sd),
        tau=said.get("tau", _tau, default.tau),
        static=said.get("static", _spread, default.static),
    )


def _bursts(bursts: Field) -> Bursts:
    said = bursts.table("perSecond", "factor", "lasting")
    return Bursts(
        per_second=said.must("perSecond", lambda f: f.number(most=1), 0.0),
        factor=said.must("factor", lambda f: f.number(above=0, most=1000), 1.0),
        lasting=said.must("lasting", lambda f: f.duration(positive=True), LONGEST),
    )


def _expect(expect: Field) -> tuple[Ending, ...]:
    said = expect.table("outcome", "within", "check", "reason", "oneOf")
    if "oneOf" not in said:
        return (_ending(expect),)
    endings = expect.table("oneOf").need("oneOf")
    if not endings.items():
        raise endings.bad("at least one {outcome: …}")
    return tuple(map(_ending, endings.items()))


def _ending(ending: Field) -> Ending:
    said = ending.table("outcome", "within", "check", "reason")
    outcome = said.must("outcome", lambda f: Outcome(f.one_of(*Outcome)), Outcome.ROLLED_BACK)
    if outcome is Outcome.HELD and "within" in said:
        with ending.noting():
            raise said.need("within").wrong("a held canary keeps its weight; leave it out")
    if outcome is Outcome.PROMOTED and "check" in said:
        with ending.noting():
            raise said.need("check").wrong("a canary that is promoted has failed none; leave it out")
    return Ending(
        outcome=outcome,
        within=said.get("within", lambda f: f.duration(positive=True), None),
        check=said.get("check", Field.text, None),
        reason=said.get("reason", _reason, None),
    )


def _reason(reason: Field) -> str:
    said = reason.matching("[A-Z][A-Za-z]*", "CheckFailed")
    if said not in set(Reason):
        raise reason.wrong(f"there is no reason {shown(said)}; {meant(said, list(Reason))}")
    return said


# -- what cannot come true ---------------------------------------------------------------------------


def _fits(story: Story, spec: Table) -> None:
    """What is said and cannot come true is noted, whatever else is wrong."""
    for happening in (*_entries(spec, "faults"), *_entries(spec, "edits")):
        with spec.whole.noting():
            _in_time(happening, story.duration)
    for fault in _entries(spec, "faults"):
        with spec.whole.noting():
            _counted(fault, story)
    checks = story.policy.get("checks", builtin()["checks"])
    named = [check for check in checks if isinstance(check, dict)] if isinstance(checks, list) else []
    for check in named:
        with spec.whole.noting():
            _countable(check, spec, counting=_said(spec, "stable", "clickRate"))
    known = [name for check in named for name in names_of(check)]
    for ending in story.expect:
        if ending.check is not None and isinstance(checks, list) and ending.check not in known:
            with spec.whole.noting():
                raise spec.need("expect").wrong(
                    f"there is no check {shown(ending.check)}; {meant(ending.check, known)}"
                )


def _entries(spec: Table, name: str) -> list[Field]:
    """Those of the list that are mappings, as they are written."""
    if name not in spec or not isinstance(spec.need(name).value, list):
        return []
    return [each for each in spec.need(name).items() if isinstance(each.value, dict)]


def _said(spec: Table, *path: str) -> bool:
    """Whether there is something at the path, understood or not."""
    inside = {name: each.value for name, each in spec.inside.items()}
    for name in path:
        if not isinstance(inside, dict) or name not in inside:
            return False
        inside = inside[name]
    return True


def _in_time(happening: Field, duration: timedelta) -> None:
    at = happening.under("at", happening.value.get("at"))
    if at.value is not None and at.duration() >= duration:
        raise at.bad("a time before the story's duration is over")


def _counted(fault: Field, story: Story) -> None:
    """Clicks differ from what was said of the arm, or of stable for both."""
    arm = story.stable if fault.value.get("arm") == "stable" else story.canary
    if "clickRate" in fault.value and arm.click_rate is None:
        raise fault.wrong("needs a clickRate of the arm to differ from; say one")


def _countable(check: Mapping[str, Any], spec: Table, *, counting: bool) -> None:
    """A proportion is of what the pods of a story count, so that its check does not wait for ever."""
    if check.get("type") != "Proportion" or "source" in check:
        return
    counters = check.get("counters") or {"hits": f"model_{check.get('name')}_total"}
    asked = [counters.get("hits"), counters.get("trials", IMPRESSIONS)] if isinstance(counters, dict) else []
    if all(each in COUNTED for each in asked) and counting:
        return
    where = spec.whole.under("policy").under("checks")
    if counting:
        raise where.wrong(
            f"check {check.get('name')} is of {' and '.join(map(str, asked))}, and a story's pods count "
            f"{' and '.join(COUNTED)}: call it clicks, or say "
            f"counters: {{hits: {COUNTED[0]}, trials: {COUNTED[1]}}}"
        )
    rate = spec.whole.under("stable").under("clickRate")
    raise rate.wrong(f"is missing; check {check.get('name')} counts clicks, say 40%")
