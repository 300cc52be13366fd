"""Corpus files: both row forms, read in place, and every bad line named."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlft.retrieval.corpus import Corpus, CorpusError, corpus_in_memory, fingerprint_of, open_corpus, scan_corpus
from rlft.retrieval.passage import Passage
from rlft.retrieval.rows import passage_of_row, row_of_passage
from tests.retrieval.conftest import some_rows


def opened(path: Path) -> Corpus:
    scan_corpus(path, path.parent)
    return open_corpus(path, fingerprint_of(path), path.parent)


@pytest.mark.parametrize(
    ("row", "title", "text"),
    [
        ({"id": "1", "contents": '"Aaron"\nA prophet.\nHe spoke.'}, "Aaron", "A prophet.\nHe spoke."),
        ({"id": "1", "contents": "Aaron\nA prophet."}, "Aaron", "A prophet."),
        ({"id": "1", "contents": '""Heroes" and "Low""\nRecords.'}, '"Heroes" and "Low"', "Records."),
        ({"id": "1", "contents": "one line only"}, "", "one line only"),
        ({"id": "1", "contents": "\nno title"}, "", "no title"),
        ({"id": "1", "title": "Aaron", "text": "A prophet."}, "Aaron", "A prophet."),
        ({"id": "1", "title": '"Aaron"', "text": "A prophet.", "contents": "ignored"}, '"Aaron"', "A prophet."),
        ({"id": "1", "title": None, "text": "no title"}, "", "no title"),
        ({"id": "1", "title": "Aaron", "text": "", "contents": "Aaron"}, "", "Aaron"),
    ],
)
def test_rows_in_either_form(row: dict[str, Any], title: str, text: str) -> None:
    passage = passage_of_row(row)
    assert (passage.title, passage.text) == (title, text)
    assert passage_of_row(row_of_passage(passage)) == passage


def test_integer_ids_count_as_text() -> None:
    assert passage_of_row({"id": 7, "contents": "x"}).id == "7"


def test_file_and_memory_hold_the_same_passages(corpus_file: Path) -> None:
    corpus = opened(corpus_file)
    rows = some_rows()
    assert list(corpus.passages) == [passage_of_row(row) for row in rows]
    assert corpus.passages[3:5] == list(corpus.passages)[3:5]
    assert corpus.passages[-1] == passage_of_row(rows[-1])
    assert list(corpus_in_memory(rows).passages) == list(corpus.passages)
    with pytest.raises(IndexError):
        corpus.passages[len(rows)]


def test_blank_lines_line_ends_and_other_scripts(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    text = '{"id":1,"contents":"Ünï\\n日本 \\ud83d\\ude00"}\r\n\n  \n' + json.dumps({"id": 2, "contents": "é\u2028é"})
    path.write_bytes(text.encode())
    assert [p.contents for p in opened(path).passages] == ["Ünï\n日本 😀", "é\u2028é"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{'id': 1}", "is not JSON"),
        ('{"id": "b", "contents": "cut o', "is not JSON"),
        (b'{"id": "b", "contents": "\xff"}', "is not JSON"),
        ("[1, 2]", "holds a list"),
        ('{"contents": "x"}', '"id" is None'),
        ('{"id": "", "contents": "x"}', "\"id\" is ''"),
        ('{"id": true, "contents": "x"}', '"id" is True'),
        ('{"id": 1.5, "contents": "x"}', '"id" is 1.5'),
        ('{"id": "b"}', 'neither "contents" nor "text"'),
        ('{"id": "b", "contents": "  "}', "has no text"),
        ('{"id": "b", "title": "T", "text": ""}', "has no text"),
        ('{"id": "b", "contents": ["x"]}', '"contents" is a list'),
        ('{"id": "b", "title": 3, "text": "x"}', '"title" is a int'),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str | bytes, says: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'{"id": "a", "contents": "fine"}\n\n' + (line.encode() if isinstance(line, str) else line))
    with pytest.raises(CorpusError) as error:
        opened(path)
    assert f"{path}, line 3" in str(error.value)
    assert says in str(error.value)


def test_repeated_ids_are_refused_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(json.dumps({"id": i % 7, "contents": f"text {i}"}) for i in (0, 1, 2, 3, 4, 5, 9, 6)))
    with pytest.raises(CorpusError, match=r"lines 3 and 7 have one id, '2'"):
        opened(path)


def test_hash_collisions_are_no_repetition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(json.dumps({"id": f"p{i}", "contents": f"text {i}"}) for i in range(5)))
    monkeypatch.setattr("rlft.retrieval.corpus.hash", lambda identity: 1, raising=False)
    assert len(opened(path).passages) == 5


def test_files_that_are_no_corpus(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(CorpusError, match="has no passages"):
        opened(tmp_path / "empty.jsonl")
    with pytest.raises(CorpusError, match="gzip -dk"):
        fingerprint_of(tmp_path / "corpus.jsonl.gz")
    with pytest.raises(CorpusError, match="there is no corpus file"):
        fingerprint_of(tmp_path / "absent.jsonl")


def test_memory_corpora_are_checked_too() -> None:
    with pytest.raises(CorpusError, match="no passages"):
        corpus_in_memory([])
    with pytest.raises(CorpusError, match="passages 0 and 2 have one id"):
        corpus_in_memory([{"id": i % 2, "contents": "x"} for i in range(3)])
    with pytest.raises(CorpusError, match="passage 1: .* has no text"):
        corpus_in_memory([Passage("a", "", "x", 0.0), Passage("b", "T", "", 0.0)])


def test_fingerprints_follow_the_content(corpus_file: Path) -> None:
    before = fingerprint_of(corpus_file)
    rows = some_rows()
    assert corpus_in_memory(rows).fingerprint == corpus_in_memory(rows).fingerprint
    assert corpus_in_memory(rows).fingerprint != corpus_in_memory(rows[::-1]).fingerprint
    corpus_file.write_text(corpus_file.read_text().replace("amber", "umber", 1))
    assert fingerprint_of(corpus_file) != before
