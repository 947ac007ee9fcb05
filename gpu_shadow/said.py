"""What is said of two models, wherever their answers were compared: as lines for people and as JSON.

`report` says the same with pictures.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, Self

from gpu_shadow.finding import Difference, Finding, Margins, Share, decide, percent, times
from gpu_shadow.neighbours import NEAREST, Neighbours
from gpu_shadow.swaps import Tested
from gpu_shadow.tally import Comparison

SCHEMA = "serin.dev/shadow-finding/v1"
SHOWN = 5  # of the most different requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One thing that was compared: which side of it (`role`), what it is called, and its digest."""

    role: str
    name: str
    sha256: str

    @classmethod
    def of(cls, role: str, path: Path) -> Self:
        """The file; raises `OSError`."""
        with path.open("rb") as file:
            return cls(role=role, name=str(path), sha256=file_digest(file, "sha256").hexdigest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What is said of two models: the finding, what it was held to, and what it was found in.

    `swapped` says whether the answers differ at all, `neighbours` whether embeddings mean the same. Both take
    the answers themselves: None where only their comparison is left.
    """

    finding: Finding
    margins: Margins
    comparison: Comparison
    swapped: Tested | None = None
    neighbours: Neighbours | None = None
    sources: tuple[Source, ...] = ()

    @classmethod
    def of(cls, comparison: Comparison, margins: Margins, *, sources: tuple[Source, ...] = ()) -> Self:
        """What a comparison says, be it of one part or merged from many."""
        return cls(
            finding=decide(comparison, margins), margins=margins, comparison=comparison, sources=sources
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values; the form is documented in docs/shadow.md."""
        swapped = self.swapped
        return {
            "schema": SCHEMA,
            "task": self.margins.task,
            "maxFlips": self.margins.max_flips,
            "maxAccuracyLoss": self.margins.max_accuracy_loss,
            "alpha": self.margins.alpha,
            "beta": self.margins.beta,
            **self.finding.to_json(),
            "pairSwap": None if swapped is None else {"p": swapped.p, "permutations": swapped.permutations},
            "neighbours": None if self.neighbours is None else _of_neighbours(self.neighbours),
            "sources": [{"role": one.role, "name": one.name, "sha256": one.sha256} for one in self.sources],
        }


def told(said: Said) -> Iterator[str]:
    """The finding as lines for people."""
    finding = said.finding
    yield f"{finding.to_json()['verdict']}: {finding.why[0]}"
    yield from (f"  {each}" for each in finding.why[1:])
    if finding.overall is not None:
        yield ""
        yield from _shares(finding)
    if finding.wrong is not None:
        yield from _accuracy(finding, finding.wrong)
    if said.swapped is not None:
        yield f"Any difference at all, of whatever kind: p = {said.swapped.p:.3g} (pair-swap test)."
    if said.neighbours is not None:
        yield from alike(said.neighbours)
    if finding.differences:
        yield ""
        yield from _table(finding.differences)
    if finding.worst:
        yield ""
        most = ", ".join(name for _, name in finding.worst[:SHOWN])
        yield f"Most different: {most}."


def alike(found: Neighbours) -> Iterator[str]:
    """What is said of two embeddings, as sentences."""
    sides = {"The canary's vectors": found.canary, "Stable's own second ones": found.floor}
    for who, each in sides.items():
        if each is not None:
            near = f"{each.overlap:.1%} of the {NEAREST} nearest are the same"
            turned = f"{each.aligned:.2%} apart when turned onto each other"
            yield f"{who} ({found.requests}): {near}; linear CKA {each.cka:.4f}; {turned}."


def _of_neighbours(found: Neighbours) -> dict[str, Any]:
    sides = {"canary": found.canary, "floor": found.floor}
    return {"requests": found.requests, "nearest": NEAREST} | {
        side: None if each is None else {"overlap": each.overlap, "cka": each.cka, "aligned": each.aligned}
        for side, each in sides.items()
    }


def _shares(finding: Finding) -> Iterator[str]:
    overall = finding.overall
    if overall is None:
        return
    flips = f"{percent(overall.flips)} of {overall.requests} answers differ"
    noise = "" if overall.floor is None else f", {percent(overall.floor)} of stable's own second answers"
    clear = "" if finding.clear is None else f"; {percent(finding.clear)} where stable's answer was clear"
    yield f"{flips}{noise}{clear}."
    yield from (_slice(each) for each in finding.shown)


def _slice(each: Share) -> str:
    low, high = each.interval
    name = f"Slice {each.label}" if each.label else "All other slices"
    beyond = f"beyond the noise {percent(low)} to {percent(high)}"
    return f"{name}: {percent(each.flips)} of {each.requests}; {beyond}."


def _accuracy(finding: Finding, wrong: Share) -> Iterator[str]:
    low, high = wrong.interval
    yield (
        f"Of {wrong.requests} with a label stable has {percent(1 - (wrong.floor or 0.0))} right, the canary"
        f" {percent(1 - wrong.flips)}: it loses {percent(low)} to {percent(high)}."
    )
    off = [f"{arm} {each.ece:.4f}" for arm, each in sorted(finding.marks.items(), reverse=True) if each.n]
    if off:
        yield f"How far confidence is from accuracy (ECE): {', '.join(off)}."


def _table(differences: tuple[Difference, ...]) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [("figure", "mean", "from", "to", "median", "99 %", "largest", "x noise")]
    for each in differences:
        figures = (each.mean, *each.interval, each.median, each.p99, each.largest)
        rows.append((each.name, *(f"{one:.3g}" for one in figures), times(each.ratio)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))
        yield "  ".join((row[0].ljust(widths[0]), *cells))
