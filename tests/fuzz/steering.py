"""What the controller reads, as targets: `python tests/fuzz/steering.py NAME [libFuzzer's options] [CORPUS]`.

Annotations, policies, metrics pages, and the answers of an API server and of a Prometheus, through the code
that reads them in a cluster.
"""

import asyncio
import io
import json
import random
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import atheris
import structlog
import yaml

with atheris.instrument_imports(include=["controller", "analysis"], enable_loader_override=False):
    import requests
    from urllib3 import HTTPResponse

    from analysis.evidence import CheckKind, CheckSpec, update
    from analysis.judge import Judgement, Verdict
    from analysis.samples import Counts, Histogram, PodSample, Sample, Statistic
    from controller import (
        backtest,
        events,
        gather,
        judging,
        machine,
        planning,
        policies,
        protobuf,
        reading,
        resource,
        trigger,
        wire,
    )
    from controller.asks import Asks
    from controller.clock import taken_over
    from controller.cluster import Cluster
    from controller.istio import IstioRouter, Unsteerable
    from controller.kube import ApiError, Kube, decoded
    from controller.lease import Claim, Lease, Rewound, hold
    from controller.model import (
        ArmSeen,
        Checkpoint,
        Message,
        PodSeen,
        Reason,
        RouteSeen,
        Run,
        Seen,
        Stage,
        WeightChange,
    )
    from controller.operate import Leadership, Operator
    from controller.ports import Outside, Reading
    from controller.prometheus import Past
    from controller.queries import Unanswered
    from controller.runs import Runs
    from controller.settings import Settings
    from controller.ticks import Cursor, Tick, advance
    from controller.workloads import Workloads

from scenarios import bench_pages
from scenarios.cluster import schema
from scenarios.objects import CANARY, NAMESPACE, STABLE, objects
from scenarios.story import load
from scenarios.virtual.loop import VirtualLoop
from tests.fuzz.fuzzing import Target, fuzz
from tests.wire import classic, counter, message

Json = Any
ROOM = Path(mkdtemp(prefix="serin-fuzz-"))  # the caller's to remove
LOOP = VirtualLoop()
LONGEST = 1024  # bytes of an Event's note
PREFIX = trigger.PREFIX
CHECKS = (
    CheckSpec(name="latency", kind=CheckKind.LATENCY, max_increase=0.2),
    CheckSpec(name="errors", kind=CheckKind.ERROR_RATE, max_increase=0.5, plus=0.001),
    CheckSpec(name="predictions", kind=CheckKind.PREDICTIONS),
    CheckSpec(
        name="clicks", kind=CheckKind.PROPORTION, max_decrease=0.1, counters=("clicks_total", "shown_total")
    ),
)

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # what is said is not looked at


# -- what people write -----------------------------------------------------------------------------


def world() -> dict[str, list[Json]]:
    """A canary beside its stable, by kind, as the API server would list them."""
    story = load(Path(__file__).parents[2] / "scenarios" / "latency-doubles.yaml")
    found: dict[str, list[Json]] = {}
    for number, obj in enumerate(objects(story), 1):
        meta = {
            "uid": f"uid-{number}",
            "resourceVersion": str(number),
            "creationTimestamp": "2026-01-01T00:00:00Z",
        }
        plural = obj["kind"].lower().removesuffix("y") + ("ies" if obj["kind"].endswith("y") else "s")
        found.setdefault(plural, []).append(
            obj | {"metadata": {"namespace": NAMESPACE} | obj["metadata"] | meta}
        )
    for deployment in found["deployments"]:
        meta, template = deployment["metadata"], deployment["spec"]["template"]
        labels = {"pod-template-hash": meta["name"][-3:]}
        owner = {"kind": "Deployment", "name": meta["name"], "uid": meta["uid"], "controller": True}
        own = meta | {
            "name": f"{meta['name']}-1",
            "uid": f"{meta['uid']}-1",
            "labels": labels,
            "ownerReferences": [owner],
        }
        sets = {"metadata": own, "spec": {"template": template}}
        found.setdefault("replicasets", []).append(sets)
    return found


def known() -> Cluster:
    """The same as the controller knows it."""
    cluster = Cluster()
    for kind, items in WORLD.items():
        if kind in ("deployments", "replicasets", "virtualservices", "destinationrules", "canarypolicies"):
            cluster.listed(kind, items)
    return cluster


