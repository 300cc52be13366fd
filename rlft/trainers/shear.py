"""SHEAR: GRPO whose token advantages are scaled by span-level Wasserstein distance between hidden states.

Paper: "Hidden States Know Where Reasoning Diverges: Credit Assignment via Span-Level Wasserstein Distance",
arXiv 2604.23318. For each group of rollouts of one prompt, with GRPO advantage A_i (eq. 1):

    A~_{i,t} = A_i * omega_{i,t}            omega: rlft/credit/shear.py

The trainer adds one thing to TRL's `GRPOTrainer`: after rewards and advantages are known and before TRL shuffles and
splits the batch, `advantages` (B,) become `advantages * weights` (B, T). TRL's loss does the rest. `credit="constant"`
is plain GRPO bit for bit; any other credit function of the same contract trains through the same lines.

States come from TRL's own scoring forward when it makes one, else from one extra forward without gradients.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from trl import GRPOConfig

from rlft import compat
from rlft.credit import load_credit
from rlft.credit.answer import answer_start
from rlft.credit.balance import credit_metrics
from rlft.credit.batch import Outcomes, TokenRows, groups_among, spread
from rlft.credit.group import Credit, checked_weights, needs
from rlft.credit.hidden import HiddenTap, drops_out
from rlft.credit.options import CreditOptions
from rlft.credit.shear import shear
from rlft.record.folder import record_dir
from rlft.record.rollouts import RolloutLog
from rlft.rewards import checked, refuse_unscored_groups
from rlft.rewards.loading import refuse_same_names
from rlft.trainers.rollout_rows import rollout_rows


@dataclass
class SHEARConfig(CreditOptions, GRPOConfig):
    """`trl.GRPOConfig` plus the options of token credit; defaults are the paper's where it states them.

    Raises:
        ValueError: on options that cannot work together, before any model is loaded.
    """

    epsilon_high: float | None = field(
        default=0.28, metadata={"help": "Upper clip range of the ratio (the paper clips to [0.8, 1.28])."}
    )

    def __post_init__(self) -> None:
        self.check_credit_options()
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


class SHEARTrainer(compat.AnnotatingGRPOTrainer):
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
    """

    args: Any  # a SHEARConfig; transformers types it as its own base class

    def __init__(self, model: Any, reward_funcs: Any = None, args: SHEARConfig | None = None, **kwargs: Any):
        compat.refuse_own_loss(type(self))
        args = args or SHEARConfig(output_dir="shear")
        self.credit = _credit_of(args)
        self.credit_needs = needs(self.credit)
        self._states: Tensor | None = None
        self._tap_armed = False
        super().__init__(model, reward_funcs=_checked_all(reward_funcs, args.reward_timeout), args=args, **kwargs)
        unwrapped = self.accelerator.unwrap_model(self.model)
        self.tap = HiddenTap(unwrapped, args.hidden) if "hidden" in self.credit_needs else None
        self.rollout_log: RolloutLog | None = None
        if args.record_rollouts:
            self.rollout_log = RolloutLog(record_dir(str(args.output_dir)), args.process_index)

    def annotate(self, inputs: list[dict[str, Any]], rollouts: compat.Rollouts) -> compat.Rollouts:
        """A~ = A * omega for one generation batch (training only; evaluation has no use for credit)."""
        if not self.model.training:
            return rollouts
        started = time.perf_counter()
        first, count = self.accelerator.process_index * len(inputs), len(inputs)
        outcomes = self._outcomes(count * self.accelerator.num_processes)
        rows = self._token_rows(rollouts, first)
        whole = rows.whole_groups(self.accelerator, self.num_generations)
        groups = groups_among(whole, outcomes, self.num_generations, first, count)
        weighed = {number: (group, checked_weights(self.credit, group)) for number, group in groups}
        weights_BT = spread(weighed, rows.mask_BT, self.num_generations, first)
        rollouts["advantages"] = rollouts["advantages"].unsqueeze(1) * weights_BT

        answered_for = (pair for number, pair in weighed.items() if number * self.num_generations >= first)
        for name, value in credit_metrics(answered_for, self.accelerator).items():
            compat.log_metric(self, f"shear/{name}", value)
        compat.log_metric(self, "shear/credit_seconds", time.perf_counter() - started)
        if self.rollout_log is not None:
            self.rollout_log.append(rollout_rows(self, rollouts, weights_BT * rows.mask_BT, outcomes, first))
        return rollouts

    @contextmanager
    def generation_stage(self) -> Iterator[None]:
        """Arm the tap for the first scoring forward of this batch: the policy's, if TRL makes one.

        TRL scores in training mode, so dropout would blur its states; then the forward of ours is used.
        """
        self._states = None
        self._tap_armed = self.tap is not None and self.model.training and not drops_out(self.tap.backbone)
        try:
            yield
        finally:
            self._tap_armed = False

    @contextmanager
    def scoring_forward(self, completion_length: int) -> Iterator[None]:
        """Collect states if armed, once: a later forward of the stage may be the reference policy's."""
        if not self._tap_armed or self.tap is None:
            yield
            return
        self._tap_armed = False
        with self.tap.capture(completion_length) as chunks:
            yield
        self._states = torch.cat(chunks) if chunks else None

    def _outcomes(self, rows: int) -> Outcomes:
        rewards_NF = compat.rewards_of(self, rows)
        prompts = compat.prompts_of(self, rows)
        refuse_unscored_groups(rewards_NF, self.num_generations, self.reward_func_names, prompts)
        rewards_N = (rewards_NF * self.reward_weights.cpu()).nansum(1)
        rewards_N[rewards_NF.isnan().all(1)] = torch.nan
        return Outcomes(
            rewards_NF, rewards_N, rewards_N >= self.args.correct_threshold, compat.advantages_of(self, rows)
        )

    def _token_rows(self, rollouts: compat.Rollouts, first: int) -> TokenRows:
        mask_BT = rollouts["completion_mask"] * rollouts.get("tool_mask", 1)
        ids_BT = rollouts["completion_ids"]
        starts_B1 = None
        if self.args.exclude_answer:
            tokens = [ids[mask].tolist() for ids, mask in zip(ids_BT, mask_BT.bool(), strict=True)]
            starts = [answer_start(ids, self.processing_class, self.args.answer_marker) for ids in tokens]
            starts_B1 = torch.tensor(starts, device=ids_BT.device).unsqueeze(1)
        return TokenRows(
            ids_BT=ids_BT,
            mask_BT=mask_BT,
            hidden_BTH=self._hidden_states(rollouts) if "hidden" in self.credit_needs else None,
            entropy_BT=compat.token_entropies(self, rollouts) if "entropy" in self.credit_needs else None,
            answer_start_B1=starts_B1,
            first=first,
        )

    def _hidden_states(self, rollouts: compat.Rollouts) -> Tensor:
        """(B, T, H) from TRL's scoring forward, or from one forward of ours if TRL made none of the policy."""
        states, self._states = self._states, None
        if states is not None and "old_per_token_logps" in rollouts:
            return states
        assert self.tap is not None
        with self.tap.capture(rollouts["completion_ids"].size(1)) as chunks:
            compat.policy_forward(self, rollouts)
        return torch.cat(chunks)


def _credit_of(args: SHEARConfig) -> Credit:
    credit = load_credit(args.credit)
    if credit is not shear:
        return credit
    names = ("window", "stride", "distance", "normalize", "mix")
    bound: Any = partial(shear, **{name: getattr(args, name) for name in names})
    bound.needs, bound.__name__ = needs(shear), "shear"
    return bound


def _checked_all(reward_funcs: Any, timeout: float) -> list[Any] | None:
    """Every reward behind the boundary check; None (an environment gives the reward) stays None."""
    if reward_funcs is None:
        return None
    functions: Sequence[Any] = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
    refuse_same_names(functions)
    return [checked(function, timeout=timeout) for function in functions]
