"""Copies every log of a transformers trainer to `record/metrics.jsonl` (imports transformers)."""

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlft.record.folder import record_dir
from rlft.record.jsonl import JsonLines


class RecordCallback(TrainerCallback):
    """Appends `{"step", "epoch", "time", ...logs}` per log, main process only; `time` in Unix seconds.

    Args:
        folder: the run folder; None is the trainer's `output_dir`.
        fields: stand in every line, such as the round that a trainer belongs to.
    """

    def __init__(self, folder: Path | None = None, fields: Mapping[str, object] = MappingProxyType({})) -> None:
        self._folder, self._fields = folder, fields
        self._lines: JsonLines | None = None

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append one line; `logs` is left as it is."""
        if not state.is_world_process_zero:
            return
        if self._lines is None:  # here, not earlier: evaluation may log before training begins
            self._lines = JsonLines(record_dir(self._folder or str(args.output_dir)) / "metrics.jsonl")
        place = {"step": state.global_step, "epoch": state.epoch, "time": time.time()}
        self._lines.append({**self._fields, **place, **(logs or {})})
