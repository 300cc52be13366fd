"""Rows of LaMP, all tasks and both splits, as the tiny writer and as hand-written files have them; and bad files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlft.data.lamp import read_lamp
from rlft.data.lamp_tasks import LAMP_2_NEWS, LAMP_TASKS
from rlft.data.prompts import DataError
from rlft.tiny.lamp_files import write_lamp_files
from rlft.tiny.world import World
from tests.data.lamp_samples import Json, item, question, write

WORLD = World(3, people=200, companies=40)
COUNTS = {"train": 60, "dev": 20, "test": 10}


@pytest.mark.parametrize("time", [True, False], ids=["time", "user"])
@pytest.mark.parametrize("task", LAMP_TASKS)
def test_every_task_and_both_splits_are_read(task: int, time: bool, tmp_path: Path) -> None:
    folder = write_lamp_files(tmp_path, task, WORLD, COUNTS, time=time, items=5)
    fields = LAMP_TASKS[task]
    for split, count in COUNTS.items():
        rows, rejected, read = read_lamp(folder, task, split)
        assert (len(rows), rejected, read) == (count, {}, fields)
        published = json.loads((folder / f"{split}_questions.json").read_text())
        for row, source in zip(rows, published, strict=True):
            assert (row["id"], row["task"], row["input"]) == (source["id"], task, source["input"])
            assert row["user_id"] == source.get("user_id")
            assert row["input"].endswith(row["query"]) or task == 1
            assert (row["gold"] is None) == (split == "test")
            assert sorted(str(past["text"]) for past in row["profile"]) == sorted(
                past[fields.text] for past in source["profile"]
            )
            assert time or [past["id"] for past in row["profile"]] == [past["id"] for past in source["profile"]]
            for past in row["profile"]:
                assert past.keys() == {"id", "text", "target", "date"}
                assert (past["target"] is None) == (fields.target is None)
                assert (past["date"] is None) != time
            years = [past["date"] for past in row["profile"]] if time else []
            assert years == sorted(years, reverse=True)


@pytest.mark.parametrize(("score", "output"), [(4, 5), (4.0, 5.0), ("4", "5")])
def test_numbers_as_ids_users_and_scores_are_texts(score: Any, output: Any, tmp_path: Path) -> None:
    rows = [question(7, [{"id": 70, "text": "good", "score": score}], user_id=9, input="Rate the review: fine")]
    write(tmp_path, rows)
    golds = [{"id": 7, "output": output}]
    (tmp_path / "train_outputs.json").write_text(json.dumps({"task": "LaMP_3", "golds": golds}))
    (row,) = read_lamp(tmp_path, 3, "train").rows
    assert (row["id"], row["user_id"], row["gold"]) == ("7", "9", "5")
    assert row["profile"] == [{"id": "70", "text": "good", "target": "4", "date": None}]


@pytest.mark.parametrize("movies", [True, False])
def test_versions_of_task_2_are_told_apart_by_the_first_item(movies: bool, tmp_path: Path) -> None:
    if movies:
        asked, past, gold = "tags: [x] description: an article: film", {"description": "d", "tag": "comedy"}, "classic"
    else:
        asked, gold = "categories: [x] article: a description: text", "sports"
        past = {"text": "d", "title": "t", "category": "crime"}
    write(tmp_path, [question("a", [], input=asked), question("b", [{"id": "i"} | past], input=asked)])
    golds = [{"id": name, "output": gold} for name in "ab"]
    (tmp_path / "train_outputs.json").write_text(json.dumps({"task": "LaMP_2", "golds": golds}))
    rows, rejected, task = read_lamp(tmp_path, 2, "train")
    assert task is (LAMP_TASKS[2] if movies else LAMP_2_NEWS)
    assert [row["query"] for row in rows] == ["an article: film" if movies else "a description: text"] * 2
    assert rows[1]["profile"][0]["target"] == ("comedy" if movies else "crime")
    assert rejected == {}


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    kept = question("kept", [item("a"), item("b", text=" "), item("c", title=None), item("a", text="again")])
    rows = [
        kept,
        kept,
        question("no marker", input="Headline for the news"),
        question("no query", input="Headline for the article:  "),
        question("no gold"),
        question("empty", []),
    ]
    golds = dict.fromkeys(("kept", "no marker", "no query", "other", "third"), "g") | {"empty": None}
    write(tmp_path, rows, golds)
    read = read_lamp(tmp_path, 4, "train")
    assert [row["id"] for row in read.rows] == ["kept"]
    assert [past["id"] for past in read.rows[0]["profile"]] == ["a"]
    assert read.rejected == {
        "item: no text": 2,
        "item: no title": 2,
        "item: duplicate id": 2,
        "duplicate id": 1,
        "no 'article:' in the input": 1,
        "nothing after 'article:' in the input": 1,
        "no output of its id": 1,
        "empty output": 1,
        "output: no question of its id": 2,
    }


def test_an_answer_that_is_no_label_is_counted(tmp_path: Path) -> None:
    past = [{"id": "i", "text": "good", "score": "4"}]
    write(tmp_path, [question(name, past, input="Rate the review: fine") for name in "ab"])
    golds = [{"id": "a", "output": "5"}, {"id": "b", "output": "6"}]
    (tmp_path / "train_outputs.json").write_text(json.dumps({"task": "LaMP_3", "golds": golds}))
    rows, rejected, _ = read_lamp(tmp_path, 3, "train")
    assert [row["id"] for row in rows] == ["a"]
    assert rejected == {"the output is none of the 5 labels": 1}


def test_limit_takes_the_first_rows_and_counts_what_it_read(tmp_path: Path) -> None:
    bad = question("bad", input="?")
    folder = write(tmp_path, [question("a"), bad, question("b"), question("c"), bad])
    rows, rejected, _ = read_lamp(folder, 4, "train", limit=2)
    assert [row["id"] for row in rows] == ["a", "b"]
    assert rejected == {"no 'article:' in the input": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"id": "q", "input": "x"},
            "line 1, question 0: a question has 'id', 'input' .a text. and 'profile'.*here is 'id', 'input'",
        ),
        (question(input=None), "a question has 'id', 'input'"),
        (question(profile=["past"]), "item 0: an item of LaMP-4 .headline. has 'id', 'text', 'title'.*the str 'past'"),
        (question(profile=[{"id": "i", "abstract": "a", "title": "t"}]), "is the file of another task"),
        (question(profile=[{"text": "a", "title": "t"}]), "here is 'text', 'title'"),
        (question(profile=[item(text=[1])]), "item 0, 'text' holds a list, not a text"),
        (question(profile=[item(text=0.5)]), "item 0, 'text' holds a float, not a text"),
        (question(profile=[item(text=float("nan"))]), "item 0, 'text' holds a float, not a text"),
        (question(profile=[item(date="May 2016")]), "the date 'May 2016' is not of numbers joined by '-'"),
        (question(profile=[item("a", date=2001), item("b")]), "1 of 2 items have a date; either all.*Fill them in"),
        (question(input="?"), "no row of LaMP-4 .headline. can be used .1 no 'article:' in the input"),
    ],
)
def test_malformed_questions_are_refused_with_file_and_line(row: Json, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_lamp(write(tmp_path, [row], {"q": "g"}), 4, "train")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"task": 8}, "LaMP has no task 8; it is one of 1, 2, 3, 4, 5, 6, 7"),
        ({"split": "valid"}, "LaMP has no split 'valid'; it is one of 'train', 'dev', 'test'"),
        ({"split": "dev"}, "has no dev_questions.json, also not in a folder 'dev'; it holds 'train_outputs.json', 'tr"),
        ({"limit": 0}, "limit is 0; it counts rows, or is None for all"),
        ({"path": "missing_questions.json"}, "missing_outputs.json: no such file"),
        ({"path": "train.json"}, "a file of questions is named as in 'train_questions.json'"),
    ],
)
def test_unusable_arguments_are_refused(args: Json, message: str, tmp_path: Path) -> None:
    write(tmp_path, [question()])
    args = {"path": "", "task": 4, "split": "train"} | args
    with pytest.raises(DataError, match=message):
        read_lamp(tmp_path / args.pop("path"), args.pop("task"), args.pop("split"), **args)


def test_email_ids_without_their_texts_say_where_the_texts_are(tmp_path: Path) -> None:
    """As published: file names stand for the texts of inputs, items and outputs, and items have no title."""
    email = question(input="001-000123-EM.txt", profile=[{"id": "i", "text": "001-000124-EM.txt"}])
    write(tmp_path, [email], {"q": "001-000123-EM.txt"})
    path = tmp_path / "train_outputs.json"
    path.write_text(path.read_text().replace("LaMP_4", "LaMP_6"))
    with pytest.raises(DataError, match="email subject. can be used .1 no ':' in the input.*Avocado corpus"):
        read_lamp(tmp_path, 6, "train")


def test_test_questions_of_emails_have_the_form_of_outputs(tmp_path: Path) -> None:
    """LaMP's script, which puts the texts of emails in, writes them so."""
    asked = [question("a", input="Subject for the email: first"), question("b", input="Subject for the email: next")]
    path = tmp_path / "test_questions.json"
    path.write_text(json.dumps({"task": "LaMP_6", "golds": asked}))
    rows, rejected, _ = read_lamp(tmp_path, 6, "test")
    assert [(row["id"], row["query"], row["gold"]) for row in rows] == [("a", "first", None), ("b", "next", None)]
    assert rejected == {}
    path.write_text(json.dumps({"task": "LaMP_6", "golds": [*asked, "c"]}))
    with pytest.raises(DataError, match="question 0: a question has .* here is 'task', 'golds'"):
        read_lamp(tmp_path, 6, "test")
    path.write_text(json.dumps({"task": "LaMP_6", "golds": [*asked, {"id": "c", "output": "o"}]}))
    with pytest.raises(DataError, match="question 2: a question has .* here is 'id', 'output'"):
        read_lamp(tmp_path, 6, "test")


def test_a_question_is_named_by_its_number_where_the_file_is_one_line(tmp_path: Path) -> None:
    folder = write(tmp_path, [question("a"), question("b"), question("c", [item(date="spring")])])
    with pytest.raises(DataError, match="train_questions.json, line 1, question 2: the date 'spring'"):
        read_lamp(folder, 4, "train")


def test_reading_imports_no_torch() -> None:
    code = "import sys, rlft.data.lamp, rlft.tiny.lamp_files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
