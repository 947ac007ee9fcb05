"""What befalls one history, all of it drawn from a number: the same seed gives the same history.

A fate is a story, which can be written down as a scenario file, and what a story has no words for: what
happens to single requests of single replicas, to their clocks, and between two of their writes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any

import yaml

from scenarios.fates import again, between, clocks, edits, policies
from scenarios.fates.clocks import Skew
from scenarios.fates.spells import BUSY, CALM, DURATION, ms, spell
from scenarios.objects import ACCOUNT, NAMESPACE, SYSTEM
from scenarios.plot import Story
from scenarios.story import loads

Json = Any

REPLICAS = 2
FEW: Sequence[int] = (1, 1, 2, 2, 3)  # pods; each costs
# The first seed of those that know more: several shards, steps that pass by their evidence, gates,
# Prometheus, replayed requests, rights that are taken away. Tests know those below by number.
NEWER = 600
DAYS_OFF = 1000  # ... of those whose clocks may be wrong by up to a day


@dataclass(frozen=True, slots=True, kw_only=True)
class Ail:
    """What is wrong with a replica's connection for a time; probabilities are of each request."""

    at: float  # seconds since the story's beginning
    until: float
    replica: int | None  # None: every replica; else its place among those that were started
    kind: str  # of KINDS
    much: float  # a probability, or seconds

    def __str__(self) -> str:
        who = "every replica" if self.replica is None else f"replica {self.replica + 1}"
        return f"{self.kind} {self.much:.2g} from {self.at:.1f} to {self.until:.1f} s for {who}"


