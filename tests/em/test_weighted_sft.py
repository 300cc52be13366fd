"""The weighted M-step against plain TRL, a loss by hand, and the cuts of a batch that must not matter."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig
from torch import Tensor
from trl import SFTTrainer

from rlft.em.weighted_sft import WeightedSFTTrainer
from tests import scripts
from tests.em.sft_cases import hand_loss, make_rows, model, rows, settings, state_of, tokenizer

WORKER = Path(__file__).parent / "sft_worker.py"
IN_ORDER = {"train_sampling_strategy": "sequential"}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def trained(
    output: Path,
    dataset: Dataset,
    kind: Any = WeightedSFTTrainer,
    lora: bool = False,
    dropout: float = 0.0,
    **changes: Any,
) -> Any:
    adapter = LoraConfig(r=4, target_modules="all-linear", lora_dropout=dropout) if lora else None
    arguments = settings(output, **changes)
    trainer = kind(model(), args=arguments, train_dataset=dataset, processing_class=tokenizer(), peft_config=adapter)
    trainer.train()
    return trainer


def logged(trainer: Any, *names: str) -> list[list[float]]:
    return [[entry[name] for name in names] for entry in trainer.state.log_history if "loss" in entry]


def largest_gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_weights_of_one_are_plain_sft_bit_for_bit(tmp_path: Path, lora: bool, accumulation: int) -> None:
    changes = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": 4, "optim": "adamw_torch"}
    dataset = rows(weight=1.0)
    weighted = trained(tmp_path / "w", dataset, lora=lora, dropout=0.1, **changes)
    plain = trained(tmp_path / "p", dataset.remove_columns("weights"), SFTTrainer, lora=lora, dropout=0.1, **changes)
    names = ("loss", "grad_norm", "entropy", "mean_token_accuracy", "num_tokens")
    assert len(logged(plain, *names)) == 5
    assert logged(weighted, *names) == logged(plain, *names)
    assert largest_gap(state_of(weighted), state_of(plain)) == 0


@pytest.mark.parametrize("mass", [False, True])
def test_loss_is_the_one_computed_by_hand(tmp_path: Path, mass: bool) -> None:
    """Random weights of either sign; the last step has half a batch, and accumulation 2 cuts each in two."""
    made = make_rows(count=20)
    if mass:
        made = [row | {"mass": 0.5 + number % 3} for number, row in enumerate(made)]
    changes = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4, "num_train_epochs": 1}
    trainer = trained(tmp_path, Dataset.from_list(made), max_steps=-1, max_grad_norm=0.0, **changes, **IN_ORDER)
    by_hand, losses = model(), []
    for batch in (made[:8], made[8:16], made[16:]):
        loss = hand_loss(by_hand, batch, made)
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
        losses.append(loss.item())
        with torch.no_grad():
            for weight, gradient in zip(by_hand.parameters(), gradients, strict=True):
                weight -= 0.05 * gradient
    assert [loss for (loss,) in logged(trainer, "loss")] == pytest.approx(losses, rel=1e-5)
    assert largest_gap(state_of(trainer), dict(by_hand.named_parameters())) < 1e-6


@pytest.mark.parametrize("lora", [False, True])
def test_the_cut_into_micro_batches_does_not_matter(tmp_path: Path, lora: bool) -> None:
    runs = [
        trained(
            tmp_path / str(cut),
            rows(),
            lora=lora,
            per_device_train_batch_size=cut,
            gradient_accumulation_steps=8 // cut,
        )
        for cut in (8, 1)
    ]
    assert largest_gap(state_of(runs[0]), state_of(runs[1])) < 1e-6
    assert logged(runs[0], "loss") == [pytest.approx(loss, abs=1e-5) for loss in logged(runs[1], "loss")]


def test_the_number_of_processes_does_not_matter(tmp_path: Path) -> None:
    """An epoch of 37 rows: the last global batch of 8 has 5, which two processes fill up with rows seen before."""
    alone = trained(tmp_path / "one", rows(count=37), max_steps=-1, num_train_epochs=1)
    finished = scripts.run(WORKER, str(tmp_path), processes=2)
    assert finished.returncode == 0, finished.stderr[-3000:]
    together = torch.load(tmp_path / "result.pt")
    assert largest_gap(state_of(alone), together["state"]) < 1e-6
    expected = logged(alone, "loss", "grad_norm")
    assert len(expected) == 5
    for one, two in zip(expected, together["log"], strict=True):
        assert two == pytest.approx(one, rel=1e-4)


def test_weight_zero_has_no_influence(tmp_path: Path) -> None:
    """Other labels under weight 0 change nothing, and rows of weight 0 are as good as absent."""
    made = make_rows(count=40)
    for row in made[::2]:
        row["weights"] = [0.0] * len(row["weights"])
    other = [row | {"labels": row["input_ids"][::-1]} if not any(row["weights"]) else row for row in made]
    runs = [
        trained(tmp_path / str(number), Dataset.from_list(case), per_device_train_batch_size=batch, **IN_ORDER)
        for number, (case, batch) in enumerate([(made, 8), (other, 8), (made[1::2], 4)])
    ]
    assert largest_gap(state_of(runs[0]), state_of(runs[1])) < 1e-6
    assert largest_gap(state_of(runs[0]), state_of(runs[2])) < 1e-6


def test_a_light_row_makes_a_small_step_even_on_its_own(tmp_path: Path) -> None:
    """Batches of one row: the loss of each is its weight over the mean weight, times the mean of its tokens' nll."""
    (row,) = make_rows(count=1)
    trained_tokens = sum(label != -100 for label in row["labels"][1:])
    heavy, light = ([w / trained_tokens] * len(row["input_ids"]) for w in (0.9, 0.1))
    made = [row | {"weights": weights, "mass": 1.0} for weights in (heavy, light)]
    changes = {"per_device_train_batch_size": 1, "max_steps": 2, "learning_rate": 0.0}
    losses = logged(trained(tmp_path, Dataset.from_list(made), **changes, **IN_ORDER), "loss")
    assert losses[0][0] / losses[1][0] == pytest.approx(9, rel=1e-4)


