"""PrLM: GRPO of a policy that thinks about a user's past items, with a reward model of how personal the answer is.

Paper: "Learning Explicit Reasoning for Personalized RAG via Contrastive Reward Optimization", arXiv 2508.07342. Rewards
and weights: `prlm_rewards.py`. Advantages and loss are TRL's; with `credit="constant"`, the default, the run is plain
GRPO bit for bit, and any other token credit (`credit="shear"`) is one flag away. Beside TRL's metrics it logs

    prlm/variance_share/<reward>    its share of the advantage variance, and that of the covariance (`prlm_terms.py`)
    prlm/thinking_words             words before the closing tag
    prlm/parseable                  share of completions with an answer
    drift/...                       the reward model on fresh pairs of the policy (`prlm_drift.py`)

Shapes: B completions of this process, N of all.
"""

import copy
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from rlft import compat
from rlft.em.options import option
from rlft.evaluate.personal import thinking_words
from rlft.record.stages import digest
from rlft.resume.identity import FREE_TO_CHANGE
from rlft.reward_models.folder import trained_kinds
from rlft.reward_models.plugin import scorer_reward
from rlft.reward_models.scorer import Scorer
from rlft.rewards.personal import extract_answer
from rlft.trainers.prlm_drift import DriftCallback, FreshPairs
from rlft.trainers.prlm_options import PrLMOptions
from rlft.trainers.prlm_rewards import check_rows, prlm_rewards, reads_profile, weights_of
from rlft.trainers.prlm_terms import advantage_terms, variance_shares
from rlft.trainers.shear import SHEARConfig, SHEARTrainer

SCORER_FOLDER = "scorer"


@dataclass
class PrLMConfig(PrLMOptions, SHEARConfig):
    """`SHEARConfig` with PrLM's options and constant credit.

    `multi_objective_aggregation` is TRL's: `normalize_then_sum` gives every reward the same spread within a group
    before the weights apply.

    Raises:
        ValueError: for options that cannot work, before any model is loaded.
    """

    epsilon_high: float | None = option(None, "Upper clip range of the ratio; None is epsilon, as in the paper's code.")

    def __post_init__(self) -> None:
        self.check_prlm_options()
        super().__post_init__()


class PrLMTrainer(SHEARTrainer):
    """`SHEARTrainer` with PrLM's rewards, the shares of each in the advantages, and drift checks.

    The reward model's files are copied to `scorer/` in the run folder, so that it holds all that a run has learnt by.

    Args:
        model: as for `GRPOTrainer`.
        reward_funcs: None for PrLM's own, which read the columns `answer` (gold), `query` and, for an aware reward
            model, `profile_items` (the items in the prompt); or other TRL reward functions. Those named `rouge`,
            `think_format` and `personalization` have the configured weights and others 1, unless `reward_weights`
            is given.
        args: a `PrLMConfig`.
        train_dataset: rows with `prompt` and what the rewards read.
        eval_dataset: the same.
        fresh: what drift checks ask the policy; needed if `drift_steps` is above 0.
        **kwargs: everything else `GRPOTrainer` takes.

    Raises:
        ValueError: for options that do not go together, before a model is loaded.
        ScorerError: if the reward model's folder cannot be used.
        rlft.rewards.RewardError: before a model is loaded, if the rows cannot feed the rewards; during training, if a
            reward breaks its contract.
    """

    free_to_change = FREE_TO_CHANGE | {"scorer", "drift_steps", "drift_threshold", "drift_stop"}

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: PrLMConfig | None = None,
        *,
        train_dataset: Any,
        eval_dataset: Any = None,
        fresh: FreshPairs | None = None,
        **kwargs: Any,
    ):
        args = copy.copy(args) if args else PrLMConfig(output_dir="prlm")  # a copy, since weights are filled in
        if args.drift_steps and args.scorer is None:
            raise ValueError(f"drift_steps={args.drift_steps} checks a reward model, and there is none: set --scorer.")
        if args.drift_steps and fresh is None:
            raise ValueError(f"drift_steps={args.drift_steps} needs rows to ask the policy about: give `fresh`.")
        own, aware = reward_funcs is None, reads_profile(args.scorer)
        rewards = prlm_rewards(args) if own else reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
        args.reward_weights = weights_of(rewards, args)
        texts = ("answer", *(["query"] if args.scorer else [])) if own else ()
        for name, rows in (("train_dataset", train_dataset), ("eval_dataset", eval_dataset)):
            if kwargs.get("rollout_func") is None:  # which may add columns
                check_rows(rows, name, rewards, texts=texts, aware=aware and own)
        scorer = Scorer.load(args.scorer, device=args.device) if args.scorer and (own or args.drift_steps) else None
        if own and scorer is not None:  # one model for rewards and checks
            answer = {"key": args.answer_key, "think_end": args.think_end}
            rewards[-1] = scorer_reward(scorer, no_answer=args.no_answer, **answer)
        super().__init__(model, rewards, args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)
        if args.scorer is not None:
            self.add_callback(_KeptScorer(Path(args.scorer)))
        if args.drift_steps and scorer is not None and fresh is not None:
            self.add_callback(DriftCallback(self, scorer, fresh, trained_kinds(str(args.scorer))))

    def identity(self) -> dict[str, Any]:
        """As of every trainer; a reward model is known by its files, wherever they lie."""
        folder = Path(self.args.scorer) if self.args.scorer is not None else None
        files = sorted(folder.glob("*.safetensors")) if folder else []
        return super().identity() | {"reward model": {file.name: digest(file) for file in files}}

    def annotate(self, inputs: list[dict[str, Any]], rollouts: compat.Rollouts) -> compat.Rollouts:
        """Token credit, and metrics of one generation batch."""
        rollouts = super().annotate(inputs, rollouts)
        if self.model.training:
            metrics = self._variance_shares(len(inputs)) | self._text_metrics(rollouts)
            for name, value in metrics.items():
                compat.log_metric(self, f"prlm/{name}", value)
        return rollouts

    def _variance_shares(self, count: int) -> dict[str, float]:
        rewards_NF = compat.rewards_of(self, count * self.accelerator.num_processes)
        terms_NF = advantage_terms(
            rewards_NF, self.reward_weights, self.num_generations, self.multi_objective_aggregation, self.scale_rewards
        )
        shares = variance_shares(terms_NF, self.reward_func_names)
        return {f"variance_share/{name}": share for name, share in shares.items()}

    def _text_metrics(self, rollouts: compat.Rollouts) -> dict[str, float]:
        """Means over the completions of all processes."""
        key, tag = self.args.answer_key, self.args.think_end
        texts = self.processing_class.batch_decode(rollouts["completion_ids"], skip_special_tokens=True)
        parseable = sum(extract_answer(text, key, tag) is not None for text in texts)
        words = sum(thinking_words(text, tag) for text in texts) if tag is not None else 0
        sums = torch.tensor([parseable, words, len(texts)], dtype=torch.float32, device=self.accelerator.device)
        parseable, words, count = self.accelerator.reduce(sums, "sum").tolist()
        return {"parseable": parseable / count} | ({"thinking_words": words / count} if tag is not None else {})


class _KeptScorer(TrainerCallback):
    """Copies the reward model's files into the run folder when training begins."""

    def __init__(self, folder: Path):
        self.folder = folder

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        target = Path(args.output_dir) / SCORER_FOLDER
        if not state.is_world_process_zero or target.resolve() == self.folder.resolve():
            return
        target.mkdir(parents=True, exist_ok=True)
        for file in (found for found in self.folder.iterdir() if found.is_file()):
            shutil.copyfile(file, target / file.name)