def annotations(given: bytes) -> None:
    """A Deployment's annotations, `key=value` by lines: what they ask for can be read, or is refused."""
    lines = (line.partition("=") for line in given.decode(errors="replace").split("\n"))
    notes = {PREFIX + key: value for key, _, value in lines}
    cluster = known()
    canary = cluster.get("deployments", NAMESPACE, CANARY)
    cluster.changed(
        "deployments", "MODIFIED", canary | {"metadata": canary["metadata"] | {"annotations": notes}}
    )
    made: list[Json] = []
    said: list[str] = []

    async def create(run: Json) -> None:
        made.append(run)

    async def refuse(_: Json, why: str, *, again: bool) -> None:
        assert not again
        said.append(events.note(why))

    asks = Asks(cluster, create=create, refuse=refuse, mend=nobody)
    LOOP.run_until_complete(asks.turn((NAMESPACE, CANARY)))
    LOOP.run_until_complete(asyncio.sleep(1))  # or time would seem to stand still
    assert len(made) + len(said) <= 1
    for why in said:
        assert PREFIX in why or "VirtualService" in why, why
        assert not why.endswith("…"), why
    for run in made:
        run["metadata"] |= {"creationTimestamp": "2026-01-01T00:00:00Z"}
        run["spec"]["plan"]["policy"] = planning._completed(planning._schema(), run["spec"]["plan"]["policy"])
        found = resource.run(run)
        assert trigger.rung(resource.commands(run), notes, found.name).approvals in {0, 1}


def policy(given: bytes) -> None:
    """A policy's file: a policy, or one line that names the file."""
    file = ROOM / "policy.yaml"
    file.write_bytes(given)
    try:
        spec = planning.read(file)
    except planning.BadPolicy as error:
        said = str(error)
        assert said.startswith(f"{file}: "), said
        assert len(said) < 4096, said
        return
    found = policies.policy(spec)
    assert found.checks
    planning.schedule(spec, 100.0)
    planning.permitted(spec)


def run(given: bytes) -> None:
    """A CanaryRun object, whatever stands in it."""
    try:
        obj = decoded(given)
    except ValueError:
        return
    if not wire.stored(obj):  # it is never asked
        return
    for read in (resource.commands, resource.checkpoint, resource.epoch):
        with suppress(wire.Malformed):
            read(obj)
    try:
        found = resource.run(obj)
    except wire.Malformed:
        return
    if admitted(obj):
        continued(found, resource.checkpoint(obj), before=obj.get("status"))


def admitted(obj: Json) -> bool:
    """Whether an API server lets it in."""
    try:
        return not schema.problems(ADMITTED, obj, None)
    except (ValueError, OverflowError):  # of numbers beyond 64 bits, which are none there
        return False


def checkpoint(given: bytes) -> None:
    """A checkpoint's body, whatever somebody made of it."""
    continued(STEPPING, given.decode(errors="replace"))


def continued(found: Run, body: str | None, *, before: Json = None) -> None:
    """A leader goes on with it: it is judged, moves, and is written down again."""
    known, gathered = taken_over(found, gather.load(found.plan, body), NOW)
    steps = gather.take(gathered, known, SEEN, TICKS, NOW)
    gathered = gather.scored(steps, update)
    seen = replace(SEEN, judgement=judging.judged(known, gathered, NOW))
    after, _ = machine.advance(known, seen, NOW)
    judgement = judging.judged(after, gathered, NOW)
    saved = Checkpoint(
        judgement=judgement, sentences=judging.sentences(judgement, after, NOW), body=gather.save(gathered)
    )
    json.dumps(resource.status(after, saved, 1, before=before, now=NOW), allow_nan=False)


def ticks(given: bytes) -> None:
    """A file of ticks: a judgement, or one line that names file and line."""
    file = ROOM / "ticks.jsonl"
    file.write_bytes(given)
    try:
        lines = backtest.read(file)
    except backtest.BadTicks as error:
        said = str(error)
        assert said.startswith(f"{file}:"), said
        return
    if len(lines) < 20:
        found = backtest.moments(lines, POLICY)
        json.dumps(backtest.result(backtest.replay(found, POLICY), POLICY), allow_nan=False)


