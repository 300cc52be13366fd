"""Euclidean distances between token states, precise where they are small, from one matrix product.

Shapes: N, M points; H width; P matched pairs.
"""

import numpy as np
import torch
from torch import Tensor

from rlft.credit.transport.layout import Matched

NEAR = 1e-2
"""A squared distance below this share of both squared norms has lost digits in the product and is computed again."""

FEW = 1 / 32
"""Up to this share of near pairs is computed one by one; beyond it the whole product is made in float64."""

CHUNK = 1 << 18
"""Numbers held at once while single pairs are computed; they should stay in the cache."""


def distances(x_NH: Tensor, y_MH: Tensor) -> Tensor:
    """Euclidean distances between all points, by one centred matrix product.

    The product is accumulated in fp32 whatever the dtype of the states, autocast or TF32 settings. Pairs so near that
    it cancels (repeated tokens, a shared prefix) are computed from the states themselves.

    Args:
        x_NH: N points.
        y_MH: M points on the same device.

    Returns:
        (N, M) fp32 tensor on that device.
    """
    x_NH, y_MH = x_NH.detach().float(), y_MH.detach().float()
    centre_H = (x_NH.sum(0) + y_MH.sum(0)) / (len(x_NH) + len(y_MH))
    squared_NM, norms_NM = _squared(x_NH - centre_H, y_MH - centre_H)
    near = squared_NM < norms_NM.mul_(NEAR)
    if (count := int(near.sum())) > FEW * near.numel():
        centre_H = centre_H.double()
        squared_NM = _squared(x_NH.double() - centre_H, y_MH.double() - centre_H)[0].float()
    distance_NM = squared_NM.clamp_(min=0).sqrt_()
    if 0 < count <= FEW * near.numel():
        rows_P, columns_P = near.nonzero(as_tuple=True)
        distance_NM[rows_P, columns_P] = pair_distances(x_NH, y_MH, rows_P, columns_P).float()
    return distance_NM


def pair_distances(x_NH: Tensor, y_MH: Tensor, rows_P: Tensor, columns_P: Tensor) -> Tensor:
    """Euclidean distances of chosen pairs, from the differences of their states in float64.

    Args:
        x_NH: N points.
        y_MH: M points.
        rows_P: which of the N.
        columns_P: which of the M.

    Returns:
        (P,) float64 on the device of the points.
    """
    found_P = torch.empty(len(rows_P), dtype=torch.float64, device=x_NH.device)
    step = max(1, CHUNK // max(1, x_NH.shape[1]))
    for start in range(0, len(rows_P), step):
        part = slice(start, start + step)
        x_PH, y_PH = x_NH.index_select(0, rows_P[part]), y_MH.index_select(0, columns_P[part])
        found_P[part] = torch.linalg.vector_norm(x_PH.double() - y_PH.double(), dim=1)
    return found_P


def coupling_costs(x_NH: Tensor, y_MH: Tensor, matched: Matched) -> np.ndarray:
    """Costs of couplings, from the states themselves; token pairs that several of them use are measured once.

    Args:
        x_NH: tokens of one side.
        y_MH: tokens of the other.
        matched: couplings of C pairs of spans.

    Returns:
        (C,) float64.
    """
    pairs, which_R = np.unique(matched.row_R * len(y_MH) + matched.column_R, return_inverse=True)
    rows, columns = (torch.from_numpy(part).to(x_NH.device) for part in np.divmod(pairs, max(1, len(y_MH))))
    distance_R = pair_distances(x_NH.detach(), y_MH.detach(), rows, columns).cpu().numpy()[which_R]
    return np.bincount(matched.owner_R, matched.mass_R * distance_R, minlength=len(matched.k_C))


def _squared(x_NH: Tensor, y_MH: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances, and the sums of squared norms they were made from."""
    precision = torch.get_float32_matmul_precision()
    with torch.autocast(x_NH.device.type, enabled=False):
        torch.set_float32_matmul_precision("highest")
        try:
            norms_NM = (x_NH**2).sum(1)[:, None] + (y_MH**2).sum(1)[None, :]
            return torch.addmm(norms_NM, x_NH, y_MH.T, alpha=-2), norms_NM
        finally:
            torch.set_float32_matmul_precision(precision)
