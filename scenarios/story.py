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

from datetime import timedelta
from pathlib import Path

from controller.planning import BadPolicy, builtin, checked
from scenarios.distributions import Beta, Bimodal, Latency, Lognormal, Pareto
from scenarios.fields import BadStory, Field, Table, parse, read, shown
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
)

__all__ = ["Arm", "BadStory", "Outcome", "Story", "load", "loads"]

API_VERSION = "serin.dev/v1alpha1"
SCORES = Beta(2.0, 5.0)  # predictions where a story does not care
_UNREAD = Behaviour(replicas=1, latency=Lognormal(0.02, 0.06), error_rate=0.0, predictions=SCORES)


def load(path: Path | str) -> Story:
    """The story in the file; `BadStory` says in one line what to mend."""
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
    top.need("apiVersion").one_of(API_VERSION)
    top.need("kind").one_of("Scenario")
    named = top.need("metadata").table("name")
    spec = top.need("spec").table(*_SPEC)
    name, duration, rate, stable = "", timedelta(0), 0.0, _UNREAD
    expect: tuple[Ending, ...] = ()
    with whole.noting():
        name = named.need("name").matching(r"[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?", "latency-doubles")
    with whole.noting():
        duration = spec.need("duration").duration(positive=True)
    with whole.noting():
        rate = _rate(spec.need("traffic"))
    with whole.noting():
        stable = _behaviour(spec.need("stable"), None)
    with whole.noting():
        expect = _expect(spec.need("expect"))
    story = Story(
        file=whole.file,
        name=name,
        seed=spec.get("seed", lambda f: f.whole(least=0, most=2**32 - 1), 1),
        duration=duration,
        requests_per_second=rate,
        propagation=spec.get("propagation", Field.duration, timedelta(milliseconds=300)),
        history=spec.get("history", Field.duration, timedelta(seconds=600)),
        controllers=spec.get("controllers", lambda f: f.whole(least=1, most=3), 1),
        stable=stable,
        canary=spec.get("canary", lambda f: _behaviour(f, stable), stable),
        faults=spec.get("faults", lambda f: f.each(_fault), ()),
        edits=spec.get("edits", lambda f: f.each(_edit), ()),
        noise=spec.get("noise", _noise, Noise()),
        policy=spec.get("policy", Field.mapping, {}),
        expect=expect,
    )
    with whole.noting():
        _readable(story)
    if not whole.noted:
        _fits(story, spec)
    return story


