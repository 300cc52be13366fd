"""The scorer against a loop that reads one answer at a time, token by token, and the invariances it must have."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rlft.em import prefix_tree
from rlft.em import score as scoring
from rlft.em.prefix_tree import Scored, levels_of
from rlft.em.reading import cache_can_be_copied
from rlft.em.score import score_answers

VOCABULARY = 61
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}


def qwen3() -> PreTrainedModel:
    return Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=8))


def gpt2() -> PreTrainedModel:
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, **shape))


def mistral() -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**SMALL, sliding_window=8))


def gemma2() -> PreTrainedModel:
    """Soft-capped logits, and layers that take turns between a window and full attention."""
    capped = {"final_logit_softcapping": 3.0, "sliding_window": 8, "head_dim": 8, "query_pre_attn_scalar": 8}
    return Gemma2ForCausalLM(Gemma2Config(**SMALL, **capped))


def bloom() -> PreTrainedModel:
    return BloomForCausalLM(
        BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3)
    )


def dynamic_llama() -> PreTrainedModel:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0}
    return LlamaForCausalLM(LlamaConfig(**(SMALL | {"max_position_embeddings": 48}), rope_parameters=rope))


MODELS: dict[str, tuple[Callable[[], PreTrainedModel], bool]] = {
    "qwen3": (qwen3, True),
    "gpt2": (gpt2, True),
    "mistral": (mistral, False),
    "gemma2": (gemma2, False),
    "bloom": (bloom, False),
}


def make(build: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return build().eval()


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return make(qwen3)


def tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(1, VOCABULARY) for _ in range(count)]


def questions(seed: int, most: int = 40) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Five questions of 1 to 4 samples; beginnings of 3 to 30 shared tokens; 1 to 3 answers of 1 to 5 tokens."""
    rng = random.Random(seed)
    contexts, answers = [], []
    for samples in (4, 1, 3, 2, 4):
        beginning = tokens(rng, rng.choice([3, 17, 30]))
        gold = [tokens(rng, rng.randint(1, 5)) for _ in range(rng.randint(1, 3))]
        for _ in range(samples):
            contexts.append(beginning + tokens(rng, rng.randint(1, most - len(beginning))))
            answers.append(gold)
    contexts[-1] = list(contexts[-2])  # equal samples share all but their last token
    return contexts, answers


def naive(model: nn.Module, contexts: list[list[int]], answers: list[list[list[int]]]) -> list[list[float]]:
    """One forward per answer token, no batch, no padding, no cache."""
    scores = []
    for context, of_context in zip(contexts, answers, strict=True):
        scores.append([])
        for answer in of_context:
            total = 0.0
            for n, token in enumerate(answer):
                with torch.no_grad():
                    logits = model(torch.tensor([context + answer[:n]])).logits[0, -1]
                total += logits.double().log_softmax(-1)[token].item()
            scores[-1].append(total)
    return scores


def flat(scores: list[list[float]]) -> list[float]:
    return [value for of_context in scores for value in of_context]


@pytest.mark.parametrize("name", MODELS)
def test_equals_a_naive_loop(name: str) -> None:
    build, copies = MODELS[name]
    model = make(build)
    assert cache_can_be_copied(model) == copies
    contexts, answers = questions(0)
    expected = naive(model, contexts, answers)
    assert max(flat(expected)) - min(flat(expected)) > 5, "random answers must not all look alike"
    found = score_answers(model, contexts, answers, pad_id=0)
    assert [len(of_context) for of_context in found] == [len(of_context) for of_context in answers]
    assert flat(found) == pytest.approx(flat(expected), abs=2e-4)


def test_rows_are_read_alone_where_positions_depend_on_the_longest() -> None:
    model = make(dynamic_llama)
    rng = random.Random(0)
    contexts, answers = [tokens(rng, 20), tokens(rng, 43), tokens(rng, 30)], [[[1, 2]]] * 3
    assert not cache_can_be_copied(model)
    expected = flat([naive(make(dynamic_llama), [c], [a])[0] for c, a in zip(contexts, answers, strict=True)])
    assert flat(score_answers(model, contexts, answers, pad_id=0)) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("seed", range(3))
def test_batch_size_company_and_padding_do_not_matter(model: PreTrainedModel, seed: int) -> None:
    contexts, answers = questions(seed)
    expected = flat(score_answers(model, contexts, answers, pad_id=0))
    for batch_tokens in (1, 60, 150, 400):
        found = score_answers(model, contexts, answers, pad_id=0, batch_tokens=batch_tokens)
        assert flat(found) == pytest.approx(expected, abs=1e-4)
    assert flat(score_answers(model, contexts, answers, pad_id=60)) == pytest.approx(expected, abs=1e-5)
    order = random.Random(seed).sample(range(len(contexts)), len(contexts))
    shuffled = score_answers(model, [contexts[i] for i in order], [answers[i] for i in order], pad_id=0)
    assert flat([shuffled[order.index(i)] for i in range(len(order))]) == pytest.approx(expected, abs=1e-4)


