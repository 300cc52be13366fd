"""Sliding spans over a rollout's tokens, and the way back from span scores to token weights.

SHEAR (arXiv 2604.23318), eq. 2: spans of `window` tokens every `stride` tokens, the last one ending with the rollout.
Indices here are 0-based and half-open.
"""

from collections.abc import Sequence

import numpy as np

Span = tuple[int, int]


def spans(length: int, window: int, stride: int) -> list[Span]:
    """Spans [start, end) of a rollout of `length` tokens.

    The first span that reaches the end is the last: 1 span if length <= window, else ceil((length - window) / stride)
    + 1. A rollout without tokens has none.

    Args:
        length: T, tokens in the rollout.
        window: w, tokens in a span, at least 1.
        stride: s, tokens between starts, 1 <= s <= w.

    Returns:
        K pairs (start, end) in order.

    Raises:
        ValueError: if window < stride or stride < 1, which would leave tokens without a span.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"window={window}, stride={stride}: spans need 1 <= stride <= window.")
    found: list[Span] = []
    start = 0
    while length > 0:
        end = min(start + window, length)
        found.append((start, end))
        if end == length:
            break
        start += stride
    return found


def max_over_covering(scores_K: np.ndarray, spans_K: Sequence[Span], length: int) -> np.ndarray:
    """Token values: the largest score among the spans that cover the token (step 3 of Algorithm 1).

    Args:
        scores_K: one score >= 0 a span.
        spans_K: the K spans.
        length: T.

    Returns:
        (T,) float64.
    """
    token_T = np.zeros(length)
    for score, (start, end) in zip(scores_K, spans_K, strict=True):
        np.maximum(token_T[start:end], score, out=token_T[start:end])
    return token_T


def averaging(spans_K: Sequence[Span], length: int) -> np.ndarray:
    """Matrix (K, length) whose product with per-token values is their mean over each span."""
    average_KT = np.zeros((len(spans_K), length))
    for row_T, (start, end) in zip(average_KT, spans_K, strict=True):
        row_T[start:end] = 1 / (end - start)
    return average_KT
