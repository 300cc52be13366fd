"""Rows for a run: which are whose, that none is in two sorts, what is shown of them, and what is refused."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from rlft.data.lamp_tasks import LAMP_TASKS
from rlft.data.personal import HarmlessChooser, PersonalRows, Wanted, harmless, held_out_split, lamp_rows, style_rows
from rlft.data.prompts import DataError
from rlft.reward_models.harmless import Harmless
from rlft.tiny.lamp_files import write_lamp_files
from rlft.tiny.tasks import StyleTask


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"train": 30, "dev": 6, "test": 6}
    return write_lamp_files(tmp_path_factory.mktemp("lamp"), 5, StyleTask().world(), counts)


@pytest.mark.parametrize(("train", "pairs", "expected"), [(10, 20, 10), (0, 20, 10), (30, 0, 30), (0, 0, 30)], ids=str)
def test_training_rows_come_first_and_pairs_next(folder: Path, train: int, pairs: int, expected: int) -> None:
    rows = lamp_rows(folder, 5, ("train", "dev"), Wanted(train, pairs, 4))
    everything = lamp_rows(folder, 5, ("train", "dev"), Wanted(30, 0, 0)).train
    assert rows.train == everything[:expected]
    assert rows.pairs == everything[expected : expected + pairs]
    assert len(rows.held_out) == 4
    assert {row["id"] for row in rows.held_out}.isdisjoint(row["id"] for row in everything)
    assert rows.name == "LaMP_5"
    assert rows.lamp is LAMP_TASKS[5]
    assert all(row["answer"] == row["gold"] for row in (*rows.train, *rows.held_out))


def test_dev_is_held_out_where_there_is_no_test(folder: Path, tmp_path: Path) -> None:
    """`test` is what TRL takes unless told, and LaMP publishes no outputs of it."""
    assert [held_out_split(folder, wanted) for wanted in ("test", "dev", "mine")] == ["dev", "dev", "mine"]
    (tmp_path / "test_outputs.json").touch()
    assert held_out_split(tmp_path, "test") == "test"


@pytest.mark.parametrize(
    ("splits", "wanted", "message"),
    [
        (("train", "dev"), Wanted(11, 20, 4), "has 30 usable rows in 'train'"),
        (("train", "dev"), Wanted(0, 30, 4), "has 30 usable rows"),
        (("train", "test"), Wanted(1, 1, 4), "'test' has no test_outputs.json.*--dataset_test_split needs golds"),
        (("test", "dev"), Wanted(1, 1, 4), "'test' has no test_outputs.json.*--dataset_train_split needs golds"),
        (("dev", "dev"), Wanted(1, 1, 4), "are both 'dev'"),
    ],
)
def test_what_lamp_rows_refuse(folder: Path, splits: tuple[str, str], wanted: Wanted, message: str) -> None:
    with pytest.raises(DataError, match=message):
        lamp_rows(folder, 5, splits, wanted)


def test_a_task_must_be_named_and_counts_be_counts(folder: Path) -> None:
    with pytest.raises(DataError, match="--task"):
        lamp_rows(folder, None, ("train", "dev"), Wanted(1, 1, 1))
    with pytest.raises(DataError, match="no such folder"):
        lamp_rows(folder / "none", 5, ("train", "dev"), Wanted(1, 1, 1))
    with pytest.raises(DataError, match=r"train_questions\.json: no such folder"):
        lamp_rows(folder / "train_questions.json", 5, ("train", "dev"), Wanted(1, 1, 1))
    with pytest.raises(DataError, match="none below 0"):
        Wanted(1, -1, 1)


def test_embedded_rows_keep_users_apart() -> None:
    rows = style_rows("tiny/style", Wanted(200, 300, 100), items=5)
    assert [len(some) for some in (rows.train, rows.pairs, rows.held_out)] == [200, 300, 100]
    seen, held_out = ({row["user_id"] for row in some} for some in ([*rows.train, *rows.pairs], rows.held_out))
    assert seen.isdisjoint(held_out)
    assert len({row["id"] for row in [*rows.train, *rows.pairs, *rows.held_out]}) == 600
    assert {len(row["profile"]) for row in rows.train} == {5}
    assert rows.lamp is None
    assert style_rows("tiny/style-small", Wanted(1, 0, 0), items=3).name == rows.name == "tiny/style"


@pytest.mark.parametrize(("name", "train", "message"), [("tiny/addition", 1, "tiny/style"), ("tiny/style", 0, "say")])
def test_what_style_rows_refuse(name: str, train: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        style_rows(name, Wanted(train, 0, 0), items=3)


class Newest:
    """The first items."""

    counts: Counter[str] = Counter(rows=1)

    def choose(self, rows: Iterable[Any], k: int) -> list[list[Any]]:
        return [row["profile"][:k] for row in rows]


def lamp() -> PersonalRows:
    items = [{"id": "0", "text": "a <|end|>", "target": "<|u|> b", "date": None}]
    items += [{"id": "1", "text": "<|a|>", "target": None, "date": None}]
    row = {"id": "r", "user_id": None, "query": "q <|END|>", "input": "[1]: <|u|>", "gold": "<|end|>", "profile": items}
    return PersonalRows("LaMP_1", [row | {"answer": "<|end|>"}], [row], [row], LAMP_TASKS[1], {"x": 1})


def test_control_strings_are_broken_in_what_is_shown_and_left_in_golds() -> None:
    broken, before = Harmless(StyleTask().tokenizer()).broken, lamp()
    rows = harmless(before, broken)
    for row in (*rows.train, *rows.pairs, *rows.held_out):
        assert (row["query"], row["input"], row["gold"]) == ("q (|END|)", "[1]: (|u|)", "<|end|>")
    assert rows.train[0]["answer"] == "<|end|>"
    assert before == lamp(), "a copy"
    chooser = HarmlessChooser(Newest(), broken)
    shown = chooser.choose([*rows.train, rows.pairs[0] | {"profile": []}], 2)
    assert [[(item["text"], item["target"]) for item in of_row] for of_row in shown] == [
        [("a (|end|)", "(|u|) b"), ("(|a|)", None)],
        [],
    ]
    assert chooser.counts == {"rows": 1}
    assert before == lamp()


def test_the_embedded_rows_stay_the_same() -> None:
    rows, broken = style_rows("tiny/style", Wanted(40, 40, 20), 3), Harmless(StyleTask().tokenizer()).broken
    assert harmless(rows, broken) == rows
    assert HarmlessChooser(Newest(), broken).choose(rows.train, 3) == Newest().choose(rows.train, 3)


def test_rows_that_are_known_are_left_out_and_counted() -> None:
    rows = style_rows("tiny/style", Wanted(4, 0, 0), 1)
    first = rows.train[0]
    less = rows.without(lambda row: row["id"] == first["id"], "seen")
    assert (less.train, less.left_out) == (rows.train[1:], {"seen": 1})
    assert rows.without(lambda row: False, "seen") is rows
    with pytest.raises(DataError, match="none of 4 rows to train on is left: seen"):
        rows.without(lambda row: True, "seen")


def test_the_key_of_the_answer_is_the_prompt_s() -> None:
    assert lamp().answer_key(None) == lamp().answer_key("reference") == "reference"
    assert style_rows("tiny/style", Wanted(1, 0, 0), 1).answer_key("mine") == "mine"
    with pytest.raises(DataError, match="--answer_key title: prompts of LaMP_1 ask for an answer under 'reference'"):
        lamp().answer_key("title")
