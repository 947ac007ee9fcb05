"""Who writes down what others did and asked, and so knows whether a run's ends and moves have their reason.

The witness looks at what our replicas do; here is why they might.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scenarios.cluster.patches import clone
from scenarios.fates.said import (
    STOPS,
    allowance,
    foreign,
    of_people,
    plain,
    stopping,
    title_of,
    waits,
    weights_in,
)
from scenarios.fates.spells import BOUND, HEARD
from scenarios.objects import CANARY, NAMESPACE, STABLE
from scenarios.plot import Arm
from scenarios.result import ended

if TYPE_CHECKING:
    from scenarios.fates.witness import Witness

Json = Any

JUST = 1.0  # seconds until what was taken back is known, when nothing hinders
SILENT = 8.0  # seconds without a page of the canary's, after which nobody knows anything of it


@dataclass(slots=True)
class Account:
    """Of one run: what was asked of it, and what became of that."""

    since: float  # when it was asked for
    known: frozenset[str] = frozenset()  # the Deployments that had the templates of its plan then
    asked: bool = False  # `promote` stands in its spec
    taken_back: float | None = None  # when that was last taken out
    waited: bool = False  # it has said since it last moved that it waits for an approval
    approvals: list[float] = field(default_factory=list)  # when each came
    approved: float = float("-inf")  # the last of them that came after it had said so
    blind: float = float("-inf")  # the last of these that came while nothing was known
    moved: float = float("-inf")  # when it last said that it goes up, or is promoted
    earlier: float = float("-inf")  # ... and the time before
    meant: int = 0  # the highest weight that it has said
    promoting: bool = False


@dataclass(slots=True)
class Aside:
    """Another VirtualService than the one that callers ask for."""

    weight: int = 0
    excess: float | None = None  # since when that is more than its runs may have


@dataclass(slots=True)
class Notary:
    """Of one history; what is broken is told the witness."""

    witness: "Witness"
    clock: Callable[[], float]
    read: float = float("-inf")  # when a canary's page was last read
    _accounts: dict[str, Account] = field(default_factory=dict)
    _aside: dict[str, Aside] = field(default_factory=dict)
    _theirs: dict[str, float] = field(default_factory=dict)  # when others last wrote each Deployment anew
    _stops: dict[str, float] = field(default_factory=dict)  # which kinds or runs say so, and since when
    _now: dict[str, Json] = field(default_factory=dict)  # both Deployments as they are

    @property
    def _calm(self) -> float:
        """Seconds since anything hindered the controller."""
        return self.clock() - self.witness.hindered

    @property
    def _free(self) -> bool:
        """Whether what is written now was not decided long ago."""
        return self.clock() - self.witness.impeded > BOUND

    def heard(self, kind: str, resource: str, before: Json, obj: Json) -> None:
        """An object was written or is gone; the witness knows it by now."""
        name = obj["metadata"]["name"]
        if resource in STOPS and name in {CANARY, NAMESPACE}:
            self._stop(resource, stopping(resource, obj))
        match resource:
            case "deployments":
                self._deployment(kind, name, before, obj)
            case "canaryruns":
                self._run(kind, name, before, obj)
            case "virtualservices" if name != STABLE:
                self._aside_routed(name, before, obj)

    # -- what is asked of a run

    def _stop(self, by: str, stopped: bool) -> None:  # noqa: FBT001 (what was heard)
        if not stopped:
            self._stops.pop(by, None)
        else:
            self._stops.setdefault(by, self.clock())

    def by_hand(self, run: Json) -> bool:
        """Whether somebody promotes it, or did until a moment ago."""
        if "promote" in run["spec"]:
            return True
        account = self._accounts.get(run["metadata"]["name"])
        if account is None or account.taken_back is None:
            return False
        return self.clock() - account.taken_back <= JUST or self._calm <= HEARD  # it may not be known yet

    def _run(self, kind: str, name: str, before: Json, obj: Json) -> None:
        if kind == "DELETED":
            self._accounts.pop(name, None)
            return
        now = self.clock()
        if name not in self._accounts:
            self._accounts[name] = Account(since=now, known=self._current(obj["spec"]["plan"]))
        account = self._accounts[name]
        self._noted(account, obj, now)
        status = obj.get("status") or {}
        if not self.witness.ours or not status:
            return
        self._moves(account, name, before, obj)
        if ended(obj) and not (before is not None and ended(before)):
            self._over(account, name, obj)

    def _noted(self, account: Account, obj: Json, now: float) -> None:
        asked, approvals = "promote" in obj["spec"], len(obj["spec"].get("approved", ()))
        if account.asked and not asked:
            account.taken_back = now
        account.asked = asked
        account.waited = account.waited or waits(obj)
        self._stop(obj["metadata"]["name"], bool(obj["spec"].get("paused")))
        if approvals > len(account.approvals):
            account.approvals += [now] * (approvals - len(account.approvals))
            if account.waited:
                account.approved = now
                account.blind = now if (obj.get("status") or {}).get("reason") == "NoData" else account.blind

    # -- moves

    def _moves(self, account: Account, name: str, before: Json, obj: Json) -> None:
        """What goes up was asked for, or something is known of it."""
        now, meant = self.clock(), allowance(obj)
        promoting = (obj["status"].get("state") or {}).get("stage") == "Promoting"
        raised, begins = meant > account.meant, promoting and not account.promoting
        account.promoting, was = promoting, account.moved
        if not (raised or begins):
            return
        account.meant, account.waited = max(account.meant, meant), False
        account.earlier, account.moved = was, now
        if begins:
            self._begins(name)
        if before is not None and waits(before) and not self.by_hand(obj):
            self._asked_for(account, was, name, before)
        if was > 0:  # before its first weight there is nothing to know
            self._known(account, name, obj, "goes up", since=was)

    def _begins(self, name: str) -> None:
        since = min((at for by, at in self._stops.items() if by in {*STOPS, name}), default=self.clock())
        if self.clock() - since > JUST and self._calm > HEARD:
            self.witness.breaks(f"{name} begins its promotion while it is stopped")

    def _asked_for(self, account: Account, moved: float, name: str, before: Json) -> None:
        """One approval lets it go on once: who approved what came before has not approved this."""
        reason = before["status"]["reason"]
        if reason == "AwaitingApproval" and account.approved <= moved and self._free:
            self.witness.breaks(f"{name} moves on, and what was approved was another move")

    def _known(self, account: Account, name: str, run: Json, what: str, *, since: float) -> None:
        """Something is known of its canary, or somebody lets it go on without, since it last moved."""
        silent = self.clock() - self.read
        if silent < SILENT or self.by_hand(run) or account.approved > since or not self._free:
            return
        self.witness.breaks(f"{name} {what}, and nobody has read of its canary for {silent:.0f} s")

    # -- templates

    def _deployment(self, kind: str, name: str, before: Json, obj: Json) -> None:
        self._now[name] = None if kind == "DELETED" else clone(obj)
        if before is None or kind == "DELETED":
            self._theirs[name] = self.clock()
            return
        if not self.witness.ours:
            if _asking(before) != _asking(obj):
                self._theirs[name] = self.clock()
        elif name == STABLE and before["spec"]["template"] != obj["spec"]["template"]:
            self._given(before, obj)

    def _given(self, before: Json, obj: Json) -> None:
        """Stable is given a template, upon one that some run knew of."""
        old, new = (each["spec"]["template"] for each in (before, obj))
        plans = [run["spec"]["plan"] for run in self.witness.runs.values()]
        back = [plan for plan in plans if plan["stableHash"] in self.hashes(new, beside=plan)]
        known = self.hashes(old).union(*(self.hashes(old, beside=plan) for plan in back))
        kept, left = of_people(new)["annotations"].items(), [self._noted_on(old, plan) for plan in back]
        if back and not any(noted.items() <= kept for noted in left):
            self.witness.breaks(f"{self.witness.author} took what somebody had noted on {STABLE}")
        if not any(plan[arm] in known for plan in plans for arm in ("stableHash", "canaryHash")):
            self.witness.breaks(f"{self.witness.author} wrote over what somebody had given {STABLE}")
        run = next((run for run in self.witness.runs.values() if not ended(run)), None)
        if run is not None and run["spec"]["plan"]["canaryHash"] in self.hashes(new):
            name = run["metadata"]["name"]
            account = self._accounts[name]
            since = account.earlier if account.blind > account.earlier else account.moved
            self._known(account, name, run, "is promoted", since=since)

    def hashes(self, template: Json, *, beside: Json | None = None) -> set[str]:
        """The names of the template; a restart is no difference, nor what was noted `beside` a plan's own."""
        there = plain(of_people(template))
        if beside is not None:
            theirs = self._noted_on(template, beside)
            left = {key: said for key, said in there["annotations"].items() if key not in theirs}
            there = {**there, "annotations": left}
        return {name for name, one in self.witness.templates.items() if plain(one) == there}

    def _noted_on(self, template: Json, plan: Json) -> dict[str, str]:
        """Annotations that neither of the plan's templates has."""
        compared = (self.witness.templates.get(plan[arm]) for arm in ("canaryHash", "stableHash"))
        known = (one["annotations"].items() for one in compared if one is not None)
        return dict(set(plain(of_people(template))["annotations"].items()).difference(*known))

    # -- ends

    def _over(self, account: Account, name: str, run: Json) -> None:
        """It ends just now, for what has happened."""
        status, plan = run["status"], run["spec"]["plan"]
        reason, said = status.get("reason"), status.get("message", "")
        theirs = self._theirs.get(STABLE, 0.0) >= account.since or STABLE not in account.known
        same = not theirs and self._has(STABLE, plan["stableHash"])
        if reason == "StableChanged" and same:
            self.witness.breaks(f"{name} ends since stable changed, and nobody has changed it: {said}")
        if reason == "PromotionFailed" and "old template back" in said and not theirs:
            self.witness.breaks(f"{name} ends since stable was given its old template, and nobody did that")
        unchanged = self._theirs.get(CANARY, 0.0) < account.since and CANARY in account.known
        if reason == "Superseded" and unchanged and "policy" not in said:
            self.witness.breaks(f"{name} is superseded, and nobody has changed {CANARY}: {said}")
        none = said.startswith(("none of", "the one pod of")) or said.endswith("has no pod")
        if reason == "CanaryUnavailable" and self.witness.fate.healthy and none:
            self.witness.breaks(f"{name} ends for its pods, which were taken from it: {said}")
        if reason == "Promoted" and not theirs and not self._promoted(plan):
            self.witness.breaks(f"{name} says that it is promoted, and {STABLE} has another template")

    def _current(self, plan: Json) -> frozenset[str]:
        arms = {STABLE: plan["stableHash"], CANARY: plan["canaryHash"]}
        return frozenset(name for name, hash_ in arms.items() if self._has(name, hash_))

    def _has(self, name: str, hash_: str) -> bool:
        there = self._now.get(name)
        return there is not None and hash_ in self.hashes(there["spec"]["template"])

    def _promoted(self, plan: Json) -> bool:
        """Whether stable has what was analysed: its spec, and where we copy it its annotations, too."""
        analysed = self.witness.templates.get(plan["canaryHash"])
        stable = self._now.get(STABLE)
        if analysed is None or stable is None:
            return False
        there = of_people(stable["spec"]["template"])
        copied = (plan["policy"].get("promotion") or {}).get("mode") == "Copy"
        notes = plain(analysed)["annotations"] if copied else {}
        return bool(there["spec"] == analysed["spec"] and notes.items() <= there["annotations"].items())

    # -- what is looked at

    def _aside_routed(self, name: str, before: Json, obj: Json) -> None:
        weights = weights_in(obj)
        if sum(weights.values()) != 100:
            self.witness.breaks(f"the weights of {name} are {weights}")
        if self.witness.ours and before is not None and foreign(before) != foreign(obj):
            self.witness.breaks(f"{self.witness.author} changed more of {name} than its weights")
        self._aside.setdefault(name, Aside()).weight = weights.get(str(Arm.CANARY), 0)

    def look(self) -> None:
        """No canary has more anywhere than its runs there may have."""
        now = self.clock()
        for name, aside in self._aside.items():
            runs = [run for run in self.witness.runs.values() if steers(run) == name]
            most = max(map(allowance, runs), default=0)
            aside.excess = (aside.excess or now) if aside.weight > most else None
            if aside.excess is not None and now - max(aside.excess, self.witness.hindered) > BOUND:
                self.witness.breaks(f"the canary has {aside.weight} % at {name}; {most} % is allowed")

    def end(self, received: list[tuple[float, str, bytes]]) -> None:
        """What has to have happened by the end."""
        bodies = [body.decode() for _, _, body in received]
        for name, run in self.witness.runs.items():
            if ended(run):
                self._told(name, run, bodies)
        self._restored()

    def _told(self, name: str, run: Json, bodies: list[str]) -> None:
        status = run["status"]
        if status.get("outbox"):
            if min(self._calm, self.clock() - self.witness.stood(name)) > BOUND:
                left = [message["id"] for message in status["outbox"]]
                self.witness.breaks(
                    f"{name} ended, and after {self._calm:.0f} s of calm its outbox holds {left}"
                )
            return
        title = title_of(status.get("reason", ""))
        if not any(title in body and name in body for body in bodies):
            self.witness.breaks(f"{name} ended ({status.get('reason')}), and nobody was told")

    def _restored(self) -> None:
        """Stable has what it had before a run that was rolled back, if nobody gave it anything else."""
        runs = self.witness.runs
        newest = max(runs, key=lambda name: self._accounts[name].since, default="")
        if not newest or not all(map(ended, runs.values())) or self._calm < HEARD:
            return
        run = runs[newest]
        theirs = self._theirs.get(STABLE, 0.0) >= self._accounts[newest].since
        if (
            run["status"].get("reason") in {"Promoted", "StableChanged"}
            or theirs
            or not self._now.get(STABLE)
        ):
            return
        before = run["spec"]["plan"]["stableHash"]
        if not self._has(STABLE, before):
            self.witness.breaks(f"{newest} was rolled back, and {STABLE} has not got its template back")


def steers(run: Json) -> str:
    """The VirtualService of a run."""
    return str(run["spec"]["plan"]["virtualService"])


def _asking(deployment: Json) -> Json:
    """What of a Deployment makes another run of it, or ends one."""
    notes = deployment["metadata"].get("annotations") or {}
    ours = {name: value for name, value in notes.items() if name.startswith("serin.dev/")}
    return plain(of_people(deployment["spec"]["template"])), ours
