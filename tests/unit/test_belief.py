"""How far each way in which the canary may differ is trusted."""

import numpy as np
import pytest

from analysis.belief import DIFFERENT, blank, forgotten, held, prior, revised
from analysis.drift import CHANGES as OF_ANSWERS
from analysis.drift import WAYS
from analysis.shifts import CHANGES, FACTORS

CHANGING = [(len(FACTORS), CHANGES), (WAYS, OF_ANSWERS)]


def sure(ways: int, changes: float, *, phi: float = 1.0, groups: int = 1, seconds: int = 10) -> np.ndarray:
    """Beliefs after as many seconds of requests that the third way makes e^2 times as likely."""
    likely, belief = np.zeros((groups, ways)), blank(groups, ways)
    likely[:, 2] = 2.0
    for _ in range(seconds):
        belief = revised(belief, likely, phi=np.float64(phi), seconds=np.float64(1.0), changes=changes)
    return belief


@pytest.mark.parametrize("ways", [1, len(FACTORS), WAYS])
def test_all_belief_adds_up_to_one(ways: int) -> None:
    assert prior(ways).sum() == pytest.approx(1.0)
    assert len(prior(ways)) == ways
    assert prior(ways)[1:] == pytest.approx(DIFFERENT)
    assert blank(2, ways, (3,)).shape == (3, 2, ways)
    assert (blank(2, ways, (3,)) == prior(ways)).all()


@pytest.mark.parametrize(("ways", "changes"), CHANGING)
def test_what_requests_say_is_believed_by_bayes_rule(ways: int, changes: float) -> None:
    likely = np.random.default_rng(1).normal(0, 1, (2, ways))
    after = revised(blank(2, ways), likely, phi=np.float64(1.0), seconds=np.float64(1.0), changes=changes)
    posterior = prior(ways) * np.exp(likely)
    posterior = posterior / posterior.sum(axis=1, keepdims=True)
    kept = np.exp(-changes)
    assert after == pytest.approx(kept * posterior + (1 - kept) * prior(ways), rel=1e-6)


@pytest.mark.parametrize(("ways", "changes"), CHANGING)
def test_noise_makes_belief_slower(ways: int, changes: float) -> None:
    quick, slow = (sure(ways, changes, phi=phi, seconds=2)[0, 2] for phi in (1.0, 8.0))
    assert DIFFERENT < slow < quick


@pytest.mark.parametrize(("ways", "changes"), CHANGING)
def test_requests_that_say_nothing_leave_nothing_believed(ways: int, changes: float) -> None:
    nothing = np.zeros((2, ways))
    how = {"seconds": np.float64(1.0), "changes": changes}
    after = revised(blank(2, ways), nothing, phi=np.float64(1.0), **how)
    assert after == pytest.approx(blank(2, ways))
    for seconds in (1, 2, 3, 10):
        believed = sure(ways, changes, groups=2, seconds=seconds)
        after = revised(believed, nothing, phi=np.float64(1.0), **how)
        assert (after == forgotten(believed, **how)).all()  # bit by bit: beside others each is as alone


@pytest.mark.parametrize(("ways", "changes"), CHANGING)
def test_silence_ends_in_knowing_nothing(ways: int, changes: float) -> None:
    believed = sure(ways, changes)
    assert believed[0, 2] > 0.5
    silent = forgotten(believed, np.float64(12.0 / changes), changes=changes)
    assert silent == pytest.approx(blank(1, ways), abs=1e-4)


@pytest.mark.parametrize("ways", [len(FACTORS), WAYS])
def test_a_group_says_no_more_than_the_others_do(ways: int) -> None:
    believed = np.stack([sure(ways, 0.1)[0], prior(ways), prior(ways)])
    assert held(believed)[0] == pytest.approx(prior(ways))
    assert held(believed).sum(axis=1) == pytest.approx(np.ones(3))
    assert held(believed[:1]) == pytest.approx(believed[:1])
    agreed = held(np.repeat(believed[:1], 2, axis=0))
    assert (agreed[:, 2] > believed[0, 2]).all()
