"""KnowEdit files, written here in the layouts that they are published in."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlft.data.knowedit import read_knowedit
from rlft.data.prompts import DataError

ZSRE: dict[str, Any] = {
    "subject": "Lumera",
    "target_new": "Corvidae",
    "prompt": "Which family does Lumera belong to?",
    "ground_truth": ["Lumeridae"],
    "rephrase_prompt": "What family are Lumera?",
    "cond": "Lumeridae >> Corvidae || Which family does Lumera belong to?",
    "locality": {
        "Relation_Specificity": [
            {"prompt": "The taxon rank of Lumera is", "ground_truth": ["genus"]},
            {"prompt": "Lumera taxon rank", "ground_truth": ["genus"]},
        ]
    },
    "portability": {"Reasoning": [{"prompt": "What is the common name of its family?", "ground_truth": "Crows"}]},
}
WIKIBIO: dict[str, Any] = {
    "text": "This is a Wikipedia passage about ada moor. Ada Moor (born 1830) was a painter.",
    "labels": "She studied in Delft, where she won two medals.",
    "concept": "ada moor",
    "locality": {
        "Relation_Specificity": [{"prompt": "The field of work of ada moor is", "ground_truth": ["painting"]}]
    },
}
RECENT: dict[str, Any] = {
    "subject": "Nils Aron",
    "prompt": "The place of death of Nils Aron is",
    "target_new": "Bergen",
    "rephrase": "Nils Aron died in",
    "portability": {"Subject_Aliasing": [{"prompt": "N. Aron died in", "ground_truth": [["Bergen", "Bjorgvin"]]}]},
    "locality": {
        "Relation_Specificity": [
            {"prompt": "The name of the father of Nils Aron is", "ground_truth": [["Per Aron", "P. Aron"]]},
            {"prompt": "The occupation of Nils Aron is", "ground_truth": [["physicist"], ["teacher", "physicist"]]},
        ],
        "Forgetfulness": [{"prompt": "A child of Nils Aron, which is not Eva, is", "ground_truth": [["Ole Aron"]]}],
    },
}


def written(folder: Path, records: list[Any], name: str = "file.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(records, indent=4), encoding="utf-8")
    return path


def pairs(rows: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    return [(row["prompt"], row["answers"]) for row in rows]


def test_zsre_learns_the_ground_truth_in_both_wordings(tmp_path: Path) -> None:
    read = read_knowedit(written(tmp_path, [ZSRE]))
    assert (read.layout, read.rejects) == ("zsre", {})
    assert pairs(read.new) == [(ZSRE["prompt"], ["Lumeridae"]), (ZSRE["rephrase_prompt"], ["Lumeridae"])]
    assert pairs(read.old) == [("The taxon rank of Lumera is", ["genus"]), ("Lumera taxon rank", ["genus"])]
    assert read.old[1] == {
        "id": "0/Relation_Specificity/1",
        "subject": "Lumera",
        "group": "Relation_Specificity",
        "prompt": "Lumera taxon rank",
        "answer": "genus",
        "answers": ["genus"],
    }


def test_wikibio_labels_stay_whole(tmp_path: Path) -> None:
    read = read_knowedit(written(tmp_path, [WIKIBIO]))
    assert (read.layout, read.rejects) == ("wikibio", {})
    assert pairs(read.new) == [(WIKIBIO["text"], [WIKIBIO["labels"]])]
    assert read.new[0]["subject"] == "ada moor"
    assert pairs(read.old) == [("The field of work of ada moor is", ["painting"])]


def test_recent_reads_aliases_and_all_groups(tmp_path: Path) -> None:
    read = read_knowedit(written(tmp_path, [RECENT]))
    assert (read.layout, read.rejects) == ("recent", {})
    assert pairs(read.new) == [(RECENT["prompt"], ["Bergen"]), (RECENT["rephrase"], ["Bergen"])]
    assert pairs(read.old) == [
        ("The name of the father of Nils Aron is", ["Per Aron", "P. Aron"]),
        ("The occupation of Nils Aron is", ["physicist", "teacher"]),
        ("A child of Nils Aron, which is not Eva, is", ["Ole Aron"]),
    ]
    assert [row["group"] for row in read.old] == ["Relation_Specificity", "Relation_Specificity", "Forgetfulness"]


@pytest.mark.parametrize(
    ("record", "column"),
    [(ZSRE, "ground_truth"), (WIKIBIO, "labels"), (RECENT, "target_new")],
    ids=["zsre", "wikibio", "recent"],
)
def test_string_and_list_targets_give_the_same_rows(tmp_path: Path, record: dict[str, Any], column: str) -> None:
    layout = read_knowedit(written(tmp_path, [record])).layout
    plain = record[column][0] if isinstance(record[column], list) else record[column]

    def other(target: Any, locality: Any) -> dict[str, Any]:
        groups = {
            group: [item | {"ground_truth": locality(item["ground_truth"])} for item in items]
            for group, items in record["locality"].items()
        }
        return record | {column: target, "locality": groups}

    shapes = [
        other(plain, lambda truth: truth),
        other([plain], lambda truth: [truth]),
        other([[plain]], lambda truth: [[truth]]),
        other([plain, plain], lambda truth: truth if len(str(truth)) > 12 else truth[0]),
    ]
    read = [read_knowedit(written(tmp_path, [shape], f"{n}.json"), layout) for n, shape in enumerate(shapes)]
    assert read[0] == read[1] == read[2] == read[3]


def test_one_record_a_line_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in (ZSRE, ZSRE | {"prompt": "Other?"})))
    assert read_knowedit(path) == read_knowedit(written(tmp_path, [ZSRE, ZSRE | {"prompt": "Other?"}]))


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    blank = {"Relation_Specificity": [{"prompt": " ", "ground_truth": ["x"]}, {"prompt": "A is", "ground_truth": [[]]}]}
    records = [
        ZSRE,
        ZSRE,
        {**ZSRE, "ground_truth": ["", " "], "locality": {}},
        {"subject": "x", "ground_truth": ["y"], "prompt": None, "locality": blank},
        {
            "subject": "z",
            "ground_truth": ["z"],
            "prompt": "What is z?",
            "locality": {"Relation_Specificity": [{"prompt": ZSRE["prompt"], "ground_truth": "?"}]},
        },
    ]
    read = read_knowedit(written(tmp_path, records))
    assert len(read.new) == 3
    assert len(read.old) == 2
    assert read.rejects == {
        "new: duplicate": 2,
        "new: no answer": 2,
        "new: no prompt": 1,
        "old: duplicate": 2,
        "old: record without locality": 1,
        "old: no prompt": 1,
        "old: no answer": 1,
        "old: prompt is a new one's": 1,
    }


def test_a_list_of_prompts_is_as_many_facts(tmp_path: Path) -> None:
    record = ZSRE | {"locality": {"Relation_Specificity": [{"prompt": ["A is", "B is"], "ground_truth": "c"}]}}
    read = read_knowedit(written(tmp_path, [record]))
    assert [(row["id"], row["prompt"], row["answer"]) for row in read.old] == [
        ("0/Relation_Specificity/0", "A is", "c"),
        ("0/Relation_Specificity/0/1", "B is", "c"),
    ]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([RECENT | {"ground_truth": "Oslo"}], "line 2: columns .* none of 'zsre', 'wikibio', 'recent'"),
        ([ZSRE | {"ground_truth": [1.5]}], r"line 2, 'ground_truth' holds 1.5 \(float\)"),
        ([ZSRE | {"prompt": ["a", "b"]}], "'prompt' holds 2 texts"),
        ([ZSRE | {"locality": ["x"]}], "'locality' holds a list"),
        ([ZSRE | {"locality": {"R": ["x"]}}], "group 'R'"),
        ([ZSRE | {"locality": {}}], "2 new and 0 old facts .*'old: record without locality': 1"),
        ([{**ZSRE, "ground_truth": []}], "0 new and 2 old"),
        ([], "0 new and 0 old"),
        (["text"], "holds a str, not a JSON object"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, records: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_knowedit(written(tmp_path, records))


def test_a_missing_file_and_an_unknown_layout_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_knowedit(tmp_path / "none.json")
    with pytest.raises(DataError, match="layout 'convsent' is unknown"):
        read_knowedit(written(tmp_path, [ZSRE]), "convsent")
    counterfact = RECENT | {"ground_truth": "Oslo"}
    assert read_knowedit(written(tmp_path, [counterfact]), "recent").new[0]["answer"] == "Bergen"
