"""Batched sampling from models of several kinds and states: what they bring has no effect, and all is put back."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    Qwen3ForCausalLM,
    Trainer,
    TrainingArguments,
)

from rlft.compat import generation_model
from rlft.rollouts.policy import GREEDY, Draw, Sampling
from rlft.rollouts.transformers_policy import TransformersPolicy
from rlft.tiny.model import tiny_model
from tests.rollouts.test_transformers_policy import (
    END,
    PAD,
    STOPS,
    TOKENIZER,
    VOCABULARY,
    mixed_draws,
    same,
    teacher_forced,
)


@pytest.fixture
def model() -> Qwen3ForCausalLM:
    return tiny_model(TOKENIZER, hidden=32, layers=2)


def test_a_recurrent_model_keeps_its_own_cache() -> None:
    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=32, state_size=8, num_hidden_layers=2))
    draws = [Draw([5, 6, 7, 8], seed, 6) for seed in range(8)]
    together = TransformersPolicy(model, STOPS, PAD).generate(draws, Sampling())
    assert same(together, TransformersPolicy(model, STOPS, PAD, batch_size=1).generate(draws, Sampling()))


def test_samples_inside_a_trainers_generation_context(model: Qwen3ForCausalLM, tmp_path: Path) -> None:
    draws = mixed_draws(10, seed=8)
    expected = TransformersPolicy(model, STOPS, PAD).generate(draws, Sampling())
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    trainer = Trainer(model.train(), args, train_dataset=[{"input_ids": [1], "labels": [1]}])
    with generation_model(trainer) as ready:
        assert same(TransformersPolicy(ready, STOPS, PAD).generate(draws, Sampling()), expected)
    assert model.training


def test_the_models_own_generation_config_has_no_effect(model: Qwen3ForCausalLM) -> None:
    draws, policy = mixed_draws(30, seed=5), TransformersPolicy(model, STOPS, PAD)
    expected = [policy.generate(draws, sampling) for sampling in (Sampling(), GREEDY)]
    own = model.generation_config
    meddling = GenerationConfig(
        do_sample=True,
        temperature=0.3,
        top_p=0.5,
        top_k=3,
        repetition_penalty=1.5,
        no_repeat_ngram_size=1,
        min_new_tokens=9,
        suppress_tokens=list(range(0, VOCABULARY, 2)),
        forced_eos_token_id=END,
        eos_token_id=60,
        use_cache=False,
        num_return_sequences=2,
        max_length=5,
    )
    model.generation_config = meddling
    try:
        assert all(
            same(policy.generate(draws, sampling), wanted)
            for sampling, wanted in zip((Sampling(), GREEDY), expected, strict=True)
        )
        assert model.generation_config is meddling
    finally:
        model.generation_config = own


def test_training_mode_and_checkpointing_are_put_aside_and_restored() -> None:
    model = tiny_model(TOKENIZER, hidden=32, layers=2)
    draws = mixed_draws(10, seed=6)
    policy = TransformersPolicy(model.eval(), STOPS, PAD)
    expected = policy.generate(draws, Sampling())
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    model.model.norm.eval()
    model.gradient_checkpointing_enable()
    model.config.use_cache = False
    fed: list[int] = []
    handle = model.model.layers[0].register_forward_hook(lambda _, args, out: fed.append(args[0].size(1)))
    found = policy.generate(draws, Sampling())
    handle.remove()
    assert same(found, expected)
    assert fed[1:] == [1] * (len(fed) - 1), "every step after the first feeds one token: the cache is on"
    assert model.training
    assert not model.model.norm.training
    assert not any(parameter.grad_fn for parameter in model.parameters())


def test_state_is_restored_after_an_error(model: Qwen3ForCausalLM) -> None:
    own = model.generation_config
    model.train()
    handle = model.model.norm.register_forward_hook(lambda *_: (_ for _ in ()).throw(KeyError("broken")))
    with pytest.raises(KeyError, match="broken"):
        TransformersPolicy(model, {END}, PAD).generate([Draw([1], 0, 2)], Sampling())
    handle.remove()
    assert model.training
    assert model.generation_config is own


def test_a_peft_model_samples_with_its_adapter() -> None:
    base = tiny_model(TOKENIZER, hidden=32, layers=2)
    draws = mixed_draws(20, seed=7)
    before = TransformersPolicy(base, STOPS, PAD).generate(draws, Sampling())
    wrapped = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    own = wrapped.generation_config
    policy = TransformersPolicy(wrapped, STOPS, PAD)
    assert same(policy.generate(draws, Sampling()), before)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    after = policy.generate(draws, Sampling())
    assert not same(after, before)
    for draw, got in zip(draws, after, strict=True):
        assert got.logprobs == pytest.approx(teacher_forced(wrapped.eval(), draw, got.ids, 1.0), abs=1e-4)
    assert wrapped.generation_config is own
    assert wrapped.get_base_model().generation_config is own


def test_learned_positions_are_never_overrun() -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=48, n_embd=32, n_layer=1, n_head=2)
    policy = TransformersPolicy(GPT2LMHeadModel(config), set(), PAD)
    draws = [Draw([3] * 46, 0, 2), Draw([4] * 8, 1, 40), Draw([5] * 20, 2, 28)]
    assert [len(g.ids) for g in policy.generate(draws, Sampling())] == [2, 40, 28]


def test_a_diverged_model_is_refused() -> None:
    model = tiny_model(TOKENIZER, hidden=32, layers=2)
    model.model.norm.weight.data[0] = torch.nan
    for sampling in (Sampling(), Sampling(top_p=0.5, top_k=5), GREEDY):
        with pytest.raises(FloatingPointError, match="NaN or infinite"):
            TransformersPolicy(model, {END}, PAD).generate([Draw([1, 2], 0, 3)], sampling)
