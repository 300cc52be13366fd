"""Hidden states are those of the policy that sampled, wherever they come from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from rlft import SHEARConfig, SHEARTrainer
from rlft.credit.hidden import HiddenTap
from rlft.record.rollouts import read_rollouts
from tests.trainers.conftest import parity
from tests.trainers.shear_runs import Arguments, recorded_states, run

SPLIT = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
"""Two micro-batches: the loss sees no whole groups."""


@pytest.mark.parametrize(
    ("source", "changes", "lora"),
    [
        ("loss", {}, ""),
        ("loss", {"gradient_checkpointing": True, "hidden": "pre_norm"}, ""),
        ("loss", {"beta": 0.1}, "LoRA, whose reference pass goes through the same modules"),
        ("scoring", {"num_iterations": 2}, ""),
        ("scoring", {"num_iterations": 2, "per_device_train_batch_size": 8}, "LoRA, in chunks"),
        ("scoring", {"num_iterations": 2, "beta": 0.1}, "LoRA, whose reference pass follows the policy's"),
        ("scoring", {"num_iterations": 2, "gradient_checkpointing": True}, ""),
        ("generate", SPLIT, ""),
        ("generate", SPLIT | {"gradient_checkpointing": True}, ""),
        ("generate", SPLIT | {"hidden": "pre_norm", "max_completion_length": 1}, ""),
        ("generate", SPLIT | {"beta": 0.1, "mask_truncated_completions": True}, "LoRA"),
        ("forward", SPLIT | {"generation_kwargs": {"use_cache": False}}, ""),
        ("forward", {"num_iterations": 2}, "LoRA with dropout, in chunks of one"),
        ("forward", SPLIT | {"states": "forward"}, "LoRA"),
    ],
)
def test_states_are_the_policy_s_own(
    source: str,
    changes: dict[str, Any],
    lora: str,
    random_model: Path,
    prompts: Dataset,
    grpo_arguments: Arguments,
) -> None:
    """Wherever they come from, the states equal those of a forward of the policy that sampled, without padding."""
    check_states(source, changes, lora, random_model, prompts, grpo_arguments)


def test_checkpointing_takes_no_cache_from_prompts_of_one_length(
    random_model: Path, prompts: Dataset, grpo_arguments: Arguments
) -> None:
    """Without a cache the last token's state would be wrong, and nothing would tell: no mask is there to misfit."""
    same = Dataset.from_list([prompts[0]] * len(prompts))
    check_states("generate", SPLIT | {"gradient_checkpointing": True}, "", random_model, same, grpo_arguments)


def check_states(
    source: str,
    changes: dict[str, Any],
    lora: str,
    random_model: Path,
    prompts: Dataset,
    grpo_arguments: Arguments,
) -> None:
    config = SHEARConfig(window=4, stride=2, **grpo_arguments(max_steps=1, **changes))
    dropout = 0.5 if "dropout" in lora else 0.0
    peft = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, lora_dropout=dropout) if lora else None
    trainer = SHEARTrainer(str(random_model), parity, config, train_dataset=prompts, peft_config=peft)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    states = recorded_states(trainer)
    assert trainer.states is not None
    assert trainer.states.came_from == source
    rows = list(read_rollouts(Path(config.output_dir) / "record"))
    trainer.model.load_state_dict(before)
    trainer.model.eval()
    assert len(states) == len(rows) > 0
    for row, states_TH in zip(rows, states, strict=True):
        if row.credit and not any(row.credit):
            assert not len(states_TH), "a truncated completion, masked"
            continue
        prompt = trainer.processing_class(row.prompt).input_ids
        with torch.no_grad(), HiddenTap(trainer.model, config.hidden).capture(len(row.token_ids)) as expected:
            trainer.model(input_ids=torch.tensor([prompt + row.token_ids]))
        assert torch.allclose(states_TH, expected[0][0], atol=1e-5)
    tapped = (trainer.states.tap.backbone, trainer.states.tap.backbone.norm)
    hooks = [hook for module in tapped for hook in (*module._forward_hooks, *module._forward_pre_hooks)]
    assert not hooks, "the tap must be gone outside its forward"


