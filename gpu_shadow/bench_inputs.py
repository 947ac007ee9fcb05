"""What is promised of drift, measured: fifty features of 20 000 rows, against a loop."""

from collections.abc import Iterator

import numpy as np
from scipy import stats
from scipy.spatial.distance import jensenshannon

from gpu_shadow.bench import Row, seconds
from gpu_shadow.inputs import figures
from gpu_shadow.sketch import BINS, Array, captured, tallied

FEATURES, ROWS = 50, 20_000
RUNS = 40


def rows(seed: int) -> Iterator[Row]:
    """Everything that is measured."""
    rng = np.random.default_rng(seed)
    trained, now = (rng.normal(size=(ROWS, FEATURES)) for _ in range(2))
    known = captured(_columns(trained))
    columns = _columns(now)
    ours = seconds(lambda: figures(known, tallied(known.features, columns)))
    looped = seconds(lambda: [_of_one(trained[:, i], now[:, i]) for i in range(FEATURES)], times=1)
    of = f"drift of {FEATURES} features x {ROWS} rows"
    yield Row(of, 1_000 * ours, at_most=100, unit="ms of CPU")
    yield Row(f"{of}, against scipy a feature at a time", looped / ours, at_least=10, unit="x")
    yield Row("PSI where nothing moved, 500 requests, mean", _bias(rng), at_least=-0.005, at_most=0.005)


def _columns(x: Array) -> dict[str, Array]:
    return {f"f{i}": x[:, i] for i in range(x.shape[1])}


def _of_one(trained: Array, now: Array) -> tuple[float, ...]:
    """The same figures of one feature, each from its library, on rows that were kept."""
    edges = np.quantile(trained, np.linspace(0, 1, BINS + 1))
    edges[[0, -1]] = -np.inf, np.inf
    p, q = (np.histogram(each, edges)[0] + 0.5 for each in (trained, now))
    p_, q_ = p / p.sum(), q / q.sum()
    return (
        float(((p_ - q_) * np.log(p_ / q_)).sum()),
        stats.chi2_contingency(np.stack([p, q]), lambda_="log-likelihood").pvalue,
        stats.ks_2samp(trained, now, method="asymp").pvalue,
        jensenshannon(p_, q_, base=2),
        stats.wasserstein_distance(trained, now) / trained.std(),
    )


def _bias(rng: np.random.Generator) -> float:
    known = captured(_columns(rng.normal(size=(ROWS, FEATURES))))
    windows = (tallied(known.features, _columns(rng.normal(size=(500, FEATURES)))) for _ in range(RUNS))
    return float(np.mean([figures(known, each).psi for each in windows]))
