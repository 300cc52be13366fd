"""The private names of transformers and TRL around checkpoints: what a trainer forgets when it is killed.

transformers saves weights, optimiser, scheduler, random states and the number of steps. A trainer that goes on has
forgotten the rollouts it was in the middle of using (TRL keeps a generation batch over several optimiser steps), the
metrics and the loss since the last log, and how often TRL's sampler has shuffled. `CheckpointSeams` gives the places
where that is saved and restored public names.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.trainer_utils import rotate_checkpoints
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

_LOSS = ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged", "_initial_global_step", "_total_train_tokens")
_GENERATION = ("_step", "_buffered_inputs")
_TABLE = ("prompt", "completion", "advantages")


class CheckpointSeams:
    """Stands left of a transformers `Trainer` class among the bases of a trainer; calls the four hooks.

    Attributes:
        finished_epochs: passes over the data that the checkpoint which is gone on from has behind it.
        unread: that checkpoint, until it is read to its end.
    """

    args: Any
    state: Any
    control: Any
    model: Any
    finished_epochs: int = 0
    unread: Path | None = None

    def checkpoint_begins(self, folder: Path) -> None:
        """Called in every process before the first file of a checkpoint is written."""

    def checkpoint_written(self, folder: Path) -> None:
        """Called in every process after the last file of transformers and TRL is written, before old ones go."""

    def checkpoint_read(self, folder: Path) -> None:
        """Called in every process when everything is loaded, before the first step."""

    def checkpoint_is_due(self) -> bool:
        """Whether this step ends with a checkpoint, whatever an evaluation says."""
        return False

    def _determine_best_metric(self, *args: Any, **kwargs: Any) -> bool:
        """With `save_strategy="best"` the Trainer saves by this alone."""
        owner: Any = super()
        return bool(owner._determine_best_metric(*args, **kwargs)) or self.checkpoint_is_due()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As the Trainer, which would delete old checkpoints before the new one is known to be whole."""
        owner: Any = super()
        run = Path(owner._get_output_dir(trial=trial))
        folder, limit = run / f"checkpoint-{self.state.global_step}", self.args.save_total_limit
        self.checkpoint_begins(folder)
        self.args.save_total_limit = None
        try:
            owner._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.checkpoint_written(folder)
        if self.args.should_save:  # by number: by time, a clock that was set back would delete the newest
            rotate_checkpoints(str(run), limit, self.state.best_model_checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """The Trainer's last act before it goes on."""
        owner: Any = super()
        owner._load_rng_state(checkpoint)
        if checkpoint is not None:
            self.unread = None
            self.checkpoint_read(Path(checkpoint))

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """Follows without that act on a run that was killed after the last step of its last pass."""
        owner: Any = super()
        if self.unread is not None:
            self._load_rng_state(str(self.unread))
            self.model.train()  # in which mode a run ends, and without which TRL would log what evaluation measured
        return owner._finalize_training(*args, **kwargs)

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's sampler shuffles with a generator that goes on from pass to pass; a new one has to catch up."""
        owner: Any = super()
        sampler = owner._get_train_sampler(*args, **kwargs)
        if isinstance(sampler, RepeatSampler):
            for _ in range(self.finished_epochs):
                next(iter(sampler), None)
        return sampler

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """No batch for a run that was killed after its last step, for which the Trainer would make one more."""
        if 0 < self.state.max_steps <= self.state.global_step:
            self.control.should_training_stop = True
            return [], None
        owner: Any = super()
        found: tuple[list[Any], Any] = owner.get_batch_samples(epoch_iterator, num_batches, device)
        return found


def generated_in_step(trainer: Any) -> bool:
    """Whether the optimiser step that has just ended sampled rollouts, instead of learning from earlier ones again."""
    period = trainer.args.steps_per_generation * trainer.num_iterations
    done = trainer._step
    return bool((done - 1) // period * period >= done - trainer.args.gradient_accumulation_steps)


def progress_of(trainer: Any) -> dict[str, Any]:
    """What a trainer of TRL knows between two steps beside what transformers saves: numbers, tensors, and containers.

    Rollouts and their texts are among it as long as a step is to come that learns from them.
    """
    progress: dict[str, Any] = {name: getattr(trainer, name) for name in _LOSS}
    progress["metrics"] = {name: [float(value) for value in found] for name, found in trainer._metrics["train"].items()}
    if isinstance(trainer, GRPOTrainer):
        args: Any = trainer.args
        used_up = trainer._step % (args.steps_per_generation * trainer.num_iterations) == 0
        progress |= {"_step": trainer._step, "_buffered_inputs": None if used_up else trainer._buffered_inputs}
        progress["rows"] = None if used_up else _rows_of(trainer)
    return progress


def _rows_of(trainer: Any) -> str:
    """TRL's table of the last batch as JSON, images and the like as text."""
    logs = trainer._logs
    rewards = {name: list(values) for name, values in logs["rewards"].items()}
    return json.dumps({name: list(logs[name]) for name in _TABLE} | {"rewards": rewards}, default=str)


def restore_progress(trainer: Any, progress: dict[str, Any]) -> None:
    """Inverse of `progress_of`, on a trainer that is about to take its first step."""
    for name in [*_LOSS, *(_GENERATION if isinstance(trainer, GRPOTrainer) else ())]:
        setattr(trainer, name, progress[name])
    if rows := json.loads(progress.get("rows") or "{}"):
        for name in _TABLE:
            trainer._logs[name].extend(rows[name])
        for name, values in rows["rewards"].items():
            trainer._logs["rewards"][name].extend(values)
    trainer._metrics["train"].clear()
    trainer._metrics["train"].update({name: list(found) for name, found in progress["metrics"].items()})
