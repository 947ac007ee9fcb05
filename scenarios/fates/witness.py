"""Who watches one history from outside and says which promises were broken. Nothing here asks the controller.

What a replica did is known from its requests, what became of traffic from the proxy, and what was told from
the receiver of alerts. A promise with a time bound counts from the moment when nothing hindered the
controller any more.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scenarios.cluster.patches import clone
from scenarios.fates.fate import WRITTEN, Fate
from scenarios.objects import CANARY, STABLE
from scenarios.plot import Arm
from scenarios.result import ended

Json = Any

OURS = "serin-"  # how replicas sign their requests
# Once nothing hinders: 6 s of a Lease, a second and its jitter for each side, three seconds of looking.
BOUND = 15.0
HEARD = 3.0  # seconds until a command is heeded, once nothing hinders
# ... and what the errors of the least canary traffic (3 a second) need to be proof.
FATAL_BOUND = 30.0
PROMOTED = "Succeeded"


@dataclass(slots=True)
class Witness:
    """Keeps what it needs of the past, and every broken promise."""

    fate: Fate
    clock: Callable[[], float]  # seconds since the story's beginning
    served: Callable[[], int]  # canary requests so far
    author: str = ""  # who is being answered now; "" the cluster itself or people
    broken: list[str] = field(default_factory=list)
    hindered: float = float("-inf")  # when anything last hindered the controller
    runs: dict[str, Json] = field(default_factory=dict)
    templates: dict[str, Json] = field(default_factory=dict)  # by pod-template-hash
    _last: dict[tuple[str, str], Json] = field(default_factory=dict)
    _tallies: dict[str, tuple[Any, list[int]]] = field(default_factory=dict)
    _weight: int = 0  # the canary's, as the VirtualService says
    _by_us: bool = True  # who wrote it last
    _raised: tuple[float, int] = (0.0, 0)  # when we last raised it, and the canary requests by then
    _reached: int = 0  # the highest weight that the run had
    _left: str | None = None  # the run whose failing canary had its weight taken
    _seen: int = 0  # canary pages that were read since the last raise
    _asked: float = 0.0  # when somebody last asked something of a run
    _excess: float | None = None  # since when it is more than a run may have
    _short: float | None = None  # since when it is less than its run says
    _exposed: float | None = None  # since when it is above 0

    @property
    def ours(self) -> bool:
        """Whether a replica is being answered."""
        return self.author.startswith(OURS)

    def breaks(self, promise: str) -> None:
        """One promise is broken, now."""
        line = f"{self.clock():.2f} s: {promise}"
        if not self.broken or self.broken[-1].partition(": ")[2] != promise:
            self.broken.append(line)

    def read(self) -> None:
        """A replica has read a canary's page."""
        self._seen += 1

    # -- what is written

    def changed(self, kind: str, resource: str, obj: Json) -> None:
        """An object was written or is gone."""
        name = obj["metadata"]["name"]
        before = None if kind == "ADDED" else self._last.get((resource, name))
        self._last[resource, name] = clone(obj)
        if self.ours and resource not in WRITTEN:
            self.breaks(f"{self.author} wrote {resource}/{name}, which is none of its business")
        match resource:
            case "virtualservices":
                self._route(before, obj)
            case "canaryruns":
                self._run(kind, name, before, obj)
            case "deployments" if self.ours and before is not None:
                self._deployment(name, before, obj)
            case "replicasets":
                self._template(obj)

    def _route(self, before: Json, obj: Json) -> None:
        weights = _weights(obj)
        if sum(weights.values()) != 100:
            self.breaks(f"the weights are {weights}")
        was, self._weight = self._weight, weights.get(str(Arm.CANARY), 0)
        self._by_us = self.ours
        now = self.clock()
        self._exposed = None if self._weight == 0 else self._exposed or now
        if not self.ours or before is None:
            return
        if _foreign(before) != _foreign(obj):
            self.breaks(f"{self.author} changed more of the VirtualService than its weights")
        if self._weight > was:
            self._raise(now)
        if self._weight == 0 and was > 0 and self.fate.fatal is not None and now > self.fate.fatal + HEARD:
            self._left = next((name for name, run in self.runs.items() if not ended(run)), None)

    def _raise(self, now: float) -> None:
        run = next((run for run in self.runs.values() if not ended(run)), None)
        if run is None:
            return  # a write from before the end may arrive after it; `look` sees whether it stays
        if self._left == run["metadata"]["name"]:
            self.breaks(f"{self.author} gave {self._weight} % back to a canary that it had been taken from")
        wanted = (run.get("status") or {}).get("weight", 0)
        steps = run["spec"]["plan"]["policy"]["steps"]
        if self._weight not in steps:
            self.breaks(f"{self.author} set a weight of {self._weight} %, which is no step of {steps}")
        if self._weight > wanted:
            self.breaks(f"{self.author} set {self._weight} % before the run's status said so ({wanted} %)")
        if run["spec"].get("paused") and min(now - self._asked, now - self.hindered) > HEARD:
            self.breaks(f"{self.author} set {self._weight} % of a run that is paused")
        if self._weight > steps[0] and self._reached < self._weight:
            self._analysed(run, now, f"raised to {self._weight} %")
        self._reached = max(self._reached, self._weight)
        self._raised, self._seen = (now, self.served()), 0

    def _analysed(self, run: Json, now: float, what: str) -> None:
        """Nothing goes on that was not looked at, unless a person or the policy says so."""
        spec, policy = run["spec"], run["spec"]["plan"]["policy"]
        if "promote" in spec or spec.get("approved") or policy.get("onInconclusive") == "Proceed":
            return
        at, served = self._raised
        if (seen := self.served() - served) < policy["minRequests"]:
            self.breaks(f"{what} after {seen} canary requests; minRequests is {policy['minRequests']}")
        if self._seen < 2:
            self.breaks(f"{what} after {self._seen} readings of the canary's pages")
        least = float(policy["minStep"].rstrip("s"))
        if now - at < least - 0.5 and not self.fate.skews:
            self.breaks(f"{what} after {now - at:.1f} s; minStep is {policy['minStep']}")

    def _run(self, kind: str, name: str, before: Json, obj: Json) -> None:
        if kind == "DELETED":
            self.runs.pop(name, None)
            self._tallies.pop(name, None)
            return
        if kind == "ADDED":
            self._reached = 0
        if before is None or before["spec"] != obj["spec"]:
            self._asked = self.clock()
        self.runs[name] = clone(obj)
        status = obj.get("status") or {}
        if before is not None and ended(before):
            for what in ("phase", "reason", "step", "weight"):
                was = before["status"].get(what)
                if status.get(what) != was:
                    self.breaks(f"{name} had ended, and its {what} went from {was} to {status.get(what)}")
        if self.ours and status.get("checkpoint"):
            self._checkpoint(name, status)
            self._in_turn(name, before, status["epoch"])
        first = ended(obj) and not (before is not None and ended(before))
        if first and self.ours and self._weight > 0 and self.clock() - self.hindered > HEARD:
            self.breaks(f"{name} has ended in words while its canary still has {self._weight} %")
        if ended(obj) and self.fate.healthy and status.get("reason") == "CheckFailed":
            self.breaks(f"{name} failed a check with a healthy canary: {status.get('message')}")

    def _in_turn(self, name: str, before: Json, epoch: int) -> None:
        """Whoever was succeeded writes no more."""
        newest = ((before or {}).get("status") or {}).get("epoch", 0)
        if epoch < newest:
            self.breaks(f"{self.author} wrote {name} at epoch {epoch}, after {newest}")

    def _checkpoint(self, name: str, status: Json) -> None:
        """What was counted at a step stays counted."""
        counted = [check.get("canaryRequests", 0) for check in status.get("checks") or ()]
        # a step begins anew when its weight is taken away and given again
        step = status.get("step"), len(status.get("weights", ()))
        known, before = self._tallies.get(name, (None, []))
        if step != known:  # what is said with the raise is still about the last step
            counted = [0 for _ in counted]
        elif any(now < was for now, was in zip(counted, before, strict=False)):
            self.breaks(f"{name} forgot evidence at step {step[0]}: {before} requests, then {counted}")
        self._tallies[name] = step, counted

    def _deployment(self, name: str, before: Json, obj: Json) -> None:
        if before["metadata"].get("annotations", {}).keys() - _BY_CLUSTER != (
            obj["metadata"].get("annotations", {}).keys() - _BY_CLUSTER
        ):
            self.breaks(f"{self.author} changed the annotations of {name}")
        was, now = dict(before["spec"]), dict(obj["spec"])
        if name == CANARY:
            was.pop("replicas"), now.pop("replicas")
        if name == STABLE:
            old, new = was.pop("template"), now.pop("template")
            if old != new:
                self._given(new)
        if was != now:
            self.breaks(f"{self.author} changed spec of {name} where it may not")

    def _given(self, template: Json) -> None:
        """Stable gets what was analysed, or what it had before."""
        found = [hash_ for hash_, known in self.templates.items() if known == template["spec"]]
        plans = [run["spec"]["plan"] for run in self.runs.values()]
        if not any(plan[arm] in found for plan in plans for arm in ("canaryHash", "stableHash")):
            self.breaks(f"{STABLE} was given a template that no run analysed (known as {found})")
        run = next((run for run in self.runs.values() if not ended(run)), None)
        if run is not None and run["spec"]["plan"]["canaryHash"] in found:
            self._analysed(run, self.clock(), "promoted")

    def _template(self, obj: Json) -> None:
        hash_ = obj["metadata"].get("labels", {}).get("pod-template-hash")
        if hash_:
            self.templates[hash_] = clone(obj["spec"]["template"]["spec"])

    # -- what is looked at, four times a second

    def look(self, *, hindered: bool, stable_ready: int) -> None:
        """Promises about how long something may last."""
        now = self.clock()
        if hindered:
            self.hindered = now
        allowed = max((_allowed(run) for run in self.runs.values()), default=0)
        over = self._weight > allowed and (self._by_us or any(not ended(run) for run in self.runs.values()))
        self._excess = (self._excess or now) if over else None
        if self._excess is not None and now - max(self._excess, self.hindered) > BOUND:
            self.breaks(
                f"the canary has {self._weight} % for {now - self._excess:.0f} s; {allowed} % is allowed"
            )
        self._obeyed(now)
        self._given_to(now)
        fatal = self.fate.fatal
        if fatal is None or self._exposed is None or stable_ready == 0 or not self._by_us:
            return
        since = max(fatal, self._exposed, self.hindered)
        if now - since > FATAL_BOUND:
            self.breaks(f"the canary fails since {fatal:.1f} s and still has {self._weight} %")

    def _obeyed(self, now: float) -> None:
        """What is aborted or to be deleted ends."""
        for name, run in self.runs.items():
            wanted = "abort" in run["spec"] or run["metadata"].get("deletionTimestamp")
            if wanted and not ended(run) and min(now - self._asked, now - self.hindered) > BOUND:
                self.breaks(f"{name} was aborted and goes on")

    def _given_to(self, now: float) -> None:
        """A live run's weight is in the VirtualService."""
        live = [run for run in self.runs.values() if not ended(run)]
        under = any(self._weight < _allowed(run) for run in live)
        self._short = (self._short or now) if under else None
        if self._short is not None and now - max(self._short, self.hindered) > BOUND:
            self.breaks(f"the canary has {self._weight} % for {now - self._short:.0f} s, its run says more")

    def end(self, received: list[tuple[float, str, bytes]]) -> None:
        """Promises about what has to have happened by the end."""
        bodies = [body.decode() for _, _, body in received]
        calm = self.clock() - self.hindered
        for name, run in self.runs.items():
            if calm < BOUND or not ended(run):
                continue
            status = run["status"]
            if status.get("outbox"):
                self.breaks(
                    f"{name} ended, and after {calm:.0f} s of calm its outbox holds {status['outbox']}"
                )
            title = "Promoted" if status["phase"] == PROMOTED else "Rolled back"
            if not any(title in body and name in body for body in bodies):
                self.breaks(f"{name} ended ({status.get('reason')}), and nobody was told")


_BY_CLUSTER = {"deployment.kubernetes.io/revision"}


def _allowed(run: Json) -> int:
    return 0 if ended(run) else int((run.get("status") or {}).get("weight", 0))


def _weights(obj: Json) -> Mapping[str, int]:
    return {
        one["destination"]["subset"]: one.get("weight", 0)
        for http in obj["spec"]["http"]
        for one in http["route"]
    }


def _foreign(obj: Json) -> Json:
    """All of a VirtualService that is its owner's."""
    left = clone({"spec": obj["spec"], "labels": obj["metadata"].get("labels")})
    for http in left["spec"]["http"]:
        http.pop("mirrors", None)
        for one in http["route"]:
            one.pop("weight", None)
    left["annotations"] = obj["metadata"].get("annotations")
    return left