# -- what pods serve -------------------------------------------------------------------------------


def page(given: bytes, kind: str) -> None:
    """A metrics page: figures that are counts, or a `ValueError`."""
    with suppress(ValueError):
        reading.negotiated(given, CHECKS, kind=kind)
    with suppress(ValueError):
        found, wrong = reading.read(given, CHECKS, at=1.0, kind=kind)
        assert all(len(each) < 2048 for each in wrong), wrong
        assert found.values.keys() <= {check.name for check in CHECKS}


def text(given: bytes) -> None:
    """A page in the text format."""
    page(given, "text/plain")


def delimited(given: bytes) -> None:
    """A page in protobuf."""
    page(given, protobuf.TYPE)


# -- what servers answer ---------------------------------------------------------------------------


class Over(Exception):
    """The script has ended."""


@dataclass
class Answer:
    """`ports.Answer` with this body."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    async def read(self) -> bytes:
        return self.body

    async def lines(self) -> AsyncIterator[bytes]:
        for line in self.body.split(b"\n"):
            yield line


class Script:
    """`ports.Transport`: the parts of what was given, one an answer; then `Over`.

    A part's first byte says its status. Parts are separated by a blank line.
    """

    def __init__(self, given: bytes) -> None:
        self.parts = given.split(b"\n\n")[:20]

    @asynccontextmanager
    async def request(self, *_: object, **__: object) -> AsyncIterator[Answer]:
        if not self.parts:
            raise Over
        part = self.parts.pop(0)
        status = STATUS.get(part[:1], 200)
        yield Answer(status, part[1:], {"Retry-After": "1"} if part[:1] == b"r" else {})


STATUS = {b"c": 409, b"g": 410, b"i": 422, b"n": 404, b"f": 403, b"r": 429, b"e": 500, b"u": 503}


async def within(work: Any) -> None:
    """The work is done, or told what is wrong; the script ends, or an hour of virtual time does."""
    with suppress(Over, TimeoutError, ApiError, Unsteerable, Rewound):
        async with asyncio.timeout(3600):
            await work


def kube(given: bytes) -> Kube:
    """An API server that answers so."""
    return Kube(Script(given), chance=random.Random(1))


def followed(given: bytes) -> None:
    """A kind's list and watches: whatever they say, the controller's index and turns are of objects."""
    which, given = given[:1], given[1:]
    kind = KINDS[(which[0] if which else 0) % len(KINDS)]
    operator = Operator(Settings(), OUTSIDE)
    operator.cluster = known()
    parts: Any = (SimpleNamespace(lives=LIVES), Due(), Due(), Due())
    operator.leading = {0: Leadership(lambda _: True, *parts)}

    LOOP.run_until_complete(within(operator._follow(kube(given), kind)))
    cluster = operator.cluster
    for obj in cluster.all(kind):
        cluster.wrote(kind, obj)
    for deployment in cluster.all("deployments"):
        trigger.asks(deployment)


class Due:
    """A loop's ear, with nobody to have a turn."""

    def due(self, key: tuple[str, str]) -> None:
        """Keys are of two strings."""
        namespace, name = key
        assert isinstance(namespace, str)
        assert isinstance(name, str)

    hurry = due


def answered(given: bytes) -> None:
    """Answers to all that the controller reads and writes one by one: done, or an `ApiError`."""
    which, given = given[:1], given[1:]
    LOOP.run_until_complete(within(asked((which or b"\0")[0], given)))


async def asked(which: int, given: bytes) -> None:
    cluster = known()
    api = kube(given)
    runs = Runs(api, cluster, clock=LOOP.now)
    cluster.listed("canaryruns", [RUN])
    match which % 8:
        case 0:
            await runs.create(json.loads(json.dumps(RUN)))
        case 1:
            await runs.ask(NAMESPACE, RUN["metadata"]["name"], paused=True)
        case 2:
            await runs.guard(resource.run(RUN))
        case 3:
            plan = resource.run(RUN).plan
            await Workloads(api, cluster).promote(plan)
        case 4:
            newest = lambda *_: cluster.get("virtualservices", NAMESPACE, STABLE)  # noqa: E731
            router = IstioRouter(newest, api.call, wrote=lambda obj: cluster.wrote("virtualservices", obj))
            await router.route(PLACE, 10)
        case 5:
            router = IstioRouter(lambda *_: None, api.call)
            await router.route(PLACE, 0)
        case 6:
            claim = Claim(namespace="s", name="l", identity="me")
            await hold(Lease(api, claim, clock=LOOP.now), lambda _: asyncio.sleep(30))
        case _:
            await api.call("GET", "/x", deadline=timedelta(seconds=8))


