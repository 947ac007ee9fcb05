"""When a story's faults and edits happen, and which pod suffers from which of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from scenarios.conduct import quantiles
from scenarios.distributions import Beta, Latency
from scenarios.plot import ArmFault, Delete, Edit, Evict, Patch, Pods, Story, Target, TargetFault

SILENT_FOR = 20.0  # seconds after a silencing fault's end until its pods surely answer again
ROUTED_AWAY = 2.0  # seconds after an eviction until the proxy knows that the pods, or the weight, are gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """Something begins or is over, so many seconds after the story's beginning."""

    at: float
    what: ArmFault | TargetFault | Edit
    begins: bool = True


def happenings(story: Story) -> Sequence[Happening]:
    """All of them in the order in which they come; edits at 0s are in the objects already."""
    found = []
    for fault in story.faults:
        at = fault.at.total_seconds()
        found.append(Happening(at=at, what=fault))
        if fault.lasting is not None:
            found.append(Happening(at=at + fault.lasting.total_seconds(), what=fault, begins=False))
    later = (edit for edit in story.edits if edit.at > timedelta(0))
    found += [Happening(at=edit.at.total_seconds(), what=edit) for edit in later]
    return sorted(found, key=lambda happening: happening.at)


def told(what: ArmFault | TargetFault | Edit) -> str:
    """What happens, in the words of the story."""
    match what:
        case ArmFault():
            effects = ", ".join(f"{name} {_short(name, effect)}" for name, effect in what.said().items())
            return f"{what.arm}: {effects}"
        case TargetFault():
            return f"{what.target}: {what.kind}"
        case Patch():
            return f"somebody patches {what.kind} {what.name}"
        case Delete():
            return f"somebody deletes {what.kind} {what.name}"
        case Evict():
            return f"{what.pods} {what.arm} pods are evicted"


def _short(name: str, effect: Any) -> str:
    """The effect as the story's file writes it: 40ms and 20%, where pods are told 0.04 and 0.2."""
    if isinstance(effect, dict):
        return " ".join(_short(part, each) for part, each in effect.items())
    if name in {"errorRate", "clickRate"}:
        return f"{100 * effect:.10g}%"
    if name in {"latencyAdd", "decay"}:
        return f"{effect:.10g}s" if effect >= 1 else f"{1000 * effect:.10g}ms"
    return str(effect)


def latency_table(latency: Latency) -> list[float]:
    """The latency's quantiles, as a pod is told them."""
    return quantiles(latency.cdf, low=1e-6, high=1e4)


def prediction_table(predictions: Beta) -> list[float]:
    """The score's quantiles, as a pod is told them."""
    return quantiles(predictions.cdf, low=1e-9, high=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sufferer:
    """A pod as a fault sees it; `born` is in seconds since the story's beginning."""

    name: str
    arm: str
    born: float


@dataclass(slots=True)
class Troubles:
    """The faults in force, and how the pods are told."""

    active: list[ArmFault] = field(default_factory=list)
    metrics: str | None = None
    _chosen: dict[int, str] = field(default_factory=dict)  # by the fault's identity: its one pod

    def begin(self, fault: ArmFault, pods: Iterable[Sufferer]) -> None:
        """The fault is in force; one that touches one pod touches the first by name of those there."""
        self._chosen[id(fault)] = min((pod.name for pod in pods if pod.arm == fault.arm), default="")
        self.active.append(fault)

    def end(self, fault: ArmFault) -> None:
        """The fault is over."""
        self.active.remove(fault)

    def of(self, pod: Sufferer) -> dict[str, Any]:
        """What the pod suffers from now, together, in its own words."""
        together: dict[str, Any] = {"metrics": self.metrics} if self.metrics else {}
        for fault in self.active:
            if self._touches(fault, pod):
                _add(together, fault)
        return together

    def _touches(self, fault: ArmFault, pod: Sufferer) -> bool:
        if fault.arm != pod.arm:
            return False
        if fault.pods is Pods.ONE:
            return self._chosen[id(fault)] == pod.name
        return fault.pods is Pods.ALL or pod.born > fault.at.total_seconds()


def _add(together: dict[str, Any], fault: ArmFault) -> None:
    """Factors multiply, delays add up, of everything else the last one counts."""
    said = fault.said()
    if fault.predictions is not None:
        said["predictions"] = prediction_table(fault.predictions)
    if "latencyFactor" in said:
        said["latencyFactor"] *= together.get("latencyFactor", 1.0)
    if "latencyAdd" in said:
        said["latencyAdd"] += together.get("latencyAdd", 0.0)
    together |= said


def ordered(story: Story, arm: str, *, start: float, end: float) -> bool:
    """Whether the story makes a request of `arm` fail that lasts from `start` to `end`."""
    return any(began <= end and start <= over for began, over in _silences(story, arm))


def _silences(story: Story, arm: str) -> Iterable[tuple[float, float]]:
    """From when to when the pods of an arm, or the proxy, give no answers."""
    for what in (*story.faults, *story.edits):
        at, lasting = what.at.total_seconds(), float("inf")
        match what:
            case ArmFault():
                silent = what.arm == arm and (what.crash or what.hang or what.blackhole)
            case TargetFault():
                silent = what.target is Target.ENVOY
            case Evict():
                silent, lasting = what.arm == arm, ROUTED_AWAY
            case _:
                silent = False
        if isinstance(what, ArmFault | TargetFault) and what.lasting is not None:
            lasting = what.lasting.total_seconds() + SILENT_FOR
        if silent:
            yield at, at + lasting
