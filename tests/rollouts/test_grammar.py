"""Lists alone: what may come next against an enumeration of lists, and sampling against exact probabilities."""

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from rlft.rollouts.continuous import ContinuousPolicy
from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.grammar import ListGrammar
from rlft.rollouts.list_text import spell
from rlft.rollouts.policy import GREEDY, Draw, Generation, Sampling, seed_of
from rlft.rollouts.server_policy import ServerPolicy
from rlft.rollouts.transformers_policy import TransformersPolicy
from rlft.rollouts.vllm_policy import VLLMPolicy
from rlft.tiny.model import tiny_model
from rlft.tiny.tokenizer import char_tokenizer
from rlft.tiny.word_tokenizer import word_tokenizer
from tests.rollouts.conftest import QWEN, TEMPLATES, char_with, with_template
from tests.rollouts.vllm_stand_in import vllm as vllm

# Digits one by one, as Qwen2.5 and Qwen3 split them, and up to three together, as Llama-3 does.
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {"qwen-bpe": WORDS % r"\p{N}", "llama-bpe": WORDS % r"\p{N}{1,3}", "unsplit-bpe": r"[\s\S]+"}
FRAME = ChatFrame(char_tokenizer())
PAD = FRAME.tokenizer.pad_token_id
VOCABULARY = len(FRAME.tokenizer)


def byte_pairs(name: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer trained on lists, with the splitting rule of that name."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLITS[name]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    rng = random.Random(0)
    texts = [spell(rng.sample(range(150), 5)) for _ in range(500)] + ["user assistant\nsystem helpful"] * 50
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet))
    controls = ["<|im_start|>", "<|im_end|>", "<|pad|>"]
    named = {"eos_token": "<|im_end|>", "pad_token": "<|pad|>"}
    return with_template(PreTrainedTokenizerFast(tokenizer_object=backend), QWEN, controls, named)


def tokenizer_called(name: str) -> PreTrainedTokenizerFast:
    if name in SPLITS:
        return byte_pairs(name)
    return {"chars": char_tokenizer, "words": word_tokenizer}[name]() if name in ("chars", "words") else char_with(name)


def all_lists(frame: ChatFrame, count: int, size: int) -> list[list[int]]:
    """Token ids of every list."""
    return [frame.turn_ids(spell(places)) for places in itertools.permutations(range(count), size)]


def walked(grammar: ListGrammar) -> list[list[int]]:
    """Every text that the grammar allows."""
    texts: list[list[int]] = []
    begun: list[list[int]] = [[]]
    while begun:
        ids = begun.pop()
        following = grammar.allowed(ids)
        assert len(set(following)) == len(following)
        begun += [[*ids, one] for one in following]
        texts += [] if following else [ids]
    return texts


@pytest.mark.parametrize("name", ["chars", "words", "qwen-bpe", "llama-bpe", *TEMPLATES])
@pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 1), (4, 2), (6, 3), (3, 3), (12, 2), (23, 2)])
def test_a_grammar_allows_the_canonical_lists_and_nothing_else(name: str, count: int, size: int) -> None:
    frame = ChatFrame(tokenizer_called(name))
    if name == "words" and count > 6:
        with pytest.raises(ValueError, match=r"'\[7\]'"):
            ListGrammar(frame, count, size)
        return
    grammar = ListGrammar(frame, count, size)
    wanted = all_lists(frame, count, size)
    assert sorted(walked(grammar)) == sorted(wanted)
    assert len(wanted) == len({tuple(ids) for ids in wanted})
    # The longest item may be used once only, so the bound is met but where it is the only one of its length.
    assert grammar.longest - 1 <= max(map(len, wanted)) <= grammar.longest


def test_numbers_that_begin_alike_are_told_apart_token_by_token() -> None:
    digits = {str(digit): FRAME.tokenizer.convert_tokens_to_ids(str(digit)) for digit in range(10)}
    close = FRAME.tokenizer.convert_tokens_to_ids("]")
    grammar = ListGrammar(FRAME, 12, 3)
    begun = FRAME.turn_ids("[1")[:-1]
    assert set(grammar.allowed(begun)) == {close, digits["0"], digits["1"], digits["2"]}
    begun = FRAME.turn_ids("[1] > [11] > [1")[:-1]
    assert set(grammar.allowed(begun)) == {digits["0"], digits["2"]}
    begun = FRAME.turn_ids("[1] > [11] > [")[:-1]
    assert set(grammar.allowed(begun)) == {digits[str(digit)] for digit in range(1, 10)}


