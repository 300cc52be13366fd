"""Attention mass of maps that are known, from the maps themselves."""

from collections.abc import Sequence

import numpy as np


def mass(map_TT: np.ndarray) -> np.ndarray:
    return map_TT.sum(0).astype(np.float32)


def uniform(tokens: int) -> np.ndarray:
    """Every row attends to all tokens up to its own alike."""
    return np.tril(np.ones((tokens, tokens))) / np.arange(1, tokens + 1)[:, None]


def content_free(tokens: int, seed: int, *, sink: float | Sequence[float] = 0.0) -> np.ndarray:
    """Mean over 12 heads of causal attention with N(0, 1) logits; `sink`, of all or each, is added to token 0's."""
    logits_HTT = np.random.default_rng(seed).standard_normal((12, tokens, tokens))
    logits_HTT[:, :, 0] += np.broadcast_to(sink, 12)[:, None]
    weights_HTT = np.exp(logits_HTT) * np.tril(np.ones((tokens, tokens)))
    return (weights_HTT / weights_HTT.sum(-1, keepdims=True)).mean(0)


def planted(tokens: int, column: int, weight: float) -> np.ndarray:
    """Uniform attention, but every row that can see `column` gives it `weight`."""
    map_TT = uniform(tokens)
    map_TT[column:] *= 1 - weight
    map_TT[column:, column] += weight
    return map_TT
