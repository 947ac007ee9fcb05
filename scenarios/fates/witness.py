"""Who watches one history from outside and says which promises were broken. Nothing here asks the controller.

What a replica did is known from its requests, what became of traffic from the proxy, and what was told from
the receiver of alerts. A promise with a time bound counts from the moment when nothing hindered the
controller any more.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from analysis.dispersion import FEW
from scenarios.cluster.patches import clone
from scenarios.fates.fate import WRITTEN, Fate
from scenarios.fates.notary import Notary, steers
from scenarios.fates.policies import ERRORS, WRONG
from scenarios.fates.said import (
    STOPS,
    allowance,
    foreign,
    held,
    lost,
    notes_of_people,
    of_people,
    ready,
    restarted,
    stopping,
    taken_for,
    weights_in,
    wishes,
)
from scenarios.fates.spells import BOUND, FATAL_BOUND, HEARD, NEWS, READ
from scenarios.objects import CANARY, NAMESPACE, STABLE
from scenarios.plot import Arm
from scenarios.result import ended

Json = Any

CANARY_OF = "serin.dev/canary-of"
OURS = "serin-"  # how replicas sign their requests


@dataclass(slots=True)
class Witness:
    """Keeps what it needs of the past, and every broken promise."""

    fate: Fate
    clock: Callable[[], float]  # seconds since the story's beginning
    served: Callable[[], int]  # canary requests so far
    drawn: Callable[[], int]  # those of them that somebody has looked at already; asking changes nothing
    author: str = ""  # who is being answered now; "" the cluster itself or people
    notary: Notary = field(init=False)
    broken: list[str] = field(default_factory=list)
    hindered: float = float("-inf")  # when anything last hindered the controller
    impeded: float = float("-inf")  # when anything last kept its writes from being done; not so late news
    runs: dict[str, Json] = field(default_factory=dict)
    templates: dict[str, Json] = field(default_factory=dict)  # by pod-template-hash
    _last: dict[tuple[str, str], Json] = field(default_factory=dict)
    _tallies: dict[str, tuple[Any, list[int]]] = field(default_factory=dict)
    _weight: int = 0  # the canary's, as the VirtualService says
    _by_us: bool = True  # who wrote it last
    _raised: tuple[float, int] = (0.0, 0)  # when we last raised it, and the canary requests by then
    _stepped: float = 0.0  # when a run last had a weight that it had not had before
    _began: int = 0  # the canary requests by when its step began, the last time
    _meddled: bool = False  # people last lowered the weight: no step begins when they are undone
    _reached: dict[str, int] = field(default_factory=dict)  # the highest weight that each run had
    _meant: dict[str, int] = field(default_factory=dict)  # the highest weight that its status has said
    _moved: dict[str, tuple[Any, float]] = field(default_factory=dict)  # how each run stands, since when
    _late: bool = False  # what an ended run had asked for has arrived, and not what one that lives did
    _gift: bool = False  # people gave the first weight, after our run had said it and before we did
    _left: str | None = None  # the run whose failing canary had its weight taken
    _taken: set[str] = field(default_factory=set)  # runs whose canary's weight we took
    _given_by: set[str] = field(default_factory=set)  # runs whose template stable was given
    _opened: set[str] = field(default_factory=set)  # questions to webhooks that were answered yes
    _approvals: dict[str, int] = field(default_factory=dict)  # how many each run has needed so far
    _epochs: dict[tuple[str, str], int] = field(default_factory=dict)  # at which each replica wrote a run
    _led: dict[int, float] = field(default_factory=dict)  # since when runs are written at each epoch
    _restarts: dict[str, int] = field(default_factory=dict)  # of the canary's pods
    _churned: float = 0.0  # when these last changed, or stable's only pod went
    _able: dict[str, float] = field(default_factory=dict)  # those that are ready, since when
    _past: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_PAST))  # served by then
    _gap: int | None = None  # canary requests when something began to hinder, until that is well over
    _lost: int = 0  # of them since the last raise, how many came in such gaps
    _covered: int = 0  # canary requests by the time when a page was read last
    _seen: int = 0  # canary pages that were read since the last raise
    _asked: float = 0.0  # when somebody last asked something of a run
    _unasked: bool = False  # the canary's Deployment is gone or does not ask for a run
    _stopped: set[str] = field(default_factory=set)  # which kinds' annotations say that nothing moves up
    _excess: float | None = None  # since when it is more than a run may have
    _fell: bool = False  # whether we ever took weight away
    _short: float | None = None  # since when it is less than its run says
    _exposed: float | None = None  # since when it is above 0

    @property
    def ours(self) -> bool:
        """Whether a replica is being answered."""
        return self.author.startswith(OURS)

    @property
    def _here(self) -> dict[str, Json]:
        """The runs that steer what callers ask for."""
        return {name: run for name, run in self.runs.items() if steers(run) == STABLE}

    def breaks(self, promise: str) -> None:
        """One promise is broken, now."""
        line = f"{self.clock():.2f} s: {promise}"
        if not self.broken or self.broken[-1].partition(": ")[2] != promise:
            self.broken.append(line)

    def __post_init__(self) -> None:
        """Why things happen is written down, too."""
        self.notary = Notary(self, self.clock)

    def read(self) -> None:
        """A canary's page has been read."""
        self.notary.read = self.clock()
        self._seen, self._covered = self._seen + 1, self.served()

    def opened(self, question: str) -> None:
        """A webhook has said yes to this question."""
        self._opened.add(question)

    # -- what is written

    def changed(self, kind: str, resource: str, obj: Json) -> None:
        """An object was written or is gone."""
        name = obj["metadata"]["name"]
        before = None if kind == "ADDED" else self._last.get((resource, name))
        self._last[resource, name] = clone(obj)
        if self.ours and resource not in WRITTEN:
            self.breaks(f"{self.author} wrote {resource}/{name}, which is none of its business")
        if resource in STOPS and name in {CANARY, NAMESPACE}:
            self._stops(resource, obj)
        match resource:
            case "virtualservices" if name == STABLE:
                self._route(before, obj)
            case "canaryruns":
                self._run(kind, name, before, obj)
            case "deployments":
                if self.ours and before is not None:
                    self._deployment(name, before, obj)
                self._asks(kind, name, obj)
            case "replicasets":
                self._template(obj)
            case "pods" if obj["metadata"]["labels"].get("version") == Arm.CANARY:
                self._pod(kind, name, obj)
            case "pods" if kind == "DELETED" and self.fate.story.stable.replicas == 1:
                self._churned = self.clock()  # what the canary serves alone is compared with nobody
        self.notary.heard(kind, resource, before, obj)

    def _route(self, before: Json, obj: Json) -> None:
        weights = weights_in(obj)
        if sum(weights.values()) != 100:
            self.breaks(f"the weights are {weights}")
        was, self._weight = self._weight, weights.get(str(Arm.CANARY), 0)
        self._by_us = self.ours
        now = self.clock()
        self._exposed = None if self._weight == 0 else self._exposed or now
        self._meddled = not self.ours if self._weight < was else self._meddled
        if not self.ours or before is None:
            if was == 0 < self._weight and any(allowance(run) for run in self._here.values()):
                self._began, self._gift = self.served(), True  # before we did, what the run says
            return
        if foreign(before) != foreign(obj):
            self.breaks(f"{self.author} changed more of the VirtualService than its weights")
        had = self._had()
        if self._weight > was or (had and had < self._weight):
            self._raise(now)
        elif had == 0:  # people had given it more than our first step does
            self._began, self._gift = self._began if self._gift else self.served(), False
            self._raised, self._lost = (now, self._began), 0
            self._reached |= {name: self._weight for name, run in self._here.items() if not ended(run)}
        self._fell = self._fell or self._weight == 0 < was
        if self._weight == 0 < was:
            self._taken.update(name for name, run in self._here.items() if not ended(run))
        fatal = self.fate.fatal
        # who takes traffic from a canary that does not answer and dies of it leaves no trace
        told = fatal is not None and self.fate.effect in _SEEN and now > fatal + _SEEN[self.fate.effect]
        if self._weight == 0 and was > 0 and told and not self._late:
            self._left = next((name for name, run in self._here.items() if allowance(run)), None)

    def _had(self) -> int | None:
        """The most that the run had before whose weight this is; None if it is no run's that lives."""
        lives = (name for name, run in self._here.items() if 0 < self._weight <= allowance(run))
        return max((self._reached.get(name, 0) for name in lives), default=None)

    def _raise(self, now: float) -> None:
        run = next((run for run in self._here.values() if not ended(run)), None)
        if run is None:  # one from before the end, on its way for long: until something fell it may arrive
            if self._fell:
                self.breaks(f"{self.author} set {self._weight} % after the end of every run")
            return
        if self._left == run["metadata"]["name"] and taken_for(run) != "Interrupted":
            self.breaks(f"{self.author} gave {self._weight} % back to a canary that it had been taken from")
        wanted = (run.get("status") or {}).get("weight", 0)
        steps = run["spec"]["plan"]["policy"]["steps"]
        name = run["metadata"]["name"]
        reached = self._reached.get(name, 0)
        if self._weight not in steps:
            self.breaks(f"{self.author} set a weight of {self._weight} %, which is no step of {steps}")
        # an earlier run's may arrive as long as nobody had weight to take, and so to fence (seed 5166)
        before = (self._meant.get(one, 0) for one, known in self.runs.items() if ended(known))
        self._late = self._weight > wanted and not self._fell and self._weight in before
        if self._weight > wanted and not self._late:
            self.breaks(f"{self.author} set {self._weight} % before the run's status said so ({wanted} %)")
        if reached < self._weight:  # else it is only given back what it had
            self._unpaused(run, f"raised to {self._weight} %")
            self._replayed(run)
            step = steps.index(self._weight) if self._weight in steps else 0
            self._agreed(run, "Raise" if step else "Start", max(step - 1, 0))
        if self._weight > steps[0] and reached < self._weight:
            self._analysed(run, now, f"raised to {self._weight} %")
        self._stepped = now if reached < self._weight else self._stepped
        if reached < self._weight or not self._meddled:  # else the step goes on that people interrupted
            self._began, self._seen = self.served(), 0
        self._reached[name] = max(reached, self._weight)
        self._raised, self._lost = (now, self.served()), 0

    def _unpaused(self, run: Json, what: str) -> None:
        now = self.clock()
        if self._still(run) and min(now - self._asked, now - self.hindered) > HEARD:
            self.breaks(f"{what} while it was paused")

    def _still(self, run: Json) -> bool:
        return bool(self._stopped or run["spec"].get("paused"))

    def _agreed(self, run: Json, before: str, step: int) -> None:
        """Whoever is to be asked before a move has said yes."""
        spec, name = run["spec"], run["metadata"]["name"]
        gates = [gate for gate in spec["plan"]["policy"].get("gates", ()) if gate["before"] == before]
        if not gates or self.notary.by_hand(run):
            return
        meta = run["metadata"]
        question = f"{meta['namespace']}/{name}/{step}/before{before}/{meta['uid']}-"
        opened = any(one.startswith(question) for one in self._opened)
        if any("webhook" in gate for gate in gates) and not opened:
            self.breaks(f"{name} moves on, and the webhook before {before} has not said yes")
        if any("manual" in gate for gate in gates):
            self._approvals[name] = self._approvals.get(name, 0) + 1
        if self._approvals.get(name, 0) > len(spec.get("approved", ())):
            self.breaks(f"{name} moves on, and nobody has approved what is before {before}")

    def _replayed(self, run: Json) -> None:
        """A canary that answers wrongly gets no traffic where requests are replayed before."""
        spec = run["spec"]
        lenient = spec["plan"]["policy"].get("onInconclusive") == "Proceed"
        said = self.notary.by_hand(run) or spec.get("approved") or lenient
        if self.fate.story.shadowed and self.fate.story.canary.model == WRONG and not said:
            self.breaks(f"{run['metadata']['name']} gives traffic to a canary that answers wrongly")

    def _analysed(self, run: Json, now: float, what: str) -> None:
        """Nothing goes on that was not looked at, unless a person or the policy says so."""
        spec, policy = run["spec"], run["spec"]["plan"]["policy"]
        if self.notary.by_hand(run) or spec.get("approved"):
            return
        shortest, lasted = float(policy["minStep"].rstrip("s")), now - self._stepped
        if lasted < shortest - 0.5 and not self.fate.skews:
            self.breaks(f"{what} after {lasted:.1f} s; minStep is {policy['minStep']}")
        if (seen := self._covered - self._began) < (least := policy["minRequests"]):
            self.breaks(f"{what} after {seen} canary requests that were read of; minRequests is {least}")
        if self._seen < 2:
            self.breaks(f"{what} after {self._seen} readings of the canary's pages")

    def _run(self, kind: str, name: str, before: Json, obj: Json) -> None:
        if kind == "DELETED":
            for known in (self.runs, self._tallies, self._reached, self._meant, self._moved, self._approvals):
                known.pop(name, None)
            self._given_by.discard(name)
            self._epochs = {key: epoch for key, epoch in self._epochs.items() if key[1] != name}
            self._left = None if self._left == name else self._left  # whoever asks again gets a new one
            return
        if before is None or wishes(before) != wishes(obj):
            self._asked = self.clock()
        self.runs[name] = clone(obj)
        status = obj.get("status") or {}
        if before is not None and ended(before):
            for what in ("phase", "reason", "step", "weight"):
                was = before["status"].get(what)
                if status.get(what) != was:
                    self.breaks(f"{name} had ended, and its {what} went from {was} to {status.get(what)}")
        if self.ours:
            self._in_order(name, before, obj)
        if self.ours and status.get("checkpoint"):
            self._in_turn(name, before, obj)
            self._checkpoint(name, status)
        if ended(obj) and not (before is not None and ended(before)):
            self._over(name, status)

    def _over(self, name: str, status: Json) -> None:
        """It ends just now."""
        if self.ours and name in self._here and self._weight > 0 and self.clock() - self.impeded > HEARD:
            self.breaks(f"{name} has ended in words while its canary still has {self._weight} %")
        if status.get("reason") == "LeaderLost" and name in self._here.keys() - self._taken:
            self.breaks(f"{name} ends for a fall that there was not")
        if self.fate.healthy and status.get("reason") == "CheckFailed":
            self.breaks(f"{name} failed a check with a healthy canary: {status.get('message')}")

    def _in_order(self, name: str, before: Json, run: Json) -> None:
        """No step is left out, and no weight falls but to zero."""
        meant, most = allowance(run), self._meant.get(name, 0)
        steps = run["spec"]["plan"]["policy"]["steps"]
        if any(most < step < meant for step in steps):
            self.breaks(f"{name} goes from {most} % to {meant} %, the steps being {steps}")
        given = before is not None and allowance(before) <= self._reached.get(
            name, 0
        )  # else it was only meant
        if given and (gone := lost(before, run)):
            self.breaks(f"{name} {gone}")
        self._meant[name] = max(most, meant)

    def _in_turn(self, name: str, before: Json, run: Json) -> None:
        """Whoever was succeeded writes no more."""
        was, status = (before or {}).get("status") or {}, run["status"]
        newest, epoch = was.get("epoch", 0), status["epoch"]
        self._led.setdefault(epoch, self.clock())
        if epoch < newest:
            self.breaks(f"{self.author} wrote {name} at epoch {epoch}, after {newest}")
        if epoch != newest:
            self._epochs[self.author, name] = epoch
        elif was != status and self._epochs.get((self.author, name), epoch) < epoch:
            self.breaks(f"{self.author} was succeeded at epoch {epoch} and wrote {name}")

    def _checkpoint(self, name: str, status: Json) -> None:
        """The errors that were counted at a step stay counted; all else begins anew when pods change."""
        checks = [check for check in status.get("checks") or () if check["name"] == ERRORS]
        counted = [check.get("canaryRequests", 0) for check in checks]
        # a step begins anew when its weight is taken away and given again, or is tried again (seed 3168)
        step = status.get("step"), [change["at"] for change in status.get("weights", ())]
        known, before = self._tallies.get(name, (None, []))
        if step != known:  # what is said with the raise is still about the last step
            counted = [0 for _ in counted]
        elif any(now < was for now, was in zip(counted, before, strict=False)):
            self.breaks(f"{name} forgot evidence at step {step[0]}: {before} requests, then {counted}")
        self._tallies[name] = step, counted
        if step == known and counted and status.get("phase") != "Promoting":  # then it is what decided that
            self._kept(name, status, counted[0])

    def _kept(self, name: str, status: Json, counted: int) -> None:
        """All that a good canary's pods served at this step, unhindered and no news, is in the evidence."""
        now, (raised, served) = self.clock(), self._raised
        # a pod that nobody had read before its first requests, and a new leader after them (seed 17557)
        unread = max(self._able.values(), default=0) > raised - READ and self._led[status["epoch"]] > raised
        settled = min(now - self._led[status["epoch"]], now - self.hindered) > NEWS
        theirs = not 0 < self._weight == status.get("weight") or not self._by_us
        unclear = theirs or name not in self._here or unread or self._churned > raised or not settled
        if unclear or not self.fate.healthy or self.fate.queried:
            return
        known = max((by_then for at, by_then in self._past if at <= now - NEWS), default=0)
        known -= served + self._lost
        if counted < known:
            self.breaks(f"{name} knows of {counted} canary requests at this step; {known} were served")

    def _gapped(self, now: float) -> None:
        """What was served while something hindered, and until pages are read again, may be lost."""
        drawn = self._past[-1][1]
        if now - self.hindered <= READ:
            self._gap = drawn if self._gap is None else self._gap
        elif self._gap is not None:
            self._lost, self._gap = self._lost + drawn - max(self._gap, self._raised[1]), None

    def _pod(self, kind: str, name: str, obj: Json) -> None:
        """The canary's pods count from zero when they are new or start again."""
        restarts = restarted(obj)
        if kind != "MODIFIED" or self._restarts.get(name) != restarts:
            self._churned = self.clock()
        self._restarts[name] = restarts
        if kind == "DELETED" or not ready(obj):
            self._able.pop(name, None)
        else:
            self._able.setdefault(name, self.clock())

    def _deployment(self, name: str, before: Json, obj: Json) -> None:
        if notes_of_people(before) != notes_of_people(obj):
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

    def _asks(self, kind: str, name: str, obj: Json) -> None:
        """The canary is there and asks to be one, or no more."""
        notes = obj["metadata"].get("annotations") or {}
        if name == CANARY and self._unasked != (kind == "DELETED" or CANARY_OF not in notes):
            self._unasked = not self._unasked
            self._asked = self.clock()

    def _stops(self, resource: str, obj: Json) -> None:
        """An annotation says that nothing moves up, or no more."""
        if stopping(resource, obj) != (resource in self._stopped):
            self._stopped ^= {resource}
            self._asked = self.clock()

    def _given(self, template: Json) -> None:
        """Stable gets what was analysed, or what it had before."""
        found = sorted(self.notary.hashes(template))
        plans = [run["spec"]["plan"] for run in self.runs.values() if self._through(run)]
        back = (plan["stableHash"] in self.notary.hashes(template, beside=plan) for plan in plans)
        if not any(plan["canaryHash"] in found for plan in plans) and not any(back):
            self.breaks(f"{STABLE} was given a template that no run has analysed (known as {found})")
        run = next((run for run in self.runs.values() if not ended(run)), None)
        if run is not None and run["spec"]["plan"]["canaryHash"] in found:
            self._analysed(run, self.clock(), "promoted")
            self._unpaused(run, "promoted")
            steps = run["spec"]["plan"]["policy"]["steps"]
            name, phase = run["metadata"]["name"], (run.get("status") or {}).get("phase")
            if phase == "Promoting" and name not in self._given_by:
                self._given_by.add(name)
                self._agreed(run, "Promotion", len(steps) - 1)

    def _through(self, run: Json) -> bool:
        """Whether the run has reached its last step, or was told that it need not."""
        reached = (self._reached if steers(run) == STABLE else self._meant).get(run["metadata"]["name"], 0)
        return self.notary.by_hand(run) or reached >= run["spec"]["plan"]["policy"]["steps"][-1]

    def _template(self, obj: Json) -> None:
        hash_ = obj["metadata"].get("labels", {}).get("pod-template-hash")
        if hash_:
            self.templates[hash_] = clone(of_people(obj["spec"]["template"]))

    # -- what is looked at, four times a second

    def look(self, *, hindered: bool, impeded: bool, stable_ready: int) -> None:
        """Promises about how long something may last."""
        now = self.clock()
        self._past.append((now, self.drawn()))
        if hindered or impeded:
            self.hindered = now
        self._churned = self._churned if stable_ready else now  # what the canary serves alone is not compared
        self._gapped(now)
        if impeded:
            self.impeded = now
        allowed = max((allowance(run) for run in self._here.values()), default=0)
        # before its first weight a run leaves alone what people have given the canary
        begun = any(
            not ended(run) and (run.get("status") or {}).get("weights") for run in self._here.values()
        )
        over = self._weight > allowed and (self._by_us or begun)
        self._excess = (self._excess or now) if over else None
        if self._excess is not None and now - max(self._excess, self.hindered) > BOUND:
            self.breaks(
                f"the canary has {self._weight} % for {now - self._excess:.0f} s; {allowed} % is allowed"
            )
        self._obeyed(now)
        self._given_to(now)
        self.notary.look()
        self._lively(now)
        fatal = self.fate.fatal
        if fatal is None or self._exposed is None or stable_ready == 0 or not self._by_us:
            return
        since = max(fatal, self._exposed, self.hindered)
        if now - since > FATAL_BOUND * (2 if self.fate.story.stable.replicas < FEW else 1):
            self.breaks(f"the canary fails since {fatal:.1f} s and still has {self._weight} %")

    def _obeyed(self, now: float) -> None:
        """What is aborted or to be deleted ends, and what nobody asks for any more."""
        for name, run in self.runs.items():
            wanted = "abort" in run["spec"] or run["metadata"].get("deletionTimestamp") or self._unasked
            if wanted and not ended(run) and now - self._asked > HEARD and now - self.hindered > BOUND:
                self.breaks(f"{name} was aborted and goes on")

    @property
    def uneasy(self) -> bool:
        """Whether a canary that fails has traffic, or too much: somebody has to look what becomes of it."""
        return self._excess is not None or (self.fate.fatal is not None and self._weight > 0)

    def _given_to(self, now: float) -> None:
        """A live run's weight is in the VirtualService."""
        live = [run for run in self._here.values() if not ended(run) and not self._still(run)]
        under = any(self._weight < allowance(run) for run in live)
        self._short = (self._short or now) if under else None
        if self._short is not None and now - max(self._short, self.hindered) > BOUND:
            self.breaks(f"the canary has {self._weight} % for {now - self._short:.0f} s, its run says more")

    def _lively(self, now: float) -> None:
        """A live run goes on, ends, or says what it waits for."""
        for name, run in self.runs.items():
            status, policy = run.get("status") or {}, run["spec"]["plan"]["policy"]
            stands = [status.get(what) for what in ("phase", "step", "weight")]
            if self._moved.get(name, (None, 0.0))[0] != stands:
                self._moved[name] = stands, now
            longest = max(float(policy[what].rstrip("s")) for what in _LIMITS)
            since = max(self._moved[name][1], self.hindered, self._asked)
            if not ended(run) and not held(run) and now - since > longest + BOUND:
                self.breaks(f"{name} stands still at {stands} for {now - since:.0f} s and does not say why")

    def stood(self, run: str) -> float:
        """Since when the run stands as it does."""
        return self._moved.get(run, (None, 0.0))[1]


_PAST = 80  # looks that are remembered, four a second
# What pages or pods tell without traffic, and after how many seconds weight that falls falls for it.
_SEEN = {"errorRate": HEARD, "crash": 0.0}
_LIMITS = ("stepTimeout", "progressDeadline", "noDataTimeout")
