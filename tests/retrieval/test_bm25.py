"""BM25 against the formula written out, and its index on disk."""

import json
import logging
import math
import multiprocessing
import random
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlft.retrieval.bm25 import BM25Retriever, top_k
from rlft.retrieval.corpus import CorpusError
from rlft.retrieval.passage import Passage, RetrievalError
from tests.retrieval.conftest import WORDS, some_rows


def written_out(
    rows: list[dict[str, str]], query: str, k1: float, b: float, title_weight: int, stopwords: tuple[str, ...] = ()
) -> dict[int, float]:
    """Lucene's BM25 by the formula, in double precision: score of every passage that has a word of the query."""
    documents = []
    for row in rows:
        title, text = row["contents"].split("\n", 1) if "contents" in row else (row["title"], row["text"])
        words = re.findall(r"\w+", f"{title} ".lower() * title_weight + text.lower())
        documents.append([word for word in words if word not in stopwords])
    mean = sum(map(len, documents)) / len(documents)
    scores: Counter[int] = Counter()
    for word in re.findall(r"\w+", query.lower()):
        having = sum(word in words for words in documents)
        idf = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
        for i, words in enumerate(documents):
            if word in words:
                frequency = words.count(word)
                scores[i] += idf * frequency / (frequency + k1 * (1 - b + b * len(words) / mean))
    return dict(scores)


