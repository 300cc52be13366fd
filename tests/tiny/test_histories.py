"""Users and what they write: habits of length and order, and rows of the style task that stay as they are."""

import hashlib
import json
from collections import Counter

import pytest

from rlft.tiny import style, tasks
from rlft.tiny.histories import LENGTHS, ORDERS, User, users
from rlft.tiny.world import World

WORLD = World(3, people=200, companies=40)
WORDS = ["sami", "gora", "tule", "boro", "vadi"]


def test_habits_change_nothing_else() -> None:
    plain, others = users(WORLD), users(WORLD, habits=True)
    assert [(user.name, user.opener, user.ending) for user in plain] == [
        (user.name, user.opener, user.ending) for user in others
    ]
    assert {(user.length, user.order) for user in plain} == {(3, "asked")}


@pytest.mark.parametrize(("split", "each"), [("train", 12), ("test", 4)])
def test_each_length_with_each_order_is_the_habit_of_as_many(split: str, each: int) -> None:
    habits = Counter((user.length, user.order) for user in users(WORLD, split, habits=True))
    assert habits == {(length, order): each for length in LENGTHS for order in ORDERS}


@pytest.mark.parametrize(
    ("length", "order", "text"),
    [
        (3, "asked", "hello sami gora tule bye"),
        (3, "rising", "hello gora sami tule bye"),
        (4, "falling", "hello tule sami gora boro bye"),
        (5, "rising", "hello boro gora sami tule vadi bye"),
    ],
)
def test_a_user_takes_the_first_words_and_puts_them_in_order(length: int, order: str, text: str) -> None:
    assert User("a b", "hello", "bye", length, order).write(WORDS) == text
    assert WORDS[0] == "sami"


def test_rows_of_the_style_task_are_those_that_its_figures_were_measured_on() -> None:
    task = tasks.StyleTask()
    rows = [task.rows(300, seed, split, items=3) for seed, split in ((11, "train"), (12, "train"), (22, "test"))]
    shown = style.demonstrations(task.world(), 800, 3, 32)
    assert hashlib.sha256(json.dumps([rows, shown]).encode()).hexdigest()[:16] == "0cc3ec4499444c6e"
