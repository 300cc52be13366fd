"""What a model learns after it was trained: biographies, KnowEdit's files, rows of one's own."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlft.data.continual import biography_rows, file_rows, paper_task, some
from rlft.data.prompts import DataError
from rlft.tiny.biography_task import BiographyTask
from rlft.tiny.people import Size

TASK = BiographyTask(Size(old=6, new=3), copies=2)
RECORD = {
    "subject": "niva",
    "prompt": "niva lives in",
    "target_new": "veda",
    "ground_truth": ["veda", "the town of veda"],
    "rephrase_prompt": "the home of niva is in",
    "locality": {"Relation_Specificity": [{"prompt": "niva studied", "ground_truth": [["law"]]}]},
}


def lines(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_biographies_of_a_phase_with_probes_about_both() -> None:
    new, old = (biography_rows(TASK, phase, 0, with_old=phase == "new") for phase in ("new", "old"))
    people = TASK.world()
    assert {row["subject"] for row in new.new} == set(people.new)
    assert {row["subject"] for row in old.new} == set(people.old)
    assert [row["subject"] for row in sorted(new.old, key=lambda row: people.old.index(row["subject"]))] == people.old
    assert {row["text"] for row in new.old} < {row["text"] for row in old.new}, "kept data is what was learnt"
    assert old.old == []
    for rows in (new, old):
        assert {which: len(found) for which, found in rows.probes.items()} == {"old": 24, "new": 12}
        assert all(people.facts(row["subject"])[row["attribute"]] == row["answer"] for row in rows.probes["new"])
    with pytest.raises(DataError, match="phase 'later'"):
        biography_rows(TASK, "later", 0, with_old=False)


def test_the_paper_s_corpus_at_any_size() -> None:
    task = paper_task(old=20, new=5, copies=3)
    assert (task.largest("old"), task.largest("new")) == (60, 15)
    assert len(task.rows(15, 0)) == 15
    assert {row["attribute"] for row in task.probes("old", 0)} == {"birthday", "home", "field", "employer", "school"}
    with pytest.raises(ValueError, match="--copies 0"):
        paper_task(20, 5, 0)


def test_knowedit_s_facts_are_texts_and_its_locality_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "zsre.json"
    path.write_text(json.dumps([RECORD]))
    found = file_rows(str(path))
    assert [row["text"] for row in found.new] == [
        f"{prompt} {answer}"
        for prompt in ("niva lives in", "the home of niva is in")
        for answer in ("veda", "the town of veda")
    ]
    assert len({row["id"] for row in found.new}) == 4
    assert [row["answers"] for row in found.probes["new"]] == [["veda", "the town of veda"]] * 2
    assert [(row["prompt"], row["answers"]) for row in found.probes["old"]] == [("niva studied", ["law"])]
    assert found.old == []
    own = lines(tmp_path / "p.jsonl", [{"prompt": "who", "answer": "me"}])
    asked = file_rows(str(path), old_probes=own).probes
    assert [row["prompt"] for row in asked["old"]] == ["who"]
    assert len(asked["new"]) == 2


def test_rows_of_one_s_own_keep_what_is_read_of_them(tmp_path: Path) -> None:
    rows = [{"text": "a b", "subject": "a", "more": 1}, {"id": 7, "prompt": "a", "completion": " b"}]
    probes = [{"prompt": "a", "answers": ["b", "c"], "subject": "a", "more": 1}]
    found = file_rows(
        lines(tmp_path / "new.jsonl", rows),
        old=lines(tmp_path / "old.jsonl", rows[:1]),
        new_probes=lines(tmp_path / "p.jsonl", probes),
    )
    assert found.new == [
        {"id": "0", "text": "a b", "subject": "a"},
        {"id": "7", "prompt": "a", "completion": " b"},
    ]
    assert found.old == [{"id": "0", "text": "a b", "subject": "a"}]
    assert found.probes == {"new": [{"id": "0", "prompt": "a", "answers": ["b", "c"], "subject": "a"}]}


@pytest.mark.parametrize(
    ("rows", "probes", "message"),
    [
        ([{"text": "a"}, {"txt": "a"}], None, "line 2 has columns txt"),
        ([{"text": " "}], None, "not blank in 'text'"),
        ([{"prompt": "a"}], None, "'prompt' and 'completion'"),
        ([{"text": "a"}], [{"prompt": "a"}], "line 1: a probe has"),
        ([{"text": "a"}], [{"prompt": "", "answer": "b"}], "line 1: a probe has"),
        ([{"text": "a"}], [{"prompt": "a", "answers": "b"}], "line 1: a probe has"),
        ([{"text": "a"}], [{"prompt": "a", "answers": []}], "line 1: a probe has"),
        ([], None, "is empty"),
    ],
)
def test_bad_rows_are_refused(rows: list[Any], probes: list[Any] | None, message: str, tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", rows)
    asked = None if probes is None else lines(tmp_path / "probes.jsonl", probes)
    with pytest.raises(DataError, match=message):
        file_rows(path, new_probes=asked)


def test_an_array_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("[]")
    with pytest.raises(DataError, match="holds no rows"):
        file_rows(str(tmp_path / "rows.json"))


def test_a_choice_of_rows_is_random_and_in_order() -> None:
    rows: list[dict[str, Any]] = [{"id": number} for number in range(50)]
    assert some(rows, 0, 1) == some(rows, 50, 1) == some(rows, 99, 1) == rows
    drawn = [row["id"] for row in some(rows, 10, 1)]
    assert drawn == sorted(drawn) == [row["id"] for row in some(rows, 10, 1)]
    assert len(set(drawn)) == 10
    assert drawn != list(range(10))
