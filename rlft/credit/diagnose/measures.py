"""How well scores point at labels: AUC, Spearman's rho, both inside position bins, partial rho given position.

Rows are laid out so that `rlft.evaluate.personal.bootstrap` can draw them: a measure is a function of any selection of
rows, with repetition. Shapes: N rows; columns are label (0 or 1), score, position, bin.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

LABEL, SCORE, POSITION, BIN = range(4)


class BinFigure(NamedTuple):
    """AUC and Spearman's rho among the rows of one position bin."""

    low: float
    """Smallest position in the bin."""
    high: float
    positives: int
    negatives: int
    auc: float
    """NaN where the bin has rows of one label only."""
    rho: float
    """Spearman's; NaN there too."""


def auc(rows_N4: np.ndarray) -> float:
    """P(score of a positive row > score of a negative row), ties counted half (Mann and Whitney 1947).

    Args:
        rows_N4: N rows.

    Returns:
        The share; NaN if all rows have one label.
    """
    won, pairs = _won_pairs(rows_N4)
    return won / pairs if pairs else float("nan")


def auc_in_bins(rows_N4: np.ndarray) -> float:
    """`auc` over those pairs of rows only that stand in the same position bin.

    Args:
        rows_N4: N rows.

    Returns:
        The share of won pairs; NaN if no bin has both labels.
    """
    counted = [_won_pairs(rows_N4[rows_N4[:, BIN] == number]) for number in np.unique(rows_N4[:, BIN])]
    pairs = sum(pairs for _, pairs in counted)
    return sum(won for won, _ in counted) / pairs if pairs else float("nan")


def spearman(rows_N4: np.ndarray) -> float:
    """Spearman's rank correlation of score and label.

    Args:
        rows_N4: N rows.

    Returns:
        rho, ties at their mean rank; NaN if scores or labels are all equal.
    """
    return _correlation(rankdata(rows_N4[:, SCORE]), rankdata(rows_N4[:, LABEL]))


def partial_spearman(rows_N4: np.ndarray) -> float:
    """Spearman's rho of score and label with position held fixed.

    rho_sl.p = (rho_sl - rho_sp rho_lp) / sqrt((1 - rho_sp^2)(1 - rho_lp^2)), the partial correlation of ranks.

    Args:
        rows_N4: N rows.

    Returns:
        rho; NaN if a column is constant, or position alone determines score or label.
    """
    score_N, label_N, position_N = (rankdata(rows_N4[:, column]) for column in (SCORE, LABEL, POSITION))
    with_label, with_position = _correlation(score_N, label_N), _correlation(score_N, position_N)
    by_position = _correlation(label_N, position_N)
    left = (1 - with_position**2) * (1 - by_position**2)
    return (with_label - with_position * by_position) / left**0.5 if left > 1e-12 else float("nan")


def bin_figures(rows_N4: np.ndarray) -> list[BinFigure]:
    """AUC and rho inside each position bin, from the first on.

    Args:
        rows_N4: N rows.
    """
    figures = []
    for number in np.unique(rows_N4[:, BIN]):
        inside = rows_N4[rows_N4[:, BIN] == number]
        positives, positions = int(inside[:, LABEL].sum()), inside[:, POSITION]
        figures.append(
            BinFigure(
                float(positions.min()),
                float(positions.max()),
                positives,
                len(inside) - positives,
                auc(inside),
                spearman(inside),
            )
        )
    return figures


def quantile_bins(position_N: np.ndarray, bins: int) -> np.ndarray:
    """Number of the quantile bin that each position falls into; equal positions share a bin.

    Args:
        position_N: positions.
        bins: how many; fewer result where many positions are equal.

    Returns:
        (N,) numbers from 0 on.
    """
    edges = np.unique(np.quantile(position_N, np.arange(1, bins) / bins)) if len(position_N) else np.zeros(0)
    return np.searchsorted(edges, position_N, side="right")


def _won_pairs(rows_N4: np.ndarray) -> tuple[float, int]:
    """Pairs (positive, negative) in which the positive scores higher, ties half; and all pairs."""
    positive_N = rows_N4[:, LABEL] == 1
    positives = int(positive_N.sum())
    won = rankdata(rows_N4[:, SCORE])[positive_N].sum() - positives * (positives + 1) / 2
    return float(won), positives * (len(rows_N4) - positives)


def _correlation(x_N: np.ndarray, y_N: np.ndarray) -> float:
    x, y = x_N - x_N.mean(), y_N - y_N.mean()
    size = ((x @ x) * (y @ y)) ** 0.5
    return float(x @ y / size) if size > 0 else float("nan")
