"""A model server's metrics page, in the text format, with buckets fine enough to prove things.

The Istio names are what a sidecar would add; the lab's pods have none and emulate them here.
"""

from bisect import bisect_left
from collections.abc import Sequence

# From 1 ms to 60 s; four steps are a factor of 1.2, the usual margin, so that the margin times a bound is
# a bound again (to 1e-12: a rounder number would make it the bound after that, and the margin x1.25)
SECONDS = tuple(float(f"{0.001 * 1.2 ** (step / 4):.12g}") for step in range(243))
SCORES = tuple(round(i / 50, 2) for i in range(1, 51))
# Istio's own, in milliseconds
MILLISECONDS = (
    *(0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000),
    *(60_000, 300_000, 600_000, 1_800_000, 3_600_000),
)


class Buckets:
    """One histogram series, cumulative since the process started."""

    def __init__(self, name: str, labels: str, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        stem = f'{name}_bucket{{{labels},le="'
        self._heads = [f'{stem}{bound!r}"}} ' for bound in self._bounds] + [f'{stem}+Inf"}} ']
        self._tails = f"{name}_sum{{{labels}}} ", f"{name}_count{{{labels}}} "

    def observe(self, value: float) -> None:
        """One more observation."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self) -> list[str]:
        """The series as the text format wants it: counts of all that is not larger than the bound."""
        total, lines = 0, []
        for head, count in zip(self._heads, self._counts, strict=True):
            total += count
            lines.append(head + str(total))
        return [*lines, f"{self._tails[0]}{self._sum:.6f}", f"{self._tails[1]}{total}"]


class Page:
    """Everything one pod counts."""

    def __init__(self, *, model: str, version: str, workload: str) -> None:
        self._model = f'model_name="{model}"'
        self._labels = f'model_name="{model}",model_version="{version}"'
        self._istio = (
            f'reporter="destination",source_workload="ingress",destination_workload="{workload}",'
            f'destination_version="{version}",request_protocol="http",response_flags="-",response_code='
        )
        self._duration = Buckets("model_inference_duration_seconds", self._labels, SECONDS)
        self._scores = Buckets("model_prediction_value", self._labels, SCORES)
        self._codes: dict[int, tuple[list[int], Buckets]] = {}
        self._clicks: list[int] | None = None  # impressions and clicks
        self.depth = 0  # requests that have arrived and are not answered
        self.drift = 0.0
        self.missing = 0.0

    def count_clicks(self, impressions: int, clicks: int) -> None:
        """So many answers more, and those of them that somebody clicked on."""
        before = self._clicks or [0, 0]
        self._clicks = [before[0] + impressions, before[1] + clicks]

    def observe(self, code: int, seconds: float, *, score: float | None = None) -> None:
        """One request was answered with `code` after `seconds`."""
        self._duration.observe(seconds)
        if score is not None:
            self._scores.observe(score)
        if code not in self._codes:
            buckets = Buckets("istio_request_duration_milliseconds", f'{self._istio}"{code}"', MILLISECONDS)
            self._codes[code] = [0], buckets
        total, duration = self._codes[code]
        total[0] += 1
        duration.observe(1_000 * seconds)

    def text(self) -> str:
        """The page."""
        requests = [
            f'istio_requests_total{{{self._istio}"{code}"}} {total[0]}'
            for code, (total, _) in self._codes.items()
        ]
        istio = [line for _, buckets in self._codes.values() for line in buckets.lines()]
        clicks = zip(("impressions", "clicks"), self._clicks or (), strict=False)
        pixels = f'{{{self._model},feature_name="pixels"}}'
        return "\n".join(
            [
                "# TYPE model_inference_duration_seconds histogram",
                *self._duration.lines(),
                "# TYPE model_prediction_value histogram",
                *self._scores.lines(),
                "# TYPE model_feature_missing_rate gauge",
                f"model_feature_missing_rate{pixels} {self.missing:.6f}",
                "# TYPE model_data_drift_score gauge",
                f"model_data_drift_score{pixels} {self.drift:.6f}",
                "# TYPE inference_queue_depth gauge",
                f"inference_queue_depth{{{self._labels}}} {self.depth}",
                *(
                    f"# TYPE model_{what}_total counter\nmodel_{what}_total{{{self._labels}}} {count}"
                    for what, count in clicks
                ),
                *(["# TYPE istio_requests_total counter", *requests] if requests else []),
                *(["# TYPE istio_request_duration_milliseconds histogram", *istio] if istio else []),
                "",
            ]
        )
