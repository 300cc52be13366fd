"""Comparison of runs of one and of several processes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlft.record.jsonl import read_jsonl


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


def losses(folder: Path) -> list[float]:
    """Loss of every step that a run has logged."""
    return [line["loss"] for line in read_jsonl(folder / "record/metrics.jsonl") if "loss" in line]


def assert_same_losses(one: list[float], two: list[float]) -> None:
    """Step by step, to 1e-6; and they are losses of something that learns."""
    assert len(set(one)) > 1
    assert two == pytest.approx(one, abs=1e-6)
