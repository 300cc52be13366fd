"""Short runs of SHEAR, and what they saw."""

from collections.abc import Callable
from typing import Any

import torch
from trl import GRPOTrainer

from rlft import SHEARTrainer
from rlft.credit import Group

Arguments = Callable[..., dict[str, Any]]


def run(build: Callable[[], GRPOTrainer]) -> tuple[list[tuple[float, float]], list[torch.Tensor]]:
    """Loss and gradient norm of every step, and the weights at the end; built here, as building sets the seed."""
    trainer = build()
    trainer.train()
    steps = [(row["loss"], row["grad_norm"]) for row in trainer.state.log_history if "loss" in row]
    return steps, [parameter.detach().clone() for parameter in trainer.model.parameters()]


def recorded_states(trainer: SHEARTrainer) -> list[torch.Tensor]:
    """Train; keep the states (T_i, H) of every rollout exactly as the credit function received them."""
    seen: list[torch.Tensor] = []
    credit = trainer.credit

    def spy(group: Group) -> Any:
        assert group.hidden is not None
        seen.extend(group.hidden)
        return credit(group)

    trainer.credit = spy
    trainer.train()
    return seen
