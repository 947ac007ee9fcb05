"""What the page is told of runs: the answer first, in one sentence, and then what it rests on. Pure.

Everything comes from the CanaryRun object, so that any replica can show any run; only the curves are a
leader's own (`traces`). Texts are those of `explain`, and are text: whoever shows them escapes them.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from analysis.state import step_weights
from controller import explain, policies, record, report
from controller.explain import Finding, allowed, clauses, different
from controller.wire import Malformed

Json = Any

MOST_LISTED = 500  # rows of the list; a run's own page is there for all
LONGEST = 320  # characters of a sentence in the list: what to do about it comes last
TONES = ("open", "held", "good", "bad", "ended")  # how the page colours an answer
OPEN = frozenset({"Inconclusive", "NoData"})


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether the canary is worse, for people in a hurry: how it looks, a word or two, a sentence."""

    tone: str  # of TONES
    word: str
    sentence: str


def answer(run: Json) -> Answer:
    """Worse, no worse, or not known yet."""
    said = record.status(run)
    message = report.full_stop(said["message"]) if said.get("message") else ""
    match said.get("phase"):
        case "Succeeded":
            return Answer(
                "good",
                "No worse: promoted",
                f"Stable runs this version. {_begun(message)}".strip(),
            )
        case "Failed":
            return _failed(run, message)
        case "Paused":
            why = record.reason(run) or ""
            because = report.REASONS.get(why, why)
            held = report.HELD.get(why, "held").capitalize()
            plain = message if held == "Held" else _begun(message)
            return Answer("held", held, plain or _begun(f"{because}."))
        case "Promoting":
            return Answer("good", "No worse: promoting", "Every step has passed.")
        case None | "Pending":
            return Answer("open", "Not known yet", "No request has reached the canary.")
    return _judged(run)


def _begun(sentence: str) -> str:
    """With a capital; not for those that begin with the name of a check."""
    return f"{sentence[:1].upper()}{sentence[1:]}"


def _failed(run: Json, message: str) -> Answer:
    why = record.reason(run) or ""
    because = report.REASONS.get(why, why or "no reason is known")
    sentence = message or f"{because[:1].upper()}{because[1:]}."
    if why in record.ENDINGS:
        return Answer("ended", record.ENDINGS[why].capitalize(), sentence)
    if why in report.FACTS or why == "CheckFailed":
        return Answer("bad", "Worse: rolled back", sentence)
    return Answer("bad", "Rolled back", sentence)


def _judged(run: Json) -> Answer:
    """What a run that goes on has found by now."""
    found, said = record.findings(run), record.status(run)
    failed = [one.name for one in found if one.verdict == "Fail"]
    if failed:
        return Answer("bad", "Worse", f"{_names(failed)} failed: all requests go back to stable.")
    share = f"{said.get('weight', 0)} % of requests"
    missing = [one.name for one in found if one.required and one.verdict in OPEN]
    if found and not missing:
        better = [one.name for one in found if _better(one)]
        more = (
            f" {_names(better)} {'is' if len(better) == 1 else 'are'} better than stable's." if better else ""
        )
        return Answer("good", "No worse so far", f"Every required check has passed at {share}.{more}")
    log_e, alpha = said.get("logE"), record.policy(run).get("alpha", 0.01)
    odds = "nothing" if log_e is None else explain.odds(log_e, alpha)
    against = "Nothing speaks against the canary"
    if odds != "nothing":
        against = f"The evidence against the canary is {odds}"
    return Answer(
        "open",
        "Not known yet",
        f"{against} at {share}; {explain.rolls_back(alpha, 'it')}. Still to pass: {_names(missing)}.",
    )


def _better(found: Finding) -> bool:
    """Whether all of the interval, which holds at all times at once, is on the better side of stable."""
    if found.interval is None or found.kind not in {"Latency", "ErrorRate", "Proportion"}:
        return False
    same = 0.0 if found.kind == "ErrorRate" else 1.0
    return found.interval[0] > same if found.max_decrease else found.interval[1] < same


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# -- all runs --------------------------------------------------------------------------------------


def line(run: Json) -> Json:
    """A run as a row of the list."""
    said, meta, found = record.status(run), run["metadata"], answer(run)
    weights, good = said.get("weights") or [], said.get("phase") == "Succeeded"
    return {
        "namespace": meta["namespace"],
        "name": meta["name"],
        "canary": run["spec"]["plan"]["canary"],
        "tone": found.tone,
        "word": found.word,
        "sentence": _short(found.sentence),
        "weight": said.get("weight") or 0,
        "step": said.get("step"),
        "part": _part(None if good else said.get("logE"), record.policy(run).get("alpha", 0.01)),
        "live": not record.ended(run),
        "at": weights[-1]["at"] if weights and record.ended(run) else meta.get("creationTimestamp"),
    }


def unreadable(namespace: str, name: str) -> Json:
    """The row of a run that cannot be understood."""
    said = Answer(
        "bad", "Not readable", f"kubectl get canaryrun {name} -n {namespace} -o yaml shows what it says."
    )
    rest = {"canary": name, "weight": 0, "step": None, "part": 0.0, "live": True, "at": None}
    return {"namespace": namespace, "name": name, **asdict(said), **rest}


def listed(lines: Iterable[Json]) -> Json:
    """The list: what waits for people, what goes on, then the newest; as many as a browser likes."""
    rows = sorted(lines, key=_urgency, reverse=True)
    counts = {
        tone: sum(row["tone"] == tone for row in rows) for tone in ("open", "held", "good", "bad", "ended")
    }
    return {"runs": rows[:MOST_LISTED], "of": len(rows), "counts": counts}


def _urgency(row: Json) -> tuple[bool, bool, str, str]:
    return row["live"], row["tone"] in {"held", "bad"}, row["at"] or "", row["name"]


