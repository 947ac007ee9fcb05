"""How far each way in which the canary may differ is trusted."""

import numpy as np
import pytest

from analysis.belief import DIFFERENT, blank, forgotten, held, prior, regrouped, revised
from analysis.drift import CHANGES as OF_ANSWERS
from analysis.drift import WAYS
from analysis.shifts import CHANGES, FACTORS

CHANGING = [(len(FACTORS), CHANGES), (WAYS, OF_ANSWERS)]


def sure(
    ways: int, changes: np.ndarray, *, phi: float = 1.0, groups: int = 1, seconds: int = 10
) -> np.ndarray:
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
    assert blank(1, ways, (3,)).shape == (3, 1, ways)
    assert blank(2, ways, (3,)).shape == (3, 3, ways)  # by each one's others, and by both
    assert (blank(2, ways, (3,)) == prior(ways)).all()


@pytest.mark.parametrize(("ways", "changes"), CHANGING)
def test_what_requests_say_is_believed_by_bayes_rule(ways: int, changes: np.ndarray) -> None:
    likely = np.random.default_rng(1).normal(0, 1, (2, ways))
    after = revised(blank(2, ways), likely, phi=np.float64(1.0), seconds=np.float64(1.0), changes=changes)
    said = np.stack([likely[1], likely[0], likely.sum(axis=0)])
    posterior = prior(ways) * np.exp(said)
    posterior = posterior / posterior.sum(axis=1, keepdims=True)
    kept = np.exp(-changes) * posterior
    begun = prior(ways) * (1 - np.exp(-changes))
    begun = (1 - kept.sum(axis=1, keepdims=True)) * begun / begun.sum()
    assert after == pytest.approx(kept + begun, rel=1e-6)


@pytest.mark.parametrize(("ways", "changes"), CHANGING)
def test_noise_makes_belief_slower(ways: int, changes: np.ndarray) -> None:
    quick, slow = (sure(ways, changes, phi=phi, seconds=2)[0, 2] for phi in (1.0, 8.0))
    assert DIFFERENT < slow < quick


@pytest.mark.parametrize(("ways", "changes"), CHANGING)
def test_requests_that_say_nothing_leave_nothing_believed(ways: int, changes: np.ndarray) -> None:
    nothing = np.zeros((2, ways))
    how = {"seconds": np.float64(1.0), "changes": changes}
    after = revised(blank(2, ways), nothing, phi=np.float64(1.0), **how)
    assert after == pytest.approx(blank(2, ways))
    for seconds in (1, 2, 3, 10):
        believed = sure(ways, changes, groups=2, seconds=seconds)
        after = revised(believed, nothing, phi=np.float64(1.0), **how)
        assert (after == forgotten(believed, **how)).all()  # bit by bit: beside others each is as alone


@pytest.mark.parametrize(("ways", "changes"), CHANGING)
def test_silence_ends_in_knowing_nothing(ways: int, changes: np.ndarray) -> None:
    believed = sure(ways, changes)
    assert believed[0, 2] > 0.5
    silent = forgotten(believed, np.float64(12.0 / changes.min()), changes=changes)
    assert silent == pytest.approx(blank(1, ways), abs=1e-4)
    assert (forgotten(believed, np.float64(0.0), changes=changes) == believed).all()


def heard(belief: np.ndarray, changes: np.ndarray, groups: int = 2) -> np.ndarray:
    """What is believed of each group before a second in which all have requests."""
    return held(belief, np.ones(groups), seconds=np.float64(1.0), changes=changes)


def told(
    each: list[float], ways: int, changes: np.ndarray, belief: np.ndarray | None = None, of: int = 2
) -> np.ndarray:
    """Beliefs a second after groups' requests that make the way `of` so much likelier, in nats."""
    likely = np.zeros((len(each), ways))
    likely[:, of] = each
    belief = blank(len(each), ways) if belief is None else belief
    return revised(belief, likely, phi=np.float64(1.0), seconds=np.float64(1.0), changes=changes)


@pytest.mark.parametrize(("ways", "changes"), CHANGING)
@pytest.mark.parametrize("groups", [2, 3, 4])
def test_a_group_says_no_more_than_the_others_do(ways: int, changes: np.ndarray, groups: int) -> None:
    belief = blank(groups, ways)
    for _ in range(10):
        belief = told([2.0] + [-1.0] * (groups - 1), ways, changes, belief)
    of_one = heard(belief, changes, groups)
    assert of_one[0, 2] < DIFFERENT
    assert of_one.sum(axis=1) == pytest.approx(np.ones(groups))
    for _ in range(10):
        belief = told([2.0] * groups, ways, changes, belief)
    assert (heard(belief, changes, groups)[:, 2] > sure(ways, changes)[0, 2] - 0.01).all()
    assert heard(belief[-1:], changes, 1) == pytest.approx(belief[-1:])


@pytest.mark.parametrize(("ways", "changes"), CHANGING)
@pytest.mark.parametrize("of", [2, 4])  # of latency's, one that ends within seconds and one that lasts
@pytest.mark.parametrize("groups", [2, 3, 4])
def test_what_has_begun_is_believed_as_soon_of_many_groups_as_of_one_with_all_requests(
    ways: int, changes: np.ndarray, of: int, groups: int
) -> None:
    """Each group's own least of belief, added up, had made it slower by that for every group but one."""
    several, one = blank(groups, ways), blank(1, ways)
    for nats in [-4.0] * 20 + [3.0, 3.0]:
        several, one = (
            told([nats / groups] * groups, ways, changes, several, of),
            told([nats], ways, changes, one, of),
        )
    assert heard(several, changes, groups)[0, of] == pytest.approx(one[0, of], rel=0.35)
    assert several[-1] == pytest.approx(one[0])


@pytest.mark.parametrize("ways", [len(FACTORS), WAYS])
def test_others_without_requests_do_not_let_one_say_more(ways: int) -> None:
    changes = np.full(ways, 0.05)
    belief = told([5.0, 0.0], ways, changes)
    silent = held(belief, np.array([9.0, 0.0]), seconds=np.float64(1.0), changes=changes)
    assert silent[0] == pytest.approx(prior(ways), abs=1e-6)
    assert heard(belief, changes)[0, 2] > 2 * DIFFERENT


@pytest.mark.parametrize("ways", [len(FACTORS), WAYS])
def test_to_a_group_that_appears_the_others_have_said_what_all_have(ways: int) -> None:
    changes = np.full(ways, 0.05)
    one, two = told([3.0], ways, changes), told([3.0, 1.0], ways, changes)
    assert regrouped(one, 3) == pytest.approx(np.stack([prior(ways), one[0], one[0], one[0]]))
    assert regrouped(two, 3) == pytest.approx(np.stack([two[0], two[1], two[2], two[2]]))


def test_what_takes_long_to_prove_is_believed_for_minutes_and_what_shows_at_once_for_seconds() -> None:
    x13, x2 = (int(np.argmin(abs(np.exp(FACTORS) - factor))) for factor in (1.3, 2.0))
    kept = [forgotten(np.eye(len(FACTORS))[[way]], np.float64(60.0), changes=CHANGES) for way in (x13, x2)]
    assert kept[0][0, x13] > 0.7
    assert kept[1][0, x2] < 0.1
    assert [one.sum() for one in kept] == pytest.approx([1.0, 1.0])