@pytest.mark.parametrize("source", ["scoring", "generate", "forward"])
def test_sources_agree_on_a_batch_s_weights(
    source: str, random_model: Path, prompts: Dataset, grpo_arguments: Arguments
) -> None:
    """Two steps each, whose first losses are those of the first weights and whose second those of the update."""
    shared = grpo_arguments(max_steps=2, per_device_train_batch_size=16, learning_rate=1e-3)
    reference = {} if source != "scoring" else {"num_iterations": 2}
    options = {"window": 4, "stride": 2, **shared, **reference}
    base = "forward" if reference else "loss"
    left = SHEARConfig(**options, states=base)
    right = SHEARConfig(**options, states=source)
    runs = [
        run(lambda config=config: SHEARTrainer(str(random_model), parity, config, train_dataset=prompts))[0]
        for config in (left, right)
    ]
    assert runs[0][0][1] > 0
    for (loss, norm), (other_loss, other_norm) in zip(*runs, strict=True):
        assert other_loss == pytest.approx(loss, abs=2e-4)  # logged with four digits
        assert other_norm == pytest.approx(norm, rel=1e-3)


def test_a_source_that_the_run_does_not_have_is_refused(
    random_model: Path, prompts: Dataset, grpo_arguments: Arguments
) -> None:
    with pytest.raises(ValueError, match="states='scoring': TRL scores the policy only with num_iterations > 1"):
        SHEARConfig(**grpo_arguments(states="scoring"))
    with pytest.raises(ValueError, match="states='loss': the loss sees whole groups only with steps_per_generation=1"):
        SHEARConfig(**grpo_arguments(states="loss", **SPLIT))
    config = SHEARConfig(
        window=4, stride=2, **grpo_arguments(states="generate", generation_kwargs={"use_cache": False})
    )
    trainer = SHEARTrainer(str(random_model), parity, config, train_dataset=prompts)
    trainer.train()
    assert trainer.states is not None
    assert trainer.states.came_from == "forward", "no cache, no decoding steps"
    lora = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5)
    config = SHEARConfig(window=4, stride=2, **grpo_arguments(states="loss"))
    with pytest.raises(ValueError, match="states='loss' taps a forward in training mode, where this model drops out"):
        SHEARTrainer(str(random_model), parity, config, train_dataset=prompts, peft_config=lora).train()


def test_only_groups_of_both_outcomes_are_run_through_the_extra_forward(
    random_model: Path, prompts: Dataset, grpo_arguments: Arguments
) -> None:
    def first_group_only(completions: list[str], **_: Any) -> list[float]:
        return [float(i < 2) for i in range(len(completions))]

    config = SHEARConfig(window=4, stride=2, **grpo_arguments(max_steps=1, states="forward"))
    trainer = SHEARTrainer(str(random_model), first_group_only, config, train_dataset=prompts)
    assert trainer.states is not None
    seen: list[int] = []
    tap = trainer.states.tap

    def count(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if not torch.is_grad_enabled() and not kwargs.get("use_cache"):
            seen.append(len(kwargs["input_ids"]))

    tap.backbone.register_forward_pre_hook(count, with_kwargs=True)
    trainer.train()
    assert seen == [4]
    credits = [row.credit for row in read_rollouts(Path(config.output_dir) / "record")]
    assert all(set(credit) == {1.0} for credit in credits[4:])
    assert any(set(credit) != {1.0} for credit in credits[:4])


def test_pre_norm_states_enter_the_final_norm(random_model: Path, prompts: Dataset, grpo_arguments: Arguments) -> None:
    config = SHEARConfig(hidden="pre_norm", window=4, stride=2, **grpo_arguments(max_steps=1, learning_rate=0.0))
    trainer = SHEARTrainer(str(random_model), parity, config, train_dataset=prompts)
    states = recorded_states(trainer)
    row = next(iter(read_rollouts(Path(config.output_dir) / "record")))
    prompt = trainer.processing_class(row.prompt).input_ids
    with torch.no_grad():
        output = trainer.model(input_ids=torch.tensor([prompt + row.token_ids]), output_hidden_states=True)
        post = trainer.model.model.norm(states[0])
    assert torch.allclose(post, output.hidden_states[-1][0, len(prompt) :], atol=1e-4)
