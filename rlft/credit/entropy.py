"""Entropy credit: tokens drawn from a broad distribution get a larger advantage, as exploration is worth credit.

Cheng et al., "Reasoning with Exploration: An Entropy Perspective" (arXiv 2506.14758), eq. 6-7, with the paper's
alpha = 0.4 and kappa = 2:

    A~_t = A + min(alpha * H_t, |A| / kappa)

Written as a weight on A it is 1 + min(alpha * H_t, |A| / kappa) / A: the bonus never turns the sign of an advantage.
"""

import torch
from torch import Tensor

from rlft.credit.group import Group

ALPHA = 0.4
KAPPA = 2.0


def entropy(group: Group) -> list[Tensor]:
    """Weights that add the clipped entropy bonus to each token's advantage.

    Args:
        group: G rollouts with `entropy` and `advantages`.

    Returns:
        G tensors (T_i,); ones where the advantage is 0.
    """
    assert group.entropy is not None, "the trainer fills Group.entropy because this function declares it in `needs`"
    weights = []
    for entropy_T, advantage in zip(group.entropy, group.advantages.tolist(), strict=True):
        if advantage == 0:
            weights.append(torch.ones(len(entropy_T)))
            continue
        bonus_T = torch.clamp(ALPHA * entropy_T.float(), max=abs(advantage) / KAPPA)
        weights.append(1 + bonus_T / advantage)
    return weights


entropy.needs = frozenset({"entropy"})  # type: ignore[attr-defined]
