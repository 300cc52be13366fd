"""The embedded task: true sums, known mistakes, and the place of the first one."""

import random

import pytest

from rlft.evaluate.metrics import final_answer
from rlft.tiny.addition import Problem, demonstrate, first_dropped_carry, problems
from rlft.tiny.tokenizer import char_tokenizer


@pytest.mark.parametrize("digits", [1, 3])
def test_careful_demonstrations_are_right(digits: int) -> None:
    for problem in problems(200, seed=0, digits=digits):
        text = demonstrate(problem, random.Random(0), drop_carry=0.0)
        assert final_answer(text) == problem.answer
        assert first_dropped_carry(problem, text) is None


def test_careless_demonstrations_err_exactly_where_a_carry_was_dropped() -> None:
    rng, dropped = random.Random(1), 0
    for problem in problems(500, seed=1):
        text = demonstrate(problem, rng)
        place = first_dropped_carry(problem, text)
        assert (place is None) == (final_answer(text) == problem.answer)
        if place is not None:
            dropped += 1
            assert text[place] == "0"
            assert text[place - 1] == "+"
    assert 200 < dropped < 400


def test_the_worked_example() -> None:
    text = "<think>7+9+0=16;4+8+0=12;3+5+1=9</think>926"
    place = first_dropped_carry(Problem(347, 589), text)
    assert place == text.index("8+0=12") + 2


@pytest.mark.parametrize("text", ["936", "<think></think>936", "<think>1+1+0=2;4+8+1=13;3+5+1=9</think>936"])
def test_malformed_thinking_has_no_dropped_carry(text: str) -> None:
    assert first_dropped_carry(Problem(347, 589), text) is None


def test_tokenizer_gives_markers_one_token_and_keeps_them_in_text() -> None:
    tokenizer = char_tokenizer()
    text = "<think>7+9+0=16</think>16"
    ids = tokenizer(text).input_ids
    assert len(ids) == 8 + 2 + 2
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