class Canned(requests.adapters.BaseAdapter):
    """A Prometheus that answers every query so."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__()
        self.status, self.body = status, body

    def send(self, request: requests.PreparedRequest, **_: Any) -> requests.Response:  # type: ignore[override]
        answer = requests.Response()
        answer.status_code, answer.request, answer.url = self.status, request, str(request.url)
        answer.raw = HTTPResponse(io.BytesIO(self.body), status=self.status, preload_content=False)
        answer.elapsed = timedelta(0)
        return answer

    def close(self) -> None:
        pass


def prometheus(given: bytes) -> None:
    """A Prometheus' answer: readings of the pods that were asked for, or `Unanswered`."""
    which, body = given[:1], given[1:]
    CANNED.status, CANNED.body = STATUS.get(which, 200), body
    with suppress(Unanswered):
        found, wrong = PAST.readings("lab", ("a", "b"), CHECKS[1:2], at=10.0)
        assert found.keys() <= {"a", "b"}
        assert all(len(each) < 2048 for each in wrong)
    with suppress(Unanswered):
        assert all(map(str, PAST.pods("lab", "a.*", start=0.0, end=9.0)))


async def nobody(*_: object, **__: object) -> Any:
    raise ConnectionRefusedError


def good() -> Json:
    """The run that the canary's annotation asks for, as the API server has it."""
    made: list[Json] = []

    async def create(run: Json) -> None:
        made.append(run)

    LOOP.run_until_complete(
        Asks(known(), create=create, refuse=nobody, mend=nobody).turn((NAMESPACE, CANARY))
    )
    (run,) = made
    meta = {"creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "99", "uid": "uid-99"}
    policy = planning._completed(planning._schema(), run["spec"]["plan"]["policy"])
    return run | {
        "metadata": run["metadata"] | meta,
        "spec": {"plan": run["spec"]["plan"] | {"policy": policy}},
    }


WORLD = world()
RUN = good()
CANNED = Canned(200, b"")
PAST = Past("http://prometheus.invalid")
PAST._server._session.mount("http://prometheus.invalid", CANNED)
PAST._server._session.trust_env = False  # looks for proxies and .netrc at each request
PLACE = resource.place(RUN)
NOW = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=5)
STEPPING = replace(
    resource.run(RUN),
    stage=Stage.STEPPING,
    weight=10,
    weights=(WeightChange(at=NOW, weight=10, reason=Reason.WEIGHT_RAISED),),
    **dict.fromkeys(("step_since", "weight_since", "data_since"), NOW - timedelta(minutes=2)),
)
PODS = {
    name: PodSeen(name=name, node="n", ip="10.0.0.1", ready=True, created=NOW - timedelta(hours=1))
    for name in (STABLE, CANARY)
}
SEEN = Seen(
    stable=ArmSeen(exists=True, template_hash=STEPPING.plan.stable_hash, wanted=1, pods=(PODS[STABLE],)),
    canary=ArmSeen(exists=True, template_hash=STEPPING.plan.canary_hash, wanted=1, pods=(PODS[CANARY],)),
    route=RouteSeen(weight=10),
    judgement=Judgement(verdict=Verdict.NO_DATA, log_e=0.0),
)


def served(check: CheckSpec, at: float) -> Tick:
    """What both arms served in a second."""
    pods = (PodSample(name, "n", of(check, 1)) for name in (STABLE, CANARY))
    return Tick(check.name, *(Sample(at, at + 1, (pod,)) for pod in pods))


def of(check: CheckSpec, seconds: int) -> Statistic:
    """What a pod counts in so long."""
    counted = Histogram((0.1, 0.5), (60 * seconds, 30 * seconds, seconds))
    return Counts(90 * seconds, seconds) if check.kind is CheckKind.ERROR_RATE else counted


