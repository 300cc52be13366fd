r"""What each reward term contributes to the advantages of a batch.

TRL's advantage is a sum over terms, A_i = sum_f a_{i,f}. With weights w_f, rewards r_{i,f} and group g of completion i,

    sum_then_normalize    a_{i,f} = w_f (r_{i,f} - mean_g r_f) / (sigma + 1e-4)
    normalize_then_sum    a_{i,f} = w_f (r_{i,f} - mean_g r_f) / (std_g r_f + 1e-4) / (sigma + 1e-4)

sigma is the standard deviation of the total in the group (`scale_rewards="group"`) or in the batch (`"batch"`, and
always for normalize_then_sum), or the division is left out (`"none"`). Every a_f has mean 0 in a group, so

    share of f = sum_i a_{i,f}^2 / sum_i A_i^2        share of the covariance = 1 - sum_f share of f

and the latter is 2 sum_{f<h} sum_i a_{i,f} a_{i,h} / sum_i A_i^2: above 0 where terms pull the same way, below 0 where
they pull against each other (then shares of terms may exceed 1). A term that is small in the sum has a large share
where the others tie, because the group's own spread is divided by.

A reward that does not apply (None) counts as 0 in sum_then_normalize and as the group's mean in normalize_then_sum; a
completion without any reward has advantage 0. Shapes: N completions, F terms, M groups of G completions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_EPSILON = 1e-4  # TRL's
_NO_VARIANCE = 1e-12


def advantage_terms(
    rewards_NF: Tensor,
    weights_F: Tensor,
    group_size: int,
    aggregation: str = "sum_then_normalize",
    scale: str = "group",
) -> Tensor:
    """TRL's advantages, split by reward.

    Args:
        rewards_NF: of all processes, NaN where a reward does not apply; groups stand together.
        weights_F: of the rewards.
        group_size: G.
        aggregation: TRL's `multi_objective_aggregation`.
        scale: TRL's `scale_rewards`: `group`, `batch` or `none`.

    Returns:
        (N, F) fp64; its rows sum to the advantages.
    """
    rewards_NF, weights_F = rewards_NF.double().cpu(), weights_F.double().cpu()
    if aggregation == "normalize_then_sum":
        rewards_NF, scale = _normalized(rewards_NF, group_size), "batch"
    weighted_NF = (rewards_NF * weights_F).nan_to_num(0.0)
    weighted_NF[rewards_NF.isnan().all(1)] = torch.nan
    groups_MGF = weighted_NF.view(-1, group_size, len(weights_F))
    terms_MGF = groups_MGF - groups_MGF.nanmean(1, keepdim=True)
    if scale == "group":
        terms_MGF = terms_MGF / (_std(groups_MGF.sum(2, keepdim=True), 1) + _EPSILON)
    elif scale == "batch":
        terms_MGF = terms_MGF / (_std(groups_MGF.sum(2).flatten(), 0) + _EPSILON)
    return terms_MGF.view(weighted_NF.shape).nan_to_num(0.0)


def variance_shares(terms_NF: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Share of the advantage variance by term, and of their `covariance`; they add up to 1.

    Args:
        terms_NF: from `advantage_terms`.
        names: of the F terms.

    Returns:
        Shares by name; empty where all advantages are 0, since then there is nothing to share.
    """
    total = float(terms_NF.sum(1).square().mean())
    if total < _NO_VARIANCE:
        return {}
    shares = (terms_NF.square().mean(0) / total).tolist()
    return dict(zip([*names, "covariance"], [*shares, 1.0 - sum(shares)], strict=True))


def _normalized(rewards_NF: Tensor, group_size: int) -> Tensor:
    """Each reward with mean 0 and spread 1 in its group."""
    groups_MGF = rewards_NF.view(-1, group_size, rewards_NF.size(1))
    centred_MGF = groups_MGF - groups_MGF.nanmean(1, keepdim=True)
    return (centred_MGF / (_std(groups_MGF, 1) + _EPSILON)).view(rewards_NF.shape)


def _std(values: Tensor, dim: int) -> Tensor:
    """Bessel-corrected standard deviation of what is a number, as TRL's; `dim` is kept."""
    counts = (~values.isnan()).sum(dim, keepdim=True)
    squares = (values - values.nanmean(dim, keepdim=True)).square().nansum(dim, keepdim=True)
    return (squares / (counts - 1).clamp(min=1)).sqrt()
