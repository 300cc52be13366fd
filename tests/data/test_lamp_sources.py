"""Where the files of a split lie, and their outputs."""

from pathlib import Path

import pytest

from rlft.data.lamp import read_lamp
from rlft.data.prompts import DataError
from tests.data.lamp_samples import item, question, write


def test_folder_of_splits_and_file_given_directly_are_the_same(tmp_path: Path) -> None:
    flat = write(tmp_path / "flat", [question()])
    nested = tmp_path / "nested"
    write(nested / "train", [question()])
    rows = read_lamp(flat, 4, "train")
    assert rows == read_lamp(nested, 4, "train") == read_lamp(flat / "train_questions.json", 4, "train")
    assert rows == read_lamp(str(flat), 4, "train")
    assert rows.rows[0] == {
        "id": "q",
        "user_id": None,
        "task": 4,
        "input": "Headline for the article: news q",
        "query": "news q",
        "gold": "gold q",
        "profile": [{"id": "i", "text": "body of i", "target": "title of i", "date": None}],
    }


def test_outputs_are_joined_by_id_not_by_place(tmp_path: Path) -> None:
    folder = write(tmp_path, [question("a"), question("b")], {"b": "B", "a": "A"})
    assert {row["id"]: row["gold"] for row in read_lamp(folder, 4, "train").rows} == {"a": "A", "b": "B"}


def test_apostrophes_and_braces_of_texts_stay(tmp_path: Path) -> None:
    text = "it's {a} \"b\" '}', so {'title': 'x'}"
    asked = question("a", [item(text=text, title=text)], input=f"Headline for the article: {text}")
    (row,) = read_lamp(write(tmp_path, [asked], {"a": text}), 4, "train").rows
    assert [row["query"], row["gold"], row["profile"][0]["text"], row["profile"][0]["target"]] == [text] * 4


def test_test_goes_without_outputs_and_uses_them_where_they_are(tmp_path: Path) -> None:
    folder = write(tmp_path, [question("a"), question("b")], {"a": "A"}, split="test")
    assert read_lamp(folder, 4, "test").rejected == {"no output of its id": 1}
    (folder / "test_outputs.json").unlink()
    rows, rejected, _ = read_lamp(folder, 4, "test")
    assert [row["gold"] for row in rows] == [None, None]
    assert rejected == {}


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (None, "train_outputs.json: no such file, but train questions have outputs; only 'test' goes without"),
        ("{", "train_outputs.json is not JSON in UTF-8"),
        ("[]", "has no 'golds': outputs are {'task': 'LaMP_4', 'golds'"),
        ('{"task": "LaMP_4"}', "has no 'golds'"),
        ('{"task": "LaMP_5", "golds": []}', "has the outputs of 'LaMP_5', not of task 4"),
        ('{"task": "LaMP_42", "golds": []}', "has the outputs of 'LaMP_42', not of task 4"),
        ('{"golds": []}', "has the outputs of None, not of task 4"),
        ('{"task": "LaMP_4", "golds": [{"id": "q"}]}', "gold 0 is .*not an object with 'id' and 'output'"),
        ('{"task": "LaMP_4", "golds": [{"id": "q", "output": ["a"]}]}', "gold 0, 'output' holds a list, not a text"),
        (
            '{"task": "LaMP_4", "golds": [{"id": "q", "output": "a"}, {"id": "q", "output": "b"}]}',
            "gold 1: id 'q' is there twice",
        ),
        ('{"task": "LaMP_4", "golds": []}', "no row of LaMP-4 .headline. can be used .1 no output of its id"),
    ],
)
def test_malformed_outputs_are_refused(outputs: str | None, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, [question()]) / "train_outputs.json"
    path.unlink() if outputs is None else path.write_text(outputs)
    with pytest.raises(DataError, match=message):
        read_lamp(tmp_path, 4, "train")


@pytest.mark.parametrize("task", ["LaMP_4", "LaMP-4", "LaMP_4_time"])
def test_spellings_of_a_task_in_outputs(task: str, tmp_path: Path) -> None:
    path = write(tmp_path, [question()]) / "train_outputs.json"
    path.write_text(path.read_text().replace("LaMP_4", task))
    assert len(read_lamp(tmp_path, 4, "train").rows) == 1


def test_missing_questions_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing_questions.json: no such file"):
        read_lamp(tmp_path / "missing_questions.json", 4, "test")
    with pytest.raises(DataError, match="it holds nothing"):
        read_lamp(tmp_path, 4, "test")