TICKS = [served(check, NOW.timestamp() - 2) for check in STEPPING.plan.policy.checks]
GATHERED = gather.scored(
    gather.take(
        gather.begin_step(gather.begin(STEPPING.plan.policy), 0, at=NOW.timestamp() - 60),
        STEPPING,
        SEEN,
        [served(check, NOW.timestamp() - ago) for ago in (9, 8, 7) for check in STEPPING.plan.policy.checks],
        NOW,
    ),
    update,
)
LIVES = {(NAMESPACE, RUN["metadata"]["name"]): SimpleNamespace(run=resource.run(RUN))}
POLICY = policies.policy(planning.builtin())
OUTSIDE = Outside(transport=Script(b""), fetch=nobody, post=nobody, ask=nobody, clock=LOOP.now)
KINDS = ("deployments", "pods", "canaryruns", "virtualservices", "replicasets")

DEPLOYMENT, STABLES, ROUTE = (
    json.dumps(one).encode()
    for one in (WORLD["deployments"][1], WORLD["deployments"][0], WORLD["virtualservices"][0])
)
REFUSAL = b'c{"kind":"Status","reason":"Conflict","message":"changed","code":409}'
GONE = b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}'
LEASE = json.dumps(
    {
        "metadata": {"name": "l", "namespace": "s", "uid": "u", "resourceVersion": "7"},
        "spec": {"holderIdentity": "other", "leaseDurationSeconds": 6, "leaseTransitions": 3},
    }
).encode()


def listed(*items: bytes) -> bytes:
    meta = b'{"resourceVersion":"10"}'
    return b'o{"kind":"List","apiVersion":"v1","metadata":%s,"items":[%s]}' % (meta, b",".join(items))


def event(kind: bytes, obj: bytes) -> bytes:
    return b'{"type":"%s","object":%s}' % (kind, obj)


def cursor() -> Cursor:
    """As after three seconds in which both arms were read."""
    found = Cursor()
    for second in range(3):
        at = NOW.timestamp() - 8 + second
        values = {check.name: of(check, second) for check in STEPPING.plan.policy.checks}
        sources = dict.fromkeys(values, "istio_requests_total")
        page = Reading(at=at, requests=Counts(9 * second, 0), values=values, sources=sources)
        arms = {"stable": {STABLE: "n"}, "canary": {CANARY: "n"}}
        since = dict.fromkeys(("step", "weight"), NOW.timestamp() - 60)
        found, _, _ = advance(found, dict.fromkeys(PODS, page), **arms, now=at, since=since)
    return found


