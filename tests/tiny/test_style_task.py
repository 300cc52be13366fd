"""The task of style: rows, prompts and careless answers, its metric, and a small writer that does what it was shown."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlft.data.lamp import read_lamp
from rlft.data.profile_prompt import ProfilePrompt
from rlft.data.prompt_templates import PromptTemplates
from rlft.reward_models import ScorerSpec, policy_answers
from rlft.reward_models.pairs import Ask
from rlft.rewards.personal import extract_answer
from rlft.rollouts.policy import Sampling
from rlft.rollouts.transformers_policy import TransformersPolicy
from rlft.tiny import style, tasks
from rlft.tiny.histories import User, users
from rlft.tiny.lamp_files import write_lamp_files
from rlft.tiny.words import PLAIN_STYLE

TASK = tasks.StyleTask()
WORLD = TASK.world()
TOKENIZER = TASK.tokenizer()
PROMPT = ProfilePrompt(PromptTemplates(**style.WORDING), TOKENIZER, system=None, over_budget="error")
ROW = TASK.rows(1, 0, "test")[0]


def read(completion: str) -> str | None:
    return extract_answer(completion, None, style.THINK_END)


def test_rows_are_of_one_split_and_the_same_by_seed() -> None:
    train, test = TASK.rows(1000, 0), TASK.rows(400, 0, "test")
    assert train == TASK.rows(1000, 0, "train") != TASK.rows(1000, 1)
    people = [{row["user_id"] for row in some} for some in (train, test)]
    assert [len(some) for some in people] == [108, 36]
    assert people[0].isdisjoint(people[1])
    assert len({row["id"] for row in [*train, *test, *TASK.rows(400, 1)]}) == 1800


def test_a_row_shows_the_style_in_its_items_and_its_gold_but_not_in_its_answer() -> None:
    for row in TASK.rows(100, 3, "test", items=5):
        ends = (row["opener"], row["ending"])
        for text in (row["gold"], *(item["text"] for item in row["profile"])):
            assert (text.split()[0], text.split()[-1]) == ends
        assert row["answer"].split() == row["gold"].split()[1:-1] == row["query"].split()[1::2]
        assert [item["date"] for item in row["profile"]] == ["2019", "2018", "2017", "2016", "2015"]
        assert len({item["id"] for item in row["profile"]}) == 5


@pytest.mark.parametrize("shown", [0, 1, 3])
def test_prompts_of_training_and_evaluation_are_those_of_the_warm_up(shown: int) -> None:
    items = ROW["profile"][:shown]
    text = str(TOKENIZER.apply_chat_template(PROMPT.messages(ROW, items), add_generation_prompt=True, tokenize=False))
    assert text.split() == style.request(ROW["query"], [item["text"] for item in items]).split()
    assert TOKENIZER.unk_token_id not in TOKENIZER(text)["input_ids"]
    assert len(TOKENIZER(text)["input_ids"]) == 8 + bool(shown) + 6 * shown


def test_rows_read_from_files_in_lamp_s_layout_fit_the_prompt(tmp_path: Path) -> None:
    folder = write_lamp_files(tmp_path, 7, WORLD, {"dev": 20}, time=False)
    for row in read_lamp(folder, 7, "dev").rows:
        (turn,) = PROMPT.messages(row, row["profile"])
        assert TOKENIZER.decode(TOKENIZER(turn["content"])["input_ids"]) == turn["content"]
        assert turn["content"] == style.request(row["query"], [item["text"] for item in row["profile"]])


def test_a_scorer_reads_what_the_policy_read() -> None:
    texts = ScorerSpec("aware", "tiny/style", **style.WORDING).texts(ROW["query"], ROW["profile"], ROW["gold"])
    (turn,) = PROMPT.messages(ROW, ROW["profile"])
    assert "".join(texts[:2]) == turn["content"]
    assert texts[2] == ROW["gold"]


def test_the_careless_writer_s_shares() -> None:
    rng, user, words = random.Random(0), User("a b", "hello", "bye"), ["pora", "vadi", "misa"]
    row = {"opener": "hello", "ending": "bye", "answer": "pora vadi misa"}
    completions = [style.careless_answer(words, user, users(WORLD), rng) for _ in range(4000)]
    for completion in completions:
        plan, answer = completion.split(f" {style.THINK_END} ")
        assert plan.split()[1:] == [answer.split()[0], answer.split()[-1]]
        assert [word for word in words if word in answer] == answer.split()[1:-1] != []
    shares = style.style_shares([read(completion) for completion in completions], [row] * 4000)
    assert shares["own"] == pytest.approx(0.4 + 0.3 / 144, abs=0.02)
    assert shares["generic"] == pytest.approx(0.3, abs=0.02)
    kept = [math.comb(3, k) * 0.8**k * 0.2 ** (3 - k) for k in range(1, 4)]  # none kept is drawn again
    expected = sum(share * 2 * k / (3 + k) for k, share in enumerate(kept, 1)) / sum(kept)
    assert shares["content_f1"] == pytest.approx(expected, abs=0.01)


def test_demonstrations_are_of_training_users_and_plain_without_items() -> None:
    shown = style.demonstrations(WORLD, 3000, 0, 30)
    assert shown == style.demonstrations(WORLD, 3000, 0, 30) != style.demonstrations(WORLD, 3000, 1, 30)
    known = {(user.opener, user.ending) for user in users(WORLD, "train")}
    asked, written = zip(*(row["text"].split(" [write] ") for row in shown), strict=True)
    planned = [tuple(text.split()[1:3]) for text in written]
    bare = [place for place, text in enumerate(asked) if text.startswith("[ask]")]
    assert len(bare) == pytest.approx(600, abs=80)
    assert {planned[place] for place in bare} == {PLAIN_STYLE}
    for text in asked:
        for item in text.split(" [ask]")[0].split("[item] ")[1:]:
            assert (item.split()[0], item.split()[-1]) in known
    assert len(set(planned) - known - {PLAIN_STYLE}) == 36
    for start in range(0, 3000, 30):
        assert len({text.count("[item]") for text in asked[start : start + 30]} - {0}) == 1
    assert {text.count("[item]") for text in asked} == set(range(style.MOST_ITEMS + 1))


def test_learnt_are_the_completion_and_the_certain_markers_of_past_items() -> None:
    for row in style.demonstrations(WORLD, 60, 4, 6):
        words = row["text"].split()
        written = words.index("[write]") + 1
        starts = [place + 1 for place, word in enumerate(words) if word == "[item]"][1:]
        certain = [place for start in starts for place in (start, start + 4)]
        assert [place for place, learnt in enumerate(row["trained"]) if learnt] == [
            *certain,
            *range(written, len(words)),
        ]
        assert len({words[start] for start in starts}) <= 1
        assert TOKENIZER.convert_ids_to_tokens(TOKENIZER(row["text"])["input_ids"]) == words
        assert words[-1] == TOKENIZER.eos_token


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ("note pora vadi misa end", 1.0),
        ("misa vadi pora", 1.0),
        ("hello pora vadi bye", 0.8),
        ("hello pora pora pora bye", 1 / 3),
        ("hello bye", 0.0),
        (None, 0.0),
    ],
)
def test_content_f1(said: str | None, score: float) -> None:
    assert style.content_f1(said, "pora vadi misa") == pytest.approx(score)
    assert style.content_f1(said, "hello pora vadi misa bye") == pytest.approx(score)


def test_whose_style_an_answer_is_in() -> None:
    row = {"opener": "hello", "ending": "bye", "answer": "pora"}
    answers = ["hello pora bye", "note pora end", "hello pora end", "dear pora bye", "pora", None, "hello pora bye x"]
    kinds = [style.style_shares([answer], [row]) for answer in answers]
    assert [max(("own", "generic", "other"), key=shares.__getitem__) for shares in kinds] == [
        *("own", "generic", *["other"] * 5)
    ]
    assert style.style_shares(answers, [row] * 7)["other"] == pytest.approx(5 / 7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: style.content_f1("pora", "hello bye"), "'hello bye' has no words of content"),
        (lambda: style.style_shares([], []), "0 answers, 0 rows"),
        (lambda: style.style_shares(["a"], [ROW, ROW]), "1 answers, 2 rows"),
        (lambda: TASK.rows(1, 0, "dev"), "no split 'dev'"),
    ],
)
def test_bad_requests_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_the_full_model_has_the_size_that_was_measured() -> None:
    assert 154_000 < TASK.build(TOKENIZER, 0).num_parameters() < 157_000


def test_the_small_model_plans_and_answers() -> None:
    """Measured on seed 0: all but 2 of 480 answer; with 3 items .24 own, .26 generic; without any .94 generic."""
    torch.set_num_threads(1)
    folder = tasks.warm_start("tiny/style-small", 0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    policy = TransformersPolicy(model, {tokenizer.eos_token_id}, tokenizer.pad_token_id)
    sample = policy_answers(policy, tokenizer, PROMPT.messages, read, sampling=Sampling(), max_new_tokens=16)
    rows = TASK.rows(120, 0, "test")
    shares = {}
    for shown in (0, 3):
        answers = sample([Ask(row, row["profile"][:shown], "own") for row in rows])
        assert answers.count(None) <= 6
        shares[shown] = style.style_shares(answers, rows)
    assert shares[0]["generic"] > 0.8
    assert shares[0]["own"] < 0.05
    assert 0.1 < shares[3]["own"] < 0.45
    assert 0.1 < shares[3]["generic"] < 0.45