def _readable(story: Story) -> None:
    """The policy is read as `serin plan` reads it, before an API server has to refuse it in its own words."""
    try:
        checked(dict(story.policy), file=Path(story.file))
    except BadPolicy as bad:
        wrong = [line.removeprefix(f"{story.file}: ") for line in str(bad).splitlines()]
        placed = (line.replace("spec", "spec.policy", 1) if line[:4] == "spec" else line for line in wrong)
        raise BadStory(f"{story.file}: {'; '.join(placed)}") from None


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
        like = Behaviour(
            replicas=_replicas(said.need("replicas")),
            latency=_latency(said.need("latency")),
            error_rate=0.0,
            predictions=SCORES,
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
    said = latency.table("distribution", "median", "p95", "shape", "medians", "weight")
    distribution = said.need("distribution").one_of(*names)
    said = latency.table("distribution", "p95", *names[distribution])
    p95 = _seconds(said.need("p95"))
    if distribution == "pareto":
        return Pareto(said.need("shape").number(least=0.1, most=100), p95)
    if distribution == "bimodal":
        return _bimodal(said, p95)
    median = _seconds(said.need("median"))
    if p95 <= median:
        raise said.need("p95").bad("more than the median")
    return Lognormal(median, p95)


def _bimodal(said: Table, p95: float) -> Bimodal:
    medians = said.need("medians").items()
    if len(medians) != 2:
        raise said.need("medians").bad('two durations like ["20ms", "100ms"]')
    fast, slow = map(_seconds, medians)
    mixture = Bimodal((fast, slow), said.need("weight").number(above=0, most=1), p95)
    if fast >= slow or not mixture.possible:
        raise said.need("p95").bad("a p95 that two such modes, the faster first, can have")
    return mixture


def _seconds(value: Field) -> float:
    return value.duration(positive=True).total_seconds()


def _beta(predictions: Field) -> Beta:
    said = predictions.table("distribution", "a", "b")
    said.need("distribution").one_of("beta")
    return Beta(said.need("a").number(above=0, most=1000), said.need("b").number(above=0, most=1000))


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
    if "arm" in said and "target" in said:
        raise fault.wrong("has arm and target; say one: an arm's fault, or a target's")
    if "arm" not in said and "target" not in said:
        raise fault.wrong(f"needs either arm (stable, canary) or target ({', '.join(KINDS)})")
    return _arm_fault(fault) if "arm" in said else _target_fault(fault)


def _lasting(said: Table) -> timedelta | None:
    return said.get("for", lambda f: f.duration(positive=True), None)


def _arm_fault(fault: Field) -> ArmFault:
    said = fault.table("at", "for", "arm", "pods", *_EFFECTS)
    if not any(effect in said for effect in _EFFECTS):
        raise fault.wrong(f"does nothing; say one of {', '.join(_EFFECTS)}")
    return ArmFault(
        at=said.need("at").duration(),
        lasting=_lasting(said),
        arm=Arm(said.need("arm").one_of(*Arm)),
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
        factor=said.need("factor").number(least=1, most=1000),
        decay=said.need("decay").duration(positive=True),
    )


def _target_fault(fault: Field) -> TargetFault:
    said = fault.table("at", "for", "target", "kind")
    target = Target(said.need("target").one_of(*Target))
    return TargetFault(
        at=said.need("at").duration(),
        lasting=_lasting(said),
        target=target,
        kind=said.need("kind", of=KINDS[target]).one_of(*KINDS[target]),
    )


def _edit(edit: Field) -> Edit:
    said = edit.table("at", "patch", "delete", "evict")
    verbs = [verb for verb in ("patch", "delete", "evict") if verb in said]
    if len(verbs) != 1:
        raise edit.wrong("needs exactly one of patch, delete, evict")
    at = said.need("at").duration()
    if not at and verbs != ["patch"]:
        raise edit.wrong("only a patch can describe how the objects are from the start; say a later time")
    if verbs == ["evict"]:
        evict = said.need("evict").table("arm", "pods")
        pods = evict.get("pods", lambda f: f.whole(least=1, most=200), 1)
        return Evict(at=at, arm=Arm(evict.need("arm").one_of(*Arm)), pods=pods)
    if verbs == ["delete"]:
        gone = said.need("delete").table("kind", "name")
        return Delete(at=at, kind=gone.need("kind").one_of(*PLACES), name=gone.need("name").text())
    patch = said.need("patch").table("kind", "name", "merge")
    return Patch(
        at=at,
        kind=patch.need("kind").one_of(*PLACES),
        name=patch.need("name").text(),
        merge=patch.need("merge").mapping(),
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
        per_second=said.need("perSecond").number(most=1),
        factor=said.need("factor").number(above=0, most=1000),
        lasting=said.need("lasting").duration(positive=True),
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
    outcome = Outcome(said.need("outcome").one_of(*Outcome))
    if outcome is Outcome.HELD and "within" in said:
        raise said.need("within").wrong("a held canary keeps its weight; leave it out")
    return Ending(
        outcome=outcome,
        within=said.get("within", lambda f: f.duration(positive=True), None),
        check=said.get("check", Field.text, None),
        reason=said.get("reason", lambda f: f.matching("[A-Z][A-Za-z]*", "CheckFailed"), None),
    )


def _fits(story: Story, spec: Table) -> None:
    """Nothing is said that cannot come true."""
    for name, happenings in (("faults", story.faults), ("edits", story.edits)):
        for at, happening in enumerate(happenings):
            if happening.at >= story.duration:
                when = spec.need(name).items()[at].table(*spec.need(name).items()[at].value).need("at")
                raise when.bad("a time before the story's duration is over")
    for at, fault in enumerate(story.faults):
        arm = story.stable if isinstance(fault, ArmFault) and fault.arm is Arm.STABLE else story.canary
        if isinstance(fault, ArmFault) and fault.click_rate is not None and arm.click_rate is None:
            raise (
                spec.need("faults").items()[at].wrong("needs a clickRate of the arm to differ from; say one")
            )
    checks = story.policy.get("checks", builtin()["checks"])
    if isinstance(checks, list):
        known = [check.get("name") for check in checks if isinstance(check, dict)]
        for ending in story.expect:
            if ending.check is not None and ending.check not in known:
                raise spec.need("expect").wrong(
                    f"there is no check {shown(ending.check)}; the policy has {', '.join(map(str, known))}"
                )
