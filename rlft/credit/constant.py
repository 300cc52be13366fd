"""Constant credit: every token carries its completion's advantage. This is plain GRPO, bit for bit."""

import torch
from torch import Tensor

from rlft.credit.group import Group


def constant(group: Group) -> list[Tensor]:
    """Weight 1 for every token.

    Args:
        group: G rollouts.

    Returns:
        G tensors (T_i,) of ones.
    """
    return [torch.ones(length) for length in group.lengths]
