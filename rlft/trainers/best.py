"""The best checkpoint of a run by a held-out metric of the task, never by the training reward.

Transformers keeps the books: `metric_for_best_model` names the metric, `save_total_limit` spares the best checkpoint,
and `load_best_model_at_end` gives the trainer its weights back. `BestCheckpoint` adds that every new best is saved.
"""

import os
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from rlft.record.folder import write_whole
from rlft.record.jsonl import to_json

BEST = "best.json"


def metric_name(args: TrainingArguments) -> str | None:
    """`metric_for_best_model` as the log has it, `eval_...`; None if no metric is named."""
    name = args.metric_for_best_model
    return None if name is None else f"eval_{name.removeprefix('eval_')}"


class BestCheckpoint(TrainerCallback):
    """Saves a checkpoint whenever `metric_for_best_model` is better than ever; `best.json` says which is the best.

    `best.json` in the run folder: `{"metric", "value", "step", "checkpoint"}`, the checkpoint's folder relative to it.
    With `save_strategy="no"` nothing is saved.
    """

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Have a new best saved; the trainer compares with `state.best_metric` in the same way after this."""
        value = (metrics or {}).get(str(metric_name(args)))
        if value is None or args.save_strategy == SaveStrategy.NO:
            return
        better = state.best_metric is None or (value - state.best_metric) * (1 if args.greater_is_better else -1) > 0
        control.should_save |= better

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Point to the best checkpoint."""
        self._point(args, state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Point to the best one of a run that went on in this folder and saved none here."""
        self._point(args, state)

    def _point(self, args: TrainingArguments, state: TrainerState) -> None:
        if state.best_model_checkpoint is None or not state.is_world_process_zero:
            return
        content = {
            "metric": metric_name(args),
            "value": state.best_metric,
            "step": state.best_global_step,
            "checkpoint": os.path.relpath(state.best_model_checkpoint, str(args.output_dir)),
        }
        write_whole(Path(str(args.output_dir)) / BEST, to_json(content) + "\n")


def best_row(trainer: Any) -> list[tuple[str, str]]:
    """For the summary of a run: the best and the last value of the metric, and whose weights the trainer holds.

    Args:
        trainer: after training.

    Returns:
        A (label, value) pair, or none if the metric was never measured.
    """
    args, state, metric = trainer.args, trainer.state, metric_name(trainer.args)
    found = [(row["step"], row[metric]) for row in state.log_history if metric in row]
    if not found:
        return []
    step, value = (max if args.greater_is_better else min)(found, key=lambda pair: pair[1])
    best = state.best_model_checkpoint
    there = best is not None and Path(best).is_dir()
    kept = f"kept in {os.path.relpath(best, str(args.output_dir))}" if there else "of which no checkpoint is left"
    last = f"last: {found[-1][1]:.3f} at step {found[-1][0]}"
    loaded = there and args.load_best_model_at_end
    of = f"the best's (step {step})" if loaded else f"the last step's ({state.global_step})"
    label = f"best by dev {str(metric).removeprefix('eval_')}"
    return [(label, f"{value:.3f} at step {step}, {kept}; {last}\nsaved: {of}")]
