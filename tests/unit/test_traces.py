"""The curves of a run, in memory."""

import math
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from analysis import evidence as ev
from analysis.judge import Verdict, judge
from analysis.samples import Histogram, PodSample, Sample
from controller import gather, planning, policies
from controller.model import ArmSeen, Policy, RouteSeen, Run, Seen, Stage
from controller.onlookers import Look
from controller.page import traces
from controller.page.traces import (
    MOST,
    ROWS,
    Recent,
    Trace,
    Traces,
    blank,
    distribution,
    drawn,
    quantiles,
    tail,
)
from controller.placebos import Placebos

POLICY = policies.policy(planning.builtin())
LE = tuple(0.01 * 1.2**step for step in range(20))


def row(trace: Trace, second: float, log_e: float = 0.0) -> None:
    trace.add([second, 10, log_e, math.nan, *[log_e] * 3, *[0.05] * 6])


def test_a_run_of_any_length_takes_as_many_rows_and_keeps_its_beginning_and_its_end() -> None:
    trace = blank(POLICY)
    last = -1.0
    for second in range(5 * ROWS):
        if second - last >= trace.every:
            row(trace, last := second)
    assert len(trace.rows) == ROWS
    assert ROWS // 2 <= trace.count <= ROWS
    seconds = trace.rows[: trace.count, 0]
    assert (np.diff(seconds) > 0).all()
    assert seconds[0] == 0
    assert seconds[-1] >= 5 * ROWS - 1 - trace.every
    assert trace.every == pytest.approx(0.9 * 8)  # so it is noted less often


def test_a_quantile_lies_between_the_bounds_where_it_falls() -> None:
    cells = np.array([0.0, 90.0, 10.0, 0.0])
    assert quantiles((0.01, 0.02, 0.04), cells, [0.5])[0] == pytest.approx(0.01 * 2 ** (50 / 90))
    assert quantiles((0.01, 0.02, 0.04), cells, [0.95])[0] == pytest.approx(0.02 * 2**0.5)


@pytest.mark.parametrize(
    ("cells", "level"),
    [([0, 19, 0], 0.95), ([0, 199, 0], 0.99), ([0, 90, 10], 0.95), ([0, 0, 0], 0.5)],
    ids=["few", "few for p99", "above the last bound", "none"],
)
def test_a_quantile_that_nobody_knows_is_none(cells: list[float], level: float) -> None:
    assert math.isnan(quantiles((0.01, 0.02), np.array(cells, dtype=float), [level])[0])


def test_what_is_finer_than_a_screen_is_joined_and_nothing_is_lost() -> None:
    cells = np.ones((2, 242))
    found = distribution(Recent(tuple(float(bound) for bound in range(1, 242)), cells, cells, 0.0))
    assert len(found["stable"]) <= traces.BARS
    assert len(found["bounds"]) == len(found["stable"]) + 1
    assert sum(found["canary"]) == pytest.approx(1, abs=1e-3)


def test_the_tail_falls_from_all_requests_to_few() -> None:
    cells = np.array([[0.0, 50, 40, 9, 1], [0.0, 10, 40, 40, 10]])
    found = tail(Recent((0.01, 0.02, 0.04, 0.08), cells, cells, 0.0))
    assert found["bounds"] == [0.02, 0.04, 0.08]
    assert found["stable"] == pytest.approx([0.5, 0.1, 0.01])
    assert found["canary"] == pytest.approx([0.9, 0.5, 0.1])


def sample(at: float, n: int, *, slow: int = 0) -> Sample:
    count = [0] * (len(LE) + 1)
    count[8], count[14] = n - slow, slow
    pods = tuple(PodSample(f"p{i}", f"n{i}", Histogram(LE, tuple(count))) for i in range(3))
    return Sample(at, at + 1, pods)


