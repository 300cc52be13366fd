"""Scores that say which tokens of a sample the model attends to most, from the attention each of them receives.

STOC (arXiv 2605.10640) seeds replay with such tokens. Shapes: T tokens of one sample. With A_ij the attention from row
i to column j averaged over layers and heads, the mass of token j is c_j = sum over i >= j of A_ij.

A causal map gives column j only T - j rows, so masses of early tokens are larger whatever the text says. The released
code divides c_j by j + 1, which makes that bias stronger; `fair` divides by what uniform attention would give.
"""

from collections.abc import Sequence

import numpy as np

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

ATTENTION_SCORERS = ("released", "fair", "sinkless")
"""Scorers that read the attention mass."""
SCORERS = (*ATTENTION_SCORERS, "prefix", "random", "bos")
"""All scorers. `prefix`, `random` and `bos` are controls that read no attention."""

SINK_TOKENS = 4
"""First tokens that may be a sink: attended to for their place."""

_LEAST_FITTED = 8
_FLOOR = 1e-6  # of a fair score, before its logarithm
_SUM_TOLERANCE = 0.01  # half-precision attention rows miss 1 by less; one padding token in a hundred is more


def token_scores(mass_T: Sequence[float] | Floats, scorer: str) -> Floats:
    """The score of each token of a sample.

    Args:
        mass_T: (T,) attention mass as `attention_mass` gives it, padding cut off; its sum is T.
        scorer: `released`: c_j / (j + 1), as in the released code. `fair`: c_j / e_j, where e_j = sum over i >= j of
            1 / (i + 1) is the mass if every row attended to all its tokens alike, so that 1 is what a place alone
            gets. `sinkless`: a sink on the first tokens takes more from early rows than from late ones, so that late
            tokens look attended to under `fair`; here the fair score is divided by its own trend over log(j + 1), a
            parabola fitted to the log scores after the first `SINK_TOKENS`, and 1 is what its place in this sample
            gets. Samples too short for a trend keep the fair scores.

    Returns:
        (T,) float64, none negative.

    Raises:
        ValueError: for a scorer that reads no attention, and for mass that is empty, negative, not finite, or of
            another sum than T.
    """
    if scorer not in ATTENTION_SCORERS:
        raise ValueError(f"scorer={scorer!r} scores no tokens; {', '.join(ATTENTION_SCORERS)} do.")
    mass = np.asarray(mass_T, dtype=np.float64)
    if mass.ndim != 1 or not mass.size:
        raise ValueError(f"mass_T has shape {mass.shape}; one number per token, at least one, is needed.")
    if not np.isfinite(mass).all() or (mass < 0).any():
        raise ValueError("mass_T holds negative or non-finite numbers; attention is neither: did the forward overflow?")
    if abs(mass.sum() - mass.size) > _SUM_TOLERANCE * mass.size:
        raise ValueError(
            f"mass_T sums to {mass.sum():.4g} over {mass.size} tokens, and every token gives out 1: cut the padding "
            "off mass and ids alike."
        )
    places = np.arange(1, mass.size + 1)
    if scorer == "released":
        return mass / places
    fair_T = mass / np.cumsum(1 / places[::-1])[::-1]
    return fair_T if scorer == "fair" else fair_T / _trend(fair_T)


def _trend(fair_T: Floats) -> Floats:
    fitted_T = np.arange(fair_T.size) >= SINK_TOKENS
    if fitted_T.sum() < _LEAST_FITTED:
        return np.ones(fair_T.size)
    powers_T3 = np.vander(np.log(np.arange(1, fair_T.size + 1)), 3)
    # The variance of a column's mean falls with the T - j rows in it.
    weight_T = fitted_T * np.sqrt(np.arange(fair_T.size, 0, -1))
    log_T = np.log(np.maximum(fair_T, _FLOOR))
    parabola, *_ = np.linalg.lstsq(powers_T3 * weight_T[:, None], log_T * weight_T)
    return np.exp(powers_T3 @ parabola)
