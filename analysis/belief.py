"""What whole distributions say will come next: how far to trust each way in which the canary may differ.

Only the tail is asked about, and of ten requests a second hardly two a second are in it even when a
fault doubles every latency. But all ten are late, and all may be looked at before the *next* tick is
bet on. So what the canary's requests look like is compared with stable's distribution as it would be, were
the canary different in one way or another (`shifts` of latency, `drift` of predictions): a Bayesian filter
over ways, which may change at any time. It costs next to nothing while all is well, and after two or three
seconds it knows that a fault began and how large it is; a bet that has to learn both from the tail pays for
it with capital.

How long a belief lasts is each way's own. A large difference shows within a second wherever it begins, and
is forgotten within seconds. A small one takes minutes to prove, and for as long a bet has to be as large as
it is: what was seen of it a minute ago still counts.

Right or wrong, it only decides how much is bet: the bet is as valid with a bad belief as with a good one.

A node's own evidence counts in its belief no more than what the others say: where one node alone is
slow, little is bet on it, and what is bet on the others is lost. So what is kept is a filter of what each
one's others said, and one of what all said. These cannot be worked out from a filter for each: none ever
believes less than that a change has just begun, and their sum as many times less as there are nodes.

Symbols: N groups of canary nodes, M filters (N + 1; of one group 1), J ways; leading axes (...) are
canaries side by side.
"""

import numpy as np

from analysis.packing import rounded
from analysis.proportions import Array

DIFFERENT = 1 / 32  # of belief, at first, on each way the canary may differ; in 32 bits as exact as in 64


def prior(ways: int) -> Array:
    """Belief (J,) before anything was seen; the first way is "like stable"."""
    return np.array([1 - (ways - 1) * DIFFERENT, *[DIFFERENT] * (ways - 1)])


def blank(groups: int, ways: int, several: tuple[int, ...] = ()) -> Array:
    """Beliefs (..., M, J) before anything was seen; `several`: of as many canaries."""
    return np.tile(prior(ways), (*several, groups + 1 if groups > 1 else 1, 1))


def revised(belief: Array, log_likely: Array, *, phi: Array, seconds: Array, changes: Array) -> Array:
    """Beliefs (..., M, J), `seconds` (...) after the last, by each group's `log_likely` (..., N, J).

    Pods' noise, as far as `phi` (...) knows it, makes requests say less.
    """
    if log_likely.shape[-2] > 1:
        together = log_likely.sum(axis=-2, keepdims=True)
        log_likely = np.concatenate([together - log_likely, together], axis=-2)
    tempered = log_likely / phi[..., None, None]
    likely = belief * np.exp(tempered - tempered.max(axis=-1, keepdims=True))
    said_nothing = (log_likely == 0).all(axis=-1, keepdims=True)
    likely = np.where(said_nothing, belief, likely / likely.sum(axis=-1, keepdims=True))
    return forgotten(likely, seconds, changes=changes)


def forgotten(belief: Array, seconds: Array, *, changes: Array) -> Array:
    """Beliefs (..., M, J) when nothing more was seen for `seconds` (...).

    Each way ends with so many `changes` (J,) a second. What begins then is the likelier the sooner it ends,
    so that of whom nothing is heard the same is believed as at first.
    """
    change = -np.expm1(-changes * np.asarray(seconds)[..., None, None])
    ended, begun = belief * change, prior(belief.shape[-1]) * change
    begun = begun / np.maximum(begun.sum(axis=-1, keepdims=True), 1e-300)  # within no time nothing ends
    return rounded(belief - ended + ended.sum(axis=-1, keepdims=True) * begun)


def regrouped(belief: Array, groups: int) -> Array:
    """The beliefs (..., M, J) with room for more groups, to which all that was said is what others said."""
    together, there = belief[..., -1:, :], max(belief.shape[-2] - 1, 1)
    first = belief[..., :-1, :] if there > 1 else blank(1, belief.shape[-1], belief.shape[:-2])
    return np.concatenate([first, np.repeat(together, groups - there + 1, axis=-2)], axis=-2)


def held(belief: Array, requests: Array, *, seconds: Array, changes: Array) -> Array:
    """Beliefs (..., N, J) in which a group's own evidence counts no more than what the others say.

    That is measured from where their odds stand when they say the least: that the canary is like stable,
    until a change begins within the tick, which lasts `seconds` (...). Others of whose `requests` (..., N)
    there are none say nothing.
    """
    if belief.shape[-2] == 1:
        return belief
    odds = _odds(belief)
    others, together = odds[..., :-1, :], odds[..., -1:, :]
    heard = (requests.sum(axis=-1, keepdims=True) > requests)[..., None]
    alike = np.zeros((1, belief.shape[-1]))
    alike[..., 0] = 1.0
    least = np.where(heard, _odds(forgotten(alike, seconds, changes=changes)), 0.0)
    total = np.minimum(together, others + np.maximum(others - least, 0.0))
    weighed = prior(belief.shape[-1]) * np.exp(total - total.max(axis=-1, keepdims=True))
    return np.asarray(weighed / weighed.sum(axis=-1, keepdims=True))


def _odds(belief: Array) -> Array:
    """Log-odds of every way (..., J) against "like stable", over those at first."""
    odds = np.log(np.maximum(belief, 1e-300) / prior(belief.shape[-1]))
    return np.asarray(odds - odds[..., :1])