def test_a_tokenizer_that_merges_across_numbers_has_no_grammar() -> None:
    frame = ChatFrame(byte_pairs("unsplit-bpe"))
    assert len(frame.turn_ids("[3] > [4]")) < len(frame.turn_ids("[3]")) + len(frame.turn_ids(" > [4]")) - 1
    with pytest.raises(ValueError, match=r"than of its numbers one by one.*set constrained=False"):
        ListGrammar(frame, 12, 3)


def test_a_merge_that_few_lists_show_is_found() -> None:
    """A stand-in for a tokenizer that reads `[9] > [4]` in another way, and nothing else."""

    def turn_ids(text: str) -> list[int]:
        return [*map(ord, text.replace("[9] > [4]", "*")), 0]

    frame: Any = SimpleNamespace(turn_ids=turn_ids, end_id=0, tokenizer=SimpleNamespace(unk_token_id=None))
    assert ListGrammar(frame, 8, 2).longest == 10
    with pytest.raises(ValueError, match="one by one"):
        ListGrammar(frame, 9, 2)


def test_a_number_that_ends_nowhere_is_refused() -> None:
    frame: Any = SimpleNamespace(
        turn_ids=lambda text: [*map(ord, text.replace("]", "")), 0],
        end_id=0,
        tokenizer=SimpleNamespace(unk_token_id=None),
    )
    assert ListGrammar(frame, 9, 2).longest == 8
    with pytest.raises(ValueError, match="begin those of another"):
        ListGrammar(frame, 10, 2)


@pytest.mark.parametrize(("count", "size"), [(3, 0), (3, 4), (0, 0)])
def test_impossible_sizes_are_refused(count: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"size={size} out of {count}"):
        ListGrammar(FRAME, count, size)


@pytest.mark.parametrize("text", ["[5]", "3", "[1] > [1]", "[1] > [2] > [3]"])
def test_what_begins_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="begin none|follows a list"):
        ListGrammar(FRAME, 4, 2).allowed(FRAME.turn_ids(text)[:-1])


@pytest.fixture(scope="module")
def model() -> Qwen3ForCausalLM:
    return tiny_model(FRAME.tokenizer, hidden=32, layers=2)


PROMPT = FRAME.opening("which two of 12?")


def policy(model: Any, *, by_rows: bool = True, **settings: Any) -> TransformersPolicy:
    """`by_rows=False` leaves the loop to the model's own `generate`, as for recurrent models."""
    made = TransformersPolicy(model, FRAME.stop_ids, PAD, **settings)
    made._by_rows = by_rows
    return made


def drawn(model: Any, grammar: ListGrammar, count: int, sampling: Sampling, **settings: Any) -> list[Generation]:
    draws = [Draw(PROMPT, seed_of(7, place), grammar.longest, grammar) for place in range(count)]
    return policy(model, batch_size=1000, **settings).generate(draws, sampling)


def exact(model: Any, lists: Sequence[list[int]], temperature: float = 1.0) -> dict[tuple[int, ...], list[float]]:
    """Log-probability of every token of every list, each over the tokens with which some list goes on, in float64."""
    found = {}
    for ids in lists:
        with torch.no_grad():
            logits_LV = model(input_ids=torch.tensor([PROMPT + ids])).logits[0, len(PROMPT) - 1 : -1].double()
        values = []
        for place, token in enumerate(ids):
            allowed = sorted({other[place] for other in lists if other[:place] == ids[:place]})
            logprobs = (logits_LV[place, allowed] / temperature).log_softmax(-1)
            values.append(logprobs[allowed.index(token)].item())
        found[tuple(ids)] = values
    return found


@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize(("temperature", "count", "size"), [(1.0, 4, 2), (0.6, 11, 1)])
def test_lists_are_sampled_with_their_exact_probabilities(
    model: Any, by_rows: bool, temperature: float, count: int, size: int
) -> None:
    lists = all_lists(FRAME, count, size)
    logprobs = exact(model, lists, temperature)
    probs = {ids: torch.tensor(values).double().sum().exp().item() for ids, values in logprobs.items()}
    assert sum(probs.values()) == pytest.approx(1, abs=1e-6)
    total = 2000
    found = drawn(model, ListGrammar(FRAME, count, size), total, Sampling(temperature), by_rows=by_rows)
    for one in found:
        assert one.stopped
        assert one.logprobs == pytest.approx(logprobs[tuple(one.ids)], abs=1e-4)  # a KeyError is no list
    seen = Counter(tuple(one.ids) for one in found)
    statistic = sum((seen[ids] - total * prob) ** 2 / (total * prob) for ids, prob in probs.items())
    freedom = len(lists) - 1
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("by_rows", [True, False])
def test_greedy_takes_the_likeliest_token_that_a_list_goes_on_with(model: Any, by_rows: bool) -> None:
    lists = all_lists(FRAME, 12, 2)
    logprobs = exact(model, lists)
    best: list[int] = []
    while not best or best[-1] != FRAME.end_id:
        going = [ids for ids in lists if ids[: len(best)] == best]
        best = max(going, key=lambda ids: logprobs[tuple(ids)][len(best)])[: len(best) + 1]
    for one in drawn(model, ListGrammar(FRAME, 12, 2), 3, GREEDY, by_rows=by_rows):
        assert one.ids == best
        assert one.logprobs == pytest.approx(logprobs[tuple(best)], abs=1e-4)


