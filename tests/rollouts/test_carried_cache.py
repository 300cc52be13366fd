"""Contexts carried from call to call: fewer tokens are read, nothing else changes, and memory is bounded."""

import random
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel, MptConfig, MptForCausalLM

from rlft.rollouts.carried_cache import NOTHING, CarriedCache
from rlft.rollouts.policy import GREEDY, Draw, Generation, Sampling
from rlft.rollouts.row_cache import RowLayer
from rlft.rollouts.transformers_policy import TransformersPolicy
from rlft.tiny.model import tiny_model
from tests.rollouts.test_transformers_policy import (
    PAD,
    STOPS,
    TOKENIZER,
    VOCABULARY,
    fed_to,
    same,
    sliding_model,
    teacher_forced,
)

PLAIN = Sampling()
SMALL = {"vocab_size": VOCABULARY, "n_layer": 2}


def gpt2() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(**SMALL, n_positions=160, n_embd=32, n_head=2, initializer_range=0.2))


def bloom() -> Any:
    torch.manual_seed(0)
    return BloomForCausalLM(BloomConfig(**SMALL, hidden_size=32, n_head=2, initializer_range=0.2))


def mpt() -> Any:
    torch.manual_seed(0)
    return MptForCausalLM(MptConfig(vocab_size=VOCABULARY, n_layers=2, d_model=32, n_heads=2, initializer_range=0.2))


def lora() -> Any:
    torch.manual_seed(0)
    wrapped = get_peft_model(plain(), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return wrapped


def learned_prompt() -> Any:
    torch.manual_seed(0)
    return get_peft_model(plain(), PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))


def plain() -> Any:
    return tiny_model(TOKENIZER, hidden=32, layers=2)


def eager() -> Any:
    model = plain()
    model.set_attn_implementation("eager")
    return model


