"""Batched sampling: the right distribution, one random stream per draw, and nothing of the model's own config."""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import (
    GenerationConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from rlft.rollouts.chooser import invert_cdf
from rlft.rollouts.policy import GREEDY, Draw, Generation, Sampling, seed_of
from rlft.rollouts.transformers_policy import TransformersPolicy, pad_left
from rlft.tiny.model import tiny_model
from rlft.tiny.tokenizer import char_tokenizer

TOKENIZER = char_tokenizer()
PAD, END = TOKENIZER.pad_token_id, TOKENIZER.eos_token_id
VOCABULARY = len(TOKENIZER)
STOPS = frozenset(range(30))
"""So many that a random model meets one within a few tokens."""


@pytest.fixture(scope="module")
def model() -> Qwen3ForCausalLM:
    return tiny_model(TOKENIZER, hidden=32, layers=2)


def mixed_draws(count: int, seed: int = 0, cap: int = 12) -> list[Draw]:
    rng = random.Random(seed)
    prompts = [[rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 40))] for _ in range(count // 2)]
    return [Draw(rng.choice(prompts), seed_of(seed, index), rng.randint(1, cap)) for index in range(count)]


def next_logits(model: Any, prompt: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([prompt])).logits[0, -1].double()


def teacher_forced(model: Any, draw: Draw, ids: list[int], temperature: float) -> list[float]:
    with torch.no_grad():
        logits_LV = model(input_ids=torch.tensor([draw.prompt_ids + ids])).logits[0].double() / (temperature or 1.0)
    logprobs_TV = logits_LV[len(draw.prompt_ids) - 1 : -1].log_softmax(-1)
    return logprobs_TV.gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()


def same(left: list[Generation], right: list[Generation]) -> bool:
    return [(g.ids, g.stopped) for g in left] == [(g.ids, g.stopped) for g in right]


@contextmanager
def fed_to(model: Any) -> Iterator[list[tuple[int, int]]]:
    """The shapes (rows, columns) that are fed."""
    fed: list[tuple[int, int]] = []
    handle = model.get_input_embeddings().register_forward_hook(lambda _, args, out: fed.append(tuple(args[0].shape)))
    yield fed
    handle.remove()


def sliding_model() -> Qwen3ForCausalLM:
    window = {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    plain = tiny_model(TOKENIZER, hidden=32, layers=2)
    return Qwen3ForCausalLM(Qwen3Config.from_dict({**plain.config.to_dict(), **window}))


def test_inverse_cdf_matches_a_search_by_hand() -> None:
    probs = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]])
    at = {0.0: 1, 0.2499: 1, 0.25: 3, 0.7499: 3, 0.75: 4, 1 - 2**-53: 4}
    row = torch.tensor([0])
    for uniform, token in at.items():
        assert invert_cdf(probs, torch.tensor([uniform], dtype=torch.float64), row).item() == token
    assert invert_cdf(probs, torch.tensor([1.0], dtype=torch.float32), row).item() == 4
    two = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    assert invert_cdf(two, torch.tensor([0.7, 0.7, 0.2]), torch.tensor([1, 0, 1])).tolist() == [[1], [0], [0]]


WORDS_SEEN = Sampling(0.8, top_p=0.9, repetition_penalty=1.5)


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.5), Sampling(0.8, top_p=0.6, top_k=9), WORDS_SEEN]
)
def test_samples_follow_the_distribution(model: Qwen3ForCausalLM, sampling: Sampling) -> None:
    prompt, count = [5, 17, 40], 4000
    scores = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(
        torch.tensor([prompt]), next_logits(model, prompt)[None]
    )
    scores = TemperatureLogitsWarper(sampling.temperature)(None, scores)
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    expected = scores[0].softmax(-1) * count
    policy = TransformersPolicy(model, set(), PAD, batch_size=1000)
    found = Counter(g.ids[0] for g in policy.generate([Draw(prompt, seed, 1) for seed in range(count)], sampling))
    assert all(expected[token] > 0 for token in found)
    if sampling.top_k:
        assert set(found) == set(expected.nonzero()[:, 0].tolist())
    kept = [token for token in range(VOCABULARY) if expected[token] >= 5]
    observed = torch.tensor([float(found[token]) for token in kept] + [count - sum(found[token] for token in kept)])
    wanted = torch.cat([expected[kept], count - expected[kept].sum(0, keepdim=True)])
    observed, wanted = observed[wanted > 1], wanted[wanted > 1]
    statistic = ((observed - wanted) ** 2 / wanted).sum().item()
    freedom = len(wanted) - 1
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, top_p=0.9, top_k=20), GREEDY, WORDS_SEEN])
def test_batch_size_and_company_change_nothing(model: Qwen3ForCausalLM, sampling: Sampling) -> None:
    draws = mixed_draws(200)
    alone, three, many = (
        TransformersPolicy(model, STOPS, PAD, batch_size=size).generate(draws, sampling) for size in (1, 3, 64)
    )
    assert same(alone, three)
    assert same(alone, many)
    assert {g.stopped for g in alone} == {True, False}
    for left, right in zip(alone, many, strict=True):
        assert left.logprobs == pytest.approx(right.logprobs, abs=1e-5)
    backwards = TransformersPolicy(model, STOPS, PAD).generate(draws[::-1], sampling)
    assert same(alone, backwards[::-1])


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.6), Sampling(1.3, top_p=0.7, top_k=9), GREEDY, WORDS_SEEN])
def test_logprobs_equal_the_teacher_forced_ones(model: Qwen3ForCausalLM, sampling: Sampling) -> None:
    draws = mixed_draws(40, seed=1)
    for draw, got in zip(draws, TransformersPolicy(model, STOPS, PAD).generate(draws, sampling), strict=True):
        assert got.logprobs == pytest.approx(teacher_forced(model, draw, got.ids, sampling.temperature), abs=1e-4)


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_equals_generate(model: Qwen3ForCausalLM, penalty: float) -> None:
    draws = [Draw(draw.prompt_ids, 0, 10) for draw in mixed_draws(20, seed=2)]
    greedy = Sampling(temperature=0.0, repetition_penalty=penalty)
    for draw, got in zip(draws, TransformersPolicy(model, {END}, PAD).generate(draws, greedy), strict=True):
        prompt = torch.tensor([draw.prompt_ids])
        config = GenerationConfig(
            max_new_tokens=10, do_sample=False, eos_token_id=END, pad_token_id=PAD, repetition_penalty=penalty
        )
        expected = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config)
        assert got.ids == expected[0, len(draw.prompt_ids) :].tolist()