def looked(
    policy: Policy, seconds: int, *, verdict: Verdict | None = None, weight: int = 10, every: float = 0.9
) -> Trace:
    """A trace of a run whose latency check saw so many seconds of ticks."""
    trace = replace(blank(policy), every=every)
    gathered = gather.begin_step(gather.begin(policy), 0, at=0.0)
    at = datetime(2026, 11, 1, tzinfo=UTC)
    run = Run(name="r", plan=None, created=at, stage=Stage.STEPPING, weight=weight)  # type: ignore[arg-type]
    for second in range(seconds):
        first, *rest = gathered.evidence
        first = ev.update(first, sample(second, 300), sample(second, 40, slow=10))
        gathered = replace(gathered, evidence=(first, *rest))
        found = judge(gathered.evidence, alpha=policy.alpha, beta=policy.beta, now=second + 1.0)
        found = found if verdict is None else replace(found, verdict=verdict)
        nothing = ArmSeen(exists=True, template_hash="x", wanted=1)
        seen = Seen(stable=nothing, canary=nothing, route=RouteSeen(weight=weight), judgement=found)
        trace.look(Look(run, seen, [], gathered.evidence, at), gathered)
    return trace


def test_a_row_has_both_arms_quantiles_and_the_evidence() -> None:
    told = drawn(looked(POLICY, 20))
    latency = told["latency"][0]
    assert latency["check"] == "latency-p95"
    assert latency["levels"] == [0.5, 0.95, 0.99]
    stable, canary = latency["stable"][1][-1], latency["canary"][1][-1]
    assert LE[7] < stable <= LE[8]
    assert LE[13] < canary <= LE[14]
    assert told["logE"][-1] > told["logE"][0]
    assert told["placebo"][-1] is None


def test_nothing_is_noted_before_the_canary_has_requests() -> None:
    assert looked(POLICY, 5, weight=0).count == 0
    assert drawn(looked(POLICY, 5, weight=0))["latency"] == []


def test_the_moment_of_a_failure_is_noted_however_seldom_the_run_is_by_then() -> None:
    calm = looked(POLICY, 9, every=4.0, verdict=Verdict.INCONCLUSIVE)
    assert (calm.count, calm.over) == (3, False)
    failed = looked(POLICY, 9, every=4.0, verdict=Verdict.FAIL)
    assert (failed.count, failed.over) == (9, True)


def test_checks_that_read_one_page_share_a_curve() -> None:
    given = planning.builtin()
    given["checks"][0] = {
        "name": "slow",
        "type": "Latency",
        "quantiles": [0.5, 0.9, 0.99],
        "maxIncrease": "20%",
    }
    trace = blank(policies.policy(given))
    assert trace.timed == ("slow-p50",)
    assert trace.levels == (0.5, 0.9, 0.95, 0.99)
    assert trace.checks[:3] == ("slow-p50", "slow-p90", "slow-p99")


class Named:
    """As much of a run as a trace asks for."""

    def __init__(self, name: str) -> None:
        self.name, self.plan = name, self
        self.namespace, self.policy = "lab", POLICY


def test_when_memory_is_full_what_has_ended_makes_room_and_what_goes_on_does_not() -> None:
    found = Traces()
    for number in range(MOST):
        found.begin(Named(str(number)), Placebos(POLICY, others=0))  # type: ignore[arg-type]
    assert found.begin(Named("late"), Placebos(POLICY, others=0)) == []  # type: ignore[arg-type]
    found.by_run["lab", "7"].over = True
    assert len(found.begin(Named("late"), Placebos(POLICY, others=0))) == 1  # type: ignore[arg-type]
    assert found.of(("lab", "7")) is None
    assert found.of(("lab", "late")) is not None


def test_runs_that_are_gone_take_their_curves_along() -> None:
    found = Traces()
    found.begin(Named("here"), Placebos(POLICY, others=0))  # type: ignore[arg-type]
    found.begin(Named("gone"), Placebos(POLICY, others=0))  # type: ignore[arg-type]
    found.keep([("lab", "here"), ("lab", "never")])
    assert list(found.by_run) == [("lab", "here")]