def talk(policy: Any, sampling: Sampling = PLAIN, turns: int = 3, count: int = 18) -> list[list[Generation]]:
    """Conversations of several turns, two on each opening, some of which end early; all that was said."""
    rng = random.Random(0)
    prompts = [[rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 12))] for _ in range(count // 2)] * 2
    said = []
    for turn in range(turns):
        draws = [
            Draw(list(prompt), 100 * turn + number, 1 + (number + turn) % 9)
            for number, prompt in enumerate(prompts)
            if turn < 2 or number % 3
        ]
        said.append(policy.generate(draws, sampling))
        for draw, got in zip(draws, said[-1], strict=True):
            told = [rng.randrange(VOCABULARY) for _ in range(rng.randint(0, 9))]
            prompts[(draw.seed - 100 * turn)] = draw.prompt_ids + got.ids + told
    return said


def agree(left: list[list[Generation]], right: list[list[Generation]]) -> bool:
    for one, two in zip(sum(left, []), sum(right, []), strict=True):
        assert one.logprobs == pytest.approx(two.logprobs, abs=1e-4)
    return all(same(one, two) for one, two in zip(left, right, strict=True))


@pytest.mark.parametrize("make", [plain, eager, gpt2, lora, bloom, mpt, sliding_model])
def test_what_is_carried_over_changes_nothing(make: Any) -> None:
    model = make()
    alone = talk(TransformersPolicy(model, STOPS, PAD, batch_size=1))
    assert agree(alone, talk(TransformersPolicy(model, STOPS, PAD)))
    for batch_size, keep_tokens in ((64, 10_000), (5, 10_000), (5, 300), (64, 40)):
        assert agree(alone, talk(TransformersPolicy(model, STOPS, PAD, batch_size, keep_tokens)))


@pytest.mark.parametrize("sampling", [Sampling(0.7, top_p=0.9, top_k=20), GREEDY])
def test_nor_under_another_sampling(sampling: Sampling) -> None:
    model = plain()
    kept = talk(TransformersPolicy(model, STOPS, PAD, keep_tokens=10_000), sampling)
    assert agree(talk(TransformersPolicy(model, STOPS, PAD), sampling), kept)


def test_only_what_is_new_is_read() -> None:
    model = plain()
    policy = TransformersPolicy(model, frozenset(), PAD, keep_tokens=1000)
    first = [Draw([5, 6, 7, number], number, 4) for number in range(6)]
    got = policy.generate(first, Sampling())
    second = [Draw([*draw.prompt_ids, *said.ids, 8, 9], 1, 4) for draw, said in zip(first, got, strict=True)]
    with fed_to(model) as fed:
        policy.generate(second, Sampling())
    assert fed[0] == (6, 3), "the last token of a turn was chosen, not read"
    with fed_to(model) as fed:
        policy.generate(second, Sampling())
    assert fed[0] == (6, 1), "the same draws again: the last token, whose logits are wanted"
    with fed_to(model) as fed:
        policy.generate([Draw([5, 6, 9, 9], 0, 1), Draw([90] * 4, 0, 1)], Sampling())
    assert fed[0] == (2, 4), "one shares two tokens, the other none, and a batch reads as many columns as its longest"


@pytest.mark.parametrize("make", [bloom, mpt, sliding_model, learned_prompt])
def test_a_model_for_which_it_would_be_wrong_keeps_nothing(make: Any) -> None:
    policy = TransformersPolicy(make(), STOPS, PAD, keep_tokens=1000)
    policy.generate([Draw([5, 6, 7], 0, 4)], Sampling())
    policy.forget()
    assert policy._carried is None


def train(model: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(input_ids=torch.tensor([[5, 6, 7, 8]]), labels=torch.tensor([[5, 6, 7, 8]])).loss.backward()
    optimizer.step()


def load(model: Any) -> None:
    other = tiny_model(TOKENIZER, hidden=32, layers=2, seed=1)
    model.load_state_dict(other.state_dict())


def replace(model: Any) -> None:
    weight = model.model.layers[0].self_attn.k_proj.weight
    weight.data = weight.data + 0.3


@pytest.mark.parametrize("change", [train, load, replace])
def test_changed_weights_read_everything_again(change: Any) -> None:
    model = plain()
    policy = TransformersPolicy(model, STOPS, PAD, keep_tokens=1000)
    draw = Draw([5, 6, 7, 8, 9] * 4, 0, 8)
    before = policy.generate([draw], Sampling())
    change(model)
    (after,) = policy.generate([draw], Sampling())
    assert not same(before, [after]) or before[0].logprobs != pytest.approx(after.logprobs, abs=1e-3)
    assert after.logprobs == pytest.approx(teacher_forced(model, draw, after.ids, 1.0), abs=1e-4)


def test_forget_lets_go_of_all_of_it() -> None:
    model = plain()
    policy = TransformersPolicy(model, STOPS, PAD, keep_tokens=1000)
    draw = Draw([5, 6, 7, 8], 0, 4)
    policy.generate([draw], Sampling())
    assert policy._carried is not None
    assert policy._carried.held > 0
    policy.forget()
    assert policy._carried.held == 0
    with fed_to(model) as fed:
        policy.generate([draw], Sampling())
    assert fed[0] == (1, 4)


def test_no_more_is_kept_than_was_allowed() -> None:
    policy = TransformersPolicy(plain(), STOPS, PAD, batch_size=5, keep_tokens=100)
    rng = random.Random(0)
    for _ in range(6):
        policy.generate([Draw([rng.randrange(VOCABULARY) for _ in range(30)], 0, 3) for _ in range(8)], Sampling())
        assert policy._carried is not None
        blocks = policy._carried._blocks.values()
        assert 0 < policy._carried.held <= 100
        assert policy._carried.held == sum(len(block.layers[0][0]) for block in blocks)


def kept(contexts: list[list[int]], tokens: int = 1000) -> tuple[CarriedCache, RowLayer]:
    """A cache of contexts whose keys are their ids, and values the negative ones, right-aligned with a hole at 1."""
    import numpy as np

    columns = max(map(len, contexts)) + 1
    ids, mask = np.zeros((len(contexts), columns), np.int64), np.zeros((len(contexts), columns), bool)
    for row, context in enumerate(contexts):
        ids[row, columns - len(context) :] = context
        mask[row, columns - len(context) :] = True
    layer = RowLayer(len(contexts) + 2, columns + 3, is_sliding=False)
    keys = torch.from_numpy(ids).float()[:, None, :, None].expand(-1, 2, -1, 3)
    layer.update(keys, -keys)
    carried = CarriedCache(tokens)
    carried.keep(np.arange(len(contexts)), [layer], ids, mask)
    return carried, layer


def test_the_longest_shared_beginning_is_found() -> None:
    rng = random.Random(0)
    contexts = [[rng.randrange(3) for _ in range(rng.randint(1, 9))] for _ in range(40)]
    carried, _ = kept(contexts)
    for _ in range(300):
        prompt = tuple(rng.randrange(3) for _ in range(rng.randint(1, 12)))
        shared = [next((n for n in range(len(prompt)) if prompt[: n + 1] != tuple(c[: n + 1])), 99) for c in contexts]
        assert carried.find(prompt).length == min(max(shared), len(prompt) - 1)
    assert CarriedCache(9).find((1, 2)) == NOTHING


def test_what_was_found_is_read_back() -> None:
    carried, _ = kept([[1, 2, 3, 4], [1, 2, 5], [7]])
    found = [carried.find(prompt) for prompt in ((1, 2, 5, 9), (8, 8), (1, 2, 3, 9), (7, 7, 7))]
    layer = RowLayer(6, 9, is_sliding=False)
    carried.read(found, [layer], 4)
    assert layer.keys is not None
    assert layer.values is not None
    assert layer.keys[:, 1, :, 2].tolist() == [[0, 1, 2, 5], [0] * 4, [0, 1, 2, 3], [0, 0, 0, 7]]
    assert torch.equal(layer.values, -layer.keys)


def test_rows_are_copied_and_leave() -> None:
    layer = RowLayer(4, 6, is_sliding=False)
    states = torch.arange(12.0).view(2, 1, 2, 3)
    layer.update(states, -states)
    layer.select(torch.tensor([0, 1, 0, 1]), 2)
    assert layer.keys is not None
    assert torch.equal(layer.keys, states[[0, 1, 0, 1]])
    layer.update(states.repeat(2, 1, 1, 1)[:, :, :1], states.repeat(2, 1, 1, 1)[:, :, :1])
    layer.select(torch.tensor([3, 0]), 0)
    assert torch.equal(layer.keys[:, :, :2], states[[1, 0]])
    assert layer.get_seq_length() == 3
