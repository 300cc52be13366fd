"""The monitor at real trainers: it names what a run was driven into, stops, and leaves a dump.

That training is the same with it is what `test_constant_credit_is_trl_bit_for_bit` shows: TRL's side has no monitor.
"""

import json
import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from rlft import SHEARConfig, SHEARTrainer, finish, finish_em, finish_stoc
from rlft.record.jsonl import read_jsonl, to_json
from rlft.trainers.health import HealthCallback, HealthError, not_finite
from tests.trainers.conftest import parity
from tests.trainers.shear_runs import Arguments

FEW = {"per_device_train_batch_size": 8, "max_completion_length": 4}


def never(completions: list[str], **_: Any) -> list[float]:
    return [0.0] * len(completions)


def watched(
    model: Path, prompts: Dataset, arguments: dict[str, Any], reward: Any, on_alarm: str = "warn"
) -> GRPOTrainer:
    """TRL's own trainer with the monitor."""
    trainer = GRPOTrainer(str(model), reward, GRPOConfig(**arguments | FEW), prompts)
    trainer.add_callback(HealthCallback(trainer, on_alarm))
    return trainer


def alarms(folder: str) -> list[dict[str, Any]]:
    return read_jsonl(Path(folder) / "record/alarms.jsonl")


def test_cut_completions_and_dead_groups_are_each_said_once(
    random_model: Path, prompts: Dataset, grpo_arguments: Arguments, caplog: pytest.LogCaptureFixture
) -> None:
    """A random model does not stop within 4 tokens, and nothing is rewarded."""
    trainer = watched(random_model, prompts, grpo_arguments(max_steps=12), never)
    with caplog.at_level(logging.WARNING, logger="rlft"):
        trainer.train()
    found = alarms(trainer.args.output_dir)
    assert [(alarm["step"], alarm["rule"], alarm["over"]) for alarm in found] == [
        (5, "truncation", False),
        (10, "dead_groups", False),
    ]
    assert found[1]["value"] == 1
    for alarm in found:
        assert sum(alarm["message"] in record.message for record in caplog.records) == 1
    logged = [row for row in trainer.state.log_history if "reward" in row]
    assert all(0 <= row["health/repetition"] < 0.5 and row["health/unreadable"] == 0 for row in logged)


def test_a_huge_learning_rate_throws_the_policy_off_its_reference(
    random_model: Path, prompts: Dataset, grpo_arguments: Arguments
) -> None:
    """One step at 0.3 in AdamW moves every weight by 0.3; the monitor is SHEAR's own."""
    settings = grpo_arguments(max_steps=3, learning_rate=0.3, beta=0.04, credit="constant", on_alarm="stop") | FEW
    trainer = SHEARTrainer(str(random_model), parity, SHEARConfig(**settings), train_dataset=prompts)
    with pytest.raises(HealthError, match=r"kl_spike: KL from the reference is .*--beta"):
        trainer.train()
    assert trainer.state.global_step < 3


def test_weights_that_are_not_finite_end_any_run_with_a_dump(
    random_model: Path, prompts: Dataset, grpo_arguments: Arguments
) -> None:
    """A step of a rate beyond the range of fp32."""
    trainer = watched(random_model, prompts, grpo_arguments(learning_rate=1e39), parity)
    with pytest.raises(HealthError, match=r"step 1, .* trainable weights are not finite \(.*and others\)") as ended:
        trainer.train()
    assert ended.value.way_on is None
    folder = Path(trainer.args.output_dir)
    dump = json.loads((folder / "health/step-1.json").read_text())
    assert [alarm["rule"] for alarm in dump["alarms"]] == ["non_finite"] == [a["rule"] for a in alarms(str(folder))]
    assert len(dump["rows"]) == 8
    assert {row["prompt"] for row in dump["rows"]} <= set(prompts["prompt"])
    assert all(row["rewards"]["parity"] == parity([row["completion"]])[0] for row in dump["rows"])


def test_infinite_rewards_are_said(random_model: Path, prompts: Dataset, grpo_arguments: Arguments) -> None:
    """TRL itself takes them, and makes their advantages 0."""

    def infinite(completions: list[str], **_: Any) -> list[float]:
        return [math.inf if place % 4 < 2 else 0.0 for place, _ in enumerate(completions)]

    trainer = watched(random_model, prompts, grpo_arguments(max_steps=1), infinite, on_alarm="stop")
    with pytest.raises(HealthError, match="no finite value of reward, reward_std"):
        trainer.train()
    rows = json.loads((Path(trainer.args.output_dir) / "health/step-1.json").read_text())["rows"]
    assert [row["rewards"]["infinite"] for row in rows] == ["Infinity", "Infinity", 0.0, 0.0] * 2