def test_shared_tokens_are_read_once_and_logits_made_at_answer_positions_only(model: PreTrainedModel) -> None:
    rng = random.Random(0)
    beginning = tokens(rng, 30)
    contexts = [beginning + tokens(rng, 10) for _ in range(8)]
    answers = [[[5, 6, 7], [8, 9], [10]]] * 8
    read, projected = [], []
    hooks = [
        model.model.embed_tokens.register_forward_pre_hook(lambda _, args: read.append(tuple(args[0].shape))),
        model.lm_head.register_forward_hook(lambda _, args, out: projected.append(out.shape[:-1].numel())),
    ]
    try:
        score_answers(model, contexts, answers, pad_id=0)
    finally:
        [hook.remove() for hook in hooks]
    # the beginning; the rest of each sample, which predicts three first tokens; the other tokens of two answers
    assert read == [(1, 30), (8, 10), (16, 2)]
    assert projected == [0, 8 * 3, 8 * (2 + 1)]


def paths(sequences: list[Scored]) -> tuple[dict[tuple[int, int], list[int]], int]:
    """What each place's sequence reads from the root to its end, and how many tokens all edges hold."""
    levels = levels_of(sequences)
    before: list[list[int]] = []
    read: dict[tuple[int, int], list[int]] = {}
    wanted: dict[tuple[int, int], dict[int, int]] = {}
    for level in levels:
        starts = [before[edge.parent] if edge.parent >= 0 else [] for edge in level]
        before = [start + edge.ids for start, edge in zip(starts, level, strict=True)]
        for start, edge in zip(starts, level, strict=True):
            for column, token, place in edge.wanted:
                wanted.setdefault(place, {})[len(start) + column] = token
                read[place] = start + edge.ids[: column + 1]
    for sequence in sequences:
        predicted = sorted(wanted[sequence.place].items())
        assert predicted == list(enumerate(sequence.answer, len(sequence.context) - 1))
    return read, sum(len(edge.ids) for level in levels for edge in level)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("least", [1, 16, 10_000])
def test_the_tree_reads_every_sequence_and_no_shared_token_twice(
    seed: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix_tree, "LEAST_SAVED", least)
    contexts, answers = questions(seed)
    sequences = [
        Scored(context, answer, (i, a))
        for i, (context, gold) in enumerate(zip(contexts, answers, strict=True))
        for a, answer in enumerate(gold)
    ]
    read, count = paths(sequences)
    assert read == {sequence.place: sequence.read for sequence in sequences}
    prefixes = {tuple(s.read[:n]) for s in sequences for n in range(1, len(s.read) + 1)}
    apart = sum(len(ids) for ids in {tuple(s.read) for s in sequences})
    assert len(prefixes) <= count <= apart
    if least == 1:
        assert count == len(prefixes)
    if least == 10_000:
        assert count == apart


def test_large_vocabularies_and_batches_are_split(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts, answers = questions(1)
    expected = flat(score_answers(model, contexts, answers, pad_id=0))
    monkeypatch.setattr(scoring, "_MOST_LOGITS", VOCABULARY * 6)
    assert flat(score_answers(model, contexts, answers, pad_id=0)) == pytest.approx(expected, abs=1e-4)


def test_adapter_dropout_and_training_flag(model: PreTrainedModel) -> None:
    adapted = get_peft_model(make(qwen3), LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.3)
    contexts, answers = questions(2)
    expected = flat(naive(adapted.eval(), contexts, answers))
    assert max(abs(a - b) for a, b in zip(expected, flat(naive(model, contexts, answers)), strict=True)) > 0.1
    for training in (True, False):
        adapted.train(training)
        assert flat(score_answers(adapted, contexts, answers, pad_id=0)) == pytest.approx(expected, abs=2e-4)
        assert adapted.training is training
    found = score_answers(adapted.merge_and_unload(), contexts, answers, pad_id=0)
    assert flat(found) == pytest.approx(expected, abs=2e-4)


def test_the_log_softmax_is_fp32_under_autocast(model: PreTrainedModel) -> None:
    contexts, answers = questions(3)
    expected = flat(score_answers(model, contexts, answers, pad_id=0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = flat(score_answers(model, contexts, answers, pad_id=0))
    assert found != expected
    assert found == pytest.approx(expected, rel=0.1, abs=0.5)
    assert any(value * 256 != int(value * 256) for value in found), "sums of bf16 numbers would be multiples of 1/256"


@pytest.mark.parametrize(
    ("contexts", "answers", "message"),
    [
        ([[1, 2]], [[[]]], "An answer of no tokens"),
        ([[1, 2]], [[]], "one at least of each"),
        ([[]], [[[3]]], "context 0: 0 tokens"),
        ([[1], [1] * 250], [[[3]], [[1] * 7]], "context 1 and its answer have 257 tokens, but the model has 256"),
        ([[1], [2]], [[[3]]], "2 contexts but answers for 1"),
    ],
)
def test_bad_input_is_refused(model: PreTrainedModel, contexts: Any, answers: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_answers(model, contexts, answers, pad_id=0)


def test_prompt_learning_is_refused(model: PreTrainedModel) -> None:
    prompts = get_peft_model(make(qwen3), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ValueError, match="prompt-learning"):
        score_answers(prompts, [[1]], [[[3]]], pad_id=0)
    assert score_answers(model, [], [], pad_id=0) == []


def test_failures_leave_the_model_as_it_was(model: PreTrainedModel) -> None:
    model.train()
    with pytest.raises(IndexError):
        score_answers(model, [[VOCABULARY + 5, 1]], [[[3]]], pad_id=0)
    assert model.training
    assert not model.lm_head._forward_pre_hooks
    model.eval()