def test_ends_at_the_first_stop_id_or_at_the_cap(model: Qwen3ForCausalLM) -> None:
    draws = mixed_draws(100, seed=3)
    for draw, got in zip(draws, TransformersPolicy(model, STOPS, PAD).generate(draws, Sampling()), strict=True):
        assert [token in STOPS for token in got.ids[:-1]] == [False] * (len(got.ids) - 1)
        assert got.stopped == (got.ids[-1] in STOPS)
        assert got.stopped or len(got.ids) == draw.max_new_tokens
        assert len(got.ids) <= draw.max_new_tokens


def test_pad_may_be_a_stop_id(model: Qwen3ForCausalLM) -> None:
    draws = mixed_draws(60, seed=4)
    expected = TransformersPolicy(model, STOPS, 99).generate(draws, Sampling())
    assert same(TransformersPolicy(model, STOPS, min(STOPS)).generate(draws, Sampling()), expected)


def test_a_larger_cap_continues_the_same_draw(model: Qwen3ForCausalLM) -> None:
    policy = TransformersPolicy(model, set(), PAD)
    short, long = (policy.generate([Draw([7, 8], 3, cap)], Sampling())[0] for cap in (4, 9))
    assert long.ids[:4] == short.ids
    assert (len(long.ids), long.stopped) == (9, False)


def test_same_prompt_other_seed_other_text(model: Qwen3ForCausalLM) -> None:
    found = TransformersPolicy(model, set(), PAD).generate([Draw([7, 8, 9], seed, 8) for seed in range(16)], Sampling())
    assert len({tuple(g.ids) for g in found}) == 16


@pytest.mark.parametrize("sliding", [False, True])
def test_a_context_that_several_draws_share_is_read_once(sliding: bool) -> None:
    model = sliding_model() if sliding else tiny_model(TOKENIZER, hidden=32, layers=2)
    draws = [Draw(prompt, seed, 14) for prompt in ([9], [5, 6, 7], [8, 7] * 11) for seed in range(8)]
    with fed_to(model) as fed:
        together = TransformersPolicy(model, STOPS, PAD).generate(draws, Sampling())
    contexts = [
        len(
            {
                (*draw.prompt_ids, *got.ids[:step])
                for draw, got in zip(draws, together, strict=True)
                if len(got.ids) > step
            }
        )
        for step in range(max(len(got.ids) for got in together))
    ]
    assert fed[0] == (3, 22)
    for (rows, columns), live in zip(fed[1:], contexts[1:], strict=True):
        assert columns == 1
        assert live <= rows <= 2 * live
    assert same(together, TransformersPolicy(model, STOPS, PAD, batch_size=1).generate(draws, Sampling()))
    for draw, got in zip(draws, together, strict=True):
        assert got.logprobs == pytest.approx(teacher_forced(model, draw, got.ids, 1.0), abs=1e-4)


def test_no_draws_no_generations(model: Qwen3ForCausalLM) -> None:
    assert TransformersPolicy(model, {END}, PAD).generate([], Sampling()) == []


def test_padding_is_on_the_left() -> None:
    ids, mask = pad_left([[1, 2, 3], [4]], 9)
    assert ids.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (Draw([], 0, 4), "draw 1 has a prompt without tokens"),
        (Draw([1], 0, 0), "max_new_tokens=0; it must be at least 1"),
        (Draw([1] * 500, 0, 13), "500 prompt tokens and max_new_tokens=13 make 513.*positions for 512; lower max"),
        (Draw([1, VOCABULARY], 0, 4), f"token ids from 1 to {VOCABULARY}.*knows 0 to {VOCABULARY - 1}"),
        (Draw([-100, 5], 0, 4), "token ids from -100 to 5"),
    ],
)
def test_a_bad_draw_is_refused_before_anything_is_sampled(model: Qwen3ForCausalLM, draw: Draw, message: str) -> None:
    calls: list[int] = []
    handle = model.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(ValueError, match=message):
        TransformersPolicy(model, {END}, PAD).generate([Draw([1], 0, 1), draw], Sampling())
    handle.remove()
    assert not calls


def test_bad_settings_are_refused(model: Qwen3ForCausalLM) -> None:
    with pytest.raises(ValueError, match="batch_size=0"):
        TransformersPolicy(model, {END}, PAD, batch_size=0)
    with pytest.raises(ValueError, match="keep_tokens=-1"):
        TransformersPolicy(model, {END}, PAD, keep_tokens=-1)
    with pytest.raises(ValueError, match="pad_id=None.*end token"):
        TransformersPolicy(model, {END}, None)  # type: ignore[arg-type]
