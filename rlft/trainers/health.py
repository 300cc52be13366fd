"""The health monitor at a trainer: measures completions, judges every log, warns, and stops with a dump if told to.

    trainer.add_callback(HealthCallback(trainer))          any GRPOTrainer of TRL; rlft's trainers have it already

Metrics that TRL does not log are measured on the last batch of every log, on at most 64 completions of it:

    health/repetition    share of repeated 4-grams of tokens in a completion, mean
    health/unreadable    share of replacement and non-printable characters, mean

Alarms go to `record/alarms.jsonl` (`{"step", "rule", "message", "value", "over"}`). Rules: `rlft.health.rules`.
"""

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, reduce
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlft import compat
from rlft.compat.resuming import generated_in_step
from rlft.health import Alarm, Watch
from rlft.health.texts import repetition, unreadable
from rlft.record.folder import record_dir, write_whole
from rlft.record.jsonl import JsonLines, json_lines, read_jsonl, to_json
from rlft.rewards.text import last_text
from rlft.trainers.best import metric_name
from rlft.trainers.weights import are_readable, trainable_weights

logger = logging.getLogger(__name__)

ALARMS = "alarms.jsonl"
MEASURED = 64
"""Completions of a batch that are measured."""
DUMPED_LOGS = 50


class HealthError(RuntimeError):
    """Training was ended because it went wrong.

    Args:
        message: what was seen.
        way_on: flag with which the same run goes on from a checkpoint; None if it would end there again.
    """

    def __init__(self, message: str, way_on: str | None = None):
        super().__init__(message)
        self.way_on = way_on

    def what_now(self, folder: Path) -> str:
        """How to go on, in a sentence for who started the run in this folder."""
        if self.way_on is None:
            return "Other settings need another --output_dir."
        resume = f"--output_dir {shlex.quote(str(folder))} --resume_from_checkpoint true"
        return f"The same command with {resume} {self.way_on} goes on from there."


