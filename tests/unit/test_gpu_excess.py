"""The interval of the excess: exact inequalities, and what it says of a few answers."""

import itertools
from math import exp, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, multinomial

from gpu_shadow.excess import STAKES, TO_FAIL, TO_FAIL_ONCE, TO_PASS, excess_interval, log_e
from gpu_shadow.tally import Answers

counts = st.integers(0, 10_000)


def lines(*, passing: bool) -> list[tuple[float, float]]:
    """Shares (canary alone, again alone) on the line "the excess is .1", and beyond it."""
    excess = (0.1, 0.3, 0.9) if passing else (0.1, 0.0, -0.5)
    return [(e + again, again) for e in excess for again in (0.0, 0.05, 0.4) if 0 <= e + again <= 1 - again]


@pytest.mark.parametrize("passing", [False, True])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_whatever_the_floor_the_evidence_is_worth_at_most_one_on_average(n: int, *, passing: bool) -> None:
    """By enumeration: E[e] <= 1 for every way the hypothesis can be true, answered twice or once."""
    for canary, again in lines(passing=passing):
        of = multinomial(n, [1 - canary - again, canary, again])
        total = sum(
            of.pmf([n - c - a, c, a])
            * exp(log_e(Answers(same=n - c - a, canary=c, again=a), 0.1, passing=passing))
            for c, a in itertools.product(range(n + 1), repeat=2)
            if c + a <= n
        )
        assert total <= 1 + 1e-9
    for flips in (0.1, 0.5, 1.0) if passing else (0.1, 0.03, 0.0):
        total = sum(
            binom.pmf(k, n, flips) * exp(log_e(Answers(once_same=n - k, once_canary=k), 0.1, passing=passing))
            for k in range(n + 1)
        )
        assert total <= 1 + 1e-9


@given(counts, counts, counts, counts)
def test_the_interval_is_the_values_that_the_bets_have_not_lost(
    same: int, canary: int, again: int, both: int
) -> None:
    of = Answers(same=same + 1, canary=canary, again=again, both=both)
    low, high = excess_interval(of, fail=0.01, beta=0.05)
    assert -1 <= low <= (canary - again) / of.twice <= high <= 1
    for side, end, error in ((-1e-6, low, 0.01), (1e-6, high, 0.05)):
        beyond, within = end + side, end - side
        if -1 < beyond < 1:
            assert log_e(of, beyond, passing=side > 0) >= log(1 / error) - 1e-3
        if -1 < within < 1 and low < high - 1e-5:
            assert log_e(of, within, passing=side > 0) <= log(1 / error) + 1e-3


def test_answers_that_both_passes_share_say_nothing_of_either_side() -> None:
    """A request on which stable itself is undecided is not the canary's fault."""
    low, high = excess_interval(Answers(both=500, same=500), fail=0.01, beta=0.05)
    assert (low, high) == excess_interval(Answers(same=1000), fail=0.01, beta=0.05)


def test_what_it_takes_to_pass_is_written_beside_the_stakes() -> None:
    passes = [n for n in (869, 870, 871, 872) if log_e(Answers(same=n), 0.005, passing=True) >= log(20)]
    assert passes[0] in {870, 871}
    enough = max(
        k for k in range(60) if log_e(Answers(same=5000 - k, canary=k), 0.01, passing=True) >= log(20)
    )
    assert binom.cdf(enough, 5000, 0.005) == pytest.approx(0.93, abs=0.005)


def test_once_answered_the_excess_is_the_share_that_differs() -> None:
    low, high = excess_interval(Answers(once_same=900, once_canary=100), fail=0.01, beta=0.05)
    assert 0.06 < low < 0.1 < high < 0.14
    assert excess_interval(Answers(once_same=10), fail=0.01, beta=0.05)[0] == 0


def test_intervals_narrow_for_as_long_as_requests_come() -> None:
    ends = [
        np.diff(excess_interval(Answers(same=99 * n, canary=n), fail=0.01, beta=0.05))[0]
        for n in (10, 1000, 100_000, 10_000_000)
    ]
    assert all(later < earlier / 6 for earlier, later in itertools.pairwise(ends))


def test_stakes_leave_something_and_their_shares_are_one() -> None:
    assert ((STAKES > 0) & (STAKES < 1)).all()
    for shares in (TO_PASS, TO_FAIL, TO_FAIL_ONCE):
        assert shares.sum() == pytest.approx(1)
        assert len(shares) == len(STAKES)
