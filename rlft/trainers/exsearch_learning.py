"""Learning of an EXSEARCH run: the warm-up that makes round 0, and the M-step of every round (eq. 5)."""

import copy
import json
import logging
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from torch import nn
from transformers import PrinterCallback, ProgressCallback

from rlft.em.rows import training_rows, with_answer
from rlft.em.stages import Round
from rlft.em.weighted_sft import WeightedSFTTrainer
from rlft.record.callback import RecordCallback
from rlft.record.folder import write_whole
from rlft.record.jsonl import read_jsonl
from rlft.record.progress import ShortProgress
from rlft.rollouts.demonstration import demonstration
from rlft.trainers.exsearch_steps import SearchSteps
from rlft.trainers.search_rolls import Row
from rlft.trainers.trust import TrustCallback

logger = logging.getLogger(__name__)

WEIGHT_FILES = (
    "adapter_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
)


class NothingToLearn(RuntimeError):
    """A round in which no trajectory is left to train on."""


class SearchLearning:
    """Warm-up and M-step.

    Args:
        steps: gives the weighed trajectories.
        callbacks: of every training.
    """

    def __init__(self, steps: SearchSteps, callbacks: Sequence[Any]):
        self.steps, self.rolls, self.args, self.callbacks = steps, steps.rolls, steps.args, list(callbacks)
        self.reports: dict[int, dict[str, float]] = {}

    def start(self, current: Round, demonstrations: Dataset | None) -> None:
        """theta_0: the base, after supervised learning of demonstrations if there are any (section 4.1)."""
        model: Any = self.rolls.models.start(self.args.seed)
        if demonstrations is None:
            if PartialState().is_main_process:
                model.save_pretrained(str(current.folder))
            return
        settings = copy.copy(self.args)
        settings.token_reduction = "sum"  # with equal weights: plain fine-tuning, a mean over all tokens
        rows = [
            made
            for row in demonstrations
            for made in training_rows(demonstration(row["messages"], self.rolls.frame), 1.0, 1.0, settings)
        ]
        self._fit(model, rows, current, epochs=self.args.warm_up_epochs)

    def learn(self, current: Round, origin: Round, rows: Sequence[Row]) -> None:
        """theta_t+1 = argmax sum_x sum_k w_k [log p(z_k | x) + log p(y | x, z_k)] (eq. 5).

        Raises:
            NothingToLearn: if no trajectory is left.
        """
        made, counts = self.weighted_rows(current, rows)
        if not made:
            raise NothingToLearn(
                f"round {current.number}: nothing is left to train on ({counts}). See {current.folder}/weights.jsonl: "
                "a model that never finds the answer needs a warm-up; min_best_loglik or min_spread may be too strict."
            )
        dropped = sum(count for why, count in counts.items() if why.startswith("question dropped"))
        if 2 * dropped > sum(counts.values()):
            logger.warning("round %d: most questions were dropped: %s", current.number, counts)
        model = self.rolls.model(origin.folder)
        self._fit(model, made, current, epochs=self.args.num_train_epochs)
        if PartialState().is_main_process:
            write_whole(current.folder / "learn.json", json.dumps({**counts, **self.reports[current.number]}, indent=1))

    def weighted_rows(self, current: Round, rows: Sequence[Row]) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """Rows of the weighed trajectories, and trajectories by what became of them.

        The gold answer that stands in a row is the one its score came from: the first, or the likeliest.
        """
        made: list[dict[str, Any]] = []
        counts = Counter[str]()
        weighed = read_jsonl(current.folder / "weights.jsonl")
        for (row, trajectories, logliks), question in zip(self.steps.scored(current, rows), weighed, strict=True):
            if question["dropped"]:
                counts[f"question dropped: {question['dropped']}"] += len(trajectories)
                continue
            answers = self.steps.answers(row)
            shares = zip(trajectories, logliks, question["weights_K"], question["search_K"], strict=True)
            for trajectory, loglik_A, weight, search in shares:
                if max(abs(weight), abs(search)) <= self.args.min_weight:
                    counts["weight up to min_weight"] += 1
                    continue
                counts["trained on"] += 1
                best = 0 if self.args.aliases == "first" else loglik_A.index(max(loglik_A))
                made += training_rows(with_answer(trajectory, answers[best]), weight, search, self.args)
        return made, dict(counts)

    def _fit(self, model: nn.Module, rows: Sequence[Mapping[str, Any]], current: Round, *, epochs: float) -> None:
        """Weighted fine-tuning from `model`, which is left changed, into the round's folder."""
        self.rolls.forget()
        args, scratch = copy.deepcopy(self.args), current.folder / "training"
        args.output_dir, args.num_train_epochs, args.seed = str(scratch), epochs, self.args.seed + current.number
        trust = TrustCallback()
        trainer = WeightedSFTTrainer(
            model=model,
            args=args,
            train_dataset=Dataset.from_list([dict(row) for row in rows]),
            processing_class=self.rolls.tokenizer,
            callbacks=[trust, RecordCallback(current.folder.parent, {"round": current.number}), *self.callbacks],
        )
        trainer.remove_callback(PrinterCallback if args.disable_tqdm else ProgressCallback)
        if not args.disable_tqdm:
            trainer.add_callback(ShortProgress(f"round {current.number}: learn"))
        trainer.train(resume_from_checkpoint=last_whole_checkpoint(scratch))
        trainer.save_model(str(current.folder))
        self.reports[current.number] = trust.report
        trainer.accelerator.wait_for_everyone()
        if trainer.accelerator.is_main_process:
            shutil.rmtree(scratch, ignore_errors=True)


def last_whole_checkpoint(folder: Path) -> str | None:
    """The latest checkpoint that was written to its end: the Trainer writes its state last."""
    whole = [state.parent for state in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda checkpoint: int(checkpoint.name.rpartition("-")[2]))) if whole else None
