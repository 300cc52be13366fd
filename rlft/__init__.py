"""rlft: reinforcement-learning fine-tuning of language models on unmodified TRL trainers.

Importing `rlft` imports no torch: public names load their module when first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "DROConfig": "rlft.trainers.dro",
    "DROPair": "rlft.pair",
    "DROTrainer": "rlft.trainers.dro",
    "ExSearchConfig": "rlft.trainers.exsearch",
    "ExSearchTrainer": "rlft.trainers.exsearch",
    "PrLMConfig": "rlft.trainers.prlm",
    "PrLMTrainer": "rlft.trainers.prlm",
    "SHEARConfig": "rlft.trainers.shear",
    "SHEARTrainer": "rlft.trainers.shear",
    "STOCConfig": "rlft.trainers.stoc",
    "STOCTrainer": "rlft.trainers.stoc",
}
__all__ = [*_LAZY, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'rlft' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
