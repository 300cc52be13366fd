"""A run that stops anywhere and goes on is the run that never stopped: weights, optimiser, random states, record."""

import json
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from rlft.record.jsonl import read_jsonl
from rlft.record.rollouts import read_rollouts
from rlft.record.stages import AnotherRun
from rlft.resume.find import NothingToResume
from rlft.resume.manifest import checkpoints, is_sealed, seal
from rlft.resume.trainer import Resumable
from rlft.trainers.health import HealthError
from rlft.trainers.trust import TrustCallback
from tests import scripts
from tests.export.test_pickles import Attack
from tests.resume.killing import files, rows
from tests.resume.runs import PROMPTS, dro, parity, prlm, shear, stoc

OPTIMISER = "checkpoint-4/optimizer.pt"


class Stop(BaseException):
    """Stands for a kill."""


class StopAt(TrainerCallback):
    """Stops at an event of a step."""

    def __init__(self, event: str, step: int):
        self.step = step
        setattr(self, event, self._stop)

    def _stop(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise Stop


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def whole(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    shear(folder, models).train()
    return folder


def stopped(folder: Path, models: Path, event: str = "on_step_end", step: int = 5) -> None:
    """Begin the run and stop it."""
    trainer = shear(folder, models)
    trainer.add_callback(StopAt(event, step))
    with pytest.raises(Stop):
        trainer.train()


def assert_same(folder: Path, whole: Path) -> None:
    assert rows(folder) == rows(whole)
    found, expected = files(folder), files(whole)
    assert [name for name in expected if "checkpoint-6" in name]
    assert found == expected


@pytest.mark.parametrize(
    ("event", "step"),
    [("on_step_end", 1), ("on_step_end", 3), ("on_log", 3), ("on_save", 4), ("on_step_begin", 5), ("on_save", 6)],
)
def test_it_goes_on_bit_for_bit(event: str, step: int, whole: Path, models: Path, tmp_path: Path) -> None:
    """Before any checkpoint, in the middle of a generation batch, in the second pass, after the last step."""
    stopped(tmp_path, models, event, step)
    shear(tmp_path, models).train(resume_from_checkpoint=True)
    assert_same(tmp_path, whole)


@pytest.mark.parametrize("method", [shear, stoc])
def test_a_run_that_was_killed_after_its_last_pass_logs_its_end(
    method: Callable[..., Any], models: Path, tmp_path: Path
) -> None:
    passes: dict[str, Any] = {"max_steps": -1, "num_train_epochs": 1, "logging_steps": 100}
    whole = method(tmp_path / "whole", models, **passes)
    whole.train()
    killed = method(tmp_path / "killed", models, **passes)
    killed.add_callback(StopAt("on_save", whole.state.max_steps))
    with pytest.raises(Stop):
        killed.train()
    method(tmp_path / "killed", models, **passes).train(resume_from_checkpoint=True)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert "train_loss" in [*read_jsonl(tmp_path / "killed/record/metrics.jsonl")][-1]


def test_an_m_step_that_was_killed_after_its_last_step_logs_its_end(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step is left to put its model, which was loaded for evaluation, into the mode that TRL logs by."""
    dro(tmp_path / "whole", models).train()
    written = Resumable.checkpoint_written

    def then_killed(trainer: Any, folder: Path) -> None:
        written(trainer, folder)
        if trainer.state.global_step == trainer.state.max_steps:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Resumable, "checkpoint_written", then_killed)
        with pytest.raises(Stop):
            dro(tmp_path / "killed", models).train()
    dro(tmp_path / "killed", models).train()
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")


def test_training_does_not_tell_who_made_the_replay_before_it(models: Path, tmp_path: Path) -> None:
    """The process that trains, or one that was killed when the replay was done."""
    stoc(tmp_path / "whole", models).train()
    killed = stoc(tmp_path / "killed", models)
    killed.add_callback(StopAt("on_train_begin", 0))
    with pytest.raises(Stop):
        killed.train()
    stoc(tmp_path / "killed", models).train(resume_from_checkpoint=True)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_run_that_stops_on_a_batch_of_before_the_kill_dumps_it(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch was sampled by the process that was killed; what goes wrong is weights that are not finite."""
    stopped(tmp_path, models, step=3)
    monkeypatch.setattr("rlft.trainers.health.not_finite", lambda model: ["weight"])
    with pytest.raises(HealthError, match="step 3"):
        shear(tmp_path, models).train(resume_from_checkpoint=True)
    recorded = [row for row in read_rollouts(tmp_path / "record") if row.step == 0]
    dumped = json.loads((tmp_path / "health/step-3.json").read_text())["rows"]
    assert len(recorded) == len(dumped) == 16
    for name in ("prompt", "rewards", "advantage"):
        assert [row[name] for row in dumped] == [getattr(row, name) for row in recorded]
    assert all(row["rewards"]["parity"] == parity([row["completion"]])[0] for row in dumped)


def test_a_clock_that_is_set_back_breaks_nothing(
    whole: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times of the record and of files jump; the newest checkpoint stays, the oldest goes."""
    clock, calls = time.time, iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: clock() - 86_400 * next(calls))
    stopped(tmp_path, models)
    os.utime(tmp_path / "checkpoint-4", (0, 0))
    trainer = shear(tmp_path, models)
    trainer.train(resume_from_checkpoint=True)
    assert_same(tmp_path, whole)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-6", "checkpoint-4"]
    assert trainer.state.log_history[-1]["train_runtime"] > 0


def flip(path: Path) -> None:
    """Change one byte."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (flip, "s optimizer.pt was altered"),
        (Path.unlink, "s optimizer.pt is missing"),
        (lambda path: (path.parent / "manifest.json").unlink(), " was not written to its end"),
        (lambda path: (path.parent / "manifest.json").write_text("{"), "s manifest.json is not JSON"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(
    harm: Callable[[Path], Any], said: str, whole: Path, models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopped(tmp_path, models)
    harm(tmp_path / OPTIMISER)
    shear(tmp_path, models).train(resume_from_checkpoint=True)
    assert f"checkpoint-4 is passed over: it{said}" in caplog.text
    assert f"the run goes on from {tmp_path}/checkpoint-2" in caplog.text
    assert_same(tmp_path, whole)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "progress_0.pt"])
def test_no_code_in_a_checkpoint_is_run(name: str, whole: Path, models: Path, tmp_path: Path) -> None:
    """The manifest is no protection from who can write it."""
    checkpoint = Path(shutil.copytree(whole / "checkpoint-4", tmp_path / "checkpoint-4"))
    torch.save({"state": Attack(tmp_path / "the attack ran")}, checkpoint / name)
    seal(checkpoint)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        shear(tmp_path / "run", models).train(resume_from_checkpoint=str(checkpoint))
    assert not (tmp_path / "the attack ran").exists()


def test_where_all_are_damaged_the_way_out_is_said(models: Path, tmp_path: Path) -> None:
    stopped(tmp_path, models)
    for name in ("checkpoint-2", "checkpoint-4"):
        flip(tmp_path / name / "progress_0.pt")
    before = rows(tmp_path)
    with pytest.raises(NothingToResume, match=r"progress_0.pt was altered.*or delete the checkpoint") as caught:
        shear(tmp_path, models).train(resume_from_checkpoint=True)
    assert len(str(caught.value)) < 600
    assert rows(tmp_path) == before
    with pytest.raises(NothingToResume, match=r"checkpoint-2 cannot be gone on from: its progress_0.pt was altered"):
        shear(tmp_path, models).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "learning rate": ({"learning_rate": 1e-3}, "learning_rate was 0.01, is 0.001"),
    "seed": ({"seed": 43}, "seed was 42, is 43"),
    "batch": ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}, "gradient_accumulation_steps was"),
}


@pytest.mark.parametrize(("changes", "said"), OTHER.values(), ids=OTHER)
def test_another_configuration_is_refused(changes: dict[str, Any], said: str, models: Path, tmp_path: Path) -> None:
    stopped(tmp_path, models, step=3)
    before = rows(tmp_path)
    with pytest.raises(AnotherRun, match=rf"checkpoint-2 belongs to a run with other settings.*{said}.*--output_dir"):
        shear(tmp_path, models, **changes).train(resume_from_checkpoint=True)
    assert rows(tmp_path) == before, "nothing is cut before all is compared"


def test_other_rows_weights_and_rewards_are_told_and_free_settings_are_not(models: Path, tmp_path: Path) -> None:
    trainer = shear(tmp_path, models)
    identity = trainer.identity()

    def differing(change: Callable[[Any], None], **changes: Any) -> set[str]:
        other = shear(tmp_path / "other", models, **changes)
        change(other)
        found = other.identity()
        return {name for name in identity if identity[name] != found[name]}

    def nudge(other: Any) -> None:
        next(other.model.parameters()).data.flatten()[0] += 1

    rows_again = Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS[::-1]])
    assert differing(lambda other: setattr(other, "train_dataset", rows_again)) == {"training rows"}
    assert differing(nudge) == {"starting weights"}
    assert differing(lambda other: setattr(other.model.peft_config["default"], "lora_alpha", 4)) == {"adapter"}
    assert differing(lambda other: setattr(other, "reward_func_names", ["mine"])) == {"rewards"}
    free = {"max_steps": 9, "save_steps": 1, "save_total_limit": 5, "logging_steps": 1, "log_level": "error"}
    assert differing(lambda other: None, **free) == set()
    trainer.measured = {"eval_metric": "mine"}
    assert trainer.identity() == identity | {"eval_metric": "mine"}
    assert all(" at 0x" not in json.dumps(value) for value in identity.values()), "equal in every process"


