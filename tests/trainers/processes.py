"""Comparison of runs of one and of several processes."""

import torch
from torch import Tensor


def flat(weights: dict[str, Tensor]) -> Tensor:
    return torch.cat([weights[name].double().flatten() for name in sorted(weights)])


def assert_same_end(start: dict[str, Tensor], one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    """Training moved the weights, and by the same but for rounding.

    Sums taken in another order differ in their last digits. Adam divides by the size of the gradient, so a weight
    whose gradient is nearly 0 shows them enlarged: the paths as a whole are compared, not weight by weight.
    """
    assert start.keys() == one.keys() == two.keys()
    path_one, path_two = flat(one) - flat(start), flat(two) - flat(start)
    assert path_one.abs().max() > 1e-3, "nothing was trained at all"
    assert (path_two - path_one).norm() < 1e-4 * path_one.norm()
