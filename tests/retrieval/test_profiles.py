"""Profile choosers: own profile only, nested and repeatable choices, oracles for the order, and loud faults."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from rlft.plugins import PluginError
from rlft.retrieval.bm25 import BM25Retriever
from rlft.retrieval.passage import RetrievalError
from rlft.retrieval.profiles import ProfileChooser, profile_chooser
from tests.retrieval.conftest import WORDS

Row = dict[str, Any]


def some_rows(count: int = 12) -> list[Row]:
    """Rows of different users; every fourth profile is empty."""
    rng, rows = random.Random(1), list[Row]()
    for number in range(count):
        profile = [
            {
                "id": f"{number}-{place}",
                "text": " ".join(rng.choices(WORDS, k=6)),
                "target": rng.choice(WORDS) if number % 2 else None,
                "date": f"20{rng.randint(10, 20)}-{rng.randint(1, 12)}-{rng.randint(1, 28):02}",
            }
            for place in range(0 if number % 4 == 3 else rng.randint(1, 7))
        ]
        rows.append({"id": f"q{number}", "query": " ".join(rng.choices(WORDS, k=3)), "profile": profile})
    return rows


@pytest.mark.parametrize("spec", ["random", "recency", "bm25"])
def test_items_come_from_the_row_s_own_profile_and_lists_are_nested(spec: str) -> None:
    rows, chooser = some_rows(), profile_chooser(spec, seed=3)
    longest = chooser.choose(rows, 9)
    for k in range(6):
        for row, items, all_items in zip(rows, chooser.choose(rows, k), longest, strict=True):
            assert items == all_items[:k]
            assert len(items) == min(k, len(row["profile"]))
    for row, items in zip(rows, longest, strict=True):
        assert sorted(item["id"] for item in items) == sorted(item["id"] for item in row["profile"])


@pytest.mark.parametrize("spec", ["random", "recency", "bm25"])
def test_a_row_s_choice_does_not_depend_on_the_rows_beside_it(spec: str) -> None:
    rows = some_rows()
    together = profile_chooser(spec).choose(rows, 3)
    apart = [profile_chooser(spec).choose([row], 3)[0] for row in rows]
    assert together == apart
    assert profile_chooser(spec).choose(rows[::-1], 3) == together[::-1]
    assert profile_chooser(spec).choose(Dataset.from_list(rows), 3) == together


def test_empty_and_short_profiles_are_counted() -> None:
    rows, chooser = some_rows(8), profile_chooser("bm25")
    assert [len(items) for items in chooser.choose(rows, 0)] == [0] * 8
    assert not chooser.counts
    chosen = chooser.choose(rows, 4)
    assert chosen[3] == chosen[7] == []
    assert chooser.counts["rows"] == 8
    assert chooser.counts["empty profile"] == 2
    assert chooser.counts["fewer than k"] == sum(len(row["profile"]) < 4 for row in rows)


def test_none_shows_nothing() -> None:
    assert profile_chooser("none").choose(some_rows(4), 5) == [[], [], [], []]


def test_random_follows_the_seed() -> None:
    row = {"id": "q", "query": "", "profile": [{"id": str(i), "text": "", "target": None} for i in range(30)]}
    first, again, other = (profile_chooser("random", seed=seed).choose([row], 30) for seed in (1, 1, 2))
    assert first == again != other
    assert profile_chooser("random(seed=2)", seed=1).choose([row], 30) == other


def test_recency_puts_the_newest_first_and_keeps_the_order_of_equal_dates() -> None:
    dates = ["2015", "2016-02-10", "2016-2-9", "2016-11-01", "2015", "2016-10"]
    row = {"id": "q", "query": "", "profile": [{"id": str(i), "text": "t", "date": d} for i, d in enumerate(dates)]}
    assert [item["id"] for item in profile_chooser("recency").choose([row], 6)[0]] == ["3", "5", "1", "2", "0", "4"]


@pytest.mark.parametrize("date", [None, "", "May 2016", "2016/05/01", "2016-05-01 12:00"])
def test_recency_refuses_an_item_without_a_date(date: str | None) -> None:
    profile = [{"id": "a", "text": "t", "date": "2016"}, {"id": "b", "text": "t", "date": date}]
    row = {"id": "q7", "query": "", "profile": profile}
    with pytest.raises(RetrievalError, match=r"row 'q7', item 'b'.*user split"):
        profile_chooser("recency").choose([row], 1)
    assert profile_chooser("recency").choose([row], 0) == [[]]


def test_bm25_is_the_house_retriever_over_the_profile() -> None:
    for row in some_rows():
        if not row["profile"]:
            continue
        corpus = [{"id": item["id"], "title": item["target"], "text": item["text"]} for item in row["profile"]]
        hits = [hit.id for hit in BM25Retriever.over(corpus, k1=1.5, b=0.75).search([row["query"]], 9)[0]]
        chosen = [item["id"] for item in profile_chooser("bm25(k1=1.5, b=0.75)").choose([row], 9)[0]]
        assert chosen[: len(hits)] == hits
        rest = [item["id"] for item in row["profile"] if item["id"] not in hits]
        assert chosen[len(hits) :] == rest


def test_bm25_takes_items_and_queries_without_words() -> None:
    profile = [
        {"id": "a", "text": "🙂🙂", "target": None},
        {"id": "b", "text": " ", "target": "canal"},
        {"id": "c", "text": "!", "target": None},
    ]
    rows = [
        {"id": "1", "query": "the canal", "profile": profile},
        {"id": "2", "query": "🙂", "profile": profile},
        {"id": "3", "query": "canal", "profile": [profile[0], profile[2]]},
    ]
    chosen = profile_chooser("bm25").choose(rows, 2)
    assert [[item["id"] for item in items] for items in chosen] == [["b", "a"], ["a", "b"], ["a", "c"]]


def test_dense_is_the_house_retriever_over_the_profile(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    pytest.importorskip("sentence_transformers")
    from rlft.retrieval.dense import DenseRetriever
    from tests.retrieval.test_dense import write_encoder

    encoder = write_encoder(tmp_path, seed=0)
    settings = {"query_prefix": "query: ", "passage_prefix": "passage: ", "device": "cpu"}
    spec = f"dense(model={encoder!r}, batch_size=5, {', '.join(f'{k}={v!r}' for k, v in settings.items())})"
    rows = some_rows(80)  # more than one chunk of rows
    chosen = profile_chooser(spec).choose(rows, 4)
    assert [len(items) for items in chosen] == [min(4, len(row["profile"])) for row in rows]
    for row, items in list(zip(rows, chosen, strict=True))[::13]:
        if row["profile"]:
            corpus = [{"id": item["id"], "title": item["target"], "text": item["text"]} for item in row["profile"]]
            hits = DenseRetriever.over(corpus, encoder, **settings).search([row["query"]], len(corpus))[0]
            scores = {hit.id: hit.score for hit in hits}
            expected = [hit.score for hit in hits[:4]]
            np.testing.assert_allclose([scores[item["id"]] for item in items], expected, atol=1e-5)


def oldest(rows: Any, k: int) -> list[list[int]]:
    return [list(range(len(row["profile"])))[::-1][:k] for row in rows]


def oldest_order() -> Any:
    return oldest


def not_an_order() -> str:
    return "bm25"


def test_a_chooser_of_one_s_own() -> None:
    rows = some_rows()
    chooser = profile_chooser(f"{__file__}:oldest_order")
    assert chooser.choose(rows, 2) == [row["profile"][::-1][:2] for row in rows]
    assert profile_chooser(oldest_order).name == "oldest_order"


@pytest.mark.parametrize("places", [[[0, 0]], [[1]], [[-1]], [[0, 1, 2]], []])
def test_wrong_places_are_refused(places: list[list[int]]) -> None:
    row = {"id": "q", "query": "", "profile": [{"id": "a", "text": "t"}]}
    with pytest.raises(RetrievalError, match="profile chooser 'mine' gave"):
        ProfileChooser(lambda rows, k: places, "mine").choose([row], 2)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("bm52", "Did you mean 'bm25'"),
        ("recency(days=3)", "unexpected keyword argument 'days'"),
        ("dense", "missing a required argument: 'model'"),
        (f"{__file__}:not_an_order", "gives a str, not a function"),
    ],
)
def test_specs_that_do_not_fit(spec: str, says: str) -> None:
    with pytest.raises(PluginError, match=says):
        profile_chooser(spec)


def test_negative_k_is_refused() -> None:
    with pytest.raises(RetrievalError, match="k is -1"):
        profile_chooser("none").choose([], -1)
