"""Weigh the lists a selector wrote for one question (DRO, arXiv 2505.03075, eq. 4), equal lists taken together.

A sample is an ordered list of candidates; two samples are the same list if they name the same candidates in the same
order. With c_u samples of list u, and r_u the likelihood of the gold answer after it, the m samples estimate

    w_u = c_u r_u / sum_v c_v r_v

whether each sample stands for itself or one of them stands for all: the counts carry the selector's own probability.
Keeping every list once without its count estimates r_u / sum_v r_v instead, which is not the posterior of any selector
but the uniform one. Shapes: K samples of one question (m in the paper). No torch is imported.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rlft.em.weighing import Weighed, WeightOptions, weigh
from rlft.em.weights import Floats

DEDUP = ("count", "none", "support")

_GRPO_EPSILON = 1e-4


def weigh_lists(
    lists_K: Sequence[Sequence[int] | None],
    scores_K: Sequence[float | None],
    options: WeightOptions,
    dedup: str = "count",
    correct_K: Sequence[bool] | None = None,
    rewards_K: Sequence[float | None] | None = None,
) -> Weighed:
    """Weigh the K lists of one question.

    Args:
        lists_K: (K,) the places of each list, best first; None or empty where the sample is not a list.
        scores_K: (K,) from `answer_score`, equal for equal lists; None or NaN where there is none.
        options: they act on the samples, or with `support` on the distinct lists.
        dedup: `none` gives every sample a weight of its own. `count` gives the first sample of a list what its copies
            weigh together, and the copies 0. `support` leaves the copies out before weighing, as the released code
            does.
        correct_K: (K,) whether the answer after each list is right; for `rejection` only.
        rewards_K: (K,) rewards of the samples, also of those that are no lists; None leaves one out. Their
            `group_advantages` stand in the place of `search_K`, for a selector that learns by them.

    Returns:
        Weights, or the reason why the question is dropped. The effective sample size is that of the samples, with
        `support` that of the distinct lists, where copies have no score either.

    Raises:
        ValueError: for an unknown `dedup`, arguments of different lengths, a score without a list, equal lists with
            different scores, and what `weigh` refuses.
    """
    if dedup not in DEDUP:
        raise ValueError(f"dedup={dedup!r} is none of {', '.join(DEDUP)}.")
    if len(lists_K) != len(scores_K):
        raise ValueError(f"{len(lists_K)} lists and {len(scores_K)} scores; one score per list, or None, is needed.")
    known_K = [None if score is None or math.isnan(score) else score for score in scores_K]
    first_K = _first_copies(lists_K, known_K)
    if dedup == "support":
        known_K = [score if first == k else None for k, (first, score) in enumerate(zip(first_K, known_K, strict=True))]
    weighed = weigh(known_K, options, correct_K)
    if rewards_K is not None and weighed.search_K is not None:
        copies = {k for k, first in enumerate(first_K) if first != k} if dedup == "support" else set()
        kept = [None if k in copies else reward for k, reward in enumerate(rewards_K)]
        weighed = replace(weighed, search_K=group_advantages(kept).tolist())
    if dedup != "count" or weighed.weights_K is None or weighed.search_K is None:
        return weighed
    return replace(
        weighed, weights_K=_collapsed(weighed.weights_K, first_K), search_K=_collapsed(weighed.search_K, first_K)
    )


def group_advantages(rewards_K: Sequence[float | None]) -> Floats:
    """Advantages of one question's samples as GRPO takes them (arXiv 2402.03300, section 4.1.2; TRL's default).

    Args:
        rewards_K: (K,) rewards; None or NaN for a sample that is left out.

    Returns:
        (K,) (r - mean) / (std + 1e-4) with the sample standard deviation, over the rewards there are; 0 for the
        others, and for all where the rewards are equal.

    Raises:
        ValueError: for an infinite reward.
    """
    rewards = np.array([math.nan if reward is None else reward for reward in rewards_K], dtype=np.float64)
    if np.isinf(rewards).any():
        raise ValueError(f"rewards {list(rewards_K)} are not all finite; give likelihoods, not their logarithms.")
    known, advantages = ~np.isnan(rewards), np.zeros(rewards.size)
    valid = rewards[known]
    if valid.size and valid.max() > valid.min():  # equal rewards would leave rounding errors over 1e-4
        advantages[known] = (valid - valid.mean()) / (valid.std(ddof=1) + _GRPO_EPSILON)
    return advantages


def _first_copies(lists_K: Sequence[Sequence[int] | None], scores_K: Sequence[float | None]) -> list[int]:
    """For every sample the first one with the same list; for one that is not a list, itself."""
    first_of: dict[tuple[int, ...], int] = {}
    first_K = []
    for k, (places, score) in enumerate(zip(lists_K, scores_K, strict=True)):
        if not places and score is not None:
            raise ValueError(f"sample {k} has score {score} but no list; invalid samples have no score.")
        first_K.append(first_of.setdefault(tuple(places), k) if places else k)
        if score != scores_K[first_K[k]]:
            raise ValueError(
                f"samples {first_K[k]} and {k} are the same list {tuple(places or ())}, yet their scores are "
                f"{scores_K[first_K[k]]} and {score}; score each distinct list once."
            )
    return first_K


def _collapsed(weights_K: Sequence[float], first_K: Sequence[int]) -> list[float]:
    return np.bincount(first_K, weights_K, minlength=len(first_K)).tolist()