class HealthCallback(TrainerCallback):
    """Warns when training goes wrong, and when it is right again. Training itself is bit for bit the same with it.

    Weights that are not finite end the run in any case: nothing can be learnt from there.

    Args:
        trainer: a `GRPOTrainer` whose completions are measured; None for other trainers, which have none.
        on_alarm: `warn`, or `stop` to end the run with a dump in `health/step-<n>.json` of the run folder: the alarms,
            the last logs, and the batch.
        folder: the run folder; None is the trainer's `output_dir`.
        fields: stand in every alarm, such as the round that a trainer belongs to.

    Raises:
        HealthError: during training, if the run is to end.
    """

    def __init__(
        self,
        trainer: Any = None,
        on_alarm: str = "warn",
        folder: Path | None = None,
        fields: Mapping[str, object] = MappingProxyType({}),
    ):
        self.trainer, self.on_alarm, self.folder, self.fields = trainer, on_alarm, folder, fields
        self.watch = Watch()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin to watch; a resumed run knows its logs up to the checkpoint, and forgets later alarms."""
        self.watch = Watch(metric=metric_name(args), greater_is_better=args.greater_is_better is not False)
        for row in state.log_history:
            self.watch.see(int(row["step"]), _judged(args, row))
        file = self._file(args)
        if state.is_world_process_zero and file.exists():
            write_whole(file, json_lines(line for line in read_jsonl(file) if not self._forgotten(line, state)))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look at the weights, and at the completions if this step sampled any.

        Raises:
            HealthError: if a trainable weight is not finite.
        """
        if bad := not_finite(kwargs["model"]):
            some = f"{', '.join(bad[:3])}{' and others' if len(bad) > 3 else ''}"
            message = (
                f"{len(bad)} trainable weights are not finite ({some}), and never will be again. Likely: a reward or a "
                "loss that is not finite, overflow, or too large a step. Try: --bf16 or --dtype float32, a lower "
                "--learning_rate, in a new run, and a look at the rewards of that batch: with a reward that was mended "
                "this run can go on."
            )
            alarm = Alarm(state.global_step, "non_finite", message, len(bad))
            self._stop(args, state, self._said(args, state, [alarm]))
        if self.trainer is not None and state.is_world_process_zero and generated_in_step(self.trainer):
            for name, value in measures(self.trainer).items():
                compat.log_metric(self.trainer, f"health/{name}", value)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Judge the log.

        Raises:
            HealthError: with `on_alarm="stop"`, if an alarm is raised.
        """
        raised = self._said(args, state, self.watch.see(state.global_step, _judged(args, logs or {})))
        if raised and self.on_alarm == "stop":
            self._stop(args, state, raised, way_on="--on_alarm warn")

    def _said(self, args: TrainingArguments, state: TrainerState, alarms: list[Alarm]) -> list[Alarm]:
        """Write and log alarms; gives back trouble that begins, as the main process has it if it is to stop."""
        if self.on_alarm == "stop" and PartialState().num_processes > 1:
            of_main = [alarms]  # or a last digit could stop some processes and not others
            broadcast_object_list(of_main)
            alarms = of_main[0]
        if state.is_world_process_zero:
            for alarm in alarms:
                where = "".join(f"{name} {value}, " for name, value in self.fields.items())
                title = "health" if alarm.over else "HEALTH ALARM"
                logger.warning("%s at %sstep %d, %s: %s", title, where, alarm.step, alarm.rule, alarm.message)
                JsonLines(self._file(args)).append({**self.fields, **alarm.record})
        return [alarm for alarm in alarms if not alarm.over]

    def _stop(
        self, args: TrainingArguments, state: TrainerState, alarms: Sequence[Alarm], way_on: str | None = None
    ) -> None:
        """End the run on every process; the main one leaves the dump."""
        path = (self.folder or Path(str(args.output_dir))) / "health" / f"step-{state.global_step}.json"
        if state.is_world_process_zero:
            content = {
                "step": state.global_step,
                "alarms": [{**self.fields, **alarm.record} for alarm in alarms],
                "logs": state.log_history[-DUMPED_LOGS:],
                "rows": [] if self.trainer is None else _plain(compat.last_batch(self.trainer)),
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, to_json(content) + "\n")
        said = " ".join(f"{alarm.rule}: {alarm.message}" for alarm in alarms)
        best = f" Best checkpoint: {state.best_model_checkpoint}." if state.best_model_checkpoint else ""
        raise HealthError(f"step {state.global_step}, {said} Logs and batch: {path}.{best}", way_on)

    def _forgotten(self, line: Mapping[str, Any], state: TrainerState) -> bool:
        """Whether a line of the file is of this training, and of a step that it is to do again."""
        return line["step"] > state.global_step and all(line.get(name) == value for name, value in self.fields.items())

    def _file(self, args: TrainingArguments) -> Path:
        return record_dir(self.folder or str(args.output_dir)) / ALARMS


def _judged(args: TrainingArguments, logs: Mapping[str, Any]) -> dict[str, Any]:
    """A log without what says nothing: fp16's loss scaler skips steps whose gradient overflows, and needs them."""
    return {name: value for name, value in logs.items() if not (args.fp16 and name == "grad_norm")}


def _plain(rows: list[dict[str, Any]]) -> Any:
    """Rows as JSON has them; images and the like as text."""
    return json.loads(json.dumps(rows, default=str))


def not_finite(model: nn.Module) -> list[str]:
    """Names of trainable weights with a value that is not finite, the same in every process; every one must call.

    Weights that cannot be read (DeepSpeed's) are passed over.
    """
    weights = trainable_weights(model)
    if not weights or not are_readable(weights):
        return []
    local = [getattr(weight, "to_local", lambda weight=weight: weight)().detach() for weight in weights.values()]
    sums_W = torch.stack([values.sum(dtype=torch.float32).to(local[0].device) for values in local])
    bad_W = reduce((~sums_W.isfinite()).int(), "sum")
    return [name for name, bad in zip(weights, bad_W.tolist(), strict=True) if bad]


def measures(trainer: Any) -> dict[str, float]:
    """Repetition and unreadable characters of the last batch, in the main process; nothing if it had no completion."""
    texts = [last_text(row["completion"]) for row in compat.last_batch(trainer)]
    texts = texts[:: -(-len(texts) // MEASURED)] if texts else []
    if not texts:
        return {}
    tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return {
        "repetition": sum(map(repetition, ids)) / len(texts),
        "unreadable": sum(map(unreadable, texts)) / len(texts),
    }