def test_top_p_and_top_k_cut_what_the_grammar_has_left(model: Any) -> None:
    """The two likeliest first digits among the allowed, not among all; log-probs before the cut."""
    lists = all_lists(FRAME, 9, 1)
    logprobs = exact(model, lists)
    ranked = sorted(logprobs, key=lambda ids: -logprobs[ids][1])
    for sampling, most in ((Sampling(top_k=2), 2), (Sampling(top_p=1e-6), 1)):
        found = drawn(model, ListGrammar(FRAME, 9, 1), 200, sampling)
        assert {tuple(one.ids) for one in found} == set(ranked[:most])
        for one in found:
            assert one.logprobs == pytest.approx(logprobs[tuple(one.ids)], abs=1e-4)


@pytest.mark.parametrize("by_rows", [True, False])
def test_company_changes_nothing(model: Any, by_rows: bool) -> None:
    """Draws with and without grammars, of one prompt and of several, in one batch and alone."""
    grammars = [None, ListGrammar(FRAME, 12, 3), ListGrammar(FRAME, 5, 2)]
    prompts = [PROMPT, PROMPT[:-1], PROMPT[3:]]
    draws = [Draw(prompts[place % 3], seed_of(3, place), 20, grammars[place // 3 % 3]) for place in range(45)]
    together, alone = (policy(model, by_rows=by_rows, batch_size=size).generate(draws, Sampling()) for size in (64, 1))
    assert [one.ids for one in together] == [one.ids for one in alone]
    for draw, one, other in zip(draws, together, alone, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        text = FRAME.decode(one.ids)
        if draw.grammar:
            assert one.stopped
            assert (text.count("["), text.count(" > ")) in {(3, 2), (2, 1)}


def test_other_draws_are_the_same_as_without_any_grammar_about(model: Any) -> None:
    free = [Draw(PROMPT, seed_of(4, place), 12) for place in range(16)]
    held = [Draw(PROMPT, seed_of(5, place), 12, ListGrammar(FRAME, 4, 2)) for place in range(16)]
    alone = policy(model).generate(free, Sampling())
    mixed = policy(model).generate([*free, *held], Sampling())[:16]
    assert [one.ids for one in alone] == [one.ids for one in mixed]
    for one, other in zip(alone, mixed, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_a_cap_cuts_a_held_draw_like_any_other(model: Any) -> None:
    (one,) = policy(model).generate([Draw(PROMPT, 1, 4, ListGrammar(FRAME, 4, 2))], Sampling())
    assert (len(one.ids), one.stopped) == (4, False)


def test_logits_that_are_no_numbers_are_refused() -> None:
    broken = tiny_model(FRAME.tokenizer, hidden=32, layers=2)
    broken.model.norm.weight.data[0] = torch.nan
    for sampling in (Sampling(), GREEDY):
        with pytest.raises(FloatingPointError, match="NaN or infinite"):
            drawn(broken, ListGrammar(FRAME, 4, 2), 1, sampling)


class NoEngine:
    """A `vllm.LLM` that is never to be asked."""

    def __init__(self) -> None:
        config = SimpleNamespace(
            logprobs_mode="processed_logprobs", max_model_len=512, get_vocab_size=lambda: VOCABULARY
        )
        self.llm_engine = SimpleNamespace(model_config=config)


@pytest.mark.usefixtures("vllm")
def test_samplers_that_cannot_keep_to_a_grammar_say_so(model: Any) -> None:
    stops = set(FRAME.stop_ids)
    draws = [Draw(PROMPT, 0, 20), Draw(PROMPT, 1, 20, ListGrammar(FRAME, 4, 2))]
    for refusing in (
        ContinuousPolicy(model, stops),
        VLLMPolicy(NoEngine(), stops),
        ServerPolicy("http://127.0.0.1:9", "m", stops),
    ):
        said = rf"draw 1 is held.*constrained=True.*{type(refusing).__name__}.*TransformersPolicy"
        with pytest.raises(ValueError, match=said):
            refusing.generate(draws, Sampling())
