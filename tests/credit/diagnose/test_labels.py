"""Rows of the measures that need labels, on a group laid out by hand."""

import numpy as np

from rlft.credit.diagnose.controls import Compared, Weighting
from rlft.credit.diagnose.labels import labelled_rows
from rlft.credit.spans import spans

LENGTH = 8
SCORES: list[list[float] | None] = [[9, 9, 9], [0.5, 0.25, 2], [1, 3, 4], [7, 7, 7], None, [8, 8, 8]]


def compared_by_hand() -> Compared:
    """Rollouts 0 and 5 correct; 1, 2 and 4 wrong with a known error, 3 wrong without; 4 has nothing to compare with."""
    return Compared(
        name="one",
        correct_G=np.array([True, False, False, False, False, True]),
        errors=[4, 4, 5, None, 4, None],
        lengths=[LENGTH] * 6,
        spans=[spans(LENGTH, 4, 2)] * 6,
        by_hidden=[],
        by_tokens=[],
        entropy=None,
    )


def weighed_by_hand(_group: Compared) -> Weighting:
    """At tokens 4 and 5 rollout 1 weighs less than 0, rollout 2 as much as 0; rollout 5 weighs less than both."""
    of_tokens = [[2.0] * LENGTH, [1.0] * LENGTH, [2.0] * LENGTH, [9.0] * LENGTH, None, [0.0] * LENGTH]
    return Weighting(
        [None if score_K is None else np.array(score_K) for score_K in SCORES],
        [None if weight_T is None else np.array(weight_T) for weight_T in of_tokens],
    )


def test_rows_of_a_group_by_hand() -> None:
    (won_N, pairs_of), (rows_N4, spans_of) = labelled_rows([compared_by_hand()], weighed_by_hand, 3)
    assert won_N.tolist() == [0, 1, 0.5, 1]
    assert pairs_of == ["one"] * 4
    np.testing.assert_array_equal(
        rows_N4,
        [  # label, score, middle of spans [0, 4), [2, 6), [4, 8), bin
            [0, 0.5, 1.5, 0],
            [1, 0.25, 3.5, 1],
            [1, 2, 5.5, 2],
            [0, 1, 1.5, 0],
            [1, 3, 3.5, 1],
            [1, 4, 5.5, 2],
        ],
    )
    assert spans_of == ["one"] * 6


def test_without_labels_there_are_no_rows() -> None:
    (won_N, _), (rows_N4, _) = labelled_rows([], weighed_by_hand, 3)
    assert won_N.shape == (0,)
    assert rows_N4.shape == (0, 4)
