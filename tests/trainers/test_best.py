"""The best checkpoint by a task metric: kept, pointed to, given out on demand; evaluation leaves training as it is."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import TrainerCallback

from rlft import SHEARConfig, SHEARTrainer
from rlft.evaluate.policy import evaluate_policy
from rlft.set_aside import set_aside
from rlft.trainers.best import BestCheckpoint, best_row
from tests.trainers.conftest import parity
from tests.trainers.shear_runs import Arguments

FEW = {"per_device_train_batch_size": 8, "per_device_eval_batch_size": 8, "max_completion_length": 4}
EVERY_STEP = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "task"}


def shear(model: Path, prompts: Dataset, arguments: dict[str, Any]) -> SHEARTrainer:
    args = SHEARConfig(**arguments | FEW, credit="constant")
    trainer = SHEARTrainer(str(model), parity, args, train_dataset=prompts, eval_dataset=prompts.select(range(8)))
    trainer.add_callback(BestCheckpoint())
    return trainer


def test_evaluation_leaves_training_as_it_is(random_model: Path, prompts: Dataset, grpo_arguments: Arguments) -> None:
    """The same completions, weights and averages of two logs, with samples drawn for an evaluation after every step."""

    def metric(completions: list[str], **_: Any) -> list[float]:
        return parity(completions)

    def run(**evaluation: Any) -> tuple[list[dict[str, Any]], list[torch.Tensor], list[float]]:
        trainer = shear(random_model, prompts, grpo_arguments(max_steps=4, logging_steps=2, **evaluation))
        rows: Any = trainer.eval_dataset.to_list()
        trainer.task_metrics = lambda: {"task": evaluate_policy(trainer, rows, metric, temperature=1.0)}
        trainer.train()
        logs = trainer.state.log_history
        timed = {"step_time", "shear/credit_seconds"}
        trained = [{name: row[name] for name in row.keys() - timed} for row in logs if "loss" in row]
        weights = [weight.detach().clone() for weight in trainer.model.parameters()]
        return trained, weights, [row["eval_task"] for row in logs if "eval_task" in row]

    (plain, weights, none), (evaluated, same, measured) = run(), run(**EVERY_STEP)
    assert (len(none), len(measured), len(plain)) == (0, 4, 2)
    assert plain == evaluated
    assert all(map(torch.equal, weights, same))


@pytest.mark.parametrize(
    ("values", "options", "best"),
    [
        ([0.1, 0.9, 0.2, 0.3], {"save_strategy": "steps", "save_steps": 2}, 2),
        ([0.1, 0.2, 0.9, 0.3], {"save_strategy": "steps", "save_steps": 2}, 3),  # between two saves
        ([0.4, 0.1, 0.1, 0.2], {"save_strategy": "best", "greater_is_better": False}, 2),  # the first of equals
    ],
)
def test_the_best_checkpoint_survives_and_is_given_out(
    values: list[float],
    options: dict[str, Any],
    best: int,
    random_model: Path,
    prompts: Dataset,
    grpo_arguments: Arguments,
) -> None:
    arguments = grpo_arguments(max_steps=4, save_total_limit=1, load_best_model_at_end=True, **EVERY_STEP, **options)
    trainer = shear(random_model, prompts, arguments)
    trainer.task_metrics = lambda: {"task": values[trainer.state.global_step - 1], "other": 0.0}
    trainer.train()
    folder = Path(trainer.args.output_dir)
    content = {"metric": "eval_task", "value": values[best - 1], "step": best, "checkpoint": f"checkpoint-{best}"}
    assert json.loads((folder / "best.json").read_text()) == content
    kept = load_file(folder / f"checkpoint-{best}/model.safetensors")
    now = trainer.model.state_dict()
    assert all(torch.equal(now[name], value) for name, value in kept.items())
    ((_, said),) = best_row(trainer)
    assert said.startswith(f"{values[best - 1]:.3f} at step {best}, kept in checkpoint-{best}; last: {values[-1]:.3f}")
    assert said.endswith(f"saved: the best's (step {best})")


class Deletes(TrainerCallback):
    """Deletes a folder once training has begun."""

    def __init__(self, folder: Path):
        self.folder = folder

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        shutil.rmtree(self.folder)


@pytest.mark.parametrize("later", ["steps", "no"])  # "no": nothing is saved in the other folder
def test_the_best_checkpoint_goes_along_to_another_folder(
    later: str, random_model: Path, prompts: Dataset, grpo_arguments: Arguments, tmp_path: Path
) -> None:
    """Where the run began, all is deleted."""
    values, saves = [0.9, 0.1, 0.2], {"save_strategy": "steps", "save_steps": 1}

    def run(folder: Path, **changes: Any) -> SHEARTrainer:
        arguments = grpo_arguments(output_dir=str(folder), **EVERY_STEP) | changes
        trainer = shear(random_model, prompts, arguments)
        trainer.task_metrics = lambda: {"task": values[trainer.state.global_step - 1]}
        return trainer

    first, second = tmp_path / "first", tmp_path / "second"
    run(first, max_steps=2, **saves).train()
    kept = load_file(first / "checkpoint-1/model.safetensors")
    after = {"save_strategy": later, "save_steps": 1, "save_total_limit": 1}
    trainer = run(second, max_steps=3, **after)
    trainer.args.load_best_model_at_end = True
    trainer.add_callback(Deletes(first))
    trainer.train(resume_from_checkpoint=str(first / "checkpoint-2"))
    content = {"metric": "eval_task", "value": 0.9, "step": 1, "checkpoint": "checkpoint-1"}
    assert json.loads((second / "best.json").read_text()) == content
    now = trainer.model.state_dict()
    assert all(torch.equal(now[name], value) for name, value in kept.items())


def test_a_run_that_saves_nothing_says_so(random_model: Path, prompts: Dataset, grpo_arguments: Arguments) -> None:
    trainer = shear(random_model, prompts, grpo_arguments(max_steps=1, **EVERY_STEP))
    assert best_row(trainer) == []
    trainer.task_metrics = lambda: {"task": 0.5}
    trainer.train()
    ((label, said),) = best_row(trainer)
    assert label == "best by dev task"
    assert "of which no checkpoint is left; last: 0.500" in said
    assert said.endswith("saved: the last step's (1)")
    assert not list(Path(trainer.args.output_dir).glob("checkpoint-*"))


def numbered(count: int) -> Dataset:
    return Dataset.from_list([{"prompt": str(number)} for number in range(count)])


def recipe(dev_rows: int) -> Any:
    return SimpleNamespace(dev_rows=dev_rows, smoke=False)


def settings(**changes: Any) -> Any:
    names = {"eval_strategy": "steps", "metric_for_best_model": None, "greater_is_better": None, "seed": 0}
    return SimpleNamespace(**names | changes)


def test_dev_rows_are_taken_from_the_rows_that_are_trained_on() -> None:
    training = settings()
    left, dev, places = set_aside(numbered(100), recipe(10), training, lambda: ["accuracy", "other"])
    assert dev is not None
    assert dev["prompt"] == [str(place) for place in places]
    assert sorted(map(int, [*dev["prompt"], *left["prompt"]])) == list(range(100))
    assert max(places) - min(places) > 20, "a random choice, since files are often sorted"
    assert (training.metric_for_best_model, training.greater_is_better) == ("accuracy", True)


def test_without_evaluation_nothing_is_set_aside() -> None:
    rows, training = numbered(4), settings(eval_strategy="no")
    assert set_aside(rows, recipe(256), training, lambda: pytest.fail("asked")) == (rows, None, [])


@pytest.mark.parametrize(("wanted", "greater"), [("loss", True), ("eval_rouge1", True), ("mae", False)])
def test_the_metric_that_chooses(wanted: str, greater: bool) -> None:
    """Transformers writes `loss` where none is named, and holds every other metric for one to be raised."""
    training = settings(metric_for_best_model=wanted, greater_is_better=wanted != "loss")
    set_aside(numbered(8), recipe(2), training, lambda: ["rouge1", "mae"])
    assert training.metric_for_best_model == {"loss": "rouge1"}.get(wanted, wanted.removeprefix("eval_"))
    assert training.greater_is_better is greater


@pytest.mark.parametrize("count", [0, 8, 9])
def test_rows_must_be_left_on_both_sides(count: int) -> None:
    with pytest.raises(ValueError, match=f"--dev_rows {count} of 8 training rows"):
        set_aside(numbered(8), recipe(count), settings(), lambda: ["accuracy"])
