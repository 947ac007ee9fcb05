"""A model server's metrics page: what `controller.instrument` says, with buckets finer than it has by itself.

The Istio names are what a sidecar would add; the lab's pods have none and emulate them here.
"""

from controller.instrument import SCORES, Histogram, Instrumented, steps

__all__ = ["MILLISECONDS", "SCORES", "SECONDS", "Page"]

# From 1 ms to 60 s; four steps are a factor of 1.2, the usual margin
SECONDS = steps(0.001, 60.0, parts=4)
# Istio's own, in milliseconds
MILLISECONDS = (
    *(0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000),
    *(60_000, 300_000, 600_000, 1_800_000, 3_600_000),
)


class Page:
    """Everything one pod counts: its `model`, and what a sidecar would."""

    def __init__(self, *, model: str = "model", version: str, workload: str) -> None:
        self.model = Instrumented(model, version, buckets=SECONDS, features=("pixels",))
        self._codes: dict[int, Histogram] = {}
        self._istio = (
            ("reporter", "destination"),
            ("source_workload", "ingress"),
            ("destination_workload", workload),
            ("destination_version", version),
            ("request_protocol", "http"),
            ("response_flags", "-"),
        )

    def received(self, code: int) -> Histogram:
        """Durations of the requests that were answered with `code`, in milliseconds."""
        if code not in self._codes:
            labels = (*self._istio, ("response_code", str(code)))
            self._codes[code] = Histogram("istio_request_duration_milliseconds", labels, MILLISECONDS)
        return self._codes[code]

    def observe(self, code: int, seconds: float, *, score: float | None = None) -> None:
        """One request was answered with `code` after `seconds`."""
        self.received(code).observe(1_000 * seconds)
        if score is not None:
            self.model.predicted(score)

    def text(self) -> str:
        """The page."""
        model, _ = self.model.page("text/plain")
        durations = [one.lines() for one in self._codes.values()]
        # the labels of a histogram's count, whose figure is that of the requests
        requests = [lines[-1].replace("_duration_milliseconds_count", "s_total") for lines in durations]
        istio = [line for lines in durations for line in lines]
        return model.decode() + "\n".join(
            [
                *(["# TYPE istio_requests_total counter", *requests] if requests else []),
                *(["# TYPE istio_request_duration_milliseconds histogram", *istio] if istio else []),
                "",
            ]
        )
