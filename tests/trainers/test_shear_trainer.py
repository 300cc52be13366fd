"""SHEAR on TRL: constant credit is plain GRPO bit for bit; any credit reaches the loss token by token."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

from rlft import SHEARConfig, SHEARTrainer
from rlft.credit import CreditError, Group, shear_weights
from rlft.credit.shear import shear
from rlft.record.rollouts import read_rollouts
from rlft.rewards import RewardError
from tests.trainers.conftest import parity
from tests.trainers.shear_runs import Arguments, recorded_states, run

LOSS_TYPES = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"]


def same_run(left: Callable[[], GRPOTrainer], right: Callable[[], GRPOTrainer]) -> bool:
    (steps, weights), (other_steps, other_weights) = run(left), run(right)
    assert any(loss != 0 for loss, _ in steps), "a run without signal would prove nothing"
    return steps == other_steps and all(map(torch.equal, weights, other_weights))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_constant_credit_is_trl_bit_for_bit(
    loss_type: str, random_model: Path, prompts: Dataset, grpo_arguments: Arguments
) -> None:
    """Five steps, two of them on a stale batch (`num_iterations=2`), with micro-batches that split groups."""
    shared = grpo_arguments(
        loss_type=loss_type,
        max_steps=5,
        per_device_train_batch_size=6,
        gradient_accumulation_steps=2,
        num_generations=4,
        num_iterations=2,
        epsilon_high=0.28,
        beta=0.04,
        mask_truncated_completions=True,
    )
    model = str(random_model)
    assert same_run(
        lambda: GRPOTrainer(model, parity, GRPOConfig(**shared), prompts),
        lambda: SHEARTrainer(model, parity, SHEARConfig(credit="constant", **shared), train_dataset=prompts),
    )


def test_constant_credit_is_trl_bit_for_bit_with_lora(
    random_model: Path, prompts: Dataset, grpo_arguments: Arguments
) -> None:
    shared = grpo_arguments(max_steps=3, top_entropy_quantile=0.5, scale_rewards="batch", epsilon_high=0.28)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model, config = str(random_model), SHEARConfig(credit="constant", **shared)
    assert same_run(
        lambda: GRPOTrainer(model, parity, GRPOConfig(**shared), prompts, peft_config=lora),
        lambda: SHEARTrainer(model, parity, config, train_dataset=prompts, peft_config=lora),
    )


def test_constant_credit_is_trl_up_to_rounding_with_a_sequence_ratio(
    random_model: Path, prompts: Dataset, grpo_arguments: Arguments
) -> None:
    """One ratio a sequence: TRL adds a completion's gradient up before the advantage, (B, T) advantages after."""
    shared = grpo_arguments(max_steps=1, importance_sampling_level="sequence", epsilon_high=0.28)
    model, config = str(random_model), SHEARConfig(credit="constant", **shared)
    plain, _ = run(lambda: GRPOTrainer(model, parity, GRPOConfig(**shared), prompts))
    ours, _ = run(lambda: SHEARTrainer(model, parity, config, train_dataset=prompts))
    assert plain[0][1] > 0
    assert ours[0] == pytest.approx(plain[0], rel=1e-4, abs=1e-7)


