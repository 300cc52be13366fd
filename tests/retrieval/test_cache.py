"""The cache gives what the retriever gives, asks it once, and survives damage."""

import logging
import multiprocessing
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlft.retrieval.cache import CachedRetriever
from rlft.retrieval.passage import Passage, RetrievalError


class Echo:
    """Finds its queries, and remembers them."""

    def __init__(self, name: str = "echo") -> None:
        self.name = name
        self.asked: list[str] = []
        self.down = False

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        if self.down:
            raise RetrievalError("down")
        self.asked += queries
        return [
            [Passage(f"{self.name}{i}", "T", query, 1 / 3 + i) for i in range(k)] if query else [] for query in queries
        ]


def test_results_are_the_retriever_s_and_asked_once(tmp_path: Path) -> None:
    echo = Echo()
    queries = ["a", "b", "a", "", "日本 \ud800"]
    expected = Echo().search(queries, 3)
    first = CachedRetriever(echo, tmp_path)
    assert first.search(queries, 3) == expected
    assert (first.hits, first.misses) == (0, 4)
    second = CachedRetriever(echo, tmp_path)  # another run, the same folder
    assert second.search(queries[::-1], 3) == expected[::-1]
    assert (second.hits, second.misses) == (4, 0)
    assert second.search(["a", "new"], 3)[0] == expected[0]
    assert (second.hits, second.misses) == (5, 1)
    assert echo.asked == ["a", "b", "", "日本 \ud800", "new"]


def test_k_and_name_are_part_of_the_key(tmp_path: Path) -> None:
    for name in ("bm25@corpus1", "bm25@corpus2"):
        for k in (1, 2):
            cached = CachedRetriever(Echo(name), tmp_path)
            assert cached.name == name
            assert [p.id for p in cached.search(["q"], k)[0]] == [f"{name}{i}" for i in range(k)]
            assert cached.misses == 1


def test_white_space_makes_no_difference_and_case_does(tmp_path: Path) -> None:
    echo = Echo()
    cached = CachedRetriever(echo, tmp_path)
    assert cached.search(["  who\n is it "], 1) == cached.search(["who is it"], 1)
    cached.search(["Who is it"], 1)
    assert echo.asked == ["who is it", "Who is it"]


def test_errors_are_not_kept(tmp_path: Path) -> None:
    echo = Echo()
    cached = CachedRetriever(echo, tmp_path)
    cached.search(["known"], 1)
    echo.down = True
    assert cached.search(["known"], 1)[0][0].text == "known"
    with pytest.raises(RetrievalError, match="down"):
        cached.search(["known", "unknown"], 1)
    echo.down = False
    assert cached.search(["unknown"], 1)[0][0].text == "unknown"


@pytest.mark.parametrize("damage", ["text", "head", "middle", "row"])
@pytest.mark.parametrize("while_open", [False, True])
def test_damaged_file_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str, while_open: bool
) -> None:
    caplog.set_level(logging.WARNING)
    queries = [f"query {i}" for i in range(300)]
    cached = CachedRetriever(Echo(), tmp_path)
    expected = cached.search(queries, 3)
    file = tmp_path / "retrieval.sqlite"
    content = bytearray(file.read_bytes())
    if damage == "text":
        file.write_text("this is not a data base")
    elif damage == "head":
        file.write_bytes(b"\0" * 200 + content[200:])
    elif damage == "middle":
        file.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    else:
        with sqlite3.connect(file) as connection:
            connection.execute("UPDATE results SET passages = '[[1, 2' WHERE passages LIKE '%query 17\"%'")
    cached = cached if while_open else CachedRetriever(Echo(), tmp_path)
    assert cached.search(queries, 3) == expected
    assert "is damaged" in caplog.text
    assert len(list(tmp_path.glob("retrieval.sqlite.damaged-*"))) == 1
    again = CachedRetriever(Echo(), tmp_path)
    assert again.search(queries, 3) == expected
    assert again.misses == 0


def test_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RetrievalError, match="name another folder"):
        CachedRetriever(Echo(), tmp_path / "file")
    (tmp_path / "retrieval.sqlite").mkdir()
    with pytest.raises(RetrievalError, match="name another folder"):
        CachedRetriever(Echo(), tmp_path)


def _ask(folder: Path) -> None:
    cached = CachedRetriever(Echo(), folder)
    for i in range(20):
        assert cached.search([f"q{i}", f"q{i + 1}"], 2) == Echo().search([f"q{i}", f"q{i + 1}"], 2)


def test_threads_and_processes_share_a_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_ask, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(_ask, [tmp_path] * 4))
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]


def test_one_object_counts_right_from_many_threads(tmp_path: Path) -> None:
    cached = CachedRetriever(Echo(), tmp_path)
    cached.search(["q"], 1)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: cached.search(["q"], 1), range(40)))
    assert (cached.hits, cached.misses) == (40, 1)
