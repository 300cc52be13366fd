"""Estimates against real tiny models on the CPU: what can be counted is equal to the byte."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import DynamicCache

from rlft.check.disk import checkpoint_bytes, checkpoints_kept, saved_bytes
from rlft.check.memory import Load, activation_bytes, cache_bytes, logits_bytes, memory_of
from rlft.check.room import too_much
from rlft.check.size import coverage, size_of
from rlft.tiny.model import tiny_model
from rlft.tiny.tokenizer import char_tokenizer

ROWS, TOKENS = 3, 20
LOAD = Load(rows=ROWS, tokens=TOKENS, sampled=ROWS, sampled_tokens=TOKENS, weight_bytes=4, compute_bytes=4)
LORA = LoraConfig(r=4, target_modules=["q_proj", "up_proj"])


@pytest.fixture(params=[None, LORA, LoraConfig(r=2, target_modules="all-linear")], ids=["whole", "two", "all-linear"])
def lora(request: pytest.FixtureRequest) -> Any:
    return request.param


def trained(lora: Any) -> Any:
    """A tiny model with its adapter, after one step of AdamW, and that optimiser."""
    model: Any = tiny_model(char_tokenizer(), hidden=32, layers=2)
    model = model if lora is None else get_peft_model(model, lora)
    optimiser = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad])
    ids_BT = torch.arange(ROWS * TOKENS).view(ROWS, TOKENS)
    model(input_ids=ids_BT, labels=ids_BT).loss.backward()
    optimiser.step()
    return model, optimiser


def test_weights_gradients_and_optimiser_are_those_of_a_real_step(lora: Any) -> None:
    model, optimiser = trained(lora)
    memory = memory_of(size_of(model.config, lora), LOAD)
    weights = sum(one.nbytes for one in model.parameters())
    states = [state[name] for state in optimiser.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert memory.always["weights"] + memory.always.get("adapter", 0) == weights
    assert memory.learning["gradients"] == sum(one.grad.nbytes for one in model.parameters() if one.grad is not None)
    assert memory.always["optimiser"] == sum(state.nbytes for state in states)


def test_the_adapter_covers_the_modules_that_peft_adapts(lora: Any) -> None:
    size = size_of(tiny_model(char_tokenizer(), hidden=32, layers=2).config, lora)
    if lora is None:
        assert coverage(size).startswith("all 0.0")
    else:
        model, _ = trained(lora)
        assert size.targets == tuple(model.targeted_module_names)
        assert size.adapter == sum(one.numel() for one in model.parameters() if one.requires_grad)
        assert f"in {len(size.targets)} modules: " in coverage(size)


def test_logits_and_cache_are_those_of_a_real_forward() -> None:
    model = tiny_model(char_tokenizer(), hidden=32, layers=2)
    size, cache = size_of(model.config), DynamicCache(config=model.config)
    logits = model(input_ids=torch.ones(ROWS, TOKENS, dtype=torch.long), past_key_values=cache).logits
    assert logits_bytes(size, ROWS, TOKENS, 4) == logits.nbytes
    assert cache_bytes(size, ROWS, TOKENS, 4) == sum(one.keys.nbytes + one.values.nbytes for one in cache.layers)
    assert memory_of(size, LOAD).sampling == {"KV cache": cache_bytes(size, ROWS, TOKENS, 4)}


def test_activations_are_near_what_a_forward_keeps() -> None:
    model = tiny_model(char_tokenizer(), hidden=96, layers=3)
    own = {weight.data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        if value.data_ptr() not in own:
            kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        hidden = model.model(input_ids=torch.ones(8, 100, dtype=torch.long)).last_hidden_state
    load = Load(8, 100, 0, 0, 4, 4)
    assert 0.5 < activation_bytes(size_of(model.config), load) / sum(kept.values()) < 1.5, hidden.shape


def test_the_knob_is_that_of_the_largest_part() -> None:
    size = size_of(tiny_model(char_tokenizer(), hidden=32, layers=2).config)
    for load, words in (
        (Load(1, 1, 500, 500, 4, 4), "KV cache with .*--steps_per_generation"),
        (Load(64, 500, 0, 0, 4, 4), "activations with .*--gradient_checkpointing true"),
        (Load(1, 1, 0, 0, 4, 4), "optimiser with .*--use_peft true"),
    ):
        memory = memory_of(size, load)
        with pytest.raises(ValueError, match=words):
            raise ValueError(too_much(memory, memory.peak - 1))


def test_halves_quantised_and_reference_weights() -> None:
    size = size_of(tiny_model(char_tokenizer(), hidden=32, layers=2).config, LORA)
    whole = memory_of(size, LOAD).always["weights"]
    assert memory_of(size, Load(1, 1, 0, 0, 2, 2)).always["weights"] == whole / 2
    four = memory_of(size, Load(1, 1, 0, 0, 2, 2, quantised=0.5)).always
    assert four["weights"] == (size.parameters - size.quantised) * 2 + size.quantised // 2
    assert four["adapter"] == size.adapter * 2
    assert "reference" not in memory_of(size, Load(1, 1, 0, 0, 4, 4, reference=True)).always
    bare = size_of(tiny_model(char_tokenizer(), hidden=32, layers=2).config)
    assert memory_of(bare, Load(1, 1, 0, 0, 4, 4, reference=True)).always["reference"] == whole


class Saving:
    """TRL's options of checkpoints."""

    def __init__(self, strategy: str, every: float, limit: int | None = None):
        self.save_strategy, self.save_steps, self.save_total_limit = strategy, every, limit


def test_checkpoints_on_disk() -> None:
    assert checkpoints_kept(Saving("no", 10), 100) == 0
    assert checkpoints_kept(Saving("steps", 10), 100) == 10
    assert checkpoints_kept(Saving("steps", 0.25), 100) == 4
    assert checkpoints_kept(Saving("steps", 10, 2), 100) == 3  # the new one is written before an old one goes
    size = size_of(tiny_model(char_tokenizer(), hidden=32, layers=2).config, LORA)
    assert saved_bytes(size, LOAD) == size.adapter * 4
    assert checkpoint_bytes(size, LOAD) == size.adapter * 12