def halves(group: Group) -> list[torch.Tensor]:
    """A credit function of a user: the first half of a completion counts twice, the rest nothing."""
    return [torch.cat([torch.full((n // 2,), 2.0), torch.zeros(n - n // 2)]) for n in group.lengths]


def test_weights_reach_the_loss_token_by_token(
    random_model: Path, prompts: Dataset, grpo_arguments: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dapo loss at ratio 1 is -sum(A w mask) / tokens; computed here by hand from what was recorded."""
    monkeypatch.setattr("rlft.trainers.shear.load_credit", lambda spec: halves)
    config = SHEARConfig(**grpo_arguments(max_steps=1))
    trainer = SHEARTrainer(str(random_model), parity, config, train_dataset=prompts)
    trainer.train()
    rows = list(read_rollouts(Path(config.output_dir) / "record"))
    assert len(rows) == 16
    for row in rows:
        n = len(row.token_ids)
        assert row.credit == [2.0] * (n // 2) + [0.0] * (n - n // 2)
        assert row.roles == "t" * n
        assert row.reward_seconds.keys() == {"parity"}
    total = sum(row.advantage * sum(row.credit) for row in rows)
    expected = -total / sum(len(row.token_ids) for row in rows)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, abs=2e-4)


def test_recorded_credit_is_shear_of_the_states(
    random_model: Path, prompts: Dataset, grpo_arguments: Arguments
) -> None:
    config = SHEARConfig(window=4, stride=2, **grpo_arguments(max_steps=1))
    trainer = SHEARTrainer(str(random_model), parity, config, train_dataset=prompts)
    states = recorded_states(trainer)
    rows = list(read_rollouts(Path(config.output_dir) / "record"))
    mixed = 0
    for start in range(0, 16, 4):
        group = rows[start : start + 4]
        correct = [row.reward >= 0.5 for row in group]
        mixed += len(set(correct)) == 2
        weights = shear_weights(states[start : start + 4], correct, window=4, stride=2)
        for row, weight_T in zip(group, weights, strict=True):
            assert row.credit == pytest.approx(weight_T.tolist(), rel=1e-4)
    assert mixed, "a batch without a mixed group would prove nothing"
    logged = trainer.state.log_history[0]
    assert logged["shear/frac_mixed_groups"] == mixed / 4
    weights_seen = torch.tensor([weight for row in rows for weight in row.credit])
    assert logged["shear/weight_mean"] == pytest.approx(weights_seen.mean().item(), rel=1e-3)
    assert logged["shear/weight_std"] == pytest.approx(weights_seen.std(correction=0).item(), rel=1e-2)


def test_entropy_credit_sees_the_sampling_entropy(
    random_model: Path, prompts: Dataset, grpo_arguments: Arguments
) -> None:
    config = SHEARConfig(credit="entropy", temperature=0.7, **grpo_arguments(max_steps=1, learning_rate=0.0))
    trainer = SHEARTrainer(str(random_model), parity, config, train_dataset=prompts)
    seen: list[Group] = []
    credit = trainer.credit
    trainer.credit = lambda group: (seen.append(group), credit(group))[1]
    trainer.train()
    row = next(iter(read_rollouts(Path(config.output_dir) / "record")))
    prompt = trainer.processing_class(row.prompt).input_ids
    with torch.no_grad():
        logits = trainer.model(input_ids=torch.tensor([prompt + row.token_ids])).logits[0, len(prompt) - 1 : -1]
    expected = torch.distributions.Categorical(logits=logits / 0.7).entropy()
    assert seen[0].entropy is not None
    assert torch.allclose(seen[0].entropy[0], expected, atol=1e-4)


def tool_rollout(prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
    """Every second token comes from the environment."""
    tokenizer = trainer.processing_class
    texts = [f"a{i}b{(7 * i) % 10}c" for i in range(len(prompts))]
    completions = [tokenizer(text).input_ids for text in texts]
    return {
        "prompt_ids": [tokenizer(prompt).input_ids for prompt in prompts],
        "completion_ids": completions,
        "logprobs": None,
        "env_mask": [[position % 2 for position in range(len(ids))] for ids in completions],
    }


def test_environment_tokens_enter_no_span_and_get_no_credit(
    random_model: Path, prompts: Dataset, grpo_arguments: Arguments
) -> None:
    config = SHEARConfig(window=2, stride=1, **grpo_arguments(max_steps=1))
    trainer = SHEARTrainer(str(random_model), parity, config, train_dataset=prompts, rollout_func=tool_rollout)
    states = recorded_states(trainer)
    rows = list(read_rollouts(Path(config.output_dir) / "record"))
    for row, states_TH in zip(rows, states, strict=True):
        assert len(states_TH) == len(row.token_ids) // 2
        assert all(weight == 0 for weight in row.credit[::2])
        assert set(row.roles[::2]) == {"e"}


def test_two_trainers_on_one_model_do_not_hear_each_other(
    random_model: Path, prompts: Dataset, grpo_arguments: Arguments, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(random_model)
    arguments = {"train_dataset": prompts, "processing_class": None}
    first = SHEARTrainer(model, parity, SHEARConfig(window=4, stride=2, **grpo_arguments()), **arguments)
    other = grpo_arguments(output_dir=str(tmp_path / "other"), max_steps=1)
    second = SHEARTrainer(model, parity, SHEARConfig(window=4, stride=2, **other), **arguments)
    assert len(recorded_states(second)) == 16
    assert first.states is not None
    assert first.states.came_from is None
    assert len(recorded_states(first)) == 32


def test_evaluation_needs_no_credit(random_model: Path, prompts: Dataset, grpo_arguments: Arguments) -> None:
    config = SHEARConfig(window=4, stride=2, per_device_eval_batch_size=16, **grpo_arguments())
    rows = prompts.select(range(4))
    trainer = SHEARTrainer(str(random_model), parity, config, train_dataset=prompts, eval_dataset=rows)
    assert "eval_reward" in trainer.evaluate()
    assert not list(read_rollouts(Path(config.output_dir) / "record"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 4, "stride": 5}, "1 <= stride <= window"),
        ({"window": 0, "stride": 0}, "1 <= stride <= window"),
        ({"mix": 1.5}, r"mix=1.5 must lie in \[0, 1\]"),
        ({"distance": "sinkhorn-ish"}, "distance='sinkhorn-ish' is not one of wasserstein"),
        ({"normalize": "sum"}, "normalize='sum' is not one of group"),
        ({"hidden": "layer_3"}, "hidden='layer_3' is not one of post_norm"),
        ({"states": "oracle"}, "states='oracle' is not one of auto"),
        ({"reward_timeout": 0}, "reward_timeout=0"),
        ({"importance_sampling_level": "sequence"}, "importance_sampling_level='sequence'"),
        ({"per_device_train_batch_size": 6}, "per_device_train_batch_size=6 .* multiple of num_generations=4"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str, grpo_arguments: Arguments) -> None:
    with pytest.raises(ValueError, match=message):
        SHEARConfig(**grpo_arguments(**options))


def test_a_class_with_its_own_loss_is_refused(random_model: Path, prompts: Dataset, grpo_arguments: Arguments) -> None:
    from trl.experimental.gmpo import GMPOTrainer

    class Both(SHEARTrainer, GMPOTrainer):
        pass

    with pytest.raises(ValueError, match="GMPOTrainer replaces the GRPO loss"):
        Both("no model is loaded", parity, SHEARConfig(**grpo_arguments()), train_dataset=prompts)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("[torch.ones(1) for _ in group.lengths]", "rollout 0 has"),
        ("[h.norm(dim=1) for h in group.hidden]", r"TypeError.*unless asked for: broken.needs = {'hidden'}"),
    ],
)
def test_a_broken_credit_function_stops_the_run(
    body: str, message: str, random_model: Path, prompts: Dataset, grpo_arguments: Arguments, tmp_path: Path
) -> None:
    source = tmp_path / "mine.py"
    source.write_text(f"import torch\n\n\ndef broken(group):\n    return {body}\n")
    config = SHEARConfig(credit=f"{source}:broken", **grpo_arguments())
    trainer = SHEARTrainer(str(random_model), parity, config, train_dataset=prompts)
    with pytest.raises(CreditError, match=f"group 0 of the batch: credit broken: {message}"):
        trainer.train()


def test_two_rewards_of_one_name_are_refused(prompts: Dataset, grpo_arguments: Arguments) -> None:
    with pytest.raises(RewardError, match="named 'parity'"):
        SHEARTrainer("no model is loaded", [parity, parity], SHEARConfig(**grpo_arguments()), train_dataset=prompts)


def test_masked_truncated_completions_are_recorded_with_their_tokens(
    random_model: Path, prompts: Dataset, grpo_arguments: Arguments
) -> None:
    """TRL clears the mask of a truncated completion; the record still says what was sampled, with no credit."""
    config = SHEARConfig(window=4, stride=2, mask_truncated_completions=True, **grpo_arguments(max_steps=1))
    SHEARTrainer(str(random_model), parity, config, train_dataset=prompts).train()
    rows = list(read_rollouts(Path(config.output_dir) / "record"))
    truncated = [row for row in rows if row.finish == "length"]
    assert truncated
    for row in truncated:
        assert len(row.token_ids) == 12
        assert row.completion
        assert set(row.credit) == {0.0}
        assert set(row.roles) == {"m"}


def test_every_option_of_the_credit_reaches_it(random_model: Path, prompts: Dataset, grpo_arguments: Arguments) -> None:
    given = {"window": 5, "stride": 3, "distance": "chamfer", "tolerance": 0.0, "normalize": "rollout", "mix": 0.5}
    assert set(given) == set(inspect.signature(shear).parameters) - {"group"}
    for options in (given, given | {"distance": "wasserstein", "tolerance": 0.25}):
        config = SHEARConfig(**grpo_arguments(**options))
        trainer = SHEARTrainer(str(random_model), parity, config, train_dataset=prompts)
        assert trainer.credit.keywords == options
