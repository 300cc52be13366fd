"""SIGTERM, which a scheduler sends before it kills: end with everything kept and a line that says how to go on."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

EXIT_CODE = 128 + signal.SIGTERM


@contextmanager
def on_termination(act: Callable[[], None]) -> Iterator[None]:
    """Have the first SIGTERM call `act` in this block; a second one ends the process at once.

    Signals reach the main thread only; in another one, and where the system has none, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    seen = False

    def handle(*_: Any) -> None:
        nonlocal seen
        if seen:  # told by this, as code inside may put the handler back
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        seen = True
        act()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def says_on_termination(kept: str) -> Iterator[None]:
    """Have SIGTERM end the process where it stands, as it always does, but with a line that says what is kept.

    An exception would not do: one that is raised while an object is finalised is swallowed.

    Args:
        kept: what is, in a block whose work is kept piece by piece.
    """

    def end() -> None:
        logger.warning("SIGTERM: %s; the same command with --resume_from_checkpoint true goes on from there.", kept)
        os.kill(os.getpid(), signal.SIGTERM)

    with on_termination(end):
        yield


class EndsAfterStep(TrainerCallback):
    """Once `asked` is set in any process, ends the run in all of them after this step and a checkpoint.

    Args:
        trainer: whose accelerator the processes agree through.

    Attributes:
        due: all processes know that this step is the last.
    """

    def __init__(self, trainer: Any):
        self.trainer, self.asked, self.due = trainer, False, False

    def ask(self) -> None:
        """End soon."""
        self.asked = True
        logger.warning("SIGTERM: the run ends after this step. A second SIGTERM ends it at once.")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Have a checkpoint written if it is time to end."""
        accelerator = self.trainer.accelerator
        self.due = self.asked
        if accelerator.num_processes > 1:
            asked = torch.tensor(float(self.asked), device=accelerator.device)
            self.due = accelerator.reduce(asked, "sum").item() > 0
        control.should_save |= self.due

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """End, now that the checkpoint is whole.

        Raises:
            SystemExit: with code 143.
        """
        if self.due:
            logger.warning(
                "ended by SIGTERM after step %d of %d; the same command with --output_dir %s "
                "--resume_from_checkpoint true goes on from there.",
                state.global_step,
                state.max_steps,
                args.output_dir,
            )
            raise SystemExit(EXIT_CODE)