BODY = gather.save(replace(GATHERED, cursor=cursor(), saved=NOW.timestamp() - 5))
JUDGED = judging.judged(STEPPING, GATHERED, NOW)
LETTER = Message(id="1", alert=0, outcome="Held", reason=Reason.NO_DATA, sentence="s", at=NOW)
ADMITTED = next(
    each["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for each in yaml.safe_load_all(planning.CRDS[0].read_text())
    if each["spec"]["names"]["kind"] == "CanaryRun"
)
STATUS = resource.status(
    replace(
        STEPPING,
        outbox=(LETTER,),
    ),
    Checkpoint(body=BODY, judgement=JUDGED, sentences=judging.sentences(JUDGED, STEPPING, NOW)),
    3,
    now=NOW,
)
RUNNING = json.dumps(RUN).encode()
BOOKMARK = b'{"metadata":{"resourceVersion":"12"}}'
PROMETHEUS = b'{"status":"success","data":{"resultType":"vector","result":[%s]}}'
SERIES = (
    b'{"metric":{"pod":"a","job":"j","instance":"i","le":"+Inf","reporter":"destination",'
    b'"response_code":"200"},"value":[10,"7"]}'
)
SMALL = b"\n".join(
    line
    for line in bench_pages.sidecar().split(b"\n")
    if b'"search"' in line and b'"200"' in line and b"_s" not in line
)
MODEL = (
    b'# TYPE model_prediction_value histogram\nmodel_prediction_value_bucket{le="0.5"} 3\n'
    b'model_prediction_value_bucket{le="+Inf"} 9\nclicks_total 1\nshown_total 4\n'
)
LABELS = {"reporter": "destination", "response_code": "200"}


def stored(patch: Json) -> Json:
    """What a merge patch leaves of an object that was not there."""
    kept = {key: value for key, value in patch.items() if value is not None}
    return {key: stored(value) if isinstance(value, dict) else value for key, value in kept.items()}


def family(name: bytes, *metrics: bytes) -> bytes:
    body = message(1, name) + b"".join(metrics)
    return message(1, body)[1:]


PROTOBUF = family(b"istio_requests_total", counter(LABELS, 7.0)) + family(
    b"istio_request_duration_milliseconds", classic(LABELS, {5.0: 3, 50.0: 6}, 7)
)
TICK = (
    b'{"t":%d,"weight":10,"stable":{"requests":91,"latency":{"le":[0.01,0.02],"count":[3,20,68]}},'
    b'"canary":{"requests":9,"errors":1,"latency":{"le":[0.01,0.02],"count":[1,2,6]}}}\n'
)

TARGETS: Mapping[str, Target] = {
    "annotations": Target(
        annotations,
        (
            b"canary-of=model",
            b"canary-of=model\nsteps=5,10,25,50\nmax-latency-increase=20%\npause=true",
            b"canary-of=model\npolicy=default\nvirtual-service=model\nstable-subset=stable\nabort=run-1-1",
        ),
    ),
    "policy": Target(
        policy,
        (
            b"steps: [5, 10]\nchecks:\n- {name: e, type: ErrorRate, plus: 1%}\n",
            json.dumps(planning.builtin()).encode(),
        ),
    ),
    "run": Target(run, (RUNNING, json.dumps(RUN | {"status": stored(STATUS)}).encode())),
    "checkpoint": Target(checkpoint, (BODY.encode(),)),
    "ticks": Target(ticks, (TICK % 1 + TICK % 2,)),
    "text": Target(text, (SMALL + b"\n" + MODEL, MODEL + b"# EOF\n")),
    "delimited": Target(delimited, (PROTOBUF,)),
    "followed": Target(
        followed,
        (
            b"\0" + listed(DEPLOYMENT) + b"\n\no" + event(b"MODIFIED", DEPLOYMENT) + b"\n" + GONE,
            b"\2"
            + listed(RUNNING)
            + b"\n\no"
            + event(b"BOOKMARK", BOOKMARK)
            + b"\n"
            + event(b"DELETED", RUNNING),
            b"\3" + listed() + b"\n\no" + event(b"ADDED", ROUTE) + b"\n\n" + REFUSAL,
        ),
    ),
    "answered": Target(
        answered,
        (
            *(bytes([at]) + b"o" + RUNNING for at in range(3)),
            *(bytes([at]) + REFUSAL + b"\n\no" + RUNNING for at in range(3)),
            b"\3o" + STABLES + b"\n\no" + STABLES,
            b"\4o" + ROUTE,
            b"\5" + b"o" + ROUTE + b"\n\no" + ROUTE,
            b"\6o" + LEASE + b"\n\no" + LEASE + b"\n\no" + LEASE,
            b"\7ro\n\nu<html>",
        ),
    ),
    "prometheus": Target(
        prometheus,
        (
            b"o" + PROMETHEUS % SERIES,
            b"o" + PROMETHEUS.replace(b'"data"', b'"warnings":["a store is away"],"data"') % SERIES,
            b'u{"status":"error","errorType":"timeout","error":"too slow"}',
        ),
    ),
}

WORDS = (
    *(name.removeprefix(PREFIX) for name in sorted(trigger.KNOWN)),
    *("metadata", "resourceVersion", "annotations", "ownerReferences", "uid", "items", "continue", "object"),
    *(
        "ADDED",
        "MODIFIED",
        "DELETED",
        "BOOKMARK",
        "ERROR",
        "null",
        "1e999",
        "NaN",
        "+Inf",
        "30s",
        "20%",
        "spec",
    ),
    *(
        "checks",
        "quantiles",
        "maxIncrease",
        "Latency",
        "Shadow",
        "source",
        "scrape",
        "alerts",
        "webhook",
        "&a",
        "*a",
    ),
    *(
        "istio_requests_total{",
        "_bucket{",
        "le=",
        "# EOF",
        "# TYPE ",
        "latency",
        "count",
        "proportions",
        "pods",
    ),
)

if __name__ == "__main__":
    fuzz(sys.argv, TARGETS, words=WORDS, room=ROOM)
