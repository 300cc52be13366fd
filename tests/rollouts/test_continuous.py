"""Continuous batching on a CPU: distribution, endings, log-probabilities, and nothing left changed."""

import random
from collections import Counter
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig, Qwen3ForCausalLM

from rlft.rollouts.continuous import ContinuousPolicy
from rlft.rollouts.policy import GREEDY, Draw, Sampling
from rlft.rollouts.transformers_policy import TransformersPolicy
from rlft.tiny.model import tiny_model
from rlft.tiny.tokenizer import char_tokenizer

TOKENIZER = char_tokenizer()
VOCABULARY = len(TOKENIZER)
STOPS = frozenset(range(30))
SMALL = {"num_blocks": 256, "page_size": 16, "max_batch_tokens": 512}


@pytest.fixture
def model() -> Qwen3ForCausalLM:
    return tiny_model(TOKENIZER, hidden=32, layers=2)


def policy(model: Any, stop_ids: frozenset[int] = STOPS) -> ContinuousPolicy:
    return ContinuousPolicy(model, stop_ids, **SMALL)


def mixed_draws(count: int, seed: int = 0) -> list[Draw]:
    rng = random.Random(seed)
    prompts = [[rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 40))] for _ in range(count)]
    return [Draw(prompt, seed * count + index, rng.randint(1, 12)) for index, prompt in enumerate(prompts)]


def check(model: Any, draws: list[Draw], sampling: Sampling) -> None:
    """Each generation ends as it should, and its log-probabilities are the teacher-forced ones."""
    for draw, got in zip(draws, policy(model).generate(draws, sampling), strict=True):
        assert not STOPS & set(got.ids[:-1])
        assert got.stopped == (got.ids[-1] in STOPS)
        assert got.stopped or len(got.ids) == draw.max_new_tokens
        with torch.no_grad():
            logits_LV = model(input_ids=torch.tensor([draw.prompt_ids + got.ids])).logits[0].double()
        logprobs_TV = (logits_LV / (sampling.temperature or 1.0))[len(draw.prompt_ids) - 1 : -1].log_softmax(-1)
        expected = logprobs_TV.gather(1, torch.tensor(got.ids)[:, None])[:, 0].tolist()
        assert got.logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.6), GREEDY])
def test_endings_and_logprobs(model: Qwen3ForCausalLM, sampling: Sampling) -> None:
    check(model.eval(), mixed_draws(12), sampling)


def test_samples_follow_the_distribution(model: Qwen3ForCausalLM) -> None:
    prompt, count, temperature = [5, 17, 40], 1000, 0.7
    with torch.no_grad():
        expected = (model(input_ids=torch.tensor([prompt])).logits[0, -1] / temperature).softmax(-1) * count
    draws = [Draw(prompt, seed, 1) for seed in range(count)]
    found = Counter(got.ids[0] for got in policy(model).generate(draws, Sampling(temperature)))
    observed = torch.tensor([float(found[token]) for token in range(VOCABULARY)])
    kept = expected >= 5
    statistic = ((observed - expected) ** 2 / expected)[kept].sum().item()
    freedom = int(kept.sum())
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


def test_greedy_equals_the_other_policy(model: Qwen3ForCausalLM) -> None:
    draws = mixed_draws(8, seed=1)
    expected = TransformersPolicy(model, STOPS, TOKENIZER.pad_token_id).generate(draws, GREEDY)
    assert [got.ids for got in policy(model).generate(draws, GREEDY)] == [got.ids for got in expected]


def test_the_same_list_of_draws_gives_the_same_and_other_seeds_give_other(model: Qwen3ForCausalLM) -> None:
    draws = mixed_draws(8, seed=2)
    first = policy(model).generate(draws, Sampling())
    assert policy(model).generate(draws, Sampling()) == first
    assert policy(model).generate([Draw(d.prompt_ids, d.seed + 1, 12) for d in draws], Sampling()) != first


def test_what_it_touches_is_restored(model: Qwen3ForCausalLM) -> None:
    model.train()
    own = model.generation_config = GenerationConfig(repetition_penalty=1.5, temperature=0.1, suppress_tokens=[1, 2])
    torch.manual_seed(5)
    expected = torch.random.get_rng_state()
    check(model, mixed_draws(10), Sampling())
    assert model.training
    assert model.generation_config is own
    assert torch.equal(torch.random.get_rng_state(), expected)
    assert model.config._attn_implementation == "sdpa"


def test_an_adapter_is_sampled_with(model: Qwen3ForCausalLM) -> None:
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")).eval()
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    check(wrapped, mixed_draws(10), Sampling())


def test_no_draws_no_generations(model: Qwen3ForCausalLM) -> None:
    assert policy(model).generate([], Sampling()) == []


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (Draw([], 0, 4), "without tokens"),
        (Draw([1] * 510, 0, 4), "510 prompt tokens and max_new_tokens=4 make 514"),
        (Draw([VOCABULARY], 0, 4), "resize its embeddings"),
    ],
)
def test_bad_draws_are_refused(model: Qwen3ForCausalLM, draw: Draw, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy(model).generate([draw], Sampling())


def test_truncated_sampling_is_refused(model: Qwen3ForCausalLM) -> None:
    with pytest.raises(ValueError, match=r"top_p=0.5.*top_p=1 and top_k=0"):
        policy(model).generate(mixed_draws(2), Sampling(top_p=0.5))


def test_settings_are_checked_at_once(model: Qwen3ForCausalLM) -> None:
    with pytest.raises(ValueError, match="seed: set by this policy"):
        ContinuousPolicy(model, STOPS, seed=3)
    with pytest.raises(TypeError, match="max_memory"):
        ContinuousPolicy(model, STOPS, max_memory=0.5)


@pytest.mark.parametrize("fault", [RuntimeError("out of memory"), KeyError("block")])
def test_an_engine_that_fails_is_named(model: Qwen3ForCausalLM, fault: Exception) -> None:
    def fail(*_: Any) -> None:
        raise fault

    handle = model.model.norm.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match=f"continuous batching failed: .*{fault.args[0]}.*max_memory_percent"):
        policy(model).generate(mixed_draws(4), Sampling())
    handle.remove()
    check(model.eval(), mixed_draws(4), Sampling())
