"""What stands on the wire: camelCase fields, `"30s"` durations, `"20%"` percentages, RFC 3339 times.

Defaults stand in the CRD's schema. A field that the schema defaults is required here, and its absence
is an error; a field that we do not know is ignored, since a newer schema may know more than we do.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

import msgspec

from controller.model import (
    Before,
    Inputs,
    OnDoubt,
    Preflight,
    PromotionMode,
    Reason,
    Sizing,
    Stage,
)
from controller.writing import Sighting

Json = Any
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
# A time whose zone nobody wrote cannot be held against another, and is refused.
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
YEARS = range(1970, 3000)  # of such times: beyond, a sum with a duration may leave the calendar
LONGEST = timedelta(days=365)  # nobody waits longer, and no sum of such times leaves the calendar
LAST_EPOCH = 2**31 - 1  # `leaseTransitions` has 32 bits; whoever says so has counted none
_PART = re.compile(r"([0-9]+)(ms|s|m|h)")
# A hundred times as much: beyond that nothing is checked, and arithmetic on rates loses its meaning.
MOST_PERCENT = 10_000


class Malformed(ValueError):
    """An object that the schema should have refused; the text names the field and the remedy."""


# -- scalars ---------------------------------------------------------------------------------------


def duration(text: str, *, field: str = "duration") -> timedelta:
    """The duration that `text` writes, such as `30s`, `1m30s` or `500ms`; a year at most."""
    if not re.fullmatch(r"([0-9]+(ms|s|m|h))+", text):
        raise Malformed(f'{field}: expected a duration such as "30s" or "1m30s", got "{text}"')
    seconds = sum(float(n) * _UNITS[unit] for n, unit in _PART.findall(text))
    if seconds > LONGEST.total_seconds():
        raise Malformed(f'{field}: expected a duration of at most a year ("8760h"), got "{text}"')
    return timedelta(seconds=seconds)


def percent(text: str, *, field: str = "percentage") -> float:
    """The fraction that `text` writes: 0.2 for `20%`."""
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?%", text):
        raise Malformed(f'{field}: expected a percentage such as "20%", got "{text}"')
    if float(text[:-1]) > MOST_PERCENT:
        raise Malformed(f'{field}: at most {MOST_PERCENT}%, got "{text}"; leave the check out to allow more')
    return float(text[:-1]) / 100


def time(value: datetime | None) -> str | None:
    """RFC 3339 in UTC with microseconds."""
    return None if value is None else value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# -- objects ---------------------------------------------------------------------------------------


class Wire(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """Base of all that is read from the wire."""


class Timed(Wire, frozen=True, kw_only=True):
    """Base of what holds times."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, datetime) and value.year not in YEARS:
                raise ValueError(f"{name}: expected a time of our centuries, got {value}")


class Scrape(Wire, frozen=True, kw_only=True):
    """A page of a pod, where it is not as the pod's annotations say."""

    port: int | None = None
    path: str | None = None


class Prometheus(Wire, frozen=True, kw_only=True):
    """The Prometheus that the process was told of; a policy cannot name another."""


class Source(Wire, frozen=True, kw_only=True):
    """Where a check's numbers come from: `scrape` or `prometheus`."""

    scrape: Scrape | None = None
    prometheus: Prometheus | None = None


class Counters(Wire, frozen=True, kw_only=True):
    """The two counters that a proportion is made of, by name."""

    hits: str
    trials: str


class Check(Wire, frozen=True, kw_only=True):
    """One entry of `checks[]`."""

    name: str
    type: str
    quantile: float = 0.95
    quantiles: tuple[float, ...] = ()
    max_increase: str = "0%"
    plus: str = "0%"
    max_decrease: str = "0%"
    max_flips: str = "0%"
    counters: Counters | None = None
    tolerance: float = 0.05
    required: bool = True
    share: float | None = None
    source: Source | None = None


class Secret(Wire, frozen=True, kw_only=True):
    """A Secret in the run's own namespace."""

    name: str
    key: str


class Slack(Wire, frozen=True, kw_only=True):
    """Where Slack's URL is kept."""

    secret_ref: Secret


class Webhook(Wire, frozen=True, kw_only=True):
    """A receiver, and where its signing key is kept, or, of Teams' and Discord's, its URL."""

    url: str | None = None
    format: str = "CloudEvent"
    secret_ref: Secret | None = None


