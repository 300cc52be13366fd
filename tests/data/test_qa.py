"""Questions from every layout, as published and as on the Hub, and what is done with rows that cannot be used."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from rlft.data.prompts import DataError
from rlft.data.qa import load_questions

Row = dict[str, Any]
TITLES = ["Arthur's Magazine", "First for Women"]

HOTPOT = {
    "_id": "5a7a",
    "answer": "Arthur's Magazine",
    "question": "Which magazine was started first?",
    "supporting_facts": [[TITLES[0], 0], [TITLES[1], 0], [TITLES[0], 2]],
    "context": [[TITLES[0], ["It was founded in 1844."]], ["Radio City", ["It is a station."]]],
    "type": "comparison",
    "level": "medium",
}
HOTPOT_HUB = {
    **{("id" if key == "_id" else key): value for key, value in HOTPOT.items()},
    "supporting_facts": {"title": [TITLES[0], TITLES[1], TITLES[0]], "sent_id": [0, 0, 2]},
    "context": {"title": TITLES, "sentences": [["It was founded in 1844."], ["It is a magazine."]]},
}
WIKI = {
    **HOTPOT,
    "evidences": [["Arthur's Magazine", "inception", "1844"]],
    "evidences_id": [["Q1", "inception", "Q2"]],
    "answer_id": "Q1",
}
WIKI_HUB = WIKI | {key: json.dumps(WIKI[key]) for key in ("supporting_facts", "context", "evidences")}
MUSIQUE = {
    "id": "2hop__460946_294723",
    "paragraphs": [
        {"idx": 0, "title": "Grant's First Stand", "paragraph_text": "A debut.", "is_supporting": False},
        {"idx": 5, "title": "Miquette Giraudy", "paragraph_text": "A keyboarder.", "is_supporting": True},
        {"idx": 10, "title": "Green", "paragraph_text": "An album.", "is_supporting": True},
    ],
    "question": "Who is the spouse of the Green performer?",
    "question_decomposition": [{"id": 1, "question": "Green >> performer", "answer": "x", "paragraph_support_idx": 10}],
    "answer": "Miquette Giraudy",
    "answer_aliases": ["Giraudy", "Miquette Giraudy"],
    "answerable": True,
}
MUSIQUE_HUB = MUSIQUE | {
    "paragraphs": {key: [p[key] for p in MUSIQUE["paragraphs"]] for key in MUSIQUE["paragraphs"][0]},
}
NQ = {"question": "who got the first nobel prize in physics", "answer": ["Wilhelm Conrad Röntgen", "Röntgen"]}
FLASHRAG = {"id": "test_0", "question": "who?", "golden_answers": ["Wilhelm", " W. "], "metadata": {}}
FLASHRAG_HOTPOT = FLASHRAG | {"metadata": {key: HOTPOT_HUB[key] for key in ("type", "supporting_facts", "context")}}
FLASHRAG_MUSIQUE = FLASHRAG | {
    "metadata": {
        "answerable": True,
        "question_decomposition": [
            {"id": 1, "answer": "x", "support_paragraph": {"title": "Green", "paragraph_text": "An album."}},
            {"id": 2, "answer": "y", "support_paragraph": None},
        ],
    }
}
CASES = {
    "hotpotqa": (HOTPOT, "5a7a", ["Arthur's Magazine"], TITLES),
    "hotpotqa on the Hub": (HOTPOT_HUB, "5a7a", ["Arthur's Magazine"], TITLES),
    "2wiki": (WIKI, "5a7a", ["Arthur's Magazine"], TITLES),
    "2wiki on the Hub": (WIKI_HUB, "5a7a", ["Arthur's Magazine"], TITLES),
    "musique": (MUSIQUE, "2hop__460946_294723", ["Miquette Giraudy", "Giraudy"], ["Miquette Giraudy", "Green"]),
    "musique on the Hub": (MUSIQUE_HUB, MUSIQUE["id"], ["Miquette Giraudy", "Giraudy"], ["Miquette Giraudy", "Green"]),
    "nq": (NQ, "train-0", ["Wilhelm Conrad Röntgen", "Röntgen"], None),
    "flashrag": (FLASHRAG, "test_0", ["Wilhelm", "W."], None),
    "flashrag hotpotqa": (FLASHRAG_HOTPOT, "test_0", ["Wilhelm", "W."], TITLES),
    "flashrag musique": (FLASHRAG_MUSIQUE, "test_0", ["Wilhelm", "W."], ["Green"]),
}


def lines(path: Path, rows: list[Row]) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def simple(count: int, start: int = 0) -> list[Row]:
    return [{"id": i, "question": f"question {i}?", "golden_answers": [str(i)]} for i in range(start, start + count)]


# Lists of unlike things, and structures without a field, have no place in a Parquet column.
FORMS = [(case, form) for case in CASES for form in ("lines", "array")] + [
    (case, "parquet") for case in CASES if case not in ("hotpotqa", "2wiki", "flashrag")
]


@pytest.mark.parametrize(("case", "form"), FORMS)
def test_every_layout_is_recognised_and_read(case: str, form: str, tmp_path: Path) -> None:
    row, name, answers, titles = CASES[case]
    path = tmp_path / ("rows.parquet" if form == "parquet" else "rows.json")
    if form == "lines":
        lines(path, [row])
    elif form == "array":
        path.write_text(json.dumps([row], indent=2))
    else:
        Dataset.from_list([row]).to_parquet(path)
    train, held_out, rejects = load_questions(str(path))
    assert rejects == {}
    assert len(held_out) == 0
    assert train.column_names == held_out.column_names
    (read,) = train
    assert (read["id"], read["question"], read["golden_answers"]) == (name, row["question"], answers)
    assert read.get("gold_titles") == titles
    assert not {"context", "paragraphs", "answer", "_id"} & set(read)


def test_other_columns_stay(tmp_path: Path) -> None:
    (row,) = load_questions(lines(tmp_path / "q.jsonl", [WIKI])).train
    assert (row["type"], row["level"], row["evidences"]) == ("comparison", "medium", WIKI["evidences"])
    (row,) = load_questions(lines(tmp_path / "r.jsonl", [FLASHRAG_HOTPOT])).train
    assert row["metadata"] == {"type": "comparison", "supporting_facts": HOTPOT_HUB["supporting_facts"]}


def test_own_gold_titles_win_over_metadata(tmp_path: Path) -> None:
    (row,) = load_questions(lines(tmp_path / "q.jsonl", [FLASHRAG_HOTPOT | {"gold_titles": ["Mine"]}])).train
    assert row["gold_titles"] == ["Mine"]


def test_2wiki_aliases_beside_the_questions_are_used(tmp_path: Path) -> None:
    lines(tmp_path / "id_aliases.json", [{"Q_id": "Q1", "aliases": ["Arthur's"], "demonyms": []}])
    for name in ("train", "dev"):
        lines(tmp_path / f"{name}.json", [WIKI | {"question": f"{name}?"}, WIKI | {"_id": "b", "answer_id": None}])
    train, _, rejects = load_questions(str(tmp_path), test_split="dev")
    assert train["golden_answers"] == [["Arthur's Magazine", "Arthur's"]]
    assert rejects == {"train: question is held out": 1}
    lines(tmp_path / "id_aliases.json", [{"id": "Q1"}])
    with pytest.raises(DataError, match="id_aliases.json, line 1: an alias row has 'Q_id'"):
        load_questions(str(tmp_path), test_split="dev")


def test_unusable_rows_are_counted_by_reason(tmp_path: Path) -> None:
    rows = [
        MUSIQUE,
        MUSIQUE | {"question": "again?"},
        MUSIQUE | {"id": "b", "answerable": False},
        MUSIQUE | {"id": "c", "question": "  "},
        MUSIQUE | {"id": "d", "question": None},
        MUSIQUE | {"id": "e", "answer": "", "answer_aliases": [" "]},
        MUSIQUE | {"id": "f", "answer": None, "answer_aliases": []},
    ]
    train, _, rejects = load_questions(lines(tmp_path / "q.jsonl", rows))
    assert train["id"] == [MUSIQUE["id"]]
    assert rejects == {
        "train: duplicate id": 1,
        "train: unanswerable": 1,
        "train: no question": 2,
        "train: no answer": 2,
    }


def test_unanswerable_in_flashrags_metadata_counts(tmp_path: Path) -> None:
    hidden = FLASHRAG | {"id": "x", "metadata": {"answerable": False}}
    assert load_questions(lines(tmp_path / "q.jsonl", [FLASHRAG, hidden])).rejects == {"train: unanswerable": 1}


def test_one_file_gives_its_last_rows_up(tmp_path: Path) -> None:
    train, test, _ = load_questions(lines(tmp_path / "q.jsonl", simple(10)), held_out=3, limit=4)
    assert train["id"] == ["0", "1", "2", "3"]
    assert test["id"] == ["7", "8", "9"]
    assert test["golden_answers"] == [["7"], ["8"], ["9"]]


def test_a_folder_has_a_file_per_split(tmp_path: Path) -> None:
    lines(tmp_path / "hotpot_train_v1.1.json", simple(5))
    lines(tmp_path / "hotpot_dev_distractor_v1.json", simple(4, start=10))
    lines(tmp_path / "hotpot_dev_fullwiki_v1.json", simple(4, start=20))
    train, test, _ = load_questions(str(tmp_path), test_split="dev_fullwiki")
    assert (len(train), test["id"]) == (5, ["20", "21", "22", "23"])
    assert load_questions(str(tmp_path), test_split="dev_fullwiki", held_out=2).held_out["id"] == ["20", "21"]
    with pytest.raises(DataError, match="several splits that fit 'dev'.*set test_split"):
        load_questions(str(tmp_path), test_split="dev")
    with pytest.raises(DataError, match="no 'test' in 'hotpot_dev_distractor_v1.json'.*set test_split"):
        load_questions(str(tmp_path))


def test_a_hub_set_is_read_by_its_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {
        "train": Dataset.from_list([HOTPOT_HUB, HOTPOT_HUB | {"id": "b", "question": "Second?"}]),
        "validation": Dataset.from_list([HOTPOT_HUB | {"id": "c"}]),
    }
    asked = []
    monkeypatch.setattr("rlft.data.qa_sources.load_dataset", lambda *args: asked.append(args) or tables)
    train, test, rejects = load_questions("hotpotqa/hotpot_qa", config="distractor", test_split="validation")
    assert asked == [("hotpotqa/hotpot_qa", "distractor")]
    assert (train["id"], test["id"]) == (["b"], ["c"])
    assert rejects == {"train: question is held out": 1}
    with pytest.raises(DataError, match="no 'test' in 'train', 'validation'"):
        load_questions("hotpotqa/hotpot_qa")


def test_held_out_questions_are_never_trained_on(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", [*simple(4), {"question": "QUESTION  11?", "golden_answers": ["x"]}])
    lines(tmp_path / "test.jsonl", simple(3, start=10))
    train, test, rejects = load_questions(str(tmp_path))
    assert rejects == {"train: question is held out": 1}
    assert not set(train["question"]) & set(test["question"])
    assert load_questions(str(tmp_path), held_out=1).rejects == {}


def test_columns_of_both_splits_agree_when_one_has_no_titles(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", simple(2))
    lines(tmp_path / "test.jsonl", [FLASHRAG_HOTPOT])
    train, test, _ = load_questions(str(tmp_path))
    assert train["gold_titles"] == [[], []]
    assert train.column_names == test.column_names


def test_layout_can_be_forced(tmp_path: Path) -> None:
    row = HOTPOT | {"answer": ["a", "b"]}
    with pytest.raises(DataError, match="line 1 does not fit the layout 'hotpotqa': 'answer' is a list.*layout='nq'"):
        load_questions(lines(tmp_path / "q.jsonl", [row]))
    assert load_questions(str(tmp_path / "q.jsonl"), layout="nq").train["golden_answers"] == [["a", "b"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "q.json is empty"),
        ("\n \n", "q.json is empty"),
        ('{"question": "a?", "answer": "b"}\n\n{oops}\n', "q.json, line 3 is not JSON"),
        ('{"question": "a?", "answer": "b"}\n[1]\n', "q.json, line 2 holds a list"),
        ('[{"question": "a?", "answer": "b"},\n3]', "q.json, line 2 holds a int"),
        ('[\n{"question": "a?", "answer": "b"},\n{"question": }]', "q.json, line 3 is not JSON"),
        ('[\n{"question": "a?", "answer": "b"}\n', "line 2: after this row comes the end of the file.*cut off"),
        ('[{"question": "a?", "answer": "b"} {"q', "after this row comes '{\"q', not a comma"),
        ("[]", "no row of split 'train' can be used .no rows were read."),
        ('{"query": "a?", "answer": "b"}', "line 1: columns 'query', 'answer' fit no known layout.*golden_answers"),
        ('{"question": "a?", "golden_answers": "b"}', "line 1 does not fit.*'golden_answers' is a str, not a list"),
        ('{"question": "a?", "golden_answers": [3]}', "an answer is 3 .int., not a text; write it as a string"),
        ('{"question": 7, "golden_answers": ["3"]}', "'question' holds 7, not a text"),
        ('{"question": "a?", "answer": "b", "supporting_facts": [[]]}', "line 1 does not fit the layout 'hotpotqa'"),
        ('{"question": "a?", "answer": "b", "supporting_facts": "[["}', "line 1 does not fit the layout 'hotpotqa'"),
        ('{"question": "a?", "answer": ""}', "no row of split 'train' can be used .1 train: no answer."),
    ],
)
def test_malformed_files_are_refused_with_file_and_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_questions(str(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "missing.jsonl"}, "missing.jsonl: no such file"),
        ({"name": "missing.parquet"}, "missing.parquet: no such file"),
        ({"name": "rows.csv"}, "lists of answers need a file that ends in '.json'"),
        ({"layout": "squad"}, "layout 'squad' is unknown; it is one of 'flashrag'"),
        ({"held_out": 3}, "no row is left to train on, 3 are held out; lower --eval_rows"),
        ({"held_out": -1}, "held_out is -1"),
    ],
)
def test_unusable_arguments_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    options = {"name": lines(tmp_path / "q.jsonl", simple(3))} | options
    with pytest.raises(DataError, match=message):
        load_questions(options.pop("name"), **options)


def test_other_encodings_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no file that ends in"):
        load_questions(str(tmp_path))
    (tmp_path / "q.jsonl").write_bytes('{"question": "é?", "answer": "é"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match="q.jsonl is not UTF-8"):
        load_questions(str(tmp_path / "q.jsonl"))


def test_columns_that_change_their_type_are_refused(tmp_path: Path) -> None:
    rows = [row | {"level": level} for row, level in zip(simple(2), ["easy", 3], strict=True)]
    with pytest.raises(DataError, match="changes its type from row to row"):
        load_questions(lines(tmp_path / "q.jsonl", rows))


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    path.write_text("\ufeff" + json.dumps([NQ]), encoding="utf-8")
    assert load_questions(str(path)).train["golden_answers"] == [NQ["answer"]]


def test_reading_imports_no_torch() -> None:
    code = "import sys, rlft.data.qa; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
