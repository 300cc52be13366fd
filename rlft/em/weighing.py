"""Weigh the trajectories of one question, or say why the question is dropped.

What a group of samples can go wrong with, and the option against it, is in section 11 of EXSEARCH's specification
(arXiv 2505.20128); the numbers themselves come from rlft/em/weights.py. No torch is imported.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlft.em.options import ALIASES, BASELINES, WEIGHTINGS, EMOptions
from rlft.em.weights import (
    Floats,
    can_share,
    combine_aliases,
    effective_sample_size,
    importance_weights,
    refuse_settings,
)


@dataclass(frozen=True, slots=True)
class WeightOptions:
    """How the trajectories of a question are weighed; sections are of EXSEARCH's specification.

    Raises:
        ValueError: for a value out of its range.
    """

    weighting: str = "likelihood"
    """`likelihood` of the gold answer (eq. 4), `uniform`, or `rejection`: equal weights for the correct ones."""
    temperature: float = 1.0
    """tau of `importance_weights`."""
    ess_floor: float = 0.0
    uniform_mix: float = 0.0
    max_weight: float | None = None
    length_norm: bool = False
    """Divide each answer's log-likelihood by its tokens, as the released code does; the paper takes the sum."""
    aliases: str = "max"
    """How several gold answers combine: see `combine_aliases`."""
    min_best_loglik: float | None = None
    """Drop a question whose best score is below this. Where every sample is wrong, the weights still sum to 1 and
    would teach the least unlikely guess. None keeps all (the paper). Applies to every weighting."""
    min_spread: float = 0.0
    """Drop a question whose scores differ by less: its weights are noise. 0 keeps all (the paper)."""
    baseline: str = "none"
    """`group` takes 1/K off the weights of the search tokens: equal in expectation on the samples' own policy, with
    less variance. `none` is the paper."""

    def __post_init__(self) -> None:
        refuse_settings(self.temperature, self.ess_floor, self.uniform_mix, self.max_weight)
        for name, allowed in (("weighting", WEIGHTINGS), ("aliases", ALIASES), ("baseline", BASELINES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is none of {', '.join(allowed)}.")
        if not self.min_spread >= 0:
            raise ValueError(f"min_spread={self.min_spread} must be at least 0.")

    @classmethod
    def of(cls, args: EMOptions) -> "WeightOptions":
        """The part of a run's options that weighs."""
        return cls(
            weighting=args.weighting,
            temperature=args.weight_temperature,
            ess_floor=args.ess_floor,
            uniform_mix=args.uniform_mix,
            max_weight=args.max_weight if args.max_weight < 1 else None,
            length_norm=args.length_norm,
            aliases=args.aliases,
            min_best_loglik=args.min_best_loglik,
            min_spread=args.min_spread,
            baseline=args.baseline,
        )


class Dropped(StrEnum):
    """Why a question is left out of the M-step."""

    UNSCORED = "unscored"
    """No trajectory of it could be scored."""
    ZERO_LIKELIHOOD = "zero_likelihood"
    """All log-likelihoods are -inf."""
    ALL_WRONG = "all_wrong"
    """The best score is below `min_best_loglik`."""
    NO_SPREAD = "no_spread"
    """The scores are closer than `min_spread`."""
    NONE_CORRECT = "none_correct"
    """Rejection sampling accepted nothing."""
    CAP = "max_weight"
    """Too few trajectories were scored to share 1 under `max_weight`."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """The weights of one question's K trajectories, or why it has none.

    A trajectory without a score has weight 0 and does not count towards K.
    """

    scores_K: list[float | None]
    """Log-likelihood of the gold answer that the weights come from, nats; None where there is none."""
    weights_K: list[float] | None
    """Of the answer's tokens, sum 1; None if the question is dropped."""
    search_K: list[float] | None
    """Of the search tokens: the same, less the baseline."""
    dropped: Dropped | None
    """Why, or None."""
    ess: float | None
    """Effective sample size, from 1 to the number of scored trajectories; None if dropped."""
    largest: float | None
    """Largest weight of one trajectory; None if dropped."""

    @property
    def scored(self) -> list[float]:
        """The scores there are."""
        return [score for score in self.scores_K if score is not None]

    def record(self) -> dict[str, Any]:
        """All of it, by name."""
        return asdict(self)


def answer_score(
    log_likelihood_A: Sequence[float] | None, lengths_A: Sequence[int], options: WeightOptions
) -> float | None:
    """The score s_k of one trajectory from its answers' log-likelihoods.

    Args:
        log_likelihood_A: (A,) summed over the tokens of each gold answer, nats; None if the trajectory has no answer
            turn to score.
        lengths_A: (A,) tokens of each gold answer.
        options: `length_norm` and `aliases` matter.
    """
    if log_likelihood_A is None:
        return None
    return combine_aliases(_per_answer(log_likelihood_A, lengths_A, options), options.aliases)


def scored_alias(log_likelihood_A: Sequence[float], lengths_A: Sequence[int], options: WeightOptions) -> int:
    """Index of the gold answer that the score comes from: the first, or the likeliest."""
    values_A = _per_answer(log_likelihood_A, lengths_A, options)
    return 0 if options.aliases == "first" else values_A.index(max(values_A))


def _per_answer(log_likelihood_A: Sequence[float], lengths_A: Sequence[int], options: WeightOptions) -> list[float]:
    if not options.length_norm:
        return list(log_likelihood_A)
    return [value / length for value, length in zip(log_likelihood_A, lengths_A, strict=True)]


def weigh(
    scores_K: Sequence[float | None],
    options: WeightOptions,
    correct_K: Sequence[bool] | None = None,
) -> Weighed:
    """Weigh the K trajectories of one question.

    Args:
        scores_K: (K,) from `answer_score`; None or NaN where a trajectory could not be scored.
        options: see `WeightOptions`.
        correct_K: (K,) whether each trajectory's own answer is right; for `rejection` only.

    Returns:
        Weights, or the reason why the question is dropped.

    Raises:
        ValueError: if `rejection` is not told what is correct, or for a score of +inf.
    """
    if options.weighting == "rejection" and (correct_K is None or len(correct_K) != len(scores_K)):
        raise ValueError("weighting='rejection' needs correct_K: one bool per trajectory.")
    if any(score == math.inf for score in scores_K):
        raise ValueError(f"scores {list(scores_K)} hold +inf, which no log-likelihood is; how was it computed?")
    known_K: list[float | None] = [None if score is None or math.isnan(score) else float(score) for score in scores_K]
    kept = [k for k, score in enumerate(known_K) if score is not None]
    scored = np.array([known_K[k] for k in kept], dtype=np.float64)
    right = np.array([bool(correct_K[k]) for k in kept] if correct_K else [], dtype=bool)
    reason = _reason_to_drop(scored, right, options)
    if reason:
        return Weighed(known_K, None, None, reason, None, None)
    weights = _weights_of(scored, right, options)
    search = weights - 1 / len(kept) if options.baseline == "group" else weights
    return Weighed(
        known_K,
        _placed(weights, kept, len(known_K)),
        _placed(search, kept, len(known_K)),
        None,
        effective_sample_size(weights),
        float(weights.max()),
    )


def _reason_to_drop(scored: Floats, right: NDArray[np.bool_], options: WeightOptions) -> Dropped | None:
    if not scored.size:
        return Dropped.UNSCORED
    if np.isneginf(scored).all():
        return Dropped.ZERO_LIKELIHOOD
    if options.min_best_loglik is not None and scored.max() < options.min_best_loglik:
        return Dropped.ALL_WRONG
    if scored.max() - scored.min() < options.min_spread:
        return Dropped.NO_SPREAD
    if options.weighting == "rejection" and not right.any():
        return Dropped.NONE_CORRECT
    positive = scored.size if options.uniform_mix else int(np.isfinite(scored).sum())
    if options.weighting == "likelihood" and not can_share(positive, options.max_weight):
        return Dropped.CAP
    return None


def _weights_of(scored: Floats, right: NDArray[np.bool_], options: WeightOptions) -> Floats:
    if options.weighting == "uniform":
        return np.full(scored.size, 1 / scored.size)
    if options.weighting == "rejection":
        return right / right.sum()
    return importance_weights(scored, options.temperature, options.ess_floor, options.uniform_mix, options.max_weight)


def _placed(values: Floats, places: list[int], count: int) -> list[float]:
    placed = [0.0] * count
    for place, value in zip(places, values.tolist(), strict=True):
        placed[place] = value
    return placed
