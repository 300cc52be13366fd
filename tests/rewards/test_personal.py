"""Answer extraction and the rewards of personalised generation: PrLM's acceptance cases, oracles and faults."""

import random
import sys
from collections import Counter
from typing import Any

import pytest

from rlft.rewards.boundary import checked, reward_name
from rlft.rewards.loading import check_columns
from rlft.rewards.personal import extract_answer, rouge, think_format
from rlft.rewards.rouge_scores import rouge_scorer

DONE = "thinking\n</think>\n"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("{'title': 'Plain words'}", "Plain words"),
        ('{"title": "Plain words"}', "Plain words"),
        ("{'title': \"Don't stop\"}", "Don't stop"),
        ("{'title': 'Don't stop 'til {now}'}", "Don't stop 'til {now}"),
        ("{'title': 'Don\\'t \\\"stop\\\"'}", 'Don\'t "stop"'),
        ('{"title": "say "hi" twice"}', 'say "hi" twice'),
        ("{'title': 'The {'x'} case'}", "The {'x'} case"),
        ("{'title': 'smile :}'} and {'x': '{'}", "smile :}"),
        ("{'title': 'open { brace'}", "open { brace"),
        ("{'title': 'ends in a quote''}", "ends in a quote'"),
        ("{'title': '$\\alpha$ and \\nu'}", "$\\alpha$ and \\nu"),
        ("{ 'title' :\n 'two\nlines' }", "two\nlines"),
        ('```json\n{"title": "fenced"}\n```', "fenced"),
        ("{'text': 'the input', 'title': 'second key'}", "second key"),
        ("{'title': 'first key', 'why': 'it is short'}", "first key"),
        ("{'title': 'draft'} no: {'title': 'final'}", "final"),
        ("{'title': 'whole'} {'title': 'cut off", "whole"),
        ("{'title': 4}", "4"),
        ("{'title': 3.5, 'x': 1}", "3.5"),
        ("Title: Plain words", None),
        ("'title': 'no dict'", None),
        ("{'titles': 'another key'}", None),
        ("{'title': 'cut off", None),
        ("{'title': ''}", None),
        ("{'title': ' ... '}", None),
        ("{'title': none}", None),
        ("", None),
    ],
)
def test_extraction(text: str, answer: str | None) -> None:
    assert extract_answer(DONE + text, "title") == answer
    assert extract_answer(text, "title", think_end=None) == answer
    assert extract_answer([{"role": "assistant", "content": DONE + text}], "title") == answer


def test_thinking_is_never_read() -> None:
    quoted = "I shall write {'title': 'thought'}"
    assert extract_answer(f"{quoted}</think>{{'title': 'said'}}", "title") == "said"
    assert extract_answer(f"{quoted}</think>no key here", "title") is None
    assert extract_answer(f"a</think>{quoted}</think>no key here", "title") is None
    assert extract_answer(quoted, "title") is None  # unfinished thinking
    assert extract_answer(quoted, None) is None
    assert extract_answer("[plan] x [/plan] o w1 e", None, think_end="[/plan]") == "o w1 e"
    assert extract_answer("any text", None, think_end=None) == "any text"
    assert extract_answer("a</think> \n", None) is None


@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_written_answer_is_read_back(quote: str) -> None:
    rng = random.Random(0)
    pieces = ["don't", "{now}", "a", "\\", "}", "é🙂", "{", ":", ",", '"so"', "</th", "\n"]
    for _ in range(300):
        words = rng.choices(pieces, k=rng.randint(1, 6))
        answer = " ".join(words).strip()
        if answer in ("", "\\") or answer.endswith("\\"):
            continue
        written = answer.replace(quote, "\\" + quote)
        assert extract_answer(f"{DONE}{{{quote}tweet{quote}: {quote}{written}{quote}}}", "tweet") == answer


@pytest.mark.parametrize(("tokens", "most"), [("rouge_score", 3.0), ("released", pytest.approx(3.0, abs=1e-6))])
def test_exact_match_earns_three(tokens: str, most: Any) -> None:
    if tokens == "released":
        pytest.importorskip("rouge_chinese")
    gold = "Don't stop {me} now!"
    reward = rouge(key="title", tokens=tokens)
    done = f"{DONE}{{'title': '{gold}'}}"
    assert reward(completions=[done], answer=[gold]) == [most]
    assert think_format()(completions=[done]) == [1.0]


