"""The words: what a run is, what one pass saw, what it asks for. Values only, no logic.

Durations are `timedelta`, times are aware UTC, weights are whole percent of requests to the canary.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from analysis.evidence import CheckSpec
from analysis.judge import CheckJudgement, Judgement, Verdict
from controller.hearing import LoadSeen
from controller.writing import Sighting


class Phase(StrEnum):
    """Where a run is, as shown to people. Derived from `Stage` and `Hold`; nothing decides by it."""

    PENDING = "Pending"
    PROGRESSING = "Progressing"
    PROMOTING = "Promoting"
    PAUSED = "Paused"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class Stage(StrEnum):
    """Where a run is, as the machine counts it."""

    WAITING = "Waiting"  # no traffic yet: the canary's pods are not ready, or may not be loaded yet
    STEPPING = "Stepping"  # at step `Run.step`, with that step's weight
    PROMOTING = "Promoting"  # the analysed template is becoming stable's
    ENDED = "Ended"  # promoted or rolled back; only chores are left


class Reason(StrEnum):
    """Why: on the run, in Events, in alerts. Stable names; people and alerts match on them."""

    CHECK_FAILED = "CheckFailed"
    CANARY_NOT_ANSWERING = "CanaryNotAnswering"
    CANARY_UNAVAILABLE = "CanaryUnavailable"
    CANARY_UNDER_PROVISIONED = "CanaryUnderProvisioned"
    TRAFFIC_DOES_NOT_FOLLOW_WEIGHT = "TrafficDoesNotFollowWeight"
    STABLE_CHANGED = "StableChanged"
    STABLE_UNAVAILABLE = "StableUnavailable"  # the one thing that keeps traffic on a bad canary
    SUPERSEDED = "Superseded"
    PROMOTION_FAILED = "PromotionFailed"
    READY_TO_PROMOTE = "ReadyToPromote"
    NO_DATA = "NoData"
    INCONCLUSIVE = "Inconclusive"
    ABORTED = "Aborted"
    FROZEN = "Frozen"
    INTERRUPTED = "Interrupted"
    LEADER_LOST = "LeaderLost"  # it took the traffic away, and nobody knows why
    PAUSED = "Paused"
    STARTED = "Started"  # this and the next: what happened, where nothing is wrong
    WEIGHT_RAISED = "WeightRaised"
    WEIGHT_REPAIRED = "WeightRepaired"
    PROMOTING = "Promoting"
    PROMOTED = "Promoted"
    REFUSED = "Refused"
    MENDED = "Mended"  # of a Deployment, not of a run: what was refused is refused no more
    STABLE_NOISY = "StableNoisy"
    INPUTS_DRIFTED = "InputsDrifted"
    RETRAINING_WANTED = "RetrainingWanted"
    PREFLIGHT_FAILED = "PreflightFailed"
    AWAITING_APPROVAL = "AwaitingApproval"  # a gate is shut
    GATE_CLOSED = "GateClosed"
    ALERT_DELAYED = "AlertDelayed"


class OnDoubt(StrEnum):
    """What a policy does when a step ends without an answer."""

    HOLD = "Hold"
    PROCEED = "Proceed"
    ROLL_BACK = "RollBack"


class PromotionMode(StrEnum):
    """Who gives stable the analysed template: we, or somebody else (git)."""

    COPY = "Copy"
    HANDOFF = "Handoff"


class Preflight(StrEnum):
    """What becomes of a run of whose checklist an item failed."""

    OFF = "Off"
    WARN = "Warn"
    ENFORCE = "Enforce"


class Before(StrEnum):
    """The move that a gate stands before."""

    START = "Start"  # the first weight
    RAISE = "Raise"  # each weight after it
    PROMOTION = "Promotion"


class Sizing(StrEnum):
    """Whether the canary is scaled up to carry its weight at stable's load per pod."""

    MATCH = "Match"
    KEEP = "Keep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Where to tell people, and about what. `secret` is a Secret's name in the run's namespace."""

    kind: str  # one of `letters.KINDS`
    secret: str | None = None
    key: str | None = None  # where in the Secret
    url: str | None = None
    on: tuple[str, ...] = ("RolledBack", "Held", "Promoted")
    severity: str = "info"  # what is less is not told: `telling.SEVERITIES`


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Who is asked before a move: a person, or, with a `url`, a webhook whose signing key is in `secret`."""

    before: Before
    url: str = ""
    secret: str | None = None
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Where a check's numbers stand on a pod, if not where the pod's annotations say."""

    port: int | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowCheck:
    """A policy's Shadow check: how many replayed requests may be answered differently."""

    name: str
    max_flips: float
    required: bool
    share: float  # of alpha, normalised with those of the other checks


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A CanaryPolicy's spec. No defaults here: they stand in the CRD's schema and nowhere else."""

    steps: tuple[int, ...]
    warm_up: timedelta
    min_step: timedelta
    min_requests: int
    step_timeout: timedelta
    progress_deadline: timedelta
    alpha: float
    beta: float
    canary_replicas: Sizing
    on_inconclusive: OnDoubt
    on_no_data: OnDoubt
    no_data_timeout: timedelta
    scale_down_promoted: timedelta
    scale_down_rolled_back: timedelta
    promotion: PromotionMode
    history_limit: int
    burst_tolerance: timedelta
    checks: tuple[CheckSpec, ...]  # those that are read from pods' pages
    shadow: ShadowCheck | None = None
    pages: Mapping[str, Page | None] = field(default_factory=dict)  # by check; None: a Prometheus has it
    alerts: tuple[Alert, ...] = ()
    gates: tuple[Gate, ...] = ()
    preflight: Preflight = Preflight.OFF
    preflight_skip: tuple[str, ...] = ()

    @property
    def queried(self) -> frozenset[str]:
        """The checks whose numbers a Prometheus is asked for."""
        return frozenset([name for name, page in self.pages.items() if page is None])


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Where a run's requests are mirrored to, and the names that callers use for what they call."""

    host: str  # of the recorder, as the mesh knows it
    port: int
    hosts: tuple[str, ...]
    percent: float = 100.0  # of the requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a run's traffic is steered."""

    namespace: str
    virtual_service: str
    stable_subset: str
    canary_subset: str
    recording: Recording | None = None  # with a Shadow check


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifacts:
    """The two models that a Shadow check compares, each `URI@sha256:DIGEST`."""

    stable: str
    canary: str
    baseline: str | None = None  # what the canary was trained on, likewise


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Place):
    """What a run does, fixed when it is asked for: names, both templates, the policy's snapshot."""

    canary: str  # Deployment
    stable: str  # Deployment
    canary_hash: str  # pod-template-hash that is analysed, and promoted or nothing is
    stable_hash: str
    policy: Policy
    artifacts: Artifacts | None = None  # with a Shadow check
    policy_name: str | None = None  # empty: the built-in one; None: the plan does not say
    follows: bool = False  # a changed policy plans it anew, until it has had traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightChange:
    """One entry of a run's weight history."""

    at: datetime
    weight: int
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One alert that has not arrived yet; its id is that of what happened, whoever tells it: `telling`."""

    id: str
    alert: int  # its index in `Policy.alerts`
    outcome: str
    reason: Reason
    sentence: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Drifted:
    """One feature whose recorded values are not those of the training: by which figure, and how far."""

    name: str
    by: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """A run's inputs against the training's: how many features have drifted, the first of them by name."""

    features: int
    requests: int
    count: int
    drifted: tuple[Drifted, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The state of one run, all that a new leader goes on from; its evidence is beside it (`means.Live`)."""

    name: str
    plan: Plan
    stage: Stage = Stage.WAITING
    step: int = 0
    weight: int = 0
    hold: Reason | None = None  # why the weight is not raised although nothing failed
    reason: Reason | None = None  # why the run ended, or what it waits for
    check: str | None = None  # the check that failed
    message: str = ""
    identity: str = ""  # its own uid: a run that was deleted and asked for again has the same name
    uid: str = ""  # of the canary's Deployment, for Events
    created: datetime
    step_since: datetime | None = None  # the step, or the promotion, began
    weight_since: datetime | None = None  # the weight last changed
    data_since: datetime | None = None  # all required checks had data; while waiting: all pods were ready
    ended: datetime | None = None
    weights: tuple[WeightChange, ...] = ()
    raised_from: Sighting | None = None  # by the newest raise, or repair upwards; None: not seen so
    pods_known: datetime | None = None  # when its youngest pod was made, at that time: by the API server
    passed: bool = False  # the step has passed; the raise waits for something else
    approved: int = 0  # approvals used up
    opened: tuple[int, ...] = ()  # gates before the next move that have opened, by their places in the policy
    admitted: bool = False  # people know what failed of the checklist, or approved it
    gated: bool = False  # a webhook is asked whether the run may move
    canary_replicas: int | None = None  # the canary's size before it was scaled to 0
    by_hand: bool = False  # its promotion was begun by `promote`, which may be taken back
    blind: bool = False  # somebody lets it be promoted although nothing is known
    copied: bool = False  # stable was given the analysed template
    landed: bool = False  # ... and had it when it was looked at
    stable_known: timedelta | None = None  # how long stable had been read when the weight first rose
    shadow_since: datetime | None = None  # the first weight began to wait for the Shadow check
    mirrored: bool = False  # our mirror may stand in the VirtualService
    inputs: Inputs | None = None  # that have drifted; None: not so, or nothing is known of it
    drift_approved: bool = False  # somebody goes on in spite of them
    retraining_asked: datetime | None = None  # whoever trains models was told
    settled: bool = False  # ended, and weight 0 was seen at the VirtualService since
    scaled_down: bool = False  # the last chore of an ended run
    told: tuple[str, ...] = ()  # what was said once and is not said again while it lasts
    outbox: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What the worker said of a run: the verdict, a sentence, and out of how many requests."""

    verdict: Verdict
    sentence: str
    requests: int = 0
    flips: float | None = None  # the part that was answered differently
    interval: tuple[float, float] | None = None  # of that part, at all times at once
    inputs: Inputs | None = None  # what is known of them
    worst: tuple[tuple[str, float], ...] = ()  # the most different requests' ids, and how different


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What is saved beside a run so that a new leader goes on with nothing lost.

    `body`: the evidence and the counters it was read from, as opaque JSON text (a merge patch would keep the
    pods that are gone). The rest is for people: `sentences` by check, `beside` by the field of status.
    """

    body: str = ""
    judgement: Judgement
    sentences: dict[str, str] = field(default_factory=dict)
    beside: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSeen:
    """One live pod of an arm (none with a deletionTimestamp)."""

    name: str
    node: str
    ip: str
    ready: bool
    created: datetime
    restarts: int = 0
    crash_looping: bool = False
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSeen:
    """One arm's Deployment and its pods, as the API server last told."""

    exists: bool
    template_hash: str | None  # None while the Deployment's controller has not caught up
    wanted: int  # spec.replicas
    pods: tuple[PodSeen, ...] = ()
    rolled_out: bool = True  # every wanted replica is of the newest template and available
    autoscaled: bool = False  # an HPA owns its size
    unlisted: int = 0  # ready pods that its own controller tells of, where none at all is known here
    overran: tuple[datetime, str] | None = None  # when the last pod went that outgrew its own limits, and why

    @property
    def ready(self) -> int:
        """How many pods can take requests."""
        return sum([pod.ready for pod in self.pods])

    @property
    def complete(self) -> bool:
        """Whether all pods that are wanted are there, of the newest template."""
        return self.rolled_out and self.ready >= max(self.wanted, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSeen:
    """The VirtualService, read: the canary's weight there, and why it cannot be raised, if so."""

    weight: int | None  # None: the routes disagree, or it cannot be read; if refused, unless it is surely 0
    refusal: str | None = None
    mixed: bool = False  # the subsets are not those of the two arms alone
    pinned: str = ""  # routes by which some callers are led to the canary whatever the weight
    mirrored: bool = False  # the run's mirror stands in it
    unmirrored: str | None = None  # why it cannot, if a Shadow check would have it there
    sighting: Sighting | None = None  # None: there is none
    ours: bool = False  # a controller of ours wrote its routes last
    left: bool = False  # the canary has a weight there that no run gave, or knows of any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """What people ask of this run, from CanaryRun.spec (annotations are doorbells for it)."""

    paused: bool = False
    abort: str | None = None  # the reason given
    promote: str | None = None
    approvals: int = 0
    deleted: bool = False  # the CanaryRun has a deletionTimestamp
    withdrawn: bool = False  # the annotation that asked for the run is gone
    retargeted: bool = False  # ... or asks for another stable, VirtualService or subset now
    frozen: bool = False  # serin.dev/freeze on the namespace, or the process setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Everything one pass observed."""

    stable: ArmSeen
    canary: ArmSeen
    route: RouteSeen
    judgement: Judgement
    shadow: CheckJudgement | None = None  # the Shadow check's part of the judgement, if there is one
    shadow_silent: timedelta = timedelta(0)  # for how long nothing was heard of it
    load: LoadSeen = LoadSeen()  # noqa: RUF009 - a frozen value
    commands: Commands = Commands()
    stable_known: timedelta = timedelta(0)  # how long stable has been read, before the run and in it
    stable_matches: bool = False  # stable's template.spec is the analysed one
    looked: bool = True  # this leader has had the time to see how the canary does
    fenced: bool = True  # stable was written since the end: no copy from before can be made any more
    successor: int | None = None  # the weight here of the canary's next run, if there is one
    canary_read: bool = True  # the page of at least one ready canary pod has been read
    overdue: tuple[str, ...] = ()  # required checks whose last tick with both arms' pods is too long ago
    unshown: str = ""  # which canary pods serve and show nothing of a required check, if any lastingly do
    trouble: str = ""  # what keeps pods' pages from being read, if anything lasting does
    canary_replicas_before: int | None = None  # the canary's size before an earlier run scaled it to 0
    gates: Mapping[int, str] = field(default_factory=dict)  # what webhooks before the next move said: gating
    preflight: str | None = None  # what failed of the checklist; None: nobody could look yet
    replanned: bool = False  # the policy that would plan it now is another than the plan's
    inputs: Inputs | None = None  # what is known of them
    retraining_asked: datetime | None = None  # by an earlier run of the canary's


@dataclass(frozen=True, slots=True)
class SetWeight:
    """Send `weight` percent of requests to the canary, the rest to stable."""

    weight: int


@dataclass(frozen=True, slots=True)
class Fence:
    """A raise that was decided upon the VirtualService as it is comes too late from now on."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """Copies of the requests go to the recorder, or no more."""

    on: bool


@dataclass(frozen=True, slots=True)
class Scale:
    """Set the canary Deployment's replicas through its scale subresource."""

    replicas: int


@dataclass(frozen=True, slots=True)
class CopyTemplate:
    """Give stable the analysed template."""


@dataclass(frozen=True, slots=True)
class RestoreTemplate:
    """Give stable back the template of `Plan.stable_hash`."""


@dataclass(frozen=True, slots=True)
class BeginStep:
    """Evidence is gathered for `step` from now on; what the same step had gathered is thrown away."""

    step: int


@dataclass(frozen=True, slots=True)
class Tell:
    """Say it: an Event on the canary's Deployment and, where the policy asks, an alert."""

    reason: Reason
    message: str
    outcome: str | None = None  # "Promoted", "RolledBack", "Held", "Drifted" where people are alerted


Action = SetWeight | Fence | Mirror | Scale | CopyTemplate | RestoreTemplate | BeginStep | Tell