def _short(text: str) -> str:
    """A sentence in a table."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


# -- one run ---------------------------------------------------------------------------------------


def shown(run: Json, *, now: datetime, trace: Json = None) -> Json:
    """All of one run; `trace` is what `traces.drawn` says, None where there are no curves."""
    said, meta, plan, found = record.status(run), run["metadata"], run["spec"]["plan"], answer(run)
    policy = record.policy(run)
    alpha = policy.get("alpha", 0.01)
    return {
        "namespace": meta["namespace"],
        "name": meta["name"],
        "created": meta.get("creationTimestamp"),
        "canary": plan["canary"],
        "stable": plan["stable"],
        "hashes": [plan.get("stableHash"), plan.get("canaryHash")],
        "virtualService": plan.get("virtualService", plan["stable"]),
        "policy": " ".join(record.planned_by(run)),
        **asdict(found),
        "next": list(report.coming(run)),
        "live": not record.ended(run),
        "phase": said.get("phase") or "Pending",
        "reason": record.reason(run),
        "weight": said.get("weight") or 0,
        "steps": policy.get("steps", []),
        "step": said.get("step"),
        "alpha": alpha,
        "logE": said.get("logE"),
        "odds": None if said.get("logE") is None else explain.odds(said["logE"], alpha),
        "placebo": record.placebos(run).get("logE"),
        "weights": [_change(one) for one in said.get("weights") or []],
        "checks": [_check(one) for one in record.findings(run, now=now)],
        "counted": _counted(run),
        "checklist": list(report.preflight(run)),
        "ledger": _ledger(run),
        "shadow": _shadow(run),
        "sure": list(report.certainty(run)),
        "peers": list(report.peers(run)),
        "unseen": list(report.unseen(run, now=now)),
        "commands": report.commands(run, program="kubectl serin"),
        "trace": trace,
    }


def _change(weight: Json) -> Json:
    why = weight["reason"]
    return {"at": weight["at"], "weight": weight["weight"], "reason": _because(why)}


def _because(why: str) -> str:
    happened = {
        "WeightRaised": "the next step",
        "WeightRepaired": "somebody else had changed it",
        "Promoted": "promoted",
    }
    return happened.get(why) or report.REASONS.get(why, why)


def _check(found: Finding) -> Json:
    same, margin = _scale(found)
    return {
        "name": found.name,
        "kind": found.kind,
        "verdict": found.verdict,
        "warming": found.warming is not None,
        "required": found.required,
        "clauses": clauses(found),
        "allowed": allowed(found),
        "estimate": found.estimate,
        "interval": _drawn(found),
        "same": same,
        "margin": margin,
    }


def _counted(run: Json) -> str:
    """Of what time the checks' figures are: each step begins anew, and the curves beside them are newer."""
    said = record.status(run)
    if record.ended(run) or not said.get("weight") or not said.get("step"):
        return ""
    since = f"Since step {said['step']} began; as of the last checkpoint, at most ten seconds ago."
    return " ".join([since, *record.unequal(run)])


def _drawn(found: Finding) -> tuple[float, float] | None:
    """The interval, if it has two ends."""
    return found.interval if found.interval and all(map(math.isfinite, found.interval)) else None


def _shadow(run: Json) -> Json:
    """What requests say that were replayed on both versions; None where the policy does not ask."""
    found = next((one for one in record.findings(run) if one.kind == "Shadow"), None)
    if found is None:
        return None
    return {
        "name": found.name,
        "verdict": found.verdict,
        "sentence": clauses(found)[0],
        "requests": found.canary_requests,
        "flips": found.estimate,
        "interval": found.interval,
        "most": found.max_flips,
        "worst": different(found),
    }


def _scale(found: Finding) -> tuple[float | None, float | None]:
    """Where the canary is as stable is, and the margin; None where they depend on stable's rate."""
    match found.kind:
        case "Latency":
            return 1.0, 1 + found.max_increase
        case "Proportion":
            return _of_share(found)
        case "Predictions":
            return 0.0, found.tolerance
        case "Shadow":
            return 0.0, found.max_flips
    return None, None


def _of_share(found: Finding) -> tuple[float | None, float | None]:
    """Of a proportion: points that are added count by stable's share, which has to be known then."""
    if found.max_decrease:
        return 1.0, 1 - found.max_decrease
    if not found.plus:
        return 1.0, 1 + found.max_increase
    if found.shares is None or not found.shares[1]:
        return None, None
    return 1.0, 1 + found.max_increase + found.plus / found.shares[1]


def _ledger(run: Json) -> Json:
    """How alpha is divided among checks and steps, and how far each check's evidence has come."""
    try:
        policy = policies.policy(dict(record.policy(run)))
    except Malformed:
        return None
    log_e = {one.name: one.log_e for one in record.findings(run)}
    furthest = {one["name"]: one.get("logE") for one in record.placebos(run).get("checks", [])}
    shares = [(one.name, one.share) for one in policy.checks]
    if policy.shadow is not None:
        shares.append((policy.shadow.name, policy.shadow.share))
    return {
        "checks": [
            {
                "name": name,
                "share": share,
                "part": _part(log_e.get(name), policy.alpha),
                "placebo": _part(furthest[name], policy.alpha) if name in furthest else None,
            }
            for name, share in shares
        ],
        "steps": [
            {"weight": weight, "share": share}
            for weight, share in zip(policy.steps, step_weights(len(policy.steps)), strict=True)
        ],
    }


def _part(log_e: float | None, alpha: float) -> float:
    """How much of what rolls back has been gathered, 0 to 1; 0 as long as that is none (`explain.odds`)."""
    return 0.0 if log_e is None or explain.none_yet(log_e) else round(explain.part(log_e, alpha), 4)
