"""Copies every log of a transformers trainer to `record/metrics.jsonl` (imports transformers)."""

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlft.record.folder import record_dir
from rlft.record.jsonl import JsonLines


class RecordCallback(TrainerCallback):
    """Appends `{"step", "epoch", "time", ...logs}` per log, main process only; `time` in Unix seconds."""

    def __init__(self) -> None:
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
            self._lines = JsonLines(record_dir(str(args.output_dir)) / "metrics.jsonl")
        self._lines.append({"step": state.global_step, "epoch": state.epoch, "time": time.time()} | (logs or {}))
