"""Numbers of an audit that need scores alone: how far they follow length, and whether they are probabilities. No torch.

Legend: N pairs of a chosen and a rejected answer.
"""

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
BINS = 5
"""Of a reliability table, of equal width."""


def length_slope(chosen_N: Array, rejected_N: Array, words_N2: Array) -> dict[str, float]:
    """How far scores follow length.

    Args:
        chosen_N: s+ of each pair of answers.
        rejected_N: s-.
        words_N2: words of the chosen and of the rejected answer.

    Returns:
        `slope` of the least-squares line of s on words, over all answers, in score per word, and Pearson's
        `correlation`; both 0 where all answers have one length or one score. `difference_correlation`: of s+ - s- with
        the difference in words, within pairs. `rule_accuracy`: share of pairs that the better of "longer wins" and
        "shorter wins" tells apart, ties half.
    """
    scores, words = np.concatenate([chosen_N, rejected_N]), np.concatenate([words_N2[:, 0], words_N2[:, 1]])
    centred = words - words.mean()
    spread = float(centred @ centred)
    longer_N = words_N2[:, 0] - words_N2[:, 1]
    rule = float(((longer_N > 0) + 0.5 * (longer_N == 0)).mean())
    return {
        "slope": float(centred @ (scores - scores.mean())) / spread if spread else 0.0,
        "correlation": _correlation(scores, words),
        "difference_correlation": _correlation(chosen_N - rejected_N, longer_N),
        "rule_accuracy": max(rule, 1 - rule),
    }


def calibration(margins_N: Array) -> dict[str, Any]:
    """Reliability of p = sigmoid(s+ - s-), the probability that the scorer gives to the chosen answer.

    Which answer was chosen is not shown to the scorer, so its confidence is max(p, 1 - p), from 0.5 to 1, and it is
    right where s+ > s- (half right at a tie).

    Args:
        margins_N: s+ - s-.

    Returns:
        `bins`: of equal width, each with `confidence` and `accuracy` (means) and `count`; empty ones are left out.
        `ece`: the expected calibration error, the mean distance of the two over pairs (Guo et al. 2017, arXiv
        1706.04599, eq. 3). `nll`: the loss on these pairs, in nats.
    """
    confidence_N = 1 / (1 + np.exp(-np.abs(margins_N)))
    right_N = (margins_N > 0) + 0.5 * (margins_N == 0)
    place_N = np.minimum(((confidence_N - 0.5) * 2 * BINS).astype(int), BINS - 1)
    bins = [
        {
            "confidence": float(confidence_N[place_N == place].mean()),
            "accuracy": float(right_N[place_N == place].mean()),
            "count": int((place_N == place).sum()),
        }
        for place in sorted(set(place_N.tolist()))
    ]
    ece = sum(one["count"] * abs(one["confidence"] - one["accuracy"]) for one in bins) / len(margins_N)
    return {"bins": bins, "ece": float(ece), "nll": float(np.logaddexp(0, -margins_N).mean())}


def _correlation(one: Array, other: Array) -> float:
    """Pearson's; 0 where one of the two does not vary."""
    return float(np.corrcoef(one, other)[0, 1]) if one.std() > 0 and other.std() > 0 else 0.0