class Alert(Wire, frozen=True, kw_only=True):
    """One entry of `alerts[]`: `slack` or `webhook`."""

    slack: Slack | None = None
    webhook: Webhook | None = None
    on: tuple[str, ...] = ("RolledBack", "Held", "Promoted")
    severity: str = "info"


class Gate(Wire, frozen=True, kw_only=True):
    """One entry of `gates[]`: `manual`, which says no more, or `webhook`."""

    before: Before
    manual: dict[str, Json] | None = None
    webhook: Webhook | None = None


class ScaleDownDelay(Wire, frozen=True, kw_only=True):
    """How long the canary's pods stay after the end."""

    promoted: str
    rolled_back: str


class Promotion(Wire, frozen=True, kw_only=True):
    """Who gives stable the template."""

    mode: PromotionMode


class Policy(Wire, frozen=True, kw_only=True):
    """A CanaryPolicy's spec, complete."""

    steps: tuple[int, ...]
    warm_up: str
    min_step: str
    min_requests: int
    step_timeout: str
    progress_deadline: str
    alpha: float
    beta: float
    canary_replicas: Sizing
    on_inconclusive: OnDoubt
    on_no_data: OnDoubt
    no_data_timeout: str
    scale_down_delay: ScaleDownDelay
    promotion: Promotion
    history_limit: int
    burst_tolerance: str
    checks: tuple[Check, ...]
    alerts: tuple[Alert, ...] = ()
    gates: tuple[Gate, ...] = ()
    preflight: Preflight = Preflight.OFF
    preflight_skip: tuple[str, ...] = ()


class Shadow(Wire, frozen=True, kw_only=True):
    """`spec.plan.shadow`: the two models, and where requests to which hosts are recorded."""

    stable: str
    canary: str
    hosts: tuple[str, ...]
    host: str
    port: int
    percent: float
    baseline: str | None = None


class Plan(Wire, frozen=True, kw_only=True):
    """`CanaryRun.spec.plan`."""

    canary: str
    stable: str
    canary_hash: str
    stable_hash: str
    virtual_service: str
    stable_subset: str
    canary_subset: str
    max_latency_increase: str | None = None
    policy: Policy
    policy_name: str | None = None
    policy_generation: int | None = None
    shadow: Shadow | None = None


class Said(Wire, frozen=True, kw_only=True):
    """A command with its reason."""

    reason: str


class Wishes(Wire, frozen=True, kw_only=True):
    """`CanaryRun.spec` beside the plan: what people may ask."""

    paused: bool = False
    abort: Said | None = None
    promote: Said | None = None
    approved: tuple[str, ...] = ()


class RunSpec(Wishes, frozen=True, kw_only=True):
    """`CanaryRun.spec`."""

    plan: Plan


class Owner(Wire, frozen=True, kw_only=True):
    """One owner reference."""

    uid: str = ""
    controller: bool = False


class Meta(Timed, frozen=True, kw_only=True):
    """What we need of an object's metadata."""

    name: str
    namespace: str
    uid: str = ""
    creation_timestamp: Moment
    deletion_timestamp: Moment | None = None
    owner_references: tuple[Owner, ...] = ()


class Weight(Timed, frozen=True, kw_only=True):
    """One entry of `status.weights[]`."""

    at: Moment
    weight: int
    reason: Reason


class Message(Timed, frozen=True, kw_only=True):
    """One entry of `status.outbox[]`."""

    id: str
    alert: int
    outcome: str
    reason: Reason
    sentence: str
    at: Moment


class State(Timed, frozen=True, kw_only=True):
    """The machine's own bookkeeping, under `status.state`."""

    stage: Stage = Stage.WAITING
    step: int = 0
    hold: Reason | None = None
    check: str | None = None
    step_since: Moment | None = None
    weight_since: Moment | None = None
    data_since: Moment | None = None
    ended: Moment | None = None
    raised_from: Sighting | None = None
    pods_known: Moment | None = None
    passed: bool = False
    approved: int = 0
    opened: tuple[int, ...] = ()
    admitted: bool = False
    by_hand: bool = False
    blind: bool = False
    copied: bool = False
    landed: bool = False
    settled: bool = False
    scaled_down: bool = False
    stable_known: int | None = None  # seconds
    shadow_since: Moment | None = None
    mirrored: bool = False
    inputs: Inputs | None = None
    drift_approved: bool = False
    retraining_asked: Moment | None = None
    told: tuple[str, ...] = ()


