"""Column sums of attention maps, by blocks of queries: no T x T map is held.

Legend: B texts, H query heads, K key heads (G = H / K query heads read one key head), T tokens, D head size, R queries
of a block, J keys that a block reaches.

Column j of head h is c_j = sum_i w_i A_ij n_j with w_i = 1 / sum_j A_ij n_j at valid tokens and 0 at padding: rows are
counted as distributions over the tokens whatever the sizes n_j are. n_j = 1 gives the plain column sums.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

# Scores of one block, fp32: what the caches of a CPU core hold, and enough to keep a GPU busy.
_CPU_SCORES, _OTHER_SCORES = 2**20, 2**24


def softmax_columns(
    query_BHTD: Tensor,
    key_BKTD: Tensor,
    mask_B1TT: Tensor | None,
    scaling: float,
    valid_BT: Tensor,
    sizes_BHT: Tensor | None,
) -> Tensor:
    """Columns of softmax(query key^T scaling), mean over heads.

    Args:
        query_BHTD: queries after rotary embedding, any float type; scores are computed in fp32.
        key_BKTD: keys after rotary embedding; not repeated, heads of a group are stacked as rows instead.
        mask_B1TT: True where a query may see a key; None for all keys up to itself. Sliding windows come through it.
        scaling: factor of the scores.
        valid_BT: True at tokens, False at padding.
        sizes_BHT: n_j of the module's formula; None for 1.

    Returns:
        (B, T), fp32.

    Raises:
        ValueError: if the mask shows a query a later key.
    """
    heads, length = query_BHTD.shape[1:3]
    group = heads // key_BKTD.shape[1]
    query_BKGTD = query_BHTD.unflatten(1, (-1, group)).float() * scaling
    key_BKDT = key_BKTD.float().transpose(2, 3)
    sizes_BKGT = None if sizes_BHT is None else sizes_BHT.unflatten(1, (-1, group))
    columns_BT = torch.zeros(valid_BT.shape, device=query_BHTD.device)
    for first, last in _blocks(query_BHTD):
        low, high = _reach(mask_B1TT, first, last)
        query_BKrD = query_BKGTD[..., first:last, :].flatten(2, 3)
        scores_BKGRJ = (query_BKrD @ key_BKDT[..., low:high]).unflatten(2, (group, last - first))
        if mask_B1TT is None:
            later_RR = torch.ones(last - first, last - first, dtype=torch.bool, device=scores_BKGRJ.device).triu(1)
            _hide(scores_BKGRJ[..., first:], later_RR)
        else:
            _hide(scores_BKGRJ, ~mask_B1TT[:, :, None, first:last, low:high])
        sizes_BKGJ = None if sizes_BKGT is None else sizes_BKGT[..., low:high]
        columns_BT[:, low:high] += _weighted(scores_BKGRJ.softmax(-1), valid_BT[:, first:last], sizes_BKGJ)
    return columns_BT / heads


def map_columns(map_BHTT: Tensor, valid_BT: Tensor) -> Tensor:
    """Columns of a whole map, mean over heads; a row that sums to less than 1 (attention sinks) is scaled up to 1.

    Args:
        map_BHTT: attention of each query (dimension 2) to each key (dimension 3).
        valid_BT: True at tokens, False at padding.

    Returns:
        (B, T), fp32.

    Raises:
        ValueError: if a query attends to a later key.
    """
    columns_BT = torch.zeros(valid_BT.shape, device=map_BHTT.device)
    for first, last in _blocks(map_BHTT):
        _check_causal(map_BHTT[:, :, first:last, first:] * valid_BT[:, None, first:last, None])
        share_BH1RJ = map_BHTT[:, :, None, first:last, :last].float()
        ones_BH1J = torch.ones_like(share_BH1RJ[..., 0, :])
        columns_BT[:, :last] += _weighted(share_BH1RJ, valid_BT[:, first:last], ones_BH1J)
    return columns_BT / map_BHTT.shape[1]


def _weighted(share_BKGRJ: Tensor, valid_BR: Tensor, sizes_BKGJ: Tensor | None) -> Tensor:
    """One block's share of the columns (B, J), summed over heads."""
    weight_BKGR1 = valid_BR[:, None, None, :, None].float().expand(*share_BKGRJ.shape[:-1], 1)
    if sizes_BKGJ is None:
        return (weight_BKGR1.mT @ share_BKGRJ).sum((1, 2, 3))
    total_BKGR1 = share_BKGRJ @ sizes_BKGJ[..., None]
    weight_BKGR1 = torch.where(weight_BKGR1 > 0, weight_BKGR1 / total_BKGR1, 0.0)
    return ((weight_BKGR1.mT @ share_BKGRJ).squeeze(-2) * sizes_BKGJ).sum((1, 2))


def _hide(scores: Tensor, hidden: Tensor) -> None:
    # Not -inf: padding may see nothing at all, and a row of nan would outlive its weight of 0.
    scores.masked_fill_(hidden, torch.finfo(scores.dtype).min)


def _blocks(like_BHTX: Tensor) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) query of each block."""
    texts, heads, length = like_BHTX.shape[:3]
    scores = _CPU_SCORES if like_BHTX.device.type == "cpu" else _OTHER_SCORES
    rows = max(1, scores // (texts * heads * length))
    for first in range(0, length, rows):
        yield first, min(first + rows, length)


def _reach(mask_B1TT: Tensor | None, first: int, last: int) -> tuple[int, int]:
    """First and last (exclusive) key that a block sees; with a sliding window that leaves most keys out."""
    if mask_B1TT is None:
        return 0, last
    _check_causal(mask_B1TT[:, 0, first:last, first:])
    seen = mask_B1TT[:, 0, first:last, :last].any(0).any(0).nonzero()
    return int(seen[0]) if len(seen) else 0, last


def _check_causal(block: Tensor) -> None:
    """Rows of a map or mask from their diagonal on."""
    if block.triu(1).any():
        raise ValueError("a token attends to a later one; attention mass is defined for causal attention only.")