# kind -> (least, most) of what `much` says
KINDS: Mapping[str, tuple[float, float]] = {
    "refused": (0.1, 0.7),  # answered 409, 429, 500 or 504, and nothing was done
    "unanswered": (0.1, 0.7),  # done, but the connection breaks before the answer
    "torn": (0.1, 0.5),  # done, but the answer ends in the middle
    "slow": (0.2, 3.0),  # seconds
    "stale": (1.0, 1.0),  # what watches say arrives only when this is over
    "cut": (1.0, 1.0),  # nothing arrives at all
    "expired": (0.05, 0.3),  # of each line of a watch: 410, list again
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """Whoever makes the n-th write of a kind ends there, before or after the API server has done it.

    Or is frozen: then it goes on later, and what it was about to write it writes then.
    """

    of: str  # of WRITTEN
    write: int
    done: bool
    frozen: bool
    back: float  # seconds until it goes on, or another starts in its place

    def __str__(self) -> str:
        what = f"{'frozen' if self.frozen else 'killed'} {'after' if self.done else 'before'}"
        return f"a replica is {what} write {self.write} of {self.of}, back {self.back:.1f} s later"


ZERO = "virtualservices to zero"
WRITTEN: Mapping[str, int] = {  # and how often each is drawn
    ZERO: 4,
    "virtualservices": 4,
    "canaryruns": 4,
    "deployments": 2,
    "events": 1,
    "leases": 1,
}
# Of each kind the writes that matter: weights are few, a status is written every ten seconds.
COUNTS: Mapping[str, Sequence[int]] = {
    "virtualservices": (1, 2, 3),
    "canaryruns": (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14),
    "deployments": (1, 2, 3),
    "events": (1, 3),
    "leases": (2, 10, 30),
}


RAISES: Mapping[str, Sequence[int]] = {
    "virtualservices": (1, 1, 2),
    "canaryruns": (5, 5, 6, 7),
}  # if all is well


@dataclass(frozen=True, slots=True, kw_only=True)
class Meddling:
    """Somebody does something just before the n-th write of a kind: between seeing and doing."""

    of: str  # of WRITTEN, or again.REFUSED
    write: int
    # (plural, name, what is merged): a name of "" is whichever run is live, and None that it is deleted
    merge: tuple[str, str, Json]

    def __str__(self) -> str:
        plural, name, merge = self.merge
        return f"before write {self.write} of {self.of} {plural}/{name or 'the run'} is given {merge}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A right that the controller has not got for a time."""

    at: float
    until: float
    role: tuple[str, str, str]  # (plural, namespace, name)
    resource: str
    verb: str

    def __str__(self) -> str:
        return f"{self.role[-1]} may not {self.verb} {self.resource} from {self.at:.1f} to {self.until:.1f} s"


_CLUSTER = ("clusterroles", "", ACCOUNT)
RIGHTS: Sequence[tuple[tuple[str, str, str], str, str]] = (
    (_CLUSTER, "virtualservices", "patch"),
    (_CLUSTER, "virtualservices", "watch"),
    (_CLUSTER, "canaryruns", "create"),
    (_CLUSTER, "canaryruns", "patch"),
    (_CLUSTER, "canaryruns/status", "patch"),
    (_CLUSTER, "deployments", "patch"),
    (_CLUSTER, "deployments/scale", "patch"),
    (_CLUSTER, "pods", "list"),
    (_CLUSTER, "events", "create"),
    (("roles", SYSTEM, "serin-controller-lease"), "leases", "update"),
    (("roles", NAMESPACE, "serin-alerts"), "secrets", "get"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """Somebody asks something of whichever run there is then."""

    at: float
    what: str  # of COMMANDS

    def __str__(self) -> str:
        return f"somebody says {self.what} at {self.at:.1f} s"


COMMANDS: Mapping[str, Json] = {  # what is merged into the run; None: it is deleted
    "abort": {"spec": {"abort": {"reason": "by hand"}}},
    "promote": {"spec": {"promote": {"reason": "by hand"}}},
    "pause": {"spec": {"paused": True}},
    "resume": {"spec": {"paused": False}},
    "approve": {"spec": {"approved": ["by hand"]}},
    "annotate": {"metadata": {"annotations": {"example.com/seen": "yes"}}},
    "delete": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """One history before it happens."""

    seed: int
    text: str  # the story as a scenario file
    story: Story
    healthy: bool  # nothing is wrong with the canary
    fatal: float | None  # since when the canary fails for everybody who asks it; None: it does not
    effect: str  # what it does then: errorRate, crash, hang, blackhole; "" if it is healthy
    commands: tuple[Command, ...]
    ails: tuple[Ail, ...]
    crashes: tuple[Crash, ...]
    meddlings: tuple[Meddling, ...]
    skews: tuple[Skew, ...]  # by replica; the rest have right clocks
    shards: tuple[int, ...]  # how many each replica counts, in turn
    taken: tuple[Taken, ...]
    opens: float  # when gates answer yes
    anew: again.Again | None
    moments: between.Between | None

    def told(self) -> str:
        """All of it, for people."""
        shards = f"replicas count {' and '.join(map(str, self.shards))} shards in turn"
        more = (*self.commands, *self.ails, *self.crashes, *self.meddlings, *self.skews, *self.taken, shards)
        more += () if self.anew is None else (self.anew,)
        more += () if self.moments is None else (self.moments,)
        gates = [f"# webhooks before a move say no until {self.opens:.1f} s"] if self.gated else []
        return "\n".join([self.text.rstrip(), *(f"# {one}" for one in more), *gates])

    @property
    def gated(self) -> bool:
        """Whether somebody is asked before traffic moves up."""
        return bool(self.story.policy.get("gates"))

    @property
    def queried(self) -> bool:
        """Whether a check is read at a Prometheus."""
        return any("source" in check for check in self.story.policy["checks"])


def drawn(seed: int) -> Fate:
    """The fate of this seed."""
    chance, newer = Random(f"fate {seed}"), Random(f"newer {seed}") if seed >= NEWER else None
    core = _core(chance)
    mild = chance.random() < 0.3  # few troubles, so that some canaries are promoted and some alerts arrive
    theirs = edits.drawn(chance) if chance.random() < 0.4 else []
    anew, moments = again.drawn(seed), between.drawn(seed)
    alone = moments is not None and moments.alone
    anew, core = (None, _Core()) if alone else (anew, core)
    spec = {
        "seed": seed,
        "duration": f"{DURATION:g}s",
        "traffic": {"requestsPerSecond": chance.choice([60, 120, 240])},
        "history": "5s",
        "controllers": REPLICAS,
        "stable": {
            "replicas": chance.choice(FEW),
            "latency": {"distribution": "lognormal", "median": "20ms", "p95": "60ms"},
            "errorRate": "0.1%",
        },
        "canary": {"replicas": chance.choice(FEW)},
        "faults": [*core.bad, *([] if mild else _around(chance))],
        "edits": anew.edits() if anew else core.edits or theirs,
        "policy": policies.drawn(chance),
        "expect": {"oneOf": [{"outcome": outcome} for outcome in ("RolledBack", "Promoted", "Held")]},
    }
    if newer is not None:
        policies.enrich(spec, newer)
        policies.be_patient(spec, Random(f"patience {seed}"))
    between.prepare(spec, moments)
    whole = {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "Scenario",
        "metadata": {"name": f"fate-{seed}"},
        "spec": spec,
    }
    text = yaml.safe_dump(whole, sort_keys=False, width=110)
    fate = Fate(
        seed=seed,
        text=text,
        story=loads(text, file=f"fate {seed}"),
        healthy=not core.bad and spec["canary"].get("model") != policies.WRONG,
        effect=next((what for fault in core.bad for what in EFFECTS if what in fault), ""),
        fatal=core.fatal,
        commands=tuple(_several(chance, 2, _command)) if chance.random() < 0.3 else (),
        ails=(*_several(chance, 1 if mild else 3, _ail), *core.ails),
        crashes=(*_several(chance, 1 if mild else 3, _crash), *core.crashes),
        meddlings=(*(_several(chance, 2, _meddling) if chance.random() < 0.3 else ()), *_deleting(anew)),
        skews=_skews(chance, seed),
        shards=(1,) if newer is None else _shards(Random(f"shards {seed}")),
        taken=tuple(_several(newer, 2, _taken)) if newer and newer.random() < 0.15 else (),
        opens=newer.uniform(0, BUSY) if newer else 0.0,
        anew=anew,
        moments=moments,
    )
    nothing: Any = dict.fromkeys(("commands", "ails", "crashes", "meddlings", "skews", "taken"), ())
    fate = replace(fate, **nothing) if alone else fate
    return replace(fate, ails=(*fate.ails, *_slow(moments)))


def _slow(moments: between.Between | None) -> Sequence[Ail]:
    much = moments.slow if moments else 0.0
    return [Ail(at=0.0, until=CALM, replica=None, kind="slow", much=much)] if much else []


def _shards(chance: Random) -> tuple[int, ...]:
    """As many for all replicas, mostly; else they are in the middle of an update to another number."""
    return tuple(chance.choice([(1,), (1,), (2,), (3,), (1, 3), (3, 2)]))


def _skews(chance: Random, seed: int) -> tuple[Skew, ...]:
    skews, more = _several(chance, REPLICAS, partial(clocks.drawn, until=BUSY)), Random(f"clocks {seed}")
    return tuple(clocks.far(one, more) if seed >= DAYS_OFF else one for one in skews)


def _deleting(anew: again.Again | None) -> Sequence[Meddling]:
    return [Meddling(of=again.REFUSED, write=1, merge=what) for what in (anew.meddlings() if anew else ())]


def _several(chance: Random, most: int, draw: Callable[[Random], Any]) -> Sequence[Any]:
    return [draw(chance) for _ in range(chance.randint(0, most))]


EFFECTS = ("errorRate", "crash", "hang", "blackhole")
FATAL: Sequence[Mapping[str, Json]] = (
    {"errorRate": "60%"},
    {"errorRate": "100%"},
    {"crash": True},
    {"hang": True},
    {"blackhole": True},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Core:
    """What is wrong with the canary, since when it is fatal, and what has to come together with it."""

    bad: list[Json] = field(default_factory=list)
    fatal: float | None = None
    crashes: tuple[Crash, ...] = ()
    ails: tuple[Ail, ...] = ()
    edits: list[Json] = field(default_factory=list)


def _core(chance: Random) -> _Core:
    which = chance.random()
    if which < 0.4:
        return _Core()
    if which < 0.52:
        return _late(chance)
    if which < 0.56:
        return _unheard(chance)
    at = chance.uniform(0.1, BUSY)
    fault = {"at": ms(at), "arm": "canary", **chance.choice(FATAL)}
    if chance.random() < 0.2:
        return _Core(bad=[fault | {"for": ms(chance.uniform(1, 8))}])
    return _Core(bad=[fault], fatal=at)


def _late(chance: Random) -> _Core:
    """A write is done long after it was meant, when somebody else has decided otherwise."""
    of, at = chance.choice(["virtualservices", "canaryruns"]), chance.uniform(3, 9)
    # the next one needs 6 s to lead, 3 s to look, and up to 8 s to be sure that the canary fails
    write, back = chance.choice(RAISES[of]), chance.uniform(14, 20)
    crashes = (Crash(of=of, write=write, done=False, frozen=True, back=back),)
    if chance.random() < 0.5:
        return _Core(crashes=crashes)
    return _Core(bad=[{"at": ms(at), "arm": "canary", "errorRate": "100%"}], fatal=at, crashes=crashes)


def _unheard(chance: Random) -> _Core:
    """A run ends while nobody has heard that somebody gave its canary weight."""
    at = chance.uniform(0.1, 6)
    return _Core(
        bad=[{"at": ms(0.1), "arm": "canary", "crash": True}],
        fatal=0.1,
        ails=(Ail(at=at, until=CALM, replica=None, kind="stale", much=1.0),),
        edits=[{"at": ms(at + chance.uniform(0.5, 5))} | edits.weights(chance)],
    )


def _around(chance: Random) -> list[Json]:
    """What goes wrong around the arms."""
    found = []
    for _ in range(chance.randint(0, 3)):
        target, kind = chance.choice(
            [
                ("apiserver", "outage"),
                ("apiserver", "hang"),
                ("apiserver", "conflict"),
                ("apiserver", "watch-drop"),
                ("apiserver", "slow"),
                ("metrics", "outage"),
                ("metrics", "hang"),
                ("metrics", "slow"),
                ("controller", "kill"),
                ("controller", "freeze"),
                ("alerts", "outage"),
                ("alerts", "hang"),
            ]
        )
        at, lasting = spell(chance)
        found.append({"at": ms(at), "target": target, "kind": kind, "for": ms(lasting)})
    return found


def _taken(chance: Random) -> Taken:
    (role, resource, verb), (at, lasting) = chance.choice(RIGHTS), spell(chance)
    return Taken(at=at, until=at + lasting, role=role, resource=resource, verb=verb)


def _command(chance: Random) -> Command:
    return Command(at=chance.uniform(1, CALM), what=chance.choice(sorted(COMMANDS)))


def _ail(chance: Random) -> Ail:
    at, lasting = spell(chance)
    kind = chance.choice(sorted(KINDS))
    replica = chance.choice([None, 0, 1])
    return Ail(at=at, until=at + lasting, replica=replica, kind=kind, much=chance.uniform(*KINDS[kind]))


def _crash(chance: Random) -> Crash:
    (of,) = chance.choices(list(WRITTEN), list(WRITTEN.values()))
    frozen = chance.random() < 0.4
    return Crash(
        of=of,
        write=1 if of == ZERO else chance.choice(COUNTS[of]),
        done=chance.random() < 0.5,
        frozen=frozen,
        back=chance.uniform(4, 18) if frozen else chance.uniform(1, 8),  # a Lease lasts 6 s
    )


def _meddling(chance: Random) -> Meddling:
    of = chance.choice(["virtualservices", "canaryruns", "deployments"])
    return Meddling(of=of, write=chance.choice(COUNTS[of]), merge=chance.choice(MEDDLED)(chance))


def _built(chance: Random) -> tuple[str, str, Json]:
    notes = {"metadata": {"annotations": {"example.com/build": str(chance.randint(1, 99))}}}
    return (
        "deployments",
        chance.choice(["model", "model-canary", "model-canary"]),
        {"spec": {"template": notes}},
    )


def _withdrawn(_: Random) -> tuple[str, str, Json]:
    return "deployments", "model-canary", {"metadata": {"annotations": {"serin.dev/canary-of": None}}}


def _relabelled(_: Random) -> tuple[str, str, Json]:
    return "virtualservices", "model", {"metadata": {"annotations": {"example.com/owner": "somebody"}}}


def _told(chance: Random) -> tuple[str, str, Json]:
    what = chance.choice([what for what, merge in COMMANDS.items() if merge is not None])
    return "canaryruns", "", COMMANDS[what]


MEDDLED: Sequence[Callable[[Random], tuple[str, str, Json]]] = (_built, _withdrawn, _relabelled, _told)
