"""Whether weights push as hard as they pull.

Sign balance of a mixed group = (omega_correct - omega_wrong) / (omega_correct + omega_wrong), with omega the mean
weight over a side's rollouts. At 0 the weighted advantages of a group still sum to zero, as in GRPO; below 0 the update
pushes wrong rollouts down harder than it pulls correct ones up.
"""

from collections.abc import Sequence
from statistics import fmean as mean

from torch import Tensor

from rlft.credit.group import Group


def sign_balance(group: Group, weights: Sequence[Tensor]) -> float:
    """Sign balance of a mixed group.

    Args:
        group: G rollouts, both outcomes among them.
        weights: G tensors (T_i,).

    Returns:
        A number in [-1, 1] for weights of one sign; 0 where a side has no tokens.
    """
    sides: dict[bool, list[float]] = {True: [], False: []}
    for weight_T, correct, wrong in zip(weights, group.correct.tolist(), group.wrong.tolist(), strict=True):
        if len(weight_T) and (correct or wrong):
            sides[correct].append(float(weight_T.mean()))
    if not (sides[True] and sides[False]):
        return 0.0
    right, wrong_side = mean(sides[True]), mean(sides[False])
    return (right - wrong_side) / (right + wrong_side) if right + wrong_side > 0 else 0.0
