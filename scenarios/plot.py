"""What a story is made of: arms, faults, edits, noise, endings. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from controller.record import at_quantile
from scenarios.distributions import Beta, Latency

Json = Any


class Arm(StrEnum):
    """One of the two Deployments that share the traffic."""

    STABLE = "stable"
    CANARY = "canary"


class Outcome(StrEnum):
    """How a run can end; `HELD`: it is paused, or still at a step, when the story is over."""

    ROLLED_BACK = "RolledBack"
    PROMOTED = "Promoted"
    HELD = "Held"


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How one version of the model serves, and with how many pods."""

    replicas: int
    latency: Latency
    error_rate: float
    predictions: Beta
    click_rate: float | None = None  # of what was answered; None: nobody counts clicks
    model: str = "digits"  # which variant of the lab's model it is


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStart:
    """Answers take `factor` times as long at a pod's first request; the excess decays from there."""

    factor: float
    decay: timedelta


class Pods(StrEnum):
    """Which pods of an arm a fault touches."""

    ALL = "all"
    ONE = "one"
    NEW = "new"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmFault:
    """What goes wrong with an arm's pods from `at` on, for `lasting` or to the end."""

    at: timedelta
    arm: Arm
    lasting: timedelta | None = None
    pods: Pods = Pods.ALL
    latency_factor: float = 1.0
    latency_add: timedelta = timedelta(0)
    error_rate: float | None = None
    predictions: Beta | None = None
    click_rate: float | None = None
    crash: bool = False  # the process exits, and again whenever it is started
    hang: bool = False  # the process answers nothing any more, its metrics neither
    blackhole: bool = False  # requests get lost on the way; metrics and probes still arrive
    cold_start: ColdStart | None = None

    def said(self) -> dict[str, Any]:
        """What it does, as JSON with durations in seconds; what it leaves alone is absent."""
        cold = self.cold_start
        effects = {
            "latencyFactor": self.latency_factor if self.latency_factor != 1 else None,
            "latencyAdd": self.latency_add.total_seconds() or None,
            "errorRate": self.error_rate,
            "predictions": self.predictions.said() if self.predictions else None,
            "clickRate": self.click_rate,
            "crash": self.crash or None,
            "hang": self.hang or None,
            "blackhole": self.blackhole or None,
            "coldStart": {"factor": cold.factor, "decay": cold.decay.total_seconds()} if cold else None,
        }
        return {name: effect for name, effect in effects.items() if effect is not None}


class Target(StrEnum):
    """What else can fail."""

    METRICS = "metrics"
    API_SERVER = "apiserver"
    CONTROLLER = "controller"
    ALERTS = "alerts"
    ENVOY = "envoy"
    SHADOW = "shadow"


KINDS: Mapping[Target, tuple[str, ...]] = {
    Target.METRICS: ("outage", "hang", "slow"),
    Target.API_SERVER: ("outage", "hang", "conflict", "watch-drop", "slow"),
    Target.CONTROLLER: ("kill", "freeze"),
    Target.ALERTS: ("outage", "hang", "slow"),
    Target.ENVOY: ("outage", "hang", "kill"),
    Target.SHADOW: ("kill", "hang"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFault:
    """What goes wrong around the arms. A killed controller is started again after `lasting`."""

    at: timedelta
    target: Target
    kind: str
    lasting: timedelta | None = None


Fault = ArmFault | TargetFault


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """Somebody merges this into an object of the namespace."""

    at: timedelta
    kind: str
    name: str
    merge: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Somebody deletes an object of the namespace."""

    at: timedelta
    kind: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evict:
    """So many healthy pods of an arm are evicted."""

    at: timedelta
    arm: Arm
    pods: int


Edit = Patch | Delete | Evict


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """Noise both arms share: AR(1) in log latency and log rate, and a slow wave of that amplitude."""

    sd: float = 0.0
    tau: timedelta = timedelta(seconds=60)
    diurnal: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PodNoise:
    """Noise each pod has for itself: AR(1) in log latency, and a fixed offset drawn at its start."""

    sd: float = 0.0
    tau: timedelta = timedelta(seconds=10)
    static: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bursts:
    """Spells in which one pod is `factor` times as slow."""

    per_second: float = 0.0
    factor: float = 1.0
    lasting: timedelta = timedelta(seconds=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What makes identical pods differ."""

    common: Common = Common()
    pod: PodNoise = PodNoise()
    bursts: Bursts = Bursts()

    def said(self) -> dict[str, Any]:
        """As JSON with durations in seconds, in the words of the file."""
        return {
            "common": {
                "sd": self.common.sd,
                "tau": self.common.tau.total_seconds(),
                "diurnal": self.common.diurnal,
            },
            "pod": {"sd": self.pod.sd, "tau": self.pod.tau.total_seconds(), "static": self.pod.static},
            "bursts": {
                "perSecond": self.bursts.per_second,
                "factor": self.bursts.factor,
                "lasting": self.bursts.lasting.total_seconds(),
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """One way a story may end; what is None may be anything."""

    outcome: Outcome
    within: timedelta | None = None
    check: str | None = None
    reason: str | None = None


def names_of(check: Json) -> list[str]:
    """What a check of a policy may be called: its name, or that of the one of its quantiles that failed."""
    name, levels = str(check.get("name")), check.get("quantiles")
    single = [each for each in levels if isinstance(each, float)] if isinstance(levels, list) else []
    return [name, *(at_quantile(name, level) for level in single)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One scenario file."""

    file: str
    name: str
    seed: int
    duration: timedelta
    requests_per_second: float
    propagation: timedelta
    history: timedelta
    controllers: int
    stable: Behaviour
    canary: Behaviour
    faults: tuple[Fault, ...]
    edits: tuple[Edit, ...]
    noise: Noise
    policy: Mapping[str, Any]
    expect: tuple[Ending, ...]  # any of them will do

    @property
    def shadowed(self) -> bool:
        """Whether its policy has a Shadow check, so that a worker has to be there."""
        checks = self.policy.get("checks", ())
        return any(isinstance(check, dict) and check.get("type") == "Shadow" for check in checks)

    @property
    def arm_faults(self) -> tuple[ArmFault, ...]:
        """The faults of the arms."""
        return tuple(fault for fault in self.faults if isinstance(fault, ArmFault))

    @property
    def target_faults(self) -> tuple[TargetFault, ...]:
        """The faults of everything else."""
        return tuple(fault for fault in self.faults if isinstance(fault, TargetFault))