def test_a_run_goes_on_in_another_folder(whole: Path, models: Path, tmp_path: Path) -> None:
    """From a checkpoint that is named; and when it is killed there at once, from the same one again."""
    first, second = tmp_path / "first", tmp_path / "second"
    stopped(first, models)
    trainer = shear(second, models)
    trainer.add_callback(StopAt("on_step_end", 5))
    with pytest.raises(Stop):
        trainer.train(resume_from_checkpoint=str(first / "checkpoint-4"))
    shear(second, models).train(resume_from_checkpoint=True)
    last = [{name: value for name, value in files(one).items() if "-6/" in name} for one in (second, whole)]
    assert last[0] == last[1]
    assert rows(first)
    assert set(rows(second)) < set(rows(whole))


class Terminate(TrainerCallback):
    """Asks the third step to be the last."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_ends_a_run_after_its_step_with_a_checkpoint(
    whole: Path, models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    trainer = shear(tmp_path, models)
    trainer.add_callback(Terminate())
    with pytest.raises(SystemExit) as ended:
        trainer.train()
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert is_sealed(tmp_path / "checkpoint-3")
    assert "ended by SIGTERM after step 3 of 6" in caplog.text
    assert "--resume_from_checkpoint true goes on from there" in caplog.text
    shear(tmp_path, models).train(resume_from_checkpoint=True)
    assert_same(tmp_path, whole)


def test_sigterm_is_not_lost_where_only_the_best_are_saved(models: Path, tmp_path: Path) -> None:
    """An evaluation that finds no new best takes back what `save_strategy="best"` was asked to save."""
    trainer = shear(tmp_path, models, metric_for_best_model="luck")
    args, values = trainer.args, iter([0.9, 0.8, 0.7])
    args.eval_strategy, args.eval_steps, args.save_strategy = IntervalStrategy.STEPS, 1, SaveStrategy.BEST
    trainer.eval_dataset, trainer.task_metrics = trainer.train_dataset, lambda: {"luck": next(values)}
    trainer.add_callback(Terminate())
    with pytest.raises(SystemExit):
        trainer.train()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-1"]


def test_a_second_sigterm_ends_it_at_once_though_code_puts_the_handler_back(tmp_path: Path) -> None:
    (tmp_path / "twice.py").write_text("""