def test_an_alarm_ends_a_run_that_is_to_stop(random_model: Path, prompts: Dataset, grpo_arguments: Arguments) -> None:
    trainer = watched(random_model, prompts, grpo_arguments(max_steps=12), parity, on_alarm="stop")
    with pytest.raises(HealthError, match=r"step 5, truncation: 0.* of the completions were cut") as stopped:
        trainer.train()
    assert stopped.value.way_on == "--on_alarm warn"
    path = Path(trainer.args.output_dir) / "health/step-5.json"
    assert str(path) in str(stopped.value)
    dump = json.loads(path.read_text())
    assert [row["step"] for row in dump["logs"]] == [1, 2, 3, 4, 5]
    assert all("health/repetition" in row for row in dump["logs"])


def test_a_resumed_run_says_nothing_twice(tmp_path: Path) -> None:
    """Five logs of cut completions lie before the checkpoint, and its alarm; a later one is forgotten."""
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    row = {"completions/clipped_ratio": 1.0}
    state, control = TrainerState(global_step=6), TrainerControl()
    state.log_history = [row | {"step": step} for step in range(1, 7)]
    file = tmp_path / "record/alarms.jsonl"
    file.parent.mkdir()
    own = {"round": 2}
    kept = [{"round": 1, "step": 9, "rule": "kl_spike"}, own | {"step": 5, "rule": "truncation"}]
    file.write_text("".join(to_json(line) + "\n" for line in [*kept, own | {"step": 7, "rule": "kl_spike"}]))
    monitor = HealthCallback(fields=own)
    monitor.on_train_begin(args, state, control)
    state.global_step = 7
    monitor.on_log(args, state, control, row)
    assert read_jsonl(file) == kept


def test_the_loss_scaler_of_fp16_may_skip_steps(tmp_path: Path) -> None:
    state, row = TrainerState(global_step=1), {"loss": 0.1, "grad_norm": math.inf}
    half, full = (TrainingArguments(output_dir=str(tmp_path / name), use_cpu=True) for name in ("half", "full"))
    half.fp16 = True
    for args in (half, full):
        HealthCallback().on_log(args, state, TrainerControl(), row)
    assert [alarm["rule"] for alarm in alarms(full.output_dir)] == ["non_finite"]
    assert not Path(half.output_dir, "record/alarms.jsonl").exists()


def test_who_is_stopped_hears_of_the_best_checkpoint(tmp_path: Path) -> None:
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    state = TrainerState(global_step=4, best_model_checkpoint="run/checkpoint-3")
    with pytest.raises(HealthError, match=r"health/step-4\.json\. Best checkpoint: run/checkpoint-3\.$"):
        HealthCallback(on_alarm="stop").on_log(args, state, TrainerControl(), {"loss": math.nan})


ENDINGS: dict[str, Callable[[Any, Path], AbstractContextManager[None]]] = {
    "shear, prlm": lambda trainer, folder: finish._short_endings(trainer),
    "exsearch, dro": finish_em._short_endings,
    "stoc": finish_stoc._short_endings,
}


@pytest.mark.parametrize("endings", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize("way_on", ["--on_alarm warn", None])
def test_how_a_stopped_run_goes_on_is_said(
    way_on: str | None, endings: Callable[[Any, Path], AbstractContextManager[None]], tmp_path: Path
) -> None:
    """The very same command would end at the same alarm; weights that are not finite end it under any flag."""
    trainer: Any = SimpleNamespace(args=SimpleNamespace(output_dir=str(tmp_path)))
    with pytest.raises(SystemExit) as ended, endings(trainer, tmp_path):
        raise HealthError("step 3, kl_spike", way_on)
    said = str(ended.value)
    assert "error: step 3, kl_spike" in said
    goes_on = f"The same command with --output_dir {tmp_path} --resume_from_checkpoint true --on_alarm warn goes on"
    assert (goes_on in said) is (way_on is not None)
    assert ("goes on" in said) is (way_on is not None)


def test_only_trainable_weights_are_looked_at() -> None:
    Accelerator(cpu=True)  # the trainer's, which callbacks rely on
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight[0, 1], model[1].bias[0] = math.nan, math.inf
    model[0].requires_grad_(False)
    assert not_finite(model) == ["1.bias"]
    assert not_finite(model.requires_grad_(False)) == []


def test_what_to_do_on_an_alarm_is_checked(grpo_arguments: Arguments) -> None:
    with pytest.raises(ValueError, match=r"on_alarm='halt' is none of warn, stop\."):
        SHEARConfig(**grpo_arguments(on_alarm="halt"))
