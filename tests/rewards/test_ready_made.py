"""exact_match, format, length: what they score, and what the usual attacks get."""

import inspect

import pytest

from rlft.rewards import load_rewards, ready_made

exact_match, format_, gated = load_rewards(["exact_match", "format", "format:gated"])
GOOD = "<think>7+9+0=16;4+8+1=13;3+5+1=9</think>936"


def said(text):
    """The same completion as a conversation."""
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize("form", [str, said])
@pytest.mark.parametrize(
    ("completion", "score"),
    [
        (GOOD, 1.0),
        ("936", 1.0),
        ("<think>x</think> 936\n", 1.0),
        ("<think>a</think><think>b</think>936", 1.0),
        ("", 0.0),
        ("<think>936", 0.0),
        ("<think>936</think>", 0.0),
        ("<think>x</think>935", 0.0),
        ("347+589=", 0.0),
        ("<think>x</think>936 936", 0.0),
        ("<think>x</think>936, or 937", 0.0),
        ("<think>x</think>0936", 0.0),
        ("<think>x</think>936</think>", 0.0),
    ],
)
def test_exact_match(form, completion, score):
    assert exact_match(completions=[form(completion)], answer=["936"]) == [score]


def test_exact_match_compares_row_by_row_and_as_text():
    assert exact_match(completions=["1", "2", "3"], answer=["1", 3, " 3 "]) == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("name", ["exact_match", "math_accuracy"])
@pytest.mark.parametrize("gold", ["", "  ", None])
def test_an_empty_gold_answer_is_refused_and_not_matched_by_silence(name, gold):
    (reward,) = load_rewards([name])
    with pytest.raises(ValueError, match=f"{name}: row 1 .* empty 'answer'"):
        reward(completions=["", ""], answer=["1", gold])


def test_a_completion_without_an_assistant_message_is_empty():
    assert exact_match(completions=[[{"role": "tool", "content": "936"}]], answer=["936"]) == [0.0]
    assert exact_match(completions=[[{"role": "assistant", "content": None}]], answer=["936"]) == [0.0]
    assert exact_match(completions=[said([{"type": "text", "text": "936"}])], answer=["936"]) == [1.0]


@pytest.mark.parametrize("form", [str, said])
@pytest.mark.parametrize(
    ("completion", "score"),
    [
        (GOOD, 1.0),
        ("<think>\nwhy\n</think>\n\nbecause\n", 1.0),
        ("", 0.0),
        ("936", 0.0),
        ("<think></think>936", 0.0),
        ("<think>  </think>936", 0.0),
        ("<think>x</think>", 0.0),
        ("<think>x</think> \n", 0.0),
        ("so <think>x</think>936", 0.0),
        ("<think>x</think>936</think>", 0.0),
        ("<think>x<think>y</think>936", 0.0),
        ("<think>x</think>9<think>y</think>36", 0.0),
        ("</think>x<think>936", 0.0),
        ("<think>x", 0.0),
    ],
)
def test_format(form, completion, score):
    assert format_(completions=[form(completion)]) == [score]


def test_format_stays_linear_on_long_text():
    long = "<think>" + "x " * 200_000 + "</think>" + "y " * 200_000 + "</think>"
    assert format_(completions=[long]) == [0.0]  # a quadratic pattern takes hours


def test_another_format_by_pattern():
    (boxed,) = load_rewards([r"format(pattern='.*<answer>.+</answer>')"])
    assert boxed(completions=["so <answer>4</answer>", "so 4"]) == [1.0, 0.0]


def test_gated_lets_a_reward_count_only_in_the_right_format():
    reward = gated(exact_match)
    assert reward.__name__ == "exact_match"
    assert reward(completions=[GOOD, "936", "<think>x</think>1"], answer=["936"] * 3) == [1.0, 0.0, 0.0]


def test_gated_keeps_none_and_punishment():
    def given(completions, values, **kwargs):
        return values

    reward = gated(given)
    assert reward(completions=["bad"] * 3, values=[None, -0.5, 0.7]) == [None, -0.5, 0.0]
    assert reward(completions=[GOOD] * 3, values=[None, -0.5, 0.7]) == [None, -0.5, 0.7]


def test_length_is_the_published_slope():
    (length,) = load_rewards(["length(max_length=100, buffer=20)"])
    ids = [[0] * n for n in (0, 80, 81, 90, 100, 101, 1000)]
    assert length(completion_ids=ids) == [0.0, 0.0, -0.05, -0.5, -1.0, -1.0, -1.0]


@pytest.mark.parametrize("buffer", [0, -1, 101])
def test_length_refuses_impossible_limits(buffer):
    (length,) = load_rewards([f"length(max_length=100, buffer={buffer})"])
    with pytest.raises(ValueError, match=f"buffer={buffer} must lie between 1 and max_length=100"):
        length(completion_ids=[[1]])


@pytest.mark.parametrize("name", ready_made())
def test_each_file_stands_alone(name):
    """A ready-made reward can be copied out and used in stock TRL."""
    (reward,) = load_rewards([name])
    assert "rlft" not in [line.split()[1].split(".")[0] for line in _imports(inspect.getsourcefile(reward))]


def _imports(path):
    with open(path) as file:
        return [line for line in file if line.lstrip().startswith(("import ", "from "))]
