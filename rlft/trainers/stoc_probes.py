"""Old and new facts during training: is the new learnt, and is the old kept?"""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class ProbeCallback(TrainerCallback):
    """Logs the recall of every probe set before, during and after training.

    Args:
        trainer: a `STOCTrainer`.
        steps: between two looks; 0 looks before and after only.
    """

    def __init__(self, trainer: Any, steps: int):
        self.trainer, self.steps = trainer, steps

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the first step of a run that starts."""
        if state.global_step == 0:
            self.trainer.log(self.trainer.evaluate())

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Every `steps` steps, and after the last."""
        if state.global_step >= state.max_steps or (self.steps and state.global_step % self.steps == 0):
            due = control.should_log  # of the step's loss; every log takes it back
            self.trainer.log(self.trainer.evaluate())
            control.should_log = due
