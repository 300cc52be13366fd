"""Weighted fine-tuning inside an EM run: the warm-up that makes round 0, and the fit of every M-step."""

import copy
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from torch import nn
from transformers import PrinterCallback, ProgressCallback

from rlft.em.rows import demonstration_rows, read_rows, write_rows
from rlft.em.stages import Round
from rlft.em.weighted_sft import WeightedSFTTrainer
from rlft.processes import from_main
from rlft.record.callback import RecordCallback
from rlft.record.folder import record_dir, write_whole
from rlft.record.jsonl import json_lines, read_jsonl
from rlft.record.progress import ShortProgress
from rlft.resume.find import holds_run
from rlft.rollouts.demonstration import demonstration
from rlft.saved import drop_blank_card
from rlft.trainers.em_config import FREE_TO_CHANGE
from rlft.trainers.health import HealthCallback
from rlft.trainers.rolls import Rolls
from rlft.trainers.round_models import RoundModels
from rlft.trainers.trust import TrustCallback

WEIGHT_FILES = (
    "adapter_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
)
REPORTED = ("trainable_parameters", "delta_norm")
"""What `learn` says of a model, the same however often it was interrupted."""


class Learning:
    """Trains one model of an EM run.

    Args:
        rolls: its frame, tokenizer and configuration.
        models: starts and loads it.
        callbacks: of every training.
        role: its name where a run has several; its files and folders carry it.
    """

    def __init__(self, rolls: Rolls, models: RoundModels, callbacks: Sequence[Any], role: str = ""):
        self.rolls, self.args, self.models, self.callbacks = rolls, rolls.args, models, list(callbacks)
        self.role = role

    def folder(self, current: Round) -> Path:
        """Where the model of a round lies."""
        return current.folder / self.role

    def rows_file(self, current: Round) -> Path:
        """What the model of a round learns from."""
        return current.folder / f"{self._prefix}rows.arrow"

    @property
    def files(self) -> tuple[str, ...]:
        """Patterns of what a trained model leaves in the round's folder."""
        return tuple(f"{self.role}/{pattern}" if self.role else pattern for pattern in WEIGHT_FILES)

    @property
    def report_file(self) -> str:
        """Where `learn` says how far the model moved."""
        return f"{self._prefix}learn.json"

    @property
    def _prefix(self) -> str:
        return f"{self.role}-" if self.role else ""

    def start(self, current: Round, demonstrations: Dataset | None) -> None:
        """theta_0: the base, after supervised learning of demonstrations if there are any."""
        model: Any = self.models.start(self.args.seed)
        if demonstrations is None:
            if PartialState().is_main_process:
                model.save_pretrained(str(self.folder(current)))
                drop_blank_card(self.folder(current))
                self.rolls.tokenizer.save_pretrained(str(self.folder(current)))
            return
        shown = (demonstration(row["messages"], self.rolls.frame) for row in demonstrations)
        self.write(current, (row for one in shown for row in demonstration_rows(one)))
        self._fit(model, current, epochs=self.args.warm_up_epochs)

    def learn(self, current: Round, origin: Round) -> None:
        """Weighted fine-tuning on the round's rows from the model of `origin`."""
        self.rolls.forget()
        model = self.models.load(self.folder(origin))
        report = self._fit(model, current, epochs=self.args.num_train_epochs)
        if PartialState().is_main_process:
            write_whole(current.folder / self.report_file, json.dumps(report, indent=1))

    def write(self, current: Round, rows: Iterator[dict[str, Any]]) -> int:
        """Have the main process write the rows; their number, in every process."""
        return from_main(write_rows(self.rows_file(current), rows) if PartialState().is_main_process else 0)

    def _fit(self, model: nn.Module, current: Round, *, epochs: float) -> dict[str, float]:
        """Weighted fine-tuning of `model`, which is left changed, into the round's folder."""
        args, scratch = copy.deepcopy(self.args), self._scratch(current)
        args.output_dir, args.num_train_epochs, args.seed = str(scratch), epochs, self.args.seed + current.number
        args.push_to_hub = False
        trust, role = TrustCallback(), {"role": self.role} if self.role else {}
        place = {"round": current.number, **role}
        record = RecordCallback(current.folder.parent, place)
        health = HealthCallback(None, args.on_alarm, current.folder.parent, place)
        trainer = WeightedSFTTrainer(
            model=model,
            args=args,
            train_dataset=read_rows(self.rows_file(current)),
            processing_class=self.rolls.tokenizer,
            callbacks=[trust, health, record, *self.callbacks],
        )
        trainer.remove_callback(PrinterCallback if args.disable_tqdm else ProgressCallback)
        if not args.disable_tqdm:
            trainer.add_callback(ShortProgress(" ".join([f"round {current.number}: learn", *role.values()])))
        trainer.record, begun = record_dir(current.folder.parent), holds_run(scratch)
        trainer.free_to_change |= FREE_TO_CHANGE
        trust.remember(model)
        if not begun:
            _forget_rows(trainer.record / "metrics.jsonl", {"round": current.number, **role})
        trainer.train(resume_from_checkpoint=begun)
        trainer.save_model(str(self.folder(current)))
        if PartialState().is_main_process:
            drop_blank_card(self.folder(current))
        trainer.accelerator.wait_for_everyone()
        return {name: trust.report[name] for name in REPORTED if name in trust.report}

    def tidy(self, current: Round) -> None:
        """Delete the checkpoints of a training whose outcome is safe."""
        if PartialState().is_main_process and self._scratch(current).exists():
            shutil.rmtree(self._scratch(current))

    def _scratch(self, current: Round) -> Path:
        return current.folder / f"{self._prefix}training"


def _forget_rows(path: Path, fields: Mapping[str, Any]) -> None:
    """Take the rows of a training that is made again from its beginning out of the record."""
    if PartialState().is_main_process and path.exists():
        rows = read_jsonl(path)
        kept = [row for row in rows if any(row.get(name) != value for name, value in fields.items())]
        if len(kept) < len(rows):
            write_whole(path, json_lines(kept))
