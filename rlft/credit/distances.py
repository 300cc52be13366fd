"""Distance from every span of a rollout to its nearest span on the other side.

Four distances share one signature: `wasserstein` (SHEAR's, exact) and the three of the paper's ablation (section
5.4.1), all span pairs at once. Shapes: T tokens of the rollout, U tokens of all opposing rollouts laid end to end,
H hidden width, K and L their spans.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from rlft.credit.options import DISTANCES
from rlft.credit.spans import Span, averaging
from rlft.credit.transport import distances, lower_bounds, nearest_wasserstein

Nearest = Callable[[Tensor, Tensor, Sequence[Span], Sequence[Span]], np.ndarray]

UNITLESS = frozenset({"mmd", "cosine"})
"""Distances that do not change when all states are scaled."""

MEDIAN_TOKENS = 2048
"""Tokens used for the median of the MMD bandwidth; longer groups are thinned evenly."""


def wasserstein_nearest(x_TH: Tensor, y_UH: Tensor, spans_K: Sequence[Span], spans_L: Sequence[Span]) -> np.ndarray:
    """Exact W1 to the nearest opposing span, (K,)."""
    return nearest_wasserstein(distances(x_TH, y_UH), spans_K, spans_L)


def chamfer_nearest(x_TH: Tensor, y_UH: Tensor, spans_K: Sequence[Span], spans_L: Sequence[Span]) -> np.ndarray:
    """Chamfer distance (both one-sided mean nearest-token distances added) to the nearest opposing span, (K,)."""
    forward_KL, backward_KL = lower_bounds(distances(x_TH, y_UH), spans_K, spans_L)
    return (forward_KL + backward_KL).min(1)


def cosine_nearest(x_TH: Tensor, y_UH: Tensor, spans_K: Sequence[Span], spans_L: Sequence[Span]) -> np.ndarray:
    """One minus the cosine of the span means, to the nearest opposing span, (K,)."""
    mean_KH = averaging(spans_K, len(x_TH)) @ x_TH.detach().double().cpu().numpy()
    mean_LH = averaging(spans_L, len(y_UH)) @ y_UH.detach().double().cpu().numpy()
    norms_KL = np.linalg.norm(mean_KH, axis=1)[:, None] * np.linalg.norm(mean_LH, axis=1)[None]
    return (1 - mean_KH @ mean_LH.T / np.maximum(norms_KL, np.finfo(float).tiny)).min(1)


def mmd_nearest(
    x_TH: Tensor, y_UH: Tensor, spans_K: Sequence[Span], spans_L: Sequence[Span], *, bandwidth: float
) -> np.ndarray:
    """Maximum mean discrepancy under the kernel exp(-d^2 / (2 bandwidth^2)), to the nearest opposing span, (K,)."""

    def kernel(a_NH: Tensor, b_MH: Tensor) -> np.ndarray:
        return np.exp(-(distances(a_NH, b_MH) ** 2) / (2 * bandwidth**2))

    average_KT, average_LU = averaging(spans_K, len(x_TH)), averaging(spans_L, len(y_UH))
    within_K = np.array([kernel(x_TH[a:b], x_TH[a:b]).mean() for a, b in spans_K])
    within_L = np.array([kernel(y_UH[a:b], y_UH[a:b]).mean() for a, b in spans_L])
    squared_KL = within_K[:, None] + within_L[None] - 2 * average_KT @ kernel(x_TH, y_UH) @ average_LU.T
    return np.sqrt(np.maximum(squared_KL, 0)).min(1)


def nearest_by(distance: str, hidden: Sequence[Tensor]) -> Nearest:
    """The distance called `distance`, with what it shares over one group already computed.

    Args:
        distance: one of `DISTANCES`.
        hidden: the states (T_i, H) of the whole group; the median heuristic of `mmd` reads them.

    Returns:
        A function (x_TH, y_UH, spans_K, spans_L) -> (K,) distances to the nearest opposing span.

    Raises:
        ValueError: if the name is unknown.
    """
    if distance == "mmd":
        return partial(mmd_nearest, bandwidth=_median_distance(torch.cat(list(hidden))))
    named: dict[str, Nearest] = {
        "wasserstein": wasserstein_nearest,
        "chamfer": chamfer_nearest,
        "cosine": cosine_nearest,
    }
    if distance not in named:
        raise ValueError(f"distance={distance!r} is not one of {', '.join(DISTANCES)}.")
    return named[distance]


def _median_distance(tokens_NH: Tensor) -> float:
    thinned = tokens_NH[:: 1 + len(tokens_NH) // MEDIAN_TOKENS]
    pairs = distances(thinned, thinned)[np.triu_indices(len(thinned), 1)]
    median = float(np.median(pairs)) if len(pairs) else 0.0
    return median or 1.0  # all tokens alike: any bandwidth gives distance 0
