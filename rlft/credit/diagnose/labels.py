"""Rows that the measures of a diagnosis are made of: weights at errors, and span scores with their labels.

Shapes: N rows of a measure.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rlft.credit.diagnose.controls import Compared, Nearest, Weighting
from rlft.credit.diagnose.measures import BIN, POSITION, quantile_bins

Weigh = Callable[[Compared], Weighting]
Rows = tuple[np.ndarray, list[str]]
"""Rows of a measure, and the group each belongs to."""


def labelled_rows(kept: Sequence[Compared], weigh: Weigh, bins: int) -> tuple[Rows, Rows]:
    """Rows of the measures that need labels.

    Args:
        kept: groups.
        weigh: how they are weighed.
        bins: quantile bins of span position.

    Returns:
        One value for each pair of an error and the same index in a correct rollout: 1 if the weight at the error is
        larger, 0.5 if equal; and one row (label, score, position, bin) for each span of a labelled wrong rollout.
    """
    matched: list[tuple[float, str]] = []
    spans: list[tuple[float, float, float, str]] = []
    for group in kept:
        weighting = weigh(group)
        matched += [(won, group.name) for won in _matched(group, weighting)]
        spans += [(*row, group.name) for row in _labelled_spans(group, weighting)]
    rows_N4 = np.array([(*row[:-1], 0.0) for row in spans]).reshape(-1, BIN + 1)
    rows_N4[:, BIN] = quantile_bins(rows_N4[:, POSITION], bins)
    return (
        (np.array([won for won, _ in matched]), [name for _, name in matched]),
        (rows_N4, [row[-1] for row in spans]),
    )


def _matched(group: Compared, weighting: Weighting) -> Iterator[float]:
    """1, 0.5 or 0 for every pair of an error and the same index in a correct rollout."""
    wrong = [i for i, right in enumerate(group.correct_G) if not right and group.errors[i] is not None]
    for i in wrong:
        weight_T, error = weighting.tokens[i], group.errors[i]
        for j in np.flatnonzero(group.correct_G):
            other_T = weighting.tokens[j]
            if weight_T is not None and other_T is not None and error is not None and error < len(other_T):
                yield float(0.5 + 0.5 * np.sign(weight_T[error] - other_T[error]))


def _labelled_spans(group: Compared, weighting: Weighting) -> Iterator[tuple[float, float, float]]:
    """Label, score and position of every span of a wrong rollout with a known error."""
    for i, score_K in enumerate(weighting.spans):
        error = group.errors[i]
        if score_K is None or error is None or group.correct_G[i]:
            continue
        for score, (start, end) in zip(score_K, group.spans[i], strict=True):
            yield float(end > error), float(score), (start + end - 1) / 2


def farther_rows(kept: Sequence[Compared], nearest: Callable[[Compared], Nearest]) -> Rows:
    """`Compared.farther` over all groups."""
    found = [(value, group.name) for group in kept for value in group.farther(nearest(group))]
    return np.array([value for value, _ in found]), [name for _, name in found]
