"""`trl.SFTConfig` of an EM run's M-step, with the options of EM."""

from dataclasses import dataclass, field

from trl import SFTConfig

from rlft.em.options import EMOptions
from rlft.health.options import HealthOptions

FREE_TO_CHANGE = frozenset(
    {
        *("num_rounds", "patience", "sampler_batch_size", "sampler_url", "sampler_memory", "sampler_timeout"),
        *("sampler_keep_tokens", "score_batch_tokens", "max_dropped"),
    }
)
"""Settings of EM and of its rollouts that a run may go on with changed."""


@dataclass
class EMConfig(EMOptions, HealthOptions, SFTConfig):
    """What every EM method is configured by.

    `num_train_epochs`, `learning_rate`, `per_device_train_batch_size` and the like are those of one M-step; each starts
    a fresh optimiser and schedule.

    Raises:
        ValueError: for a value out of its range.
    """

    num_train_epochs: float = field(default=2.0, metadata={"help": "Passes over a round's rows in its M-step."})
    max_length: int | None = field(default=None, metadata={"help": "Must stay None: `max_tokens` refuses, never cuts."})
    metric_for_best_model: str | None = field(
        default="greedy_em",
        metadata={
            "help": "Dev metric that chooses the round: greedy_em, greedy_f1, sampled_em, ...; round keeps the last."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_em()
        self.check_health_options()
        if self.max_length is not None:
            raise ValueError(
                f"max_length={self.max_length} would cut rows, and the answer stands at their end; leave it None and "
                "set --max_tokens, which refuses a trajectory that is too long."
            )
