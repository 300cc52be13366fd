"""Numbers that tell what a credit function did to a batch: mean and spread of the weights, and their sign balance.

Sign balance of a mixed group = (omega_correct - omega_wrong) / (omega_correct + omega_wrong), with omega the mean
weight over a side's rollouts. At 0 the weighted advantages of a group still sum to zero, as in GRPO; below 0 the update
pushes wrong rollouts down harder than it pulls correct ones up.
"""

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from torch import Tensor

from rlft.credit.group import Group


def credit_metrics(weighed: Iterable[tuple[Group, list[Tensor]]], accelerator: Accelerator) -> dict[str, float]:
    """Metrics over the groups of all processes.

    Args:
        weighed: groups that this process answers for (each group by exactly one process), with their weights.
        accelerator: every process must call this.

    Returns:
        `weight_mean` and `weight_std` over model tokens, `sign_balance` over mixed groups, and the shares
        `frac_mixed_groups` (both outcomes) and `frac_dead_groups` (all advantages 0: no signal).
    """
    sums = torch.zeros(7, dtype=torch.float64)
    for group, weights in weighed:
        tokens = torch.cat(weights).double()
        dead = not bool(group.advantages.any())
        balance = _sign_balance(group, weights) if group.mixed else 0.0
        sums += torch.tensor(
            [tokens.sum(), (tokens**2).sum(), len(tokens), balance, group.mixed, dead, 1.0],
            dtype=torch.float64,
        )
    total, squares, tokens_seen, balances, mixed, dead_groups, groups = (
        accelerator.reduce(sums.float().to(accelerator.device), "sum").double().tolist()
    )
    mean = total / max(tokens_seen, 1)
    return {
        "weight_mean": mean,
        "weight_std": max(squares / max(tokens_seen, 1) - mean**2, 0.0) ** 0.5,
        "sign_balance": balances / max(mixed, 1),
        "frac_mixed_groups": mixed / groups,
        "frac_dead_groups": dead_groups / groups,
    }


def _sign_balance(group: Group, weights: list[Tensor]) -> float:
    means = torch.stack([weight_T.mean() for weight_T in weights])  # NaN for a rollout without tokens
    right, wrong = means[group.correct].nanmean(), means[group.wrong].nanmean()
    return float((right - wrong) / (right + wrong)) if right + wrong > 0 else 0.0