def test_scale_of_all_weights_does_not_matter(tmp_path: Path) -> None:
    made = make_rows()
    scaled = [row | {"weights": [0.003 * w for w in row["weights"]]} for row in made]
    one, other = (trained(tmp_path / str(i), Dataset.from_list(case)) for i, case in enumerate((made, scaled)))
    assert largest_gap(state_of(one), state_of(other)) < 1e-6
    assert largest_gap(state_of(one), dict(model().named_parameters())) > 1e-3, "or nothing was trained at all"


def test_weights_under_ignored_labels_are_ignored(tmp_path: Path) -> None:
    made = make_rows(count=40)
    other = [
        row | {"weights": [w if label != -100 else 1e6 for w, label in zip(row["weights"], row["labels"], strict=True)]}
        for row in made
    ]
    one, two = (trained(tmp_path / str(i), Dataset.from_list(case)) for i, case in enumerate((made, other)))
    assert largest_gap(state_of(one), state_of(two)) == 0


def test_negative_weights_push_away(tmp_path: Path) -> None:
    """All weights -1 is gradient ascent: the step of plain SFT with the sign turned."""
    start = dict(model().named_parameters())
    up, down = (state_of(trained(tmp_path / str(w), rows(weight=w), max_steps=1)) for w in (-1.0, 1.0))
    for name, value in start.items():
        torch.testing.assert_close(up[name] - value, value - down[name], atol=1e-6, rtol=0)


def test_evaluation_is_the_weighted_mean(tmp_path: Path) -> None:
    made = make_rows(seed=1, count=8)
    arguments = {"args": settings(tmp_path, per_device_eval_batch_size=8), "processing_class": tokenizer()}
    trainer = WeightedSFTTrainer(
        model(), train_dataset=rows(), eval_dataset={"dev": Dataset.from_list(made)}, **arguments
    )
    expected = hand_loss(model(), made).item()
    assert trainer.evaluate()["eval_dev_loss"] == pytest.approx(expected, rel=1e-5)
    assert trainer.evaluate(Dataset.from_list(made))["eval_loss"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="eval_dataset lacks weights"):
        trainer.evaluate(Dataset.from_list(made).remove_columns("weights"))
    plain = SFTTrainer(model(), train_dataset=rows(), eval_dataset=rows(weight=1.0), **arguments)
    assert trainer.evaluate(rows(weight=1.0))["eval_loss"] == plain.evaluate()["eval_loss"]


