"""Learning of an EXSEARCH run: the warm-up that makes round 0, and the M-step of every round (eq. 5)."""

import copy
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from torch import nn
from transformers import PrinterCallback, ProgressCallback

from rlft.em.options import EMOptions
from rlft.em.rounds import NothingToLearn
from rlft.em.rows import read_rows, training_rows, with_answer, write_rows
from rlft.em.stages import Round
from rlft.em.weighing import scored_alias
from rlft.em.weighted_sft import WeightedSFTTrainer
from rlft.record.callback import RecordCallback
from rlft.record.folder import write_whole
from rlft.record.jsonl import read_jsonl
from rlft.record.progress import ShortProgress
from rlft.rollouts.demonstration import demonstration
from rlft.trainers.exsearch_steps import SearchSteps, weight_options
from rlft.trainers.search_rolls import Row
from rlft.trainers.trust import TrustCallback

logger = logging.getLogger(__name__)

ROWS = "rows.arrow"

WEIGHT_FILES = (
    "adapter_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
)


class SearchLearning:
    """Warm-up and M-step.

    Args:
        steps: gives the weighed trajectories.
        callbacks: of every training.
    """

    def __init__(self, steps: SearchSteps, callbacks: Sequence[Any]):
        self.steps, self.rolls, self.args, self.callbacks = steps, steps.rolls, steps.args, list(callbacks)

    def start(self, current: Round, demonstrations: Dataset | None) -> None:
        """theta_0: the base, after supervised learning of demonstrations if there are any (section 4.1)."""
        model: Any = self.rolls.models.start(self.args.seed)
        if demonstrations is None:
            if PartialState().is_main_process:
                model.save_pretrained(str(current.folder))
                self.rolls.tokenizer.save_pretrained(str(current.folder))
            return
        plain = replace(EMOptions(), token_reduction="sum")  # equal weights and no mean: plain fine-tuning
        shown = (demonstration(row["messages"], self.rolls.frame) for row in demonstrations)
        self._write(current, (row for one in shown for row in training_rows(one, 1.0, 1.0, plain)))
        self._fit(model, current, epochs=self.args.warm_up_epochs)

    def gather(self, current: Round, rows: Sequence[Row]) -> None:
        """The weighed trajectories as rows to train on, in rows.arrow; rows.json counts what became of them.

        Raises:
            NothingToLearn: if no trajectory is left.
        """
        counts = Counter[str]()
        made = self._write(current, self.weighted_rows(current, rows, counts))
        if not made:
            raise NothingToLearn(
                f"round {current.number}: nothing is left to train on ({dict(counts)}). See "
                f"{current.folder}/weights.jsonl: a model that never finds the answer needs a warm-up; "
                "min_best_loglik or min_spread may be too strict."
            )
        dropped = sum(count for why, count in counts.items() if why.startswith("question dropped"))
        if 2 * dropped > sum(counts.values()):
            logger.warning("round %d: most questions were dropped: %s", current.number, dict(counts))
        if PartialState().is_main_process:
            write_whole(current.folder / "rows.json", json.dumps({"rows": made, **counts}, indent=1))

    def weighted_rows(self, current: Round, rows: Sequence[Row], counts: Counter[str]) -> Iterator[dict[str, Any]]:
        """Rows of the weighed trajectories; `counts` is filled with trajectories by what became of them.

        The gold answer that stands in a row is the one that its score came from.
        """
        options, weighed = weight_options(self.args), read_jsonl(current.folder / "weights.jsonl")
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
                gold = answers[scored_alias(loglik_A, list(map(len, answers)), options)]
                yield from training_rows(with_answer(trajectory, gold), weight, search, self.args)

    def learn(self, current: Round, origin: Round) -> None:
        """theta_t+1 = argmax sum_x sum_k w_k [log p(z_k | x) + log p(y | x, z_k)] (eq. 5)."""
        report = self._fit(self.rolls.model(origin.folder), current, epochs=self.args.num_train_epochs)
        if PartialState().is_main_process:
            write_whole(current.folder / "learn.json", json.dumps(report, indent=1))

    def _write(self, current: Round, rows: Iterator[dict[str, Any]]) -> int:
        """Have the main process write the rows; their number, in every process."""
        count = [write_rows(current.folder / ROWS, rows) if PartialState().is_main_process else 0]
        if PartialState().num_processes > 1:
            broadcast_object_list(count)
        return count[0]

    def _fit(self, model: nn.Module, current: Round, *, epochs: float) -> dict[str, float]:
        """Weighted fine-tuning on the round's rows from `model`, which is left changed, into the round's folder."""
        self.rolls.forget()
        args, scratch = copy.deepcopy(self.args), current.folder / "training"
        args.output_dir, args.num_train_epochs, args.seed = str(scratch), epochs, self.args.seed + current.number
        args.push_to_hub = False
        trust = TrustCallback()
        trainer = WeightedSFTTrainer(
            model=model,
            args=args,
            train_dataset=read_rows(current.folder / ROWS),
            processing_class=self.rolls.tokenizer,
            callbacks=[trust, RecordCallback(current.folder.parent, {"round": current.number}), *self.callbacks],
        )
        trainer.remove_callback(PrinterCallback if args.disable_tqdm else ProgressCallback)
        if not args.disable_tqdm:
            trainer.add_callback(ShortProgress(f"round {current.number}: learn"))
        trainer.train(resume_from_checkpoint=last_whole_checkpoint(scratch))
        trainer.save_model(str(current.folder))
        trainer.accelerator.wait_for_everyone()
        if trainer.accelerator.is_main_process:
            shutil.rmtree(scratch, ignore_errors=True)
        return trust.report


def last_whole_checkpoint(folder: Path) -> str | None:
    """The latest checkpoint that was written to its end: the Trainer writes its state last."""
    whole = [state.parent for state in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda checkpoint: int(checkpoint.name.rpartition("-")[2]))) if whole else None
