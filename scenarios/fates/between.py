"""What others do between two steps of ours: just when a run is held, promoted, or stable is being read.

A fate's other parts come at moments that were drawn before; these come when the run gives occasion. All of it
is in record 66, where each was a way to break a law.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from scenarios.fates import policies
from scenarios.fates.said import RESTARTED
from scenarios.fates.spells import CALM
from scenarios.objects import CANARY, NAMESPACE, STABLE, VERSIONS, container
from scenarios.plot import Arm

Json = Any

# Seeds in which it may happen: a fifth of those that everybody plays, and all that nobody has played yet.
AMONG = range(801, 1001)
FIRST = 30_001
OFTEN = 0.5
OTHER = "other"  # the VirtualService that an annotation names, later
ROUTE = f"virtualservices/{STABLE}"
ALL = ("deployments", "replicasets", "pods", "canaryruns", "virtualservices")
HEARD_LATE: Sequence[tuple[str, ...]] = (
    ("deployments",),
    ("deployments", "replicasets", "pods"),
    ("canaryruns",),
    ("virtualservices",),
    ALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Late:
    """What watches of these kinds tell comes so many seconds after it has happened, and in its order."""

    by: float
    kinds: tuple[str, ...]
    replica: int | None  # None: to every replica
    until: float = CALM

    def __str__(self) -> str:
        who = "every replica" if self.replica is None else f"replica {self.replica + 1}"
        return f"{who} hears of {', '.join(self.kinds)} {self.by:.1f} s late until {self.until:.0f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """What somebody does, so many seconds after the deed before it."""

    after: float
    # `merge`: (plural, name, what), a name of "" being whichever run is live; `approve`: so many times;
    # `drain`: the canary's pods go; `away` and `back`: pods' pages, thus; `shut` and `open`: a path's writes
    # are refused, thus
    what: str
    how: Any = None

    def __str__(self) -> str:
        return f"{self.what} {self.how or ''} after {self.after:.2f} s".replace("  ", " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Deeds that follow on what a run says, or on what is asked for it: each of the first `times` times."""

    on: str  # weight: it has its first; held: it waits for somebody; promoting; read: stable is, to write it
    deeds: tuple[Deed, ...]
    times: int = 1

    def __str__(self) -> str:
        return f"on {self.on} ({self.times}): {'; '.join(map(str, self.deeds))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """All of it in one history."""

    moments: tuple[Moment, ...] = ()
    late: tuple[Late, ...] = ()
    edits: tuple[Json, ...] = ()  # at the beginning
    policy: Mapping[str, Json] | None = None  # what the story's policy says besides
    elsewhere: bool = False  # there is another VirtualService
    slow: float = 0.0  # seconds that requests take at most; watches are as quick as ever
    alone: bool = True  # nothing else goes wrong

    def __str__(self) -> str:
        return "\n# ".join(map(str, (*self.late, *self.moments)))


def drawn(seed: int) -> Between | None:
    """What happens so in this history, if anything."""
    chance = Random(f"between {seed}")
    if not (seed in AMONG or seed >= FIRST) or chance.random() >= OFTEN:
        return None
    found = chance.choice(KINDS)(chance)
    if chance.random() < 0.2:
        more = chance.choice([_late, _twice, _by_hand])(chance)
        policy = {**(more.policy or {}), **(found.policy or {})}
        found = replace(
            found, moments=(*found.moments, *more.moments), late=(*found.late, *more.late), policy=policy
        )
    if not found.late and chance.random() < 0.2:
        found = replace(found, late=(_lateness(chance),))
    return replace(found, alone=chance.random() < 0.65)


def prepare(spec: Json, between: Between | None) -> None:
    """The scenario's spec is one in which there is occasion for it."""
    if between is None:
        return
    if between.alone:
        spec["faults"], spec["edits"] = [], []
    spec["edits"] = [*between.edits, *spec["edits"]]
    spec["policy"] |= between.policy or {}


# -- what people type


def _merge(plural: str, name: str, what: Json, *, after: float) -> Deed:
    return Deed(after=after, what="merge", how=(plural, name, what))


def _asks(after: float, **said: Json) -> Deed:
    return _merge("canaryruns", "", {"spec": said}, after=after)


def _notes(plural: str, name: str, notes: Json, *, after: float) -> Deed:
    return _merge(plural, name, {"metadata": {"annotations": notes}}, after=after)


def _restart(chance: Random, after: float) -> Deed:
    notes = {RESTARTED: f"2026-03-02T03:{chance.randint(0, 59):02}:{chance.randint(0, 59):02}Z"}
    return _merge(
        "deployments", STABLE, {"spec": {"template": {"metadata": {"annotations": notes}}}}, after=after
    )


