"""Replay that a model writes itself: attention mass, seeds, filters, and mixing with new text.

STOC (arXiv 2605.10640). Names load when first used, so that mixing needs no torch.
"""

from importlib import import_module
from typing import Any

_LAZY = {
    "ReplayFilter": "rlft.replay.filters",
    "Seed": "rlft.replay.seeds",
    "attention_mass": "rlft.replay.attention",
    "mix": "rlft.replay.mixing",
    "sample_seeds": "rlft.replay.seeds",
    "select_seeds": "rlft.replay.seeds",
    "token_scores": "rlft.replay.scores",
}
__all__ = [*_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'rlft.replay' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
