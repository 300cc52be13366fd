"""Candidates: found once where they lack, kept where they are known, and what no list can be chosen from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlft.retrieval import BM25Retriever, CachedRetriever, Passage, RetrievalError
from rlft.retrieval.candidates import refuse_candidates, with_candidates


class Shelf:
    """Three passages for every question, and a record of what was asked."""

    name = "shelf"

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], int]] = []

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.calls.append((list(queries), k))
        return [[Passage(f"{q}{i}", f"t{i}", f"text {i}", 1.0 / (i + 1)) for i in range(min(k, 3))] for q in queries]


def some(count: int) -> list[dict[str, str]]:
    return [{"id": str(i), "title": "", "text": f"passage {i}"} for i in range(count)]


def test_found_where_they_lack_and_kept_where_they_are_known() -> None:
    shelf = Shelf()
    known = [{**passage, "score": 3} for passage in some(4)]
    rows = [
        {"id": 1, "question": "a"},
        {"id": 2, "question": "b", "candidates": known},
        {"id": 3, "question": "c", "candidates": None},
        {"id": 4, "question": "d"},
    ]
    before = [dict(row) for row in rows]
    done = with_candidates(rows, shelf, 2, batch=2)
    assert [row["id"] for row in done] == [1, 2, 3, 4]
    assert done[0]["candidates"] == [
        {"id": "a0", "title": "t0", "text": "text 0"},
        {"id": "a1", "title": "t1", "text": "text 1"},
    ]
    assert done[1]["candidates"] == known[:2]
    assert shelf.calls == [(["a", "c"], 2), (["d"], 2)]
    assert rows == before
    assert with_candidates(done, None, 2) == done  # nothing is left to find


def test_batches_change_nothing_and_fewer_than_wanted_is_fine(corpus_file: Path) -> None:
    rows = [{"id": word, "question": word} for word in ("amber", "canal bridge", "kiln", "nowhere")]
    retriever = BM25Retriever(corpus_file)
    found = with_candidates(rows, retriever, 20)
    assert with_candidates(rows, retriever, 20, batch=1) == found
    assert [[one["id"] for one in row["candidates"]] for row in found] == [
        [passage.id for passage in passages] for passages in retriever.search([row["question"] for row in rows], 20)
    ]
    assert found[-1]["candidates"] == []
    with pytest.raises(ValueError, match="row 'nowhere' has 0 candidates and 5 are needed"):
        refuse_candidates(found[-1], 5)


def test_a_cached_retriever_is_asked_once(tmp_path: Path) -> None:
    shelf = Shelf()
    for _ in range(2):
        with_candidates([{"question": "a"}, {"question": "b"}], CachedRetriever(shelf, tmp_path), 3)
    assert shelf.calls == [(["a", "b"], 3)]


def test_errors_of_the_retriever_pass() -> None:
    class Broken(Shelf):
        def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
            raise RetrievalError("no server at http://127.0.0.1:1; start one")

    class Short(Shelf):
        def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
            return super().search(queries, k)[:-1]

    with pytest.raises(RetrievalError, match="no server"):
        with_candidates([{"question": "a"}], Broken(), 3)
    with pytest.raises(RetrievalError, match="'shelf' gave 1 result lists for 2 queries"):
        with_candidates([{"question": "a"}, {"question": "b"}], Short(), 3)


@pytest.mark.parametrize(
    ("row", "retriever", "settings", "message"),
    [
        ({"id": "q", "question": "a"}, None, {}, "row 'q' and 0 more have no candidates and there is no retriever"),
        ({"id": "q"}, Shelf(), {}, "row 'q' has neither candidates nor a question"),
        ({"id": "q", "question": " "}, Shelf(), {}, "row 'q' has neither candidates nor a question"),
        ({"question": "a"}, Shelf(), {"count": 0}, "count=0"),
        ({"question": "a"}, Shelf(), {"batch": 0}, "batch=0"),
    ],
)
def test_bad_input_is_refused(row: Any, retriever: Any, settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_candidates([row], retriever, **{"count": 3, **settings})


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ("a text", "row 'q': candidates is a str, not a list"),
        (None, "row 'q': candidates is a NoneType, not a list"),
        (some(2), "row 'q' has 2 candidates and 3 are needed"),
        ([*some(2), "text"], "row 'q', candidate 3: it holds a str, not an object"),
        ([*some(2), {"id": "x", "title": "t"}], "row 'q', candidate 3: its text is None"),
        ([*some(2), {"id": "x", "text": " "}], "row 'q', candidate 3: its text is ' '"),
        ([*some(2), {"id": "x", "text": 3}], "row 'q', candidate 3: \"text\" is a int"),
        ([*some(2), {"id": "x", "text": "t", "title": 3}], 'candidate 3: "title" is a int'),
        ([*some(2), {"text": "t"}], 'candidate 3: "id" is None'),
        ([*some(2), {"id": 1, "text": "t"}], "row 'q': candidates 2 and 3 have the same id '1'"),
    ],
)
def test_what_no_list_can_be_chosen_from(candidates: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refuse_candidates({"id": "q", "candidates": candidates}, 3)
    kept = with_candidates([{"id": "q", "question": "a", "candidates": candidates}], Shelf(), 5)[0]["candidates"]
    assert kept == candidates or candidates is None


def test_good_candidates_pass() -> None:
    refuse_candidates({"candidates": some(3)}, 3)
    refuse_candidates({"candidates": [{"id": 7, "text": "no title"}]}, 1)
