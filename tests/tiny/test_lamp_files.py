"""Files in LaMP's layout: their names and fields, who is in which split, and that a profile shows the user's style."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlft.tiny.histories import User, users
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
    known = {user.name: user for user in users(WORLD, habits=True)}
    golds = {gold["id"]: gold["output"] for gold in load(folder, "dev_outputs")["golds"]}
    for question in load(folder, "dev_questions"):
        user = known[question["user_id"]]
        assert golds[question["id"]] == user.write(words_of(question, 4))
        for item in question["profile"]:
            assert item["title"] == user.write(item["text"].split())


def words_of(question: dict[str, Any], task: int) -> list[str]:
    """What a question asks to write about."""
    query = question["input"].split('"')[1] if task == 1 else question["input"].rpartition(": ")[2]
    return query.split()[1::2]


def written(question: dict[str, Any], output: str, task: int) -> str:
    """The answer of the user in words, also where the output is a number."""
    return question["input"].split('"')[3::2][int(output[1]) - 1] if task == 1 else output


def user_of(profile: list[dict[str, Any]], task: int) -> User:
    """Whom past items show: markers of the first, the length of most, and the order that all have."""
    texts = [item["text" if task == 7 else "title"].split() for item in profile]
    contents = [words[1:-1] for words in texts]
    length = Counter(map(len, contents)).most_common(1)[0][0]
    orders = {"rising": False, "falling": True}
    kept = [name for name, back in orders.items() if all(words == sorted(words, reverse=back) for words in contents)]
    return User("", texts[0][0], texts[0][-1], length, *kept or ["asked"])


@pytest.mark.parametrize("task", [1, 4, 5, 6, 7])
def test_markers_length_and_order_of_held_out_users_are_seen_in_their_profiles(task: int, tmp_path: Path) -> None:
    """And not in another user's: chance is one in 36 for markers, one in three for length and for order."""
    folder = write_lamp_files(tmp_path, task, WORLD, {"dev": 150}, time=False)
    questions, golds = load(folder, "dev_questions"), load(folder, "dev_outputs")["golds"]
    held_out = {(user.opener, user.ending): user for user in users(WORLD, "test", habits=True)}
    right: dict[str, Counter[str]] = {"own": Counter(), "other": Counter()}
    for place, (question, gold) in enumerate(zip(questions, golds, strict=True)):
        answer = written(question, gold["output"], task)
        truth = held_out[answer.split()[0], answer.split()[-1]]
        for whose, asked in (("own", question), ("other", questions[place - 75])):
            seen = user_of(asked["profile"], task)
            right[whose]["markers"] += (seen.opener, seen.ending) == (truth.opener, truth.ending)
            right[whose]["length"] += seen.length == truth.length
            right[whose]["order"] += seen.order == truth.order
            right[whose]["answer"] += seen.write(words_of(question, task)) == answer
    assert all(right["own"][trait] >= 0.95 * 150 for trait in ("markers", "length", "order", "answer"))
    assert all(right["other"][trait] <= 0.15 * 150 for trait in ("markers", "answer"))
    assert all(right["other"][trait] <= 0.5 * 150 for trait in ("length", "order"))


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
    for question in questions:
        history = [{name: value for name, value in item.items() if name != "id"} for item in question["profile"]]
        assert past.setdefault(question["user_id"], history) == history
        assert [item["id"] for item in question["profile"]] == [f"{question['id']}{place}" for place in range(3)]
    assert len(past) < len(questions)
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
