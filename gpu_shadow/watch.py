"""The inputs recorded for one run against the baseline of a training, a window of requests after another.

Stable and the canary see the same requests, so what is found here is about neither of them. It is said
beside the verdict and never changes one but by asking for more requests: a Pass waits for `ENOUGH` windows,
a Fail for nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from gpu_shadow.inputs import Bounds, Figures, Moved, drifted, figures, steady
from gpu_shadow.models import Refused, named
from gpu_shadow.protocol import Tensor
from gpu_shadow.recorder import Recorded
from gpu_shadow.redact import Redaction
from gpu_shadow.sketch import LARGEST, Array, BadBaseline, Baseline, read, tallied

Json = Any

WINDOW = 500  # requests, 25 a cell; by chance no PSI of so many comes near the bound, whose sd is 0.013
ENOUGH = 2  # windows: fewer say nothing
NAMED = 20  # features in an answer
EXPORTED = 200  # features on the metrics page; those that moved most
METHODS = ("psi", "ks", "js", "w1")


@dataclass(slots=True)
class Watch:
    """What is known of the inputs by now."""

    baseline: Baseline
    unfit: int = 0  # requests with none of the baseline's features
    requests: int = 0  # in all windows
    windows: list[tuple[Moved, ...]] = field(default_factory=list)  # the last three
    figures: Figures | None = None  # of the last window
    redaction: Redaction | None = None  # what it changes cannot be as in the training, and is left out
    _rows: list[Array] = field(default_factory=list)
    _position: int = 0

    @property
    def enough(self) -> bool:
        """Whether something can be said, or nothing ever will: of no use are requests of other features."""
        return self.requests >= ENOUGH * WINDOW or self.unfit >= ENOUGH * WINDOW

    def take(self, recorded: Sequence[Recorded]) -> None:
        """These requests are counted as well; of each the first row, as the replay takes it."""
        for one in recorded:
            if one.order <= self._position:
                continue
            self._position = one.order
            row = row_of(one.tensors, self.baseline)
            if row is None:
                self.unfit += 1
                continue
            self._rows.append(row)
            if len(self._rows) == WINDOW:
                self._close()

    def _close(self) -> None:
        rows, self._rows = np.stack(self._rows, axis=1), []
        columns = {one.name: rows[i] for i, one in enumerate(self.baseline.features)}
        self.figures = figures(self.baseline, tallied(self.baseline.features, columns))
        found = drifted(self.baseline, self.figures, Bounds(least=WINDOW))
        own = tuple(one for one in found if not self._changed(one.name))
        self.windows = [*self.windows, own][-3:]
        self.requests += WINDOW

    def _changed(self, name: str) -> bool:
        return self.redaction is not None and self.redaction.changes(name)

    def said(self) -> Json:
        """What the controller is told."""
        found = steady(self.windows)
        return {
            "features": len(self.baseline.features),
            "requests": self.requests,
            "unfit": self.unfit,
            "count": len(found),
            "drifted": [{"name": one.name, "by": one.cause, "value": one.value} for one in found[:NAMED]],
        }

    def samples(self, model: str) -> Iterator[tuple[str, str]]:
        """Samples for a metrics page, each with its family: of the last window's farthest features."""
        found = self.figures
        if found is None:
            return
        names = [one.name for one in self.baseline.features]
        own = [i for i in np.argsort(-found.psi, kind="stable") if not self._changed(names[i])]
        for i in own[:EXPORTED]:
            labels = f'model_name="{_quoted(model)}",feature_name="{_quoted(names[i])}"'
            for method in METHODS:
                value = getattr(found, method)[i]
                if np.isfinite(value):
                    yield DRIFT, f'{DRIFT}{{{labels},method="{method}"}} {value:.6g}'
            yield MISSING, f"{MISSING}{{{labels}}} {found.missing[i]:.6g}"


DRIFT, MISSING = "model_data_drift_score", "model_feature_missing_rate"


def page(watches: Mapping[str, Watch]) -> str:
    """A metrics page of the watches by their models' names."""
    samples = [one for model, watch in watches.items() for one in watch.samples(model)]
    lines = []
    for family in (DRIFT, MISSING):
        of_family = [line for name, line in samples if name == family]
        lines += [f"# TYPE {family} gauge", *of_family] if of_family else []
    return "".join(f"{line}\n" for line in lines)


def opened(reference: str, folder: Path, *, redaction: Redaction | None = None) -> Watch:
    """The watch on the baseline that `file:///path@sha256:…` names, below `folder`; raises `Refused`."""
    path, digest = named(reference, folder)
    try:
        with path.open("rb") as file:
            body = file.read(LARGEST + 1)
    except OSError as error:
        raise Refused(f"{path}: cannot be read ({error.strerror}); mount it there, or correct it") from None
    if (found := sha256(body).hexdigest()) != digest:
        raise Refused(f"{path}: its sha256 is {found}, not the {digest} that was asked for; correct either")
    try:
        return Watch(read(body), redaction=redaction)
    except BadBaseline as error:
        raise Refused(f"{path}: {error}") from None


def row_of(tensors: Mapping[str, Tensor], baseline: Baseline) -> Array | None:
    """The request's first row (F,), NaN where it lacks a feature; None if it has none of them.

    Features are found by name; where none is, one tensor with as many columns is taken in their order.
    """
    numbers = {name: each for name, each in tensors.items() if each.dtype != object}
    firsts = {name: each.reshape(len(each), -1)[0] for name, each in numbers.items()}
    values: dict[str, float] = {}
    for name, first in firsts.items():
        one = len(first) == 1
        values |= {name if one else f"{name}[{i}]": float(value) for i, value in enumerate(first)}
    names = [one.name for one in baseline.features]
    if values.keys() & set(names):
        return np.array([values.get(name, np.nan) for name in names])
    if len(firsts) == 1 and len(values) == len(names):
        return np.array(list(values.values()))
    return None


def _quoted(text: str) -> str:
    """As a label's value."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