class RunStatus(Wire, frozen=True, kw_only=True):
    """`CanaryRun.status`, as far as we read it back."""

    state: State = State()
    weight: Annotated[int, msgspec.Meta(ge=0, le=99)] = 0  # no step goes to 100
    reason: Reason | None = None
    message: str = ""
    weights: tuple[Weight, ...] = ()
    outbox: tuple[Message, ...] = ()
    canary_replicas: int | None = None
    epoch: int = 0
    evidence_version: int = 0
    checkpoint: str = ""


class Counted(Wire, frozen=True, kw_only=True):
    """One entry of `status.checks[]`, as far as we read it back."""

    canary_requests: int = 0


class Staged(Wire, frozen=True, kw_only=True):
    """`status.state`, of a run that has one."""

    stage: Stage


class Decided(Wire, frozen=True, kw_only=True):
    """`CanaryRun.status` that holds evidence, as far as we read that back."""

    state: Staged
    verdict: str
    checks: tuple[Counted, ...]


class RunObject(Wire, frozen=True, kw_only=True):
    """A CanaryRun."""

    metadata: Meta
    spec: RunSpec
    status: RunStatus = RunStatus()


class WishedObject(Wire, frozen=True, kw_only=True):
    """A CanaryRun as far as people command it, whatever plan and status are."""

    metadata: Meta
    spec: Wishes


class StoredOwner(Wire, frozen=True, kw_only=True):
    """One owner reference of any object."""

    kind: str
    name: str
    uid: str
    controller: bool = False


class StoredMeta(Wire, frozen=True, kw_only=True):
    """What every object of an API server has, as far as we read it; and what it may have."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    uid: str
    resource_version: Annotated[str, msgspec.Meta(pattern="^[0-9]{1,20}$")]
    namespace: str = ""
    creation_timestamp: str = ""
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[StoredOwner, ...] = ()


class Stored(Wire, frozen=True, kw_only=True):
    """What is stored under a name."""

    metadata: StoredMeta


class StoredObject(Stored, frozen=True, kw_only=True):
    """Any object."""

    spec: Mapping[str, Json] | None = None
    status: Mapping[str, Json] | None = None


class Condition(Timed, frozen=True, kw_only=True):
    """A condition of a status, as far as the next one depends on it."""

    type: str
    status: str
    last_transition_time: Moment


class TemplateMeta(Wire, frozen=True, kw_only=True):
    """A pod template's metadata."""

    labels: Mapping[str, str] = {}


class Template(Wire, frozen=True, kw_only=True):
    """A pod template."""

    metadata: TemplateMeta
    spec: dict[str, Json]


class Selector(Wire, frozen=True, kw_only=True):
    """Which pods are a Deployment's."""

    match_labels: Mapping[str, str] = {}


class DeploymentSpec(Wire, frozen=True, kw_only=True):
    """What a promotion reads of a Deployment."""

    template: Template
    selector: Selector


class StoredDeployment(Stored, frozen=True, kw_only=True):
    """A Deployment."""

    spec: DeploymentSpec


class Target(Wire, frozen=True, kw_only=True):
    """Where a route sends a share of its requests."""

    destination: dict[str, Json] | None = None


class HttpRoute(Wire, frozen=True, kw_only=True):
    """A route of a VirtualService."""

    route: tuple[Target, ...] | None = None


class Routes(Wire, frozen=True, kw_only=True):
    """A VirtualService's spec, as far as weights stand in it."""

    http: tuple[HttpRoute, ...] | None = None


class Steered(Wire, frozen=True, kw_only=True):
    """A VirtualService: no stricter than Istio's schema is, since a rollback may have to be made in it."""

    metadata: Mapping[str, Json] = {}
    spec: Routes


def stored(obj: Json, kind: type[Wire] = StoredObject) -> bool:
    """Whether this can be an object as an API server stores it; what else is wrong its reader will find."""
    try:
        msgspec.convert(obj, kind)
    except msgspec.ValidationError:
        return False
    return True


Kind = TypeVar("Kind", RunObject, WishedObject)


def decode(obj: Json, kind: type[Kind]) -> Kind:
    """The CanaryRun that `obj` holds, or the part of it that `kind` reads; raises `Malformed`."""
    try:
        return msgspec.convert(obj, kind, strict=True)
    except msgspec.ValidationError as error:
        name = obj.get("metadata", {}).get("name", "?") if isinstance(obj, Mapping) else "?"
        raise Malformed(f"CanaryRun {name}: {error}") from error