def _frozen(after: float, said: str | None) -> Deed:
    return _merge(
        "namespaces", NAMESPACE, {"metadata": {"annotations": {"serin.dev/freeze": said}}}, after=after
    )


ASKED: Mapping[str, Callable[[float], Deed]] = {
    "promote": lambda after: _asks(after, promote={"reason": "now"}),
    "not promote": lambda after: _asks(after, promote=None),
    "pause": lambda after: _asks(after, paused=True),
    "resume": lambda after: _asks(after, paused=False),
    "freeze": lambda after: _frozen(after, "true"),
    "thaw": lambda after: _frozen(after, None),
}


def _in_turn(chance: Random, asked: Sequence[str], *, most: float = 4.0) -> tuple[Deed, ...]:
    """One after the other, the first when the run has had its weight for a while."""
    return tuple(ASKED[what](chance.uniform(0.05, most)) for what in asked)


# -- the moments

SLOWLY: Mapping[str, Json] = {"minStep": "30s", "stepTimeout": "45s"}  # no step passes by itself
SOON: Mapping[str, Json] = {
    "warmUp": "0s",
    "minStep": "2s",
    "minRequests": 1,
    "checks": [{**policies.CHECKS[0], "plus": policies.WIDE}],
}


def _lateness(chance: Random) -> Late:
    return Late(
        by=chance.choice([0.1, 0.3, 0.6, 1.5, 3.0]),
        kinds=chance.choice(HEARD_LATE),
        replica=chance.choice([None, None, 0, 1]),
    )


def _late(chance: Random) -> Between:
    """Watches lag, while others write what we write, too."""
    paused = [
        _notes("canaryruns", "", {"example.com/seen": "yes"}, after=chance.uniform(0.2, 5)),
        _asks(chance.uniform(0, 0.3), paused=True),
        _asks(chance.uniform(6, 9), paused=False),
    ]
    moments = [
        Moment(on="read", deeds=(_notes("deployments", STABLE, {"a": "b"}, after=0.0),), times=2),
        Moment(on="weight", deeds=tuple(paused)),
    ]
    if chance.random() < 0.5:
        moments.append(Moment(on="weight", deeds=_in_turn(chance, ["promote"], most=6)))
    return Between(
        moments=tuple(chance.sample(moments, chance.randint(1, len(moments)))),
        late=(_lateness(chance),),
        policy=SOON,
    )


def _twice(chance: Random) -> Between:
    """A hold is approved twice, by one person or by two, or by one and once more when nothing happens."""
    first, apart = chance.uniform(0, 1.5), chance.choice([0.05, 0.5, 2.0]) * chance.random()
    deeds = [Deed(after=first, what="approve", how=2)]
    if chance.random() < 0.6:
        deeds = [Deed(after=after, what="approve", how=1) for after in (first, apart)]
    if chance.random() < 0.4:  # silence comes next
        deeds += [Deed(after=chance.uniform(0, 3), what="away", how=chance.choice(["outage", "hang"]))]
        deeds += [Deed(after=chance.uniform(8, 14), what="back")]
    gates: Sequence[Json] = [{"before": before, "manual": {}} for before in ("Start", "Raise", "Promotion")]
    policy: Json = {"steps": chance.choice([[10, 50], [5, 25, 50]]), "onNoData": "Hold"}
    policy |= {"onInconclusive": "Hold", "minStep": "3s", "stepTimeout": "8s"}
    if chance.random() < 0.7:
        policy |= {**SOON, "gates": chance.sample(gates, chance.randint(1, 3))}
    return Between(
        moments=(Moment(on="held", deeds=tuple(deeds), times=chance.randint(1, 3)),), policy=policy
    )


def _by_hand(chance: Random) -> Between:
    """Somebody promotes, and takes it back, or stops the run meanwhile."""
    stop, go = chance.choice([("pause", "resume"), ("freeze", "thaw")])
    policy = chance.choice([SLOWLY, SOON])
    if chance.random() < 0.5:  # it is stopped before stable is given anything
        later = _in_turn(chance, ["not promote", go])
        waits = Moment(on="promoting", deeds=(ASKED[stop](0.0), *later))
        begun = Moment(on="weight", deeds=_in_turn(chance, ["promote"]))
        return Between(moments=(begun, waits), policy=policy)
    asked = chance.choice(
        [
            ["promote", "not promote"],
            [stop, "promote", "not promote", go],
            ["promote", stop, "not promote", go],
            [stop, "promote", go],
        ]
    )
    return Between(moments=(Moment(on="weight", deeds=_in_turn(chance, asked)),), policy=policy)


