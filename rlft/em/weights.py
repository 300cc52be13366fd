"""How much each sampled trajectory of a question counts: self-normalised importance weights, in log space.

A trajectory z_k is drawn from p(z | x); its weight is the posterior over the prior, which is proportional to the
likelihood of the gold answer after it (EXSEARCH, arXiv 2505.20128, eq. 4; DRO, arXiv 2505.03075, eq. 4):

    w_k = exp(s_k / tau) / sum_j exp(s_j / tau)        s_k = log p(y | x, z_k)

Shapes: K trajectories of one question, A gold answers (aliases) of it. No torch is imported.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rlft.em.options import ALIASES

Floats = NDArray[np.float64]

_BISECTIONS = 60  # halvings of the inverse temperature, more than a float64 can tell apart


def importance_weights(
    log_likelihood_K: Sequence[float] | Floats,
    temperature: float = 1.0,
    ess_floor: float = 0.0,
    uniform_mix: float = 0.0,
    max_weight: float | None = None,
) -> Floats:
    """Weights of K trajectories from the log-likelihood of the gold answer after each.

    The settings act in the order of the arguments.

    Args:
        log_likelihood_K: (K,) nats; -inf is a likelihood of 0 and gets weight 0.
        temperature: tau above; the answer's length turns the sum over its tokens into their mean.
        ess_floor: rho in [0, 1). Where the effective sample size is below rho * K, tau is raised until it is rho * K
            (or until the weights are equal, where fewer than rho * K likelihoods are positive).
        uniform_mix: epsilon in [0, 1]: w becomes (1 - epsilon) * w + epsilon / K.
        max_weight: no weight exceeds it; what is cut off goes to the others in proportion. None sets no limit.

    Returns:
        (K,) float64, sum 1.

    Raises:
        ValueError: for NaN, +inf or no positive likelihood at all, for a setting out of its range, and for a
            `max_weight` that the positive weights cannot share 1 under.
    """
    refuse_settings(temperature, ess_floor, uniform_mix, max_weight)
    scores_K = np.asarray(log_likelihood_K, dtype=np.float64)
    if scores_K.ndim != 1 or not scores_K.size:
        raise ValueError(f"log_likelihood_K has shape {scores_K.shape}; one number per trajectory, K >= 1, is needed.")
    if np.isnan(scores_K).any() or (scores_K == np.inf).any():
        raise ValueError(f"log-likelihoods {scores_K.tolist()} hold NaN or +inf; score again, or leave those out.")
    if np.isneginf(scores_K).all():
        raise ValueError(f"all {scores_K.size} log-likelihoods are -inf: nothing to tell the trajectories apart.")
    log_K = _log_softmax(scores_K, 1 / temperature)
    if _ess(log_K) < ess_floor * scores_K.size:
        log_K = _smoothed(scores_K, 1 / temperature, ess_floor * scores_K.size)
    if uniform_mix:
        with np.errstate(divide="ignore"):
            log_K = np.logaddexp(np.log1p(-uniform_mix) + log_K, math.log(uniform_mix / scores_K.size))
    return np.exp(log_K) if max_weight is None else _capped(log_K, max_weight)


def effective_sample_size(weights_K: Sequence[float] | Floats) -> float:
    """How many equally weighted samples carry as much: (sum w)^2 / sum w^2, from 1 to K.

    Raises:
        ValueError: for weights that are negative, not finite, or all zero.
    """
    weights = np.asarray(weights_K, dtype=np.float64)
    if not weights.size or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError(f"weights {weights.tolist()}: finite, not negative and not all zero is needed.")
    weights = weights / weights.max()
    return float(weights.sum() ** 2 / (weights**2).sum())


def combine_aliases(log_likelihood_A: Sequence[float], how: str = "max") -> float:
    """One log-likelihood from those of several gold answers.

    Args:
        log_likelihood_A: (A,) nats, A >= 1.
        how: `max` (the likeliest), `logsumexp` (any of them; they exclude each other) or `first` (the paper uses one
            answer string).

    Raises:
        ValueError: for no alias, or an unknown `how`.
    """
    if not log_likelihood_A:
        raise ValueError("a question without a gold answer cannot be scored.")
    if how == "max":
        # NaN must not lose against a number: it says that something is wrong
        return math.nan if any(map(math.isnan, log_likelihood_A)) else max(log_likelihood_A)
    if how == "logsumexp":
        return float(np.logaddexp.reduce(np.asarray(log_likelihood_A, dtype=np.float64)))
    if how == "first":
        return log_likelihood_A[0]
    raise ValueError(f"aliases={how!r} is none of {', '.join(ALIASES)}.")


def refuse_settings(temperature: float, ess_floor: float, uniform_mix: float, max_weight: float | None) -> None:
    """Refuse settings of `importance_weights` out of their ranges with a ValueError."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature} must be positive and finite.")
    if not 0 <= ess_floor < 1:
        raise ValueError(f"ess_floor={ess_floor} must be in [0, 1): a share of K.")
    if not 0 <= uniform_mix <= 1:
        raise ValueError(f"uniform_mix={uniform_mix} must be in [0, 1].")
    if max_weight is not None and not 0 < max_weight <= 1:
        raise ValueError(f"max_weight={max_weight} must be in (0, 1], or None for no limit.")


def _log_softmax(scores_K: Floats, inverse_temperature: float) -> Floats:
    # The best is taken off first: large scores would lose their differences, or overflow, in the product.
    with np.errstate(invalid="ignore"):
        shifted = (scores_K - scores_K.max()) * inverse_temperature
    shifted[np.isneginf(scores_K)] = -np.inf
    return shifted - np.logaddexp.reduce(shifted)


def _ess(log_K: Floats) -> float:
    return math.exp(-np.logaddexp.reduce(2 * log_K))


def _smoothed(scores_K: Floats, inverse_temperature: float, target: float) -> Floats:
    """Log weights at the lowest temperature whose effective sample size is `target`, which grows with temperature."""
    enough, too_little = 0.0, inverse_temperature
    for _ in range(_BISECTIONS):
        middle = (enough + too_little) / 2
        if _ess(_log_softmax(scores_K, middle)) < target:
            too_little = middle
        else:
            enough = middle
    return _log_softmax(scores_K, enough)


def can_share(positive: int, max_weight: float | None) -> bool:
    """Whether this many positive weights can sum to 1 with none above `max_weight`."""
    return max_weight is None or positive * max_weight >= 1 - 1e-12


def _capped(log_K: Floats, max_weight: float) -> Floats:
    """The largest weights at `max_weight`, the others in proportion, found by capping one more until all fit."""
    positive = int(np.isfinite(log_K).sum())
    if not can_share(positive, max_weight):
        raise ValueError(
            f"max_weight={max_weight}: {positive} of {log_K.size} trajectories have a positive weight, and they cannot "
            f"share 1 under it; at least {1 / positive:.3g} is needed."
        )
    order = np.argsort(-log_K, kind="stable")
    weights = np.zeros(log_K.size)
    for capped in range(positive):
        rest = order[capped:positive]
        share = np.exp(log_K[rest] - np.logaddexp.reduce(log_K[rest])) * max(0.0, 1 - capped * max_weight)
        if share[0] <= max_weight:
            weights[order[:capped]], weights[rest] = max_weight, share
            return weights
    weights[order[:positive]] = 1 / positive
    return weights
