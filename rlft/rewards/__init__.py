"""The reward contract: loading, the boundary check, isolation per sample, outcome accounting. No torch.

A reward is TRL's own: `def f(completions, answer, **kwargs) -> list[float | None]`, for a batch, with dataset
columns as keyword lists and None where it does not apply.
"""

from rlft.rewards.boundary import checked, refuse_unscored_groups
from rlft.rewards.isolation import PerSample, per_sample
from rlft.rewards.loading import check_columns, load_rewards, ready_made
from rlft.rewards.outcomes import Outcome, RewardError, Unparseable

__all__ = [
    "Outcome",
    "PerSample",
    "RewardError",
    "Unparseable",
    "check_columns",
    "checked",
    "load_rewards",
    "per_sample",
    "ready_made",
    "refuse_unscored_groups",
]