def test_a_completion_without_an_answer_earns_nothing_and_is_counted() -> None:
    logged = Counter[str]()
    gold = "new york city hall"
    completions = [
        f"{{'title': '{gold}'}}",
        f"{{'title': '{gold}'}}</think>{gold}",
        f"x</think>{{'title': '{gold}'}}",
        "x</think>{'title': 'something else'}",
    ]
    scores = rouge(key="title")(completions=completions, answer=[gold] * 4, log_metric=logged.__setitem__)
    assert scores == [0.0, 0.0, 3.0, 0.0]
    assert logged == {"rewards/rouge/unparseable": 0.5, "rewards/rouge/unscorable_gold": 0.0}


def test_scores_by_hand() -> None:
    # 3 of 4 and 3 of 5 words, 1 of 3 and 1 of 4 pairs, subsequence "new york hall" of 3
    said, gold = "New York old hall", "the new york city hall"
    expected = (2 * 3 / 9) + (2 * 1 / 7) + (2 * 3 / 9)
    assert rouge(key=None, think_end=None)(completions=[said], answer=[gold]) == [pytest.approx(expected)]
    assert rouge_scorer()("running", "run") == (0.0, 0.0, 0.0)  # no stemming
    assert rouge_scorer()("Hello", "hello!") == (1.0, 0.0, 1.0)


def test_a_gold_text_without_words_does_not_apply() -> None:
    logged = dict[str, float]()
    reward = rouge(key=None, think_end=None)
    assert reward(completions=["a b", "a b"], answer=["🙂", "a b"], log_metric=logged.__setitem__) == [None, 3.0]
    assert logged["rewards/rouge/unscorable_gold"] == 0.5
    for blank in (None, " "):
        with pytest.raises(ValueError, match="row 1 of the batch has an empty 'answer'"):
            reward(completions=["a", "a"], answer=["a", blank])


def test_released_words_are_jieba_s() -> None:
    pytest.importorskip("rouge_chinese")
    score = rouge_scorer("released")
    one = score("Hello, World", "hello , world")
    assert one is not None
    assert one.rouge1 == pytest.approx(1.0, abs=1e-6)
    assert score("我爱北京", "我爱上海") not in (None, (0.0, 0.0, 0.0))
    assert score("", "a") == (0.0, 0.0, 0.0)
    assert score("a", " ") is None
    limit = sys.getrecursionlimit()
    deep = score(" ".join(f"w{i}" for i in range(1500)), "w1 w5")
    assert deep is not None
    assert deep.rouge1 > 0
    assert sys.getrecursionlimit() == limit
    rng = random.Random(2)
    for _ in range(200):
        texts = ["".join(rng.choices("ab ?!.。！？…\n”'", k=rng.randint(1, 12))) for _ in "12"]
        found = score(*texts)
        assert found is None or all(0 <= value <= 1 for value in found)


def test_unknown_tokens_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="tokens='words' is no tokenisation"):
        rouge(key="title", tokens="words")


def test_format_asks_for_a_line_break_before_the_closing_tag() -> None:
    completions = ["a\n</think>b", "a</think>b", "\n</think>", "a\n", "</think>\n</think>"]
    assert think_format()(completions=completions) == [1.0, 0.0, 1.0, 0.0, 1.0]
    assert think_format(think_end="[/plan]")(completions=["a\n[/plan]"]) == [1.0]


def test_rewards_keep_the_contract() -> None:
    rewards = [rouge(key="title"), think_format()]
    assert [reward_name(reward) for reward in rewards] == ["rouge", "think_format"]
    check_columns(rewards, ["prompt", "answer", "id"])
    batch = {"prompts": ["p"], "completion_ids": [[1]], "answer": ["a b"], "id": ["1"], "trainer_state": None}
    for reward in rewards:
        assert checked(reward)(completions=[f"{DONE}{{'title': 'a b'}}"], **batch)[0] > 0
