"""The needle: walks of one form, a reward that reads one tag, and the place of that tag in the tokens."""

import random
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlft.assets import shipped
from rlft.data.prompts import load_prompts
from rlft.tiny import tasks
from rlft.tiny.needle import GOLD_TAGS, SYMBOLS, TAGS, WRONG, Walk, demonstrations, gold_tag, oracle_weights, rows
from rlft.tiny.tokenizer import char_tokenizer

WALKS = [Walk(), Walk(letters=8), Walk(letters=10, spacers=3), Walk(letters=10, spacers=3, echo=True), Walk(letters=48)]


def scored(completion: str, row: dict) -> float:
    return gold_tag([completion], pattern=[row["pattern"]])[0]


def test_the_worked_example() -> None:
    walk = Walk()
    row = next(row for row in rows(100, 0, walk) if row["prompt"].startswith("$"))
    assert re.fullmatch(r"\$\d{3}=", row["prompt"])
    assert row["answer"] == "c2"
    text = walk.write("012" * 8, place=2)
    assert text == "a0b1c2d0e1f2g0h1i2j0k1l2m0n1o2p0q1r2s0t1u2v0w1x2."
    assert scored(text, row) == 1.0
    assert scored(text.replace("c2", "c1"), row) == 0.0
    assert row["decisive"] == 5


@pytest.mark.parametrize("walk", WALKS, ids=str)
def test_the_decisive_token_alone_decides(walk: Walk) -> None:
    tokenizer, rng = char_tokenizer(), random.Random(0)
    for row in rows(60, 1, walk):
        place, gold = SYMBOLS.index(row["prompt"][0]), row["answer"][1]
        tags = rng.choices(TAGS, k=walk.letters)
        for tag in TAGS:
            tags[place] = tag
            text = walk.write(tags, place)
            ids = tokenizer(text).input_ids
            assert len(ids) + 1 == walk.tokens
            assert tokenizer.decode(ids[row["decisive"] - 1 : row["decisive"] + 1]) == row["answer"][0] + tag
            assert scored(text, row) == float(tag == gold)


BREAKS: list[Callable[[str], str]] = [
    lambda text: text[:-1],
    lambda text: text + ".",
    lambda text: text[2:],
    lambda text: text.replace("q", "Q"),
]


@pytest.mark.parametrize("change", BREAKS)
def test_a_broken_walk_earns_nothing(change: Callable[[str], str]) -> None:
    row = rows(1, 3, Walk())[0]
    place = SYMBOLS.index(row["prompt"][0])
    text = Walk().write([row["answer"][1]] * 24, place)
    assert scored(text, row) == 1.0
    assert scored(change(text), row) == 0.0


def test_an_echo_repeats_the_decisive_tag_and_is_part_of_the_walk() -> None:
    walk = Walk(letters=8, spacers=2, echo=True)
    text = walk.write("01201201", place=2)
    assert text == "a0--b1--c222d022e122f222g022h122."
    row = next(row for row in rows(100, 0, walk) if row["prompt"][0] == SYMBOLS[2])
    assert scored(text, row) == 1.0
    assert scored(text.replace("d022", "d021"), row) == 0.0
    assert scored(replace(walk, echo=False).write("01201201", place=2), row) == 0.0


def test_demonstrations_err_at_the_decisive_tag_only_and_as_often_as_stated() -> None:
    walk = Walk()
    shown, asked = demonstrations(3000, 5, walk), rows(3000, 5, walk)
    assert [row["prompt"] for row in shown] == [row["prompt"] for row in asked]
    whole = walk.write(["[012]"] * 24, place=0).replace(".", r"\.")
    assert all(re.fullmatch(whole, row["completion"]) for row in shown)
    wrong = 1 - sum(gold_tag([row["completion"] for row in shown], [row["pattern"] for row in asked])) / 3000
    assert abs(wrong - WRONG) < 0.03  # 3.5 standard errors
    free = [row["completion"][47] for row in shown]
    assert all(abs(free.count(tag) / 3000 - 1 / 3) < 0.03 for tag in TAGS)


def test_rows_are_the_same_by_seed_and_every_symbol_has_its_rule() -> None:
    assert rows(50, 1, Walk()) == rows(50, 1, Walk())
    assert rows(50, 1, Walk()) != rows(50, 2, Walk())
    rules = {row["prompt"][0]: row["answer"] for row in rows(300, 1, Walk())}
    assert rules == {symbol: letter + tag for symbol, letter, tag in zip(SYMBOLS, "abcdefgh", GOLD_TAGS, strict=True)}


def test_oracle_weights_have_mean_one_and_one_heavy_token() -> None:
    weights = oracle_weights(5, 50)
    assert sum(weights) == pytest.approx(50)
    assert weights[5] == pytest.approx(4 * weights[0])
    assert weights[:5] + weights[6:] == [weights[0]] * 49
    assert oracle_weights(5, 3) == [1.0, 1.0, 1.0]
    assert oracle_weights(5, 0) == []


def test_held_out_prompts_are_not_trained_on() -> None:
    train, test, _ = load_prompts("tiny/needle", held_out=128)
    assert not set(train["prompt"]) & set(test["prompt"])
    assert {prompt[0] for prompt in test["prompt"]} == set(SYMBOLS)


def test_the_recipe_setting_has_room_for_a_walk_and_its_end() -> None:
    setting = yaml.safe_load((shipped("recipes") / "configs/shear/needle.yaml").read_text(encoding="utf-8"))
    task = tasks.TASKS[setting["dataset_name"]]
    assert isinstance(task, tasks.NeedleTask)
    assert setting["max_completion_length"] >= task.walk.tokens
    assert setting["per_device_train_batch_size"] % setting["num_generations"] == 0


def test_the_small_model_walks_and_does_not_know_the_rule() -> None:
    torch.set_num_threads(1)
    task = tasks.TASKS["tiny/needle-small"]
    assert isinstance(task, tasks.NeedleTask)
    folder = tasks.warm_start("tiny/needle-small", 0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    asked = task.rows(256, 2)
    inputs = tokenizer([row["prompt"] for row in asked], return_tensors="pt")
    torch.manual_seed(0)
    ids = model.generate(**inputs, do_sample=True, max_new_tokens=task.walk.tokens + 2)[
        :, inputs["input_ids"].size(1) :
    ]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    whole = task.walk.write(["[012]"] * 8, place=0).replace(".", r"\.")
    assert sum(re.fullmatch(whole, text) is not None for text in texts) > 200
    assert 0.15 < sum(gold_tag(texts, [row["pattern"] for row in asked])) / 256 < 0.5
