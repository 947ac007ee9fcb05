"""How many more answers differ than stable's own do: an interval that holds at every look.

Of a request, d is 1 if the canary's answer differs from stable's, less 1 if stable's own second answer
does. The mean of d is the *excess*: the share of answers that differ beyond the noise floor. Bets are made
against every value it could have; those that lost them are left out.

Symbols: x is d on the scale from 0 to 1, mu its mean under the hypothesis, b a stake.

Reference: Waudby-Smith, Ramdas (2024), "Estimating means of bounded random variables by betting". With
stakes that never change the capital depends on how often x had which value, not on when.
"""

from math import log

import numpy as np
from numpy.typing import NDArray

from analysis.proportions import log_sum
from gpu_shadow.tally import Answers

Floats = NDArray[np.float64]
Counts = tuple[tuple[float, int], ...]

# Shares of the capital at stake against one mean. Against "as much as allowed", .97 is best where nothing
# differs, .34 where half as much does as may: with .55 of the capital 92 % pass a margin of 1 % with 5 000
# requests of which .5 % differ, and 870 alike pass .5 % (600 for who had known). The others narrow the
# interval for as long as requests come: the last is right for 1e9 of them.
STAKES = np.array([0.97, 0.34, *0.97 * 0.5 ** np.arange(1.0, 16.0)])
TO_PASS = np.array([0.25, 0.55, *[0.2 / 15] * 15])
# Against "at most as much as allowed" .97 is best from twice the margin on if stable answered twice: a flip
# can but double what was staked. If it answered once, each stake is best for a rate of its own.
TO_FAIL = np.array([0.5, *[0.5 / 16] * 16])
TO_FAIL_ONCE = np.full(len(STAKES), 1 / len(STAKES))
WITHIN = np.arange(1, 32) / 32  # of what is left to search, tried at once
CUTS = 8  # of an interval's end to a 32nd: to 1e-12


def excess_interval(answers: Answers, *, fail: float, beta: float) -> tuple[float, float]:
    """Values of the excess that the answers do not contradict, at any time one looks.

    Guarantee: the lower end is above the excess with probability at most `fail` over all looks, the
    upper end below it with at most `beta`. Bets on more lose as the mean they are made against rises, so that
    everything below one that is contradicted is as well.
    """
    least = -1.0 if answers.twice else 0.0
    low = _contradicted(_values(answers), weights=_to_fail(answers), error=fail)
    turned = tuple((1 - x, n) for x, n in _values(answers))
    high = 1 - _contradicted(turned, weights=TO_PASS, error=beta)
    return least + (1 - least) * low, least + (1 - least) * high


def log_e(answers: Answers, excess: float, *, passing: bool = False) -> float:
    """Log of the evidence against "the excess is at most this"; `passing`: "at least this"."""
    least = -1.0 if answers.twice else 0.0
    mu = (excess - least) / (1 - least)
    if passing:
        turned = tuple((1 - x, n) for x, n in _values(answers))
        return float(_capital(turned, np.asarray(1 - mu), TO_PASS))
    return float(_capital(_values(answers), np.asarray(mu), _to_fail(answers)))


def _to_fail(answers: Answers) -> Floats:
    return TO_FAIL if answers.twice else TO_FAIL_ONCE


def _values(answers: Answers) -> Counts:
    """How often x has which value."""
    if answers.twice:
        return (1.0, answers.canary), (0.5, answers.same + answers.both), (0.0, answers.again)
    return (1.0, answers.once_canary), (0.0, answers.once_same)


def _capital(values: Counts, mu: Floats, weights: Floats) -> Floats:
    """Log of what a unit has become that bets on more than `mu` (...), over all stakes.

    A stake b multiplies its part by 1 - b + b x / mu with each request.
    """
    won = sum(n * np.log1p(STAKES * (x / mu[..., None] - 1)) for x, n in values)
    return log_sum(np.asarray(won), weights)


def _contradicted(values: Counts, *, weights: Floats, error: float) -> float:
    """The largest mean below which all are contradicted; 0 where none is."""
    bad, good = 0.0, sum(x * n for x, n in values) / sum(n for _, n in values)
    if good == 0:
        return 0.0
    for _ in range(CUTS):
        between = bad + (good - bad) * WITHIN
        lost = int((_capital(values, between, weights) >= log(1 / error)).sum())
        ends = (bad, *between.tolist(), good)
        bad, good = ends[lost], ends[lost + 1]
    return bad
