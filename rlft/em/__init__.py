"""Expectation-maximisation: weights of sampled trajectories, weighted fine-tuning, rounds that survive a kill.

Names load when first used, so that reading the options needs no torch.
"""

from importlib import import_module
from typing import Any

_LAZY = {
    "WeightedSFTTrainer": "rlft.em.weighted_sft",
    "effective_sample_size": "rlft.em.weights",
    "importance_weights": "rlft.em.weights",
    "score_answers": "rlft.em.score",
}
__all__ = [*_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'rlft.em' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