def changed_row(**changes: Any) -> Dataset:
    made = make_rows()
    made[3] |= changes
    return Dataset.from_list(made)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (changed_row(weights=[1.0, 2.0]), "train_dataset, row 3 .* 2 weights.: one label and one weight per id"),
        (changed_row(input_ids=[5, 6], labels=[5, 6], weights=[1.0, math.nan]), "row 3.*nan is not finite"),
        (changed_row(input_ids=[5, 6], labels=[5, 6], weights=[1.0, math.inf]), "inf is not finite"),
        (changed_row(input_ids=[5, 6], labels=[5, 6], weights=[1.0, 1e39]), "inf is not finite"),
        (changed_row(input_ids=[5, 6], labels=[5, -100], weights=[1.0, 1.0]), "no token is trained"),
        (changed_row(input_ids=[5] * 65, labels=[5] * 65, weights=[1.0] * 65), "longer than max_length=64"),
        (rows().remove_columns("weights"), "lacks weights"),
        (rows().remove_columns("labels"), "lacks labels"),
    ],
)
def test_bad_rows_are_refused_at_once(tmp_path: Path, dataset: Dataset, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightedSFTTrainer(model(), settings(tmp_path, max_length=64), dataset, processing_class=tokenizer())


def test_other_kinds_of_dataset_are_refused(tmp_path: Path) -> None:
    for dataset in (rows().to_iterable_dataset(), None):
        with pytest.raises(TypeError, match=r"a datasets\.Dataset of whole rows"):
            WeightedSFTTrainer(model(), settings(tmp_path), dataset, processing_class=tokenizer())


def test_a_global_batch_without_weight_is_refused(tmp_path: Path) -> None:
    made = make_rows(count=16)
    for row in made[8:]:
        row["weights"] = [0.0] * len(row["weights"])
    with pytest.raises(ValueError, match="the weights of step 2 are all 0"):
        trained(tmp_path, Dataset.from_list(made), **IN_ORDER)


@pytest.mark.parametrize(
    "option",
    [
        {"packing": True},
        {"eval_packing": True},
        {"padding_free": True, "max_length": None},
        {"loss_type": "dft"},
        {"label_smoothing_factor": 0.1},
        {"assistant_only_loss": True},
        {"completion_only_loss": True},
        {"average_tokens_across_devices": False},
    ],
)
def test_options_that_go_round_the_weights_are_refused(tmp_path: Path, option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="WeightedSFTTrainer cannot take " + next(iter(option)).removeprefix("eval_")):
        WeightedSFTTrainer(model(), settings(tmp_path, **option), rows(), processing_class=tokenizer())


@pytest.mark.parametrize("argument", ["data_collator", "formatting_func", "compute_loss_func"])
def test_arguments_that_go_round_the_weights_are_refused(tmp_path: Path, argument: str) -> None:
    with pytest.raises(ValueError, match=f"cannot take {argument}"):
        WeightedSFTTrainer(model(), settings(tmp_path), rows(), processing_class=tokenizer(), **{argument: print})


def test_models_whose_loss_cannot_be_weighed_are_refused(tmp_path: Path) -> None:
    prompts = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(ValueError, match="prompt-learning"):
        WeightedSFTTrainer(model(), settings(tmp_path), rows(), processing_class=tokenizer(), peft_config=prompts)
    micro_averaged = model()
    micro_averaged.accepts_loss_kwargs = False
    with pytest.raises(ValueError, match="averages micro-batches"):
        WeightedSFTTrainer(micro_averaged, settings(tmp_path), rows(), processing_class=tokenizer())


def test_a_loss_that_no_longer_asks_for_log_probs_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_loss(self: Any, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        return model(**inputs).logits.sum()

    monkeypatch.setattr(SFTTrainer, "compute_loss", other_loss)
    with pytest.raises(RuntimeError, match="went round the weights"):
        trained(tmp_path, rows(), max_steps=1)