def _elsewhere(chance: Random) -> Between:
    """The zero of a run is refused, while the next one steers another VirtualService."""
    build = {"spec": {"template": {"metadata": {"annotations": {"example.com/build": "2"}}}}}
    other = {"metadata": {"annotations": {"serin.dev/virtual-service": OTHER}}}
    deeds = (
        Deed(after=chance.uniform(0.5, 4), what="shut", how=ROUTE),
        _merge(
            "deployments", CANARY, other | (build if chance.random() < 0.8 else {}), after=chance.random()
        ),
        Deed(after=chance.uniform(10, 20), what="open", how=ROUTE),
    )
    return Between(moments=(Moment(on="weight", deeds=deeds),), elsewhere=True, policy={"warmUp": "0s"})


def _drained(chance: Random) -> Between:
    """The canary's pods go while its promotion waits: for a person, the end of a freeze, or for git."""
    drain = Deed(after=chance.uniform(0, 1.5), what="drain")
    how = chance.choice(["pause", "freeze", "git", "at once"])
    policy: Json = dict(SOON) | {"steps": [20]}
    if how == "git":
        policy |= {"promotion": {"mode": "Handoff"}}
    stop, go = {"pause": ("pause", "resume"), "freeze": ("freeze", "thaw")}.get(how, (None, None))
    deeds: tuple[Deed, ...] = (drain,)
    if stop and go:
        deeds = (ASKED[stop](0.0), drain, ASKED[go](chance.uniform(2, 8)))
    return Between(moments=(Moment(on="promoting", deeds=deeds),), policy=policy)


def _silent(chance: Random) -> Between:
    """Nothing is known of the canary any more while its promotion waits."""
    deeds = (
        ASKED["pause"](0.0),
        Deed(after=chance.uniform(0, 1), what="away", how=chance.choice(["outage", "hang"])),
        ASKED["resume"](chance.uniform(8, 10)),
        Deed(after=chance.uniform(2, 6), what="back"),
    )
    policy: Json = dict(SOON) | {"steps": [20], "onNoData": "Hold", "noDataTimeout": "12s"}
    moments = [Moment(on="promoting", deeds=deeds)]
    if chance.random() < 0.6:  # what goes on in doubt has not passed
        policy |= {"checks": [dict(policies.CHECKS[0])], "minStep": "2s", "stepTimeout": "5s"}
        policy |= {"onInconclusive": chance.choice(["Proceed", "Hold"])}
        moments.append(Moment(on="held", deeds=(Deed(after=0.5, what="approve", how=1),)))
    return Between(moments=tuple(moments), policy=policy)


def _restarted(chance: Random) -> Between:
    """Stable is restarted, and its oldest ReplicaSet is dropped; it is the same template all the same."""
    deeds = [
        _merge("deployments", STABLE, {"spec": {"revisionHistoryLimit": 1}}, after=0.0),
        _restart(chance, chance.uniform(0.2, 2)),
        _restart(chance, chance.uniform(3, 6)),
    ]
    if chance.random() < 0.5:
        deeds.append(ASKED["promote"](chance.uniform(2, 7)))
    policy = SLOWLY if chance.random() < 0.7 else SOON
    return Between(moments=(Moment(on="weight", deeds=tuple(deeds)),), policy=policy)


def _touched(chance: Random) -> Between:
    """Somebody writes stable just when it is to be given the template: a note, or a hotfix."""
    after = chance.choice([0.0, 0.0, 0.006, 0.02, 1.0]) * chance.choice([1.0, chance.random()])
    notes = _notes("deployments", STABLE, {"example.com/seen": "yes"}, after=after)
    fix = {
        "spec": {
            "template": {
                "spec": {"containers": [container(VERSIONS[Arm.STABLE]) | {"image": "their.own/hotfix:v9"}]}
            }
        }
    }
    deed = chance.choice([notes, _merge("deployments", STABLE, fix, after=after)])
    moments = [Moment(on="read", deeds=(deed,), times=chance.randint(1, 2))]
    if chance.random() < 0.5:
        moments.append(Moment(on="weight", deeds=_in_turn(chance, ["promote"], most=6)))
    slow = chance.choice([0.0, 0.3, 1.0, 3.0])
    return Between(moments=tuple(moments), policy=SOON, slow=slow)


def _alike(chance: Random) -> Between:
    """The canary differs in its template's annotations alone: its model is named there."""
    alike = {"containers": [container(VERSIONS[Arm.STABLE])]}
    merge = {"spec": {"template": {"metadata": {"annotations": {"example.com/model": "v2"}}, "spec": alike}}}
    edit = {"at": "0s", "patch": {"kind": "Deployment", "name": CANARY, "merge": merge}}
    moments = [Moment(on="weight", deeds=_in_turn(chance, ["promote"], most=6))]
    return Between(moments=tuple(moments if chance.random() < 0.5 else ()), edits=(edit,), policy=dict(SOON))


KINDS: Sequence[Callable[[Random], Between]] = (
    _late,
    _twice,
    _by_hand,
    _elsewhere,
    _drained,
    _silent,
    _restarted,
    _touched,
    _alike,
)
