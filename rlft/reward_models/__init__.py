"""Contrastive reward models for personalised generation: pairs, training, scoring, audit (PrLM, arXiv 2508.07342).

The policy answers each row with the user's profile and without it; a scorer learns to tell the two apart, is audited,
and then rewards the policy. Names load when first used, so that reading the options needs no torch.
"""

from importlib import import_module
from typing import Any

_LAZY = {
    "Pair": "rlft.reward_models.pair_file",
    "PairOptions": "rlft.reward_models.pairs",
    "Scorer": "rlft.reward_models.scorer",
    "ScorerSpec": "rlft.reward_models.spec",
    "audit_scorer": "rlft.reward_models.audit",
    "build_pairs": "rlft.reward_models.pairs",
    "check_drift": "rlft.reward_models.audit",
    "personalization": "rlft.reward_models.plugin",
    "policy_answers": "rlft.reward_models.answers",
    "read_pairs": "rlft.reward_models.pair_file",
    "read_scorer_folder": "rlft.reward_models.folder",
    "save_scorer": "rlft.reward_models.training",
    "scorer_config": "rlft.reward_models.training",
    "scorer_reward": "rlft.reward_models.plugin",
    "split_by_user": "rlft.reward_models.pair_file",
    "train_scorer": "rlft.reward_models.training",
    "write_pairs": "rlft.reward_models.pair_file",
}
__all__ = [*_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'rlft.reward_models' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
