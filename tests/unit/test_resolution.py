"""What people are told of their buckets before a canary depends on them."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import lognorm

from analysis.evidence import CheckKind, CheckSpec
from controller.reading import DURATION, INFERENCE, found
from controller.resolution import of_file, proved
from tests import wire

LATENCY = CheckSpec(name="latency-p95", kind=CheckKind.LATENCY, max_increase=0.2)
ERRORS = CheckSpec(name="errors", kind=CheckKind.ERROR_RATE)
SLOW = lognorm(0.5, scale=0.05)  # p95 is 114 ms
ISTIO = (0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4)  # ms
RECEIVED = {"reporter": "destination"}


def text(family: str, le: tuple[float, ...], *, unit: float, n: int = 100_000) -> bytes:
    def line(bound: float | str, share: float) -> str:
        return f'{family}_bucket{{reporter="destination",le="{bound}"}} {round(n * share)}\n'

    return "".join([*(line(bound, SLOW.cdf(bound * unit)) for bound in le), line("+Inf", 1.0)]).encode()


def native(schema: int) -> bytes:
    edges = {j: float(SLOW.cdf(2 ** (j / 2**schema))) for j in range(-201, 50)}
    counts = {j: round(1e6 * (edges[j] - edges[j - 1])) for j in range(-200, 50)}
    return wire.family(INFERENCE, wire.native({}, schema, {j: n for j, n in counts.items() if n}))


def certain_from(lines: list[str]) -> float:
    return float(lines[1].split("from ")[1].split("x")[0])


def test_istios_buckets_prove_five_times_and_the_remedy_is_named() -> None:
    page = of_file(text(DURATION, ISTIO, unit=0.001))
    name, certain, likely, warning, errors = proved(page, [LATENCY, ERRORS])
    assert name.startswith(f"latency-p95: {DURATION}, p95 of 100000 requests: ")
    assert name.endswith("between 100 ms and 250 ms")
    assert "certain from 5x on" in certain
    assert "1.2x is allowed" in certain
    assert "likely from 1." in likely
    assert "sidecar.istio.io/statsHistogramBuckets" in warning
    assert "docs/metrics.md" in warning
    assert errors.startswith("errors: istio_requests_total is not on the page (yet); the sidecar counts it")


def test_counters_of_ones_own_are_looked_for_by_the_names_that_the_policy_gives() -> None:
    """A page with exactly these was "no metric that Serin reads"; one without them passed without a word."""
    counters = ("approved_total", "scored_total")
    clicks = CheckSpec(name="approvals", kind=CheckKind.PROPORTION, counters=counters, max_decrease=0.1)
    page = (
        b"# TYPE scored_total counter\nscored_total 300\n# TYPE approved_total counter\napproved_total 200\n"
    )
    assert proved(of_file(page, [clicks]), [clicks])[1:] == ["approvals: approved_total is on the page"]
    (_, missing) = proved(of_file(b"up 1\n", [clicks]), [clicks])
    assert missing == "approvals: approved_total is not on the page (yet)"


def test_a_native_histogram_proves_what_its_schema_promises_and_nobody_is_warned() -> None:
    lines = proved(of_file(native(4)), [LATENCY])
    assert not [line for line in lines if "Warning" in line]
    assert 1.2 < certain_from(lines) <= 1.2 * 2 ** (2 / 16)
    (coarse,) = [line for line in proved(of_file(native(0)), [LATENCY]) if "Warning" in line]
    assert "make it a native one" in coarse  # of a model's own histogram


def test_what_cannot_be_compared_at_all_is_said_so() -> None:
    short = text(INFERENCE, (0.01, 0.05), unit=1.0)
    (line,) = proved(of_file(short), [LATENCY])
    assert "its buckets end below stable's p95, so nothing can be compared" in line


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (
            text(INFERENCE, (0.01, 0.05, 1.0), unit=1.0, n=30),
            "counted 30 requests; take the page of a pod with 100",
        ),
        (b"up 1\n", f"neither {INFERENCE} nor {DURATION} is on the page as a histogram; serve the first"),
        (
            b"# TYPE %b summary\n%b_sum 3\n%b_count 9\n" % ((INFERENCE.encode(),) * 3),
            "is on the page as a histogram; serve the first (docs/instrumenting.md)",
        ),
        (wire.family(INFERENCE, wire.native({}, 12, {1: 1000})), "schema must be from -4 to 8"),
    ],
)
def test_a_page_that_says_too_little_is_no_proof(page: bytes, said: str) -> None:
    (line,) = proved(of_file(page), [LATENCY])
    assert line.startswith("latency-p95: ")
    assert said in line


@pytest.mark.parametrize("first", ["0", "-1"])
def test_of_a_quantile_that_is_not_above_zero_nothing_is_proved_and_other_checks_go_on(first: str) -> None:
    page = "".join(
        f'{INFERENCE}_bucket{{le="{le}"}} {n}\n' for le, n in ((first, 970), (1, 1000), ("+Inf", 1000))
    )
    finer = CheckSpec(name="latency-p99", kind=CheckKind.LATENCY, quantile=0.99, max_increase=0.2)
    first_line, second_line, certain_line, *_ = proved(of_file(page.encode()), [LATENCY, finer])
    assert first_line.startswith(f"latency-p95: {INFERENCE}: its p95 is at or below 0, ")
    assert "give the histogram more buckets" in first_line
    assert second_line.startswith(f"latency-p99: {INFERENCE}, p99 of 1000 requests: ")
    assert "no increase of it is certain to show, however large" in certain_line  # it may be anything above 0


def test_of_buckets_that_end_at_the_quantile_no_ratio_is_said_that_there_is_not() -> None:
    page = "".join(
        f'{INFERENCE}_bucket{{le="{le}"}} {n}\n' for le, n in ((0.1, 600), (0.2, 1900), ("+Inf", 2000))
    )
    first, certain, warning = proved(of_file(page.encode()), [LATENCY])
    assert first.startswith(
        f"latency-p95: {INFERENCE}, p95 of 2000 requests: 200 ms, between 100 ms and 200 ms"
    )
    assert certain == "  no increase of it is certain to show, however large; 1.2x is allowed"
    assert warning.startswith(
        "  Warning: what lies above 1.2x may stay unseen; give the histogram more buckets"
    )


def test_without_a_latency_check_there_is_nothing_to_prove() -> None:
    assert proved(found(b""), [ERRORS])[0] == "The policy has no Latency check."


def test_the_ratio_is_that_of_the_two_bounds_that_have_to_be_passed() -> None:
    le = tuple(0.001 * 1.2**j for j in range(60))
    lines = proved(of_file(text(INFERENCE, le, unit=1.0)), [LATENCY])
    at = int(np.searchsorted(le, SLOW.ppf(0.95)))
    beyond = next(
        b for b in le if SLOW.sf(max((one for one in le if one <= b / 1.2 * (1 + 1e-6)), default=0.0)) <= 0.05
    )
    assert certain_from(lines) == pytest.approx(beyond / le[at - 1], rel=0.01)


def test_predictions_that_lie_in_one_bucket_are_warned_of_beforehand() -> None:
    drift = CheckSpec(name="scores", kind=CheckKind.PREDICTIONS)
    page = 'model_prediction_value_bucket{{le="0.5"}} {}\nmodel_prediction_value_bucket{{le="+Inf"}} 1000\n'
    said = [proved(of_file(page.format(n).encode()), [drift])[1:] for n in (400, 20)]
    assert said[0] == ["scores: model_prediction_value is on the page"]
    (warning,) = said[1][1:]
    assert warning.startswith(
        "  Warning: 98 % of stable's lie in one bucket: a shift within it does not show"
    )


def test_a_margin_is_said_as_the_policy_has_it() -> None:
    """`serin plan --page` said "1.12x is allowed" of 12.5%, below its own "1.125x is allowed"."""
    check = replace(LATENCY, max_increase=0.125)
    _, certain, _, warning, *_ = proved(of_file(text(DURATION, ISTIO, unit=0.001)), [check])
    assert certain.endswith("1.125x is allowed")
    assert "what lies between 1.125x and" in warning