import os, signal
from rlft.resume.termination import on_termination
with on_termination(lambda: print("asked", flush=True)):
    handler = signal.getsignal(signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, handler)
    os.kill(os.getpid(), signal.SIGTERM)
    print("alive", flush=True)
""")
    ended = scripts.run(tmp_path / "twice.py")
    assert (ended.returncode, ended.stdout) == (-signal.SIGTERM, "asked\n")


def test_time_and_distance_are_those_of_the_whole_run(models: Path, tmp_path: Path) -> None:
    whole, trust = prlm(tmp_path / "whole", models), TrustCallback()
    whole.add_callback(trust)
    whole.train()
    killed = prlm(tmp_path / "killed", models)
    killed.add_callback(StopAt("on_step_end", 5))
    with pytest.raises(Stop):
        killed.train()
    mark = json.loads((tmp_path / "killed/checkpoint-4/mark.json").read_text())
    again, other = prlm(tmp_path / "killed", models), TrustCallback()
    again.add_callback(other)
    other.remember(again.model)
    again.train(resume_from_checkpoint=True)
    assert other.report["delta_norm"] == trust.report["delta_norm"] > 0
    assert again.spent()["seconds"] > mark["spent"]["seconds"] > 0
    ends = [one.state.log_history[-1] for one in (again, whole)]
    assert ends[0]["train_loss"] == ends[1]["train_loss"]
    assert ends[0]["train_runtime"] == pytest.approx(again.spent()["seconds"], rel=0.5)
