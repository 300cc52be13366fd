"""A SHEAR run in one of any number of processes: worker.py FOLDER MODELS [STEP to stop at, or `resume`]."""

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from tests.resume.runs import shear


class StopAt(TrainerCallback):
    """Ends the process at a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise SystemExit(0)


def main(folder: Path, models: Path, how: str = "") -> None:
    torch.set_num_threads(1)
    trainer = shear(folder, models, per_device_train_batch_size=4)
    if how.isdecimal():
        trainer.add_callback(StopAt(int(how)))
    trainer.train(resume_from_checkpoint=how == "resume")
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
