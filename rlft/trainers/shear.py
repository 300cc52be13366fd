"""SHEAR: GRPO whose token advantages are scaled by span-level Wasserstein distance between hidden states.

Paper: "Hidden States Know Where Reasoning Diverges: Credit Assignment via Span-Level Wasserstein Distance",
arXiv 2604.23318. For each group of rollouts of one prompt, with GRPO advantage A_i (eq. 1):

    A~_{i,t} = A_i * omega_{i,t}            omega: rlft/credit/shear.py

The trainer adds one thing to TRL's `GRPOTrainer`: after rewards and advantages are known and before TRL shuffles and
splits the batch, `advantages` (B,) become `advantages * weights` (B, T). TRL's loss does the rest. `credit="constant"`
is plain GRPO bit for bit; any other credit function of the same contract trains through the same lines.

Where the states come from: rlft/trainers/states.py. If it is the loss's own forward, the weights are computed at the
moment in which TRL's loss reads `advantages`, which it does after that forward.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from trl import GRPOConfig

from rlft import compat
from rlft.credit import load_credit
from rlft.credit.answer import answer_start
from rlft.credit.batch import Outcomes, Row, spread, token_rows
from rlft.credit.group import Credit, needs
from rlft.credit.options import CreditOptions
from rlft.credit.shear import shear
from rlft.credit.weigh import credit_metrics, groups_to_weigh, weigh
from rlft.health.options import HealthOptions
from rlft.record.folder import record_dir
from rlft.record.rollouts import RolloutLog
from rlft.resume.trainer import Resumable
from rlft.rewards import checked, refuse_unscored_groups
from rlft.rewards.loading import refuse_same_names
from rlft.trainers.health import HealthCallback
from rlft.trainers.late_advantages import ORDER, GenerationBatch, LateAdvantages
from rlft.trainers.rollout_rows import rollout_rows
from rlft.trainers.states import PolicyStates, refuse_states

logger = logging.getLogger(__name__)


@dataclass
class SHEARConfig(CreditOptions, HealthOptions, GRPOConfig):
    """`trl.GRPOConfig` plus the options of token credit and health; defaults are the paper's where it states them.

    Raises:
        ValueError: on options that cannot work together, before any model is loaded.
    """

    epsilon_high: float | None = field(
        default=0.28, metadata={"help": "Upper clip range of the ratio (the paper clips to [0.8, 1.28])."}
    )

    def __post_init__(self) -> None:
        self.check_credit_options()
        self.check_health_options()
        try:
            super().__post_init__()
        except ValueError as error:
            if "divisible by num_generations" not in str(error):
                raise
            raise ValueError(
                f"{error} A batch counts completions: per_device_train_batch_size={self.per_device_train_batch_size} x "
                f"processes x steps_per_generation must be a multiple of num_generations={self.num_generations}."
            ) from error
        if self.importance_sampling_level == "sequence" and self.credit != "constant":
            raise ValueError(
                f"importance_sampling_level='sequence' gives all tokens of a completion one ratio, so credit="
                f"{self.credit!r} would only act through its mean; use 'token', or --credit constant."
            )
        refuse_states(self)


class SHEARTrainer(Resumable, compat.AnnotatingGRPOTrainer):
    """`trl.GRPOTrainer` with token credit.

    Args:
        model: as for `GRPOTrainer`.
        reward_funcs: plain TRL reward functions, models or Hub ids, or None if an environment gives the reward;
            functions are checked at the boundary (count, type, finiteness, time).
        args: a `SHEARConfig`.
        **kwargs: everything else `GRPOTrainer` takes (`train_dataset`, `peft_config`, `rollout_func`, `tools`, ...).

    Raises:
        ValueError: if a subclass replaces the loss.
        rlft.rewards.RewardError: during training, if a reward function breaks its contract.
        rlft.credit.CreditError: during training, if the credit function breaks its contract.
        rlft.trainers.health.HealthError: during training, if weights are no longer finite, or by `on_alarm="stop"`.
    """

    args: Any  # a SHEARConfig; transformers types it as its own base class
    task_metrics: Callable[[], Mapping[str, float]] | None = None
    """What `evaluate` measures, on every process; None leaves it TRL's evaluation, which is of the rewards."""

    def __init__(self, model: Any, reward_funcs: Any = None, args: SHEARConfig | None = None, **kwargs: Any):
        compat.refuse_own_loss(type(self))
        args = args or SHEARConfig(output_dir="shear")
        self.credit = _credit_of(args)
        self.credit_needs = needs(self.credit)
        super().__init__(model, reward_funcs=_checked_all(reward_funcs, args.reward_timeout), args=args, **kwargs)
        self.states: PolicyStates | None = None
        if "hidden" in self.credit_needs:
            self.states = PolicyStates(self, args.hidden, args.states)
        self.add_callback(HealthCallback(self, args.on_alarm))
        self._waiting: GenerationBatch | None = None
        self._one_span_told = self.args.credit != "shear"
        self.rollout_log: RolloutLog | None = None
        if args.record_rollouts:
            self.rollout_log = RolloutLog(record_dir(str(args.output_dir)), args.process_index)

    def annotate(self, inputs: list[dict[str, Any]], rollouts: compat.Rollouts) -> compat.Rollouts:
        """A~ = A * omega for one generation batch (training only; evaluation has no use for credit)."""
        if not self.model.training:
            return rollouts
        started = time.perf_counter()
        outcomes = self._outcomes(len(inputs) * self.accelerator.num_processes)
        mask_BT = (rollouts["completion_mask"] * rollouts.get("tool_mask", 1)).bool()
        entropy_BT = compat.token_entropies(self, rollouts) if "entropy" in self.credit_needs else None
        batch = GenerationBatch(rollouts, outcomes, mask_BT, entropy_BT)
        hidden = self.states.of(rollouts, mask_BT, self._wanted(outcomes)) if self.states else None
        batch.seconds = time.perf_counter() - started
        if self.states and hidden is None:
            self._waiting = batch
            rollouts[ORDER] = torch.arange(len(inputs), device=mask_BT.device)
        else:
            self._give_credit(batch, hidden)
        return rollouts

    def loss_inputs(self, inputs: compat.Rollouts) -> compat.Rollouts:
        """If the weights wait for this loss's states: the micro-batch without advantages until they are read."""
        batch, self._waiting = self._waiting, None
        if batch is None or self.states is None:
            return inputs
        order_B, states = inputs[ORDER], self.states

        def advantages() -> Tensor:
            started = time.perf_counter()
            hidden = states.of_loss(order_B, batch.mask_BT, self._wanted(batch.outcomes))
            batch.seconds += time.perf_counter() - started
            self._give_credit(batch, hidden)
            return batch.rollouts["advantages"][order_B]

        return LateAdvantages(inputs, advantages)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Metrics of the task if `task_metrics` is set and no rows are given, else TRL's; training is not disturbed."""
        if self.task_metrics is None or eval_dataset is not None:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.task_metrics().items()}
        self.model.eval()  # or TRL would log averages of training here; the next step begins with model.train()
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def generation_stage(self) -> AbstractContextManager[Any]:
        """States of this batch may be tapped while it is sampled and scored."""
        return self.states.batch() if self.states else nullcontext()

    def sampling(self) -> AbstractContextManager[Any]:
        """States may be tapped from decoding."""
        return self.states.sampling() if self.states else super().sampling()

    def scoring_forward(self, completion_length: int) -> AbstractContextManager[Any]:
        """States may be tapped from this forward."""
        return self.states.scoring(completion_length) if self.states else nullcontext()

    def _wanted(self, outcomes: Outcomes) -> Tensor:
        """Which of the N rows belong to groups that the credit function is asked about."""
        wanted_N = torch.zeros(len(outcomes.correct_N), dtype=torch.bool)
        wanted_N.view(-1, self.num_generations)[groups_to_weigh(self.credit, outcomes, self.num_generations)] = True
        return wanted_N

    def _give_credit(self, batch: GenerationBatch, hidden: dict[int, Tensor] | None) -> None:
        """Weights of one generation batch: into its advantages, the metrics and the record."""
        started = time.perf_counter()
        rollouts, outcomes, mask_BT = batch.rollouts, batch.outcomes, batch.mask_BT
        rollouts.pop(ORDER, None)
        rows = token_rows(rollouts["completion_ids"], mask_BT, hidden, batch.entropy_BT, self._answer_starts(batch))
        self._tell_of_one_span(rows)
        weighed = weigh(self.credit, rows, outcomes, self.num_generations, self.accelerator)
        for name, value in credit_metrics(weighed, outcomes, self.num_generations, self.accelerator).items():
            compat.log_metric(self, f"shear/{name}", value)
        weights_BT = spread(weighed.weights, mask_BT)
        rollouts["advantages"] = rollouts["advantages"].unsqueeze(1) * weights_BT
        compat.log_metric(self, "shear/credit_seconds", batch.seconds + time.perf_counter() - started)
        if self.rollout_log is not None:
            first = self.accelerator.process_index * len(rows)
            self.rollout_log.append(rollout_rows(self, rollouts, weights_BT * mask_BT, outcomes, first))

    def _tell_of_one_span(self, rows: Sequence[Row]) -> None:
        """Warn once if no rollout of a batch is longer than a span: then all tokens of a rollout weigh the same."""
        longest = max(len(row.ids_T) for row in rows)
        if longest <= self.args.window and not self._one_span_told:
            self._one_span_told = True
            logger.warning(
                "SHEAR tells no token of a rollout from another: the longest has %d tokens, a span window=%d. Set "
                "--window and --stride to a fraction of a completion.",
                longest,
                self.args.window,
            )

    def _outcomes(self, rows: int) -> Outcomes:
        rewards_NF = compat.rewards_of(self, rows)
        prompts = compat.prompts_of(self, rows)
        refuse_unscored_groups(rewards_NF, self.num_generations, self.reward_func_names, prompts)
        rewards_N = (rewards_NF * self.reward_weights.cpu()).nansum(1)
        rewards_N[rewards_NF.isnan().all(1)] = torch.nan
        return Outcomes(
            rewards_NF, rewards_N, rewards_N >= self.args.correct_threshold, compat.advantages_of(self, rows)
        )

    def _answer_starts(self, batch: GenerationBatch) -> list[int] | None:
        if not self.args.exclude_answer:
            return None
        completions = zip(batch.rollouts["completion_ids"], batch.mask_BT, strict=True)
        tokens = [ids_T[mask_T].tolist() for ids_T, mask_T in completions]
        return [answer_start(ids, self.processing_class, self.args.answer_marker) for ids in tokens]


def _credit_of(args: SHEARConfig) -> Credit:
    credit = load_credit(args.credit)
    if credit is not shear:
        return credit
    names = ("window", "stride", "distance", "tolerance", "normalize", "mix")
    bound: Any = partial(shear, **{name: getattr(args, name) for name in names})
    bound.needs, bound.mixed_only, bound.__name__ = needs(shear), True, "shear"
    return bound


def _checked_all(reward_funcs: Any, timeout: float) -> list[Any] | None:
    """Every reward behind the boundary check; None (an environment gives the reward) stays None."""
    if reward_funcs is None:
        return None
    functions: Sequence[Any] = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
    refuse_same_names(functions)
    return [checked(function, timeout=timeout) for function in functions]