SETTINGS: list[dict[str, Any]] = [
    {"k1": 0.9, "b": 0.4, "title_weight": 1},
    {"k1": 1.5, "b": 0.75, "title_weight": 3},
    {"k1": 0.0, "b": 1.0, "title_weight": 0},
    {"k1": 1.2, "b": 0.0, "title_weight": 1, "stopwords": ("lantern", "kiln")},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("on_disk", [False, True])
def test_scores_and_order_are_the_formula_s(corpus_file: Path, settings: dict[str, Any], on_disk: bool) -> None:
    rows, rng = some_rows(), random.Random(1)
    retriever = BM25Retriever(corpus_file, **settings) if on_disk else BM25Retriever.over(rows, **settings)
    queries = [" ".join(rng.choices([*WORDS, "no", "7", "unknown"], k=rng.randint(1, 5))) for _ in range(40)]
    for query, found in zip(queries, retriever.search(queries, len(rows)), strict=True):
        expected = written_out(rows, query, **settings)
        assert {int(p.id[1:]) for p in found} == expected.keys()
        for passage in found:
            assert passage.score == pytest.approx(expected[int(passage.id[1:])], rel=1e-5)
        # Among equals of the formula, float32 decides, then the corpus's order.
        assert found == sorted(found, key=lambda p: (-p.score, int(p.id[1:])))
        for above, below in zip(found, found[1:], strict=False):
            assert expected[int(above.id[1:])] > expected[int(below.id[1:])] - 1e-5


def test_fewer_are_the_first_of_more_and_a_batch_is_its_queries() -> None:
    retriever = BM25Retriever.over(some_rows())
    queries = ["amber canal", "kiln lantern", "", "kiln lantern", "unknown", "Lantern LANTERN frost"]
    whole = retriever.search(queries, 60)
    for k in (1, 2, 5, 1000):
        assert retriever.search(queries, k) == [found[:k] for found in whole]
    assert [retriever.search([query], 60)[0] for query in queries] == whole
    assert whole[2] == whole[4] == []
    assert retriever.search([], 3) == []


def test_equal_passages_come_in_the_corpus_s_order() -> None:
    rows = [{"id": str(i), "contents": "same words here"} for i in range(300)]
    assert [p.id for p in BM25Retriever.over(rows).search(["words"], 200)[0]] == [str(i) for i in range(200)]


def test_texts_and_titles_come_back_whole() -> None:
    rows = [{"id": "a", "contents": '"Ada Lovelace"\nShe wrote\nprograms.'}, {"id": "b", "contents": "nothing"}]
    assert BM25Retriever.over(rows).search(["lovelace"], 5)[0][0].contents == "Ada Lovelace\nShe wrote\nprograms."
    assert BM25Retriever.over(rows, title_weight=0).search(["lovelace"], 5) == [[]]


@pytest.mark.parametrize("count", [1, 2, 127, 128, 129, 5000])
def test_top_k_is_a_stable_sort(count: int) -> None:
    rng = np.random.default_rng(count)
    for scores_N in (rng.integers(0, 4, count), rng.random(count), np.zeros(count), rng.integers(-2, 2, count)):
        order = np.argsort(-scores_N, kind="stable")
        for k in (1, 3, 40, 200, 6000):
            assert top_k(scores_N, k).tolist() == [i for i in order.tolist() if scores_N[i] > 0][:k]


def test_index_is_built_once_and_memory_mapped(corpus_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = BM25Retriever(corpus_file)
    folder = Path(f"{corpus_file}.bm25")
    stamps = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    second = BM25Retriever(corpus_file)
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == stamps
    assert first.search(["amber"], 9) == second.search(["amber"], 9)
    assert first.name == second.name
    assert isinstance(second._engine.scores["data"], np.memmap)
    assert not caplog.records


def test_changed_corpus_or_parameters_rebuild_the_default_index(
    corpus_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = BM25Retriever(corpus_file)
    caplog.set_level(logging.WARNING)
    assert BM25Retriever(corpus_file, k1=2.0).name != before.name
    assert "built anew: its k1 is 0.9, not 2.0" in caplog.text
    corpus_file.write_text(corpus_file.read_text() + '{"id": "new", "contents": "zeppelin"}\n')
    after = BM25Retriever(corpus_file, k1=2.0)
    assert "built anew: its corpus is" in caplog.text
    assert [p.id for p in after.search(["zeppelin"], 3)[0]] == ["new"]
    assert sorted(p.name for p in corpus_file.parent.iterdir()) == [
        "corpus.jsonl",
        "corpus.jsonl.bm25",
        "corpus.jsonl.bm25.lock",
    ]


def test_named_index_of_another_corpus_is_refused(corpus_file: Path, tmp_path: Path) -> None:
    BM25Retriever(corpus_file, index=tmp_path / "index")
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": 1, "contents": "another corpus"}\n')
    with pytest.raises(RetrievalError, match=r"is another one: its corpus is .*Name another folder"):
        BM25Retriever(other, index=tmp_path / "index")
    with pytest.raises(RetrievalError, match="its b is 0.4, not 0.5"):
        BM25Retriever(corpus_file, index=tmp_path / "index", b=0.5)


def test_damaged_index_is_noticed(corpus_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    BM25Retriever(corpus_file)
    data = Path(f"{corpus_file}.bm25") / "data.csc.index.npy"
    data.write_bytes(data.read_bytes()[:-4])
    assert BM25Retriever(corpus_file).search(["amber"], 1)[0]
    assert "data.csc.index.npy is missing or cut short" in caplog.text
    (data.parent / "manifest.json").write_text("{")
    assert BM25Retriever(corpus_file).search(["amber"], 1)[0]
    assert "manifest.json cannot be read" in caplog.text


def test_folder_with_other_things_is_left_alone(corpus_file: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.txt").write_text("mine")
    for folder in (tmp_path / "precious", tmp_path / "precious/thesis.txt"):
        with pytest.raises(RetrievalError, match="is no index"):
            BM25Retriever(corpus_file, index=folder)
    assert (tmp_path / "precious/thesis.txt").read_text() == "mine"


def test_failed_build_leaves_nothing_and_the_next_one_works(corpus_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(f"{corpus_file}.bm25")
    good = corpus_file.read_text()
    corpus_file.write_text(good + "not json\n")
    with pytest.raises(CorpusError, match="line 61 is not JSON"):
        BM25Retriever(corpus_file)
    assert not folder.exists()
    corpus_file.write_text(good)
    leftover = Path(f"{folder}.building")  # as after a kill
    leftover.mkdir()
    (leftover / "half").write_text("")
    BM25Retriever(corpus_file)
    assert not leftover.exists()
    assert not (folder / "half").exists()


def test_several_processes_build_one_index(corpus_file: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=BM25Retriever, args=(corpus_file,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4


def test_place_that_is_no_folder_is_an_error_that_names_the_knob(corpus_file: Path) -> None:
    with pytest.raises(RetrievalError, match="name another folder: index="):
        BM25Retriever(corpus_file, index=corpus_file / "index")


def test_threads_find_what_one_finds(corpus_file: Path) -> None:
    retriever = BM25Retriever(corpus_file)
    queries = [f"{a} {b}" for a in WORDS for b in WORDS]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda query: retriever.search([query], 7)[0], queries))
    assert together == retriever.search(queries, 7)


@pytest.mark.parametrize(
    "settings",
    [{"k1": -1}, {"b": 1.5}, {"b": math.nan}, {"title_weight": -1}, {"title_weight": 0.5}, {"stopwords": "klingon"}],
    ids=str,
)
def test_senseless_parameters_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(RetrievalError, match=next(iter(settings))):
        BM25Retriever.over(some_rows(), **settings)


def test_stopwords_by_name_and_a_corpus_of_nothing_else() -> None:
    rows = [{"id": 1, "contents": "the and of"}, {"id": 2, "contents": "the island"}]
    assert BM25Retriever.over(rows, stopwords="english").search(["the", "island"], 5)[0] == []
    with pytest.raises(RetrievalError, match="no passage has a word"):
        BM25Retriever.over(rows[:1], stopwords="english")


@pytest.mark.parametrize(("queries", "k"), [("amber", 3), ([1], 3), (["amber"], 0), (["amber"], True)])
def test_bad_requests_are_refused(queries: Any, k: Any) -> None:
    with pytest.raises(RetrievalError):
        BM25Retriever.over([Passage("1", "", "amber", 0.0)]).search(queries, k)


def test_manifest_says_what_the_index_is(corpus_file: Path) -> None:
    BM25Retriever(corpus_file, title_weight=2)
    manifest = json.loads((Path(f"{corpus_file}.bm25") / "manifest.json").read_text())
    assert manifest["identity"]["title_weight"] == 2
    assert set(manifest["files"]) >= {"row_starts.npy", "data.csc.index.npy", "vocab.index.json"}
