"""Is the reward model still right about the policy as it is now? Fresh pairs, every N steps (PrLM, arXiv 2508.07342).

A reward model is trained on the text of the policy before training and then sees other text with every step. A check
lets the policy answer each row with its user's profile, without one and with another user's, and measures how often the
first answer scores highest (`rlft.reward_models.check_drift`) and how much a score depends on whose profile stands
beside the answer (`swap_gap`). Draws have seeds of their own: a run with checks trains bit for bit like one without.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlft import compat
from rlft.processes import each_its_share, from_main
from rlft.reward_models.answers import Prompt, policy_answers
from rlft.reward_models.audit import Drift, check_drift, swap_gap
from rlft.reward_models.pair_file import KINDS, Pair
from rlft.reward_models.pairs import BuiltPairs, Chooser, PairOptions, build_pairs
from rlft.reward_models.scorer import Scorer
from rlft.rewards import RewardError
from rlft.rewards.personal import extract_answer
from rlft.rollouts.policy import Sampling, seed_of
from rlft.rollouts.transformers_policy import TransformersPolicy

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FreshPairs:
    """What a check asks the policy: rows of two users or more, best users that no reward model was trained on.

    Raises:
        ValueError: if there are no rows.
    """

    rows: Sequence[Mapping[str, Any]]
    """`{id, user_id, query, profile, gold}`, as `rlft.data.lamp` reads them."""
    prompt: Prompt
    """The prompt builder of training, such as `ProfilePrompt(...).messages`."""
    choose: Chooser
    """Which items of a profile are shown."""
    options: PairOptions = field(default_factory=lambda: PairOptions(negatives=("none", "swap")))
    """How pairs are built from the answers."""

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("a drift check needs rows to ask the policy about, and there are none.")

    def build(self, trainer: Any, step: int) -> BuiltPairs:
        """Pairs of the trainer's current policy, the same on every process, which all call this.

        Answers are drawn by transformers at the temperature, top_p and top_k of training.

        Args:
            trainer: a `PrLMTrainer`.
            step: the optimiser step; other steps draw other answers.
        """
        args = trainer.args
        pad_id, stop_ids = compat.pad_and_stop_ids(trainer)
        with compat.generation_model(trainer) as model:
            sample = policy_answers(
                TransformersPolicy(model, stop_ids, pad_id, args.per_device_eval_batch_size),
                trainer.processing_class,
                self.prompt,
                partial(extract_answer, key=args.answer_key, think_end=args.think_end),
                sampling=Sampling(args.temperature, args.top_p, args.top_k),
                max_new_tokens=args.max_completion_length,
                template_kwargs=args.chat_template_kwargs,
                seed=seed_of(args.seed, "drift", step),
            )
            return build_pairs(self.rows, lambda asks: each_its_share(asks, sample), self.choose, self.options)


@dataclass(frozen=True)
class DriftCheck:
    """What one check found."""

    step: int
    drift: Drift | None
    """None where no pair could be built: the policy gives no answers, or the same with every profile."""
    swap_gap: float | None
    """Mean of s(own profile) - s(another user's); None where the pairs are one user's."""
    counts: dict[str, int]
    """Of `build_pairs`, and `too_long`: pairs that the reward model has no room for."""

    @property
    def alarm(self) -> bool:
        """Whether the reward model no longer tells the policy's answers apart, or there is nothing to tell apart."""
        return self.drift is None or self.drift.alarm

    @property
    def message(self) -> str:
        """For a log."""
        if self.drift is None:
            counts = ", ".join(f"{count} {reason}" for reason, count in self.counts.items())
            return f"reward model at step {self.step}: no pair of the policy's answers can be built ({counts})"
        return f"reward model at step {self.step}: {self.drift.message}"

    @property
    def metrics(self) -> dict[str, float]:
        """For the training log."""
        found: dict[str, float] = {"drift/pairs": self.counts["pairs"], "drift/alarm": float(self.alarm)}
        if self.drift is not None:
            found |= {
                f"drift/accuracy{'' if kind == 'all' else f'_{kind}'}": share
                for kind, share in self.drift.accuracy.items()
            }
        return found if self.swap_gap is None else found | {"drift/swap_gap": self.swap_gap}


class DriftCallback(TrainerCallback):
    """Checks the reward model before the first step and every `drift_steps` steps; warns, and stops if told to.

    Args:
        trainer: a `PrLMTrainer`.
        scorer: the reward model.
        fresh: what the policy is asked.
        kinds: of rejected answers that decide on the alarm; those that the reward model was trained to tell.

    Attributes:
        history: all checks so far.

    Raises:
        ValueError: under FSDP, which keeps no whole model to sample from.
        rlft.rewards.RewardError: with `drift_stop`, if the alarm goes off before the first step.
    """

    def __init__(self, trainer: Any, scorer: Scorer, fresh: FreshPairs, kinds: Sequence[str] = KINDS):
        if trainer.is_fsdp_enabled:
            raise ValueError("a drift check samples the policy, which FSDP leaves in pieces; set --drift_steps 0.")
        self.trainer, self.scorer, self.fresh, self.kinds = trainer, scorer, fresh, kinds
        self.history: list[DriftCheck] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """What later checks are to be compared with; a resumed run has it in its record."""
        if state.global_step:
            return
        check = self.check(0)
        self.trainer.log(check.metrics)
        if check.alarm and self.trainer.args.drift_stop:
            raise RewardError(f"{check.message}. This is before the first step: train another, or set --drift_stop no.")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Check, if it is time."""
        if state.global_step % self.trainer.args.drift_steps:
            return
        check = self.check(state.global_step)
        for name, value in check.metrics.items():
            compat.log_metric(self.trainer, name, value)
        control.should_training_stop |= check.alarm and self.trainer.args.drift_stop

    def check(self, step: int) -> DriftCheck:
        """Check now, on all processes."""
        built = self.fresh.build(self.trainer, step)
        main = self.trainer.accelerator.is_main_process
        found: Any = self._judge(built, step) if main else None
        check: DriftCheck = from_main(found)  # or a last digit could stop some processes and not others
        self.history.append(check)
        if check.alarm and main:
            logger.warning("DRIFT ALARM: %s", check.message)
        return check

    def _judge(self, built: BuiltPairs, step: int) -> DriftCheck:
        pairs = _fitting(self.scorer, built.pairs)
        counts = built.counts | {"too_long": len(built.pairs) - len(pairs), "pairs": len(pairs)}
        if not pairs:
            return DriftCheck(step, None, None, counts)
        drift = check_drift(self.scorer, pairs, self.trainer.args.drift_threshold, self.kinds)
        try:
            gap = swap_gap(self.scorer, pairs, self.fresh.options.seed)["mean"]
        except ValueError as error:
            logger.warning("drift check at step %d: no swap gap: %s", step, error)
            gap = None
        return DriftCheck(step, drift, gap, counts)


def _fitting(scorer: Scorer, pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs all of whose answers the reward model has room for."""
    texts = [(place, answer) for place, pair in enumerate(pairs) for answer in (pair.chosen, *pair.rejected)]
    queries, profiles = [pairs[place].query for place, _ in texts], [pairs[place].profile for place, _ in texts]
    scores = scorer.score_what_fits(queries, profiles, [answer for _, answer in texts])
    unfit = {place for (place, _), score in zip(texts, scores, strict=True) if score is None}
    return [pair for place, pair in enumerate(pairs) if place not in unfit]
