"""Files in LaMP's layout: their names and fields, who is in which split, and that answers show the style."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlft.tiny.histories import users
from rlft.tiny.lamp_files import BARE_YEARS, write_lamp_files
from rlft.tiny.world import World

WORLD = World(3, people=200, companies=40)
COUNTS = {"train": 60, "dev": 20, "test": 10}
FIELDS = {
    1: {"title", "abstract"},
    2: {"description", "tag"},
    3: {"text", "score"},
    4: {"text", "title"},
    5: {"title", "abstract"},
    6: {"text", "title"},
    7: {"text"},
}


def load(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("time", [True, False], ids=["time", "user"])
@pytest.mark.parametrize("task", FIELDS)
def test_names_and_fields_are_the_published_ones(task: int, time: bool, tmp_path: Path) -> None:
    folder = write_lamp_files(tmp_path, task, WORLD, COUNTS, time=time, items=4)
    assert folder.name == (f"LaMP_{task}_time" if time else f"LaMP_{task}")
    assert sorted(file.stem for file in folder.iterdir()) == [
        *("dev_outputs", "dev_questions", "test_questions", "train_outputs", "train_questions")
    ]
    for split, count in COUNTS.items():
        questions = load(folder, f"{split}_questions")
        assert len({question["id"] for question in questions}) == len(questions) == count
        for question in questions:
            assert question.keys() == {"id", "input", "profile"} | ({"user_id"} if time else set())
            assert len({item["id"] for item in question["profile"]}) == 4
            for item in question["profile"]:
                assert item.keys() == {"id"} | FIELDS[task] | ({"date"} if time else set())
                assert not time or isinstance(item["date"], int if task in BARE_YEARS else str)
        if split != "test":
            outputs = load(folder, f"{split}_outputs")
            assert outputs["task"] == f"LaMP_{task}"
            assert [gold["id"] for gold in outputs["golds"]] == [question["id"] for question in questions]


def test_the_same_arguments_give_the_same_files(tmp_path: Path) -> None:
    seeds = {"first": 5, "again": 5, "other": 6}
    folders = [write_lamp_files(tmp_path / name, 4, WORLD, COUNTS, seed=seed) for name, seed in seeds.items()]
    first, again, other = (load(folder, "train_questions") for folder in folders)
    assert first == again != other


def test_answers_and_past_items_have_the_style_of_the_user(tmp_path: Path) -> None:
    folder = write_lamp_files(tmp_path, 4, WORLD, COUNTS)
    styles = {user.name: (user.opener, user.ending) for user in users(WORLD)}
    golds = {gold["id"]: gold["output"] for gold in load(folder, "dev_outputs")["golds"]}
    for question in load(folder, "dev_questions"):
        for text in (golds[question["id"]], *(item["title"] for item in question["profile"])):
            words = text.split()
            assert (words[0], words[-1]) == styles[question["user_id"]]


@pytest.mark.parametrize("task", [2, 3])
def test_a_user_gives_one_label(task: int, tmp_path: Path) -> None:
    folder = write_lamp_files(tmp_path, task, WORLD, COUNTS)
    golds = {gold["id"]: gold["output"] for gold in load(folder, "train_outputs")["golds"]}
    for question in load(folder, "train_questions"):
        assert {item[{2: "tag", 3: "score"}[task]] for item in question["profile"]} == {golds[question["id"]]}
    assert len(set(golds.values())) >= 4


def test_the_cited_reference_has_the_style_of_past_titles(tmp_path: Path) -> None:
    folder = write_lamp_files(tmp_path, 1, WORLD, COUNTS)
    golds = [gold["output"] for gold in load(folder, "train_outputs")["golds"]]
    assert set(golds) == {"[1]", "[2]"}
    for question, gold in zip(load(folder, "train_questions"), golds, strict=True):
        references = dict(zip(("[1]", "[2]"), question["input"].split('"')[3::2], strict=False))
        styles = {(title.split()[0], title.split()[-1]) for title in (item["title"] for item in question["profile"])}
        own = {key for key, title in references.items() if (title.split()[0], title.split()[-1]) in styles}
        assert own == {gold}


def test_time_split_repeats_users_with_one_history_and_unsorted_dates(tmp_path: Path) -> None:
    folder = write_lamp_files(tmp_path, 7, WORLD, COUNTS)
    questions = [question for split in COUNTS for question in load(folder, f"{split}_questions")]
    past: dict[str, Any] = {}
    assert all(
        past.setdefault(question["user_id"], question["profile"]) == question["profile"] for question in questions
    )
    train = {question["user_id"] for question in load(folder, "train_questions")}
    assert train & {question["user_id"] for question in load(folder, "dev_questions")}
    dates = [[item["date"] for item in question["profile"]] for question in questions]
    assert any(one != sorted(one) for one in dates)
    assert any(one != sorted(one, reverse=True) for one in dates)


def test_user_split_keeps_users_apart(tmp_path: Path) -> None:
    folder = write_lamp_files(tmp_path, 7, WORLD, COUNTS, time=False)
    train, dev = (
        {(words[0], words[-1]) for question in load(folder, f"{split}_questions") for item in question["profile"]
         if (words := item["text"].split())}
        for split in ("train", "dev")
    )  # fmt: skip
    assert train.isdisjoint(dev)
