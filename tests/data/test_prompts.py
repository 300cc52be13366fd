"""Rows for training: renamed, held out without overlap, refused with the knob that mends it."""

import json
import re
from pathlib import Path

import pytest

from rlft.data.prompts import DataError, load_prompts
from rlft.tiny.biography_task import BiographyTask
from rlft.tiny.tasks import TASKS, PromptTask, SearchTask, SelectTask, StyleTask


def write(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


QUESTIONS = [{"question": f"{i}+1=", "solution": str(i + 1), "level": "1"} for i in range(10)]


def test_embedded_task_holds_out_what_it_does_not_train_on() -> None:
    train, test, _ = load_prompts("tiny/addition", held_out=64)
    assert len(test) == 64
    assert not set(train["prompt"]) & set(test["prompt"])
    assert train.column_names == ["prompt", "answer"]


def test_file_without_test_split_gives_its_last_rows_up(tmp_path: Path) -> None:
    name = write(tmp_path / "q.jsonl", QUESTIONS)
    train, test, _ = load_prompts(name, prompt_column="question", answer_column="solution", held_out=3)
    assert train["prompt"] == [f"{i}+1=" for i in range(7)]
    assert test["answer"] == ["8", "9", "10"]
    assert "level" in train.column_names


@pytest.mark.parametrize("system", [None, "Think."])
def test_no_row_need_be_held_out(system: str | None, tmp_path: Path) -> None:
    name = write(tmp_path / "q.jsonl", QUESTIONS)
    train, test, _ = load_prompts(name, prompt_column="question", system_prompt=system, held_out=0)
    assert (len(train), len(test)) == (10, 0)


def test_system_prompt_makes_conversations(tmp_path: Path) -> None:
    name = write(tmp_path / "q.jsonl", QUESTIONS)
    train, *_ = load_prompts(name, prompt_column="question", system_prompt="Think.", held_out=3)
    assert train[0]["prompt"] == [{"role": "system", "content": "Think."}, {"role": "user", "content": "0+1="}]


def test_system_prompt_opens_conversations_that_exist(tmp_path: Path) -> None:
    rows = [{"prompt": [{"role": "user", "content": f"{i}+1="}], "answer": "1"} for i in range(4)]
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, *_ = load_prompts(str(path), system_prompt="Think.", held_out=1)
    assert train[0]["prompt"] == [{"role": "system", "content": "Think."}, {"role": "user", "content": "0+1="}]


def test_nothing_is_held_out_where_nothing_is_wanted(tmp_path: Path) -> None:
    train, test, _ = load_prompts(write(tmp_path / "q.jsonl", QUESTIONS), prompt_column="question", held_out=0)
    assert (len(train), len(test)) == (len(QUESTIONS), 0)


@pytest.mark.parametrize(("text", "message"), [("", "is empty"), ("\n\n", "is empty"), ("{not json", "cannot be read")])
def test_unreadable_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_prompts(str(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": None}, "--dataset_name"),
        ({"name": "missing.jsonl"}, "no such file"),
        ({"prompt_column": "questions"}, "is it 'question'.*--prompt_column"),
        ({"prompt_column": "question", "answer_column": "gold"}, "no column 'gold'.*--answer_column"),
        ({"prompt_column": "question", "held_out": 10}, "10 were held out.*--eval_rows"),
        ({"prompt_column": "question", "train_split": "training"}, "no split 'training'.*--dataset_train_split"),
    ],
)
def test_unusable_data_is_refused(options: dict, message: str, tmp_path: Path) -> None:
    options = {"name": write(tmp_path / "q.jsonl", QUESTIONS), "held_out": 3} | options
    with pytest.raises(DataError, match=message):
        load_prompts(options.pop("name"), **options)


OTHERS = {SearchTask: "exsearch", SelectTask: "dro", StyleTask: "prlm", BiographyTask: "stoc"}
"""The recipe of every kind of embedded task that has no prompts and answers."""


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if not isinstance(task, PromptTask)])
def test_an_embedded_task_of_another_recipe_is_refused_with_that_recipe(name: str) -> None:
    recipe = f"recipes/{OTHERS[type(TASKS[name])]}.py"
    assert (Path(__file__).parents[2] / recipe).is_file()
    ours = "tiny/addition, tiny/addition-1, tiny/needle, tiny/needle-small"
    said = f"--dataset_name {name} is the task of {recipe}; here, embedded ones are {ours}."
    with pytest.raises(DataError, match=re.escape(said)):
        load_prompts(name)
