"""List metrics against a batch worked by hand, against counting by brute force, and their bounds."""

import itertools
import math
import random
from typing import Any

import pytest

from rlft.evaluate.list_metrics import cuts_of, list_metrics, sampled_list_metrics
from rlft.evaluate.qa import exact_match, f1, occurs


def passages(*texts: str) -> list[dict[str, Any]]:
    return [
        {"id": str(i), "title": title, "text": text}
        for i, (title, _, text) in enumerate(t.rpartition("|") for t in texts)
    ]


ROWS: list[dict[str, Any]] = [
    {"golden_answers": ["Paris"], "candidates": passages("x", "in Paris", "y", "Paris|z"), "gold": [3]},
    {"golden_answers": ["Rome"], "candidates": passages("Rome", "x", "y", "z"), "gold": [0, 2]},
    {"golden_answers": ["Bonn"], "candidates": passages("x", "y", "z", "w"), "gold": []},
    {"golden_answers": ["Oslo", "Kristiania"], "candidates": passages("x", "y", "z", "in kristiania")},
]
LISTS = [[3, 0, 1], [2, 1, 0], [0, 1, 2], None]
ANSWERS = ["paris", "in Rome", "Berlin", None]


def test_a_batch_worked_by_hand() -> None:
    assert list_metrics(ROWS, LISTS, ANSWERS, size=3) == pytest.approx(
        {
            "em": 1 / 4,
            "f1": (1 + 2 / 3) / 4,
            "cover": 2 / 4,
            "recall@1": 1 / 4,
            "recall@3": 2 / 4,
            "retriever_recall@1": 1 / 4,
            "retriever_recall@3": 2 / 4,
            "candidate_recall": 3 / 4,
            "gold_recall@1": (1 + 1 / 2) / 2,
            "gold_recall@3": (1 + 1) / 2,
            "invalid_rate": 1 / 4,
            "kendall_tau": (-1 / 3 - 1 + 1) / 3,
        }
    )


def test_what_does_not_apply_is_left_out() -> None:
    bare = list_metrics(ROWS[2:], [[1], []], size=1)
    assert set(bare) == {"recall@1", "retriever_recall@1", "candidate_recall", "invalid_rate"}
    assert sampled_list_metrics([[None, []], []]) == {}


def test_a_question_without_a_list_counts_0_whatever_was_answered() -> None:
    assert list_metrics(ROWS[:1], [[]], ["Paris"], size=3)["em"] == 0
    assert list_metrics(ROWS[:1], [[3, 0, 1]], [None], size=3)["f1"] == 0
    missing = list_metrics(ROWS[:1], [None], size=3)
    assert (missing["recall@3"], missing["gold_recall@3"], missing["retriever_recall@3"]) == (0, 0, 1)


@pytest.mark.parametrize("seed", range(20))
def test_against_brute_force_on_random_worlds(seed: int) -> None:
    rng = random.Random(seed)
    count, size = rng.randint(1, 8), 0
    size = rng.randint(1, count)
    rows, lists, answers = zip(*(random_question(rng, count, size) for _ in range(rng.randint(1, 30))), strict=True)
    assert list_metrics(rows, lists, answers, size=size) == pytest.approx(counted(rows, lists, answers, size))


@pytest.mark.parametrize("seed", range(10))
def test_the_retrievers_order_and_the_bound(seed: int) -> None:
    rng = random.Random(seed)
    rows = [random_question(rng, 8, 6)[0] for _ in range(40)]
    identity = list_metrics(rows, [list(range(6))] * 40, size=6)
    assert identity["kendall_tau"] == pytest.approx(1)
    chosen = list_metrics(rows, [rng.sample(range(8), 6) for _ in rows], size=6)
    for cut in (1, 3, 5, 6):
        assert identity[f"recall@{cut}"] == identity[f"retriever_recall@{cut}"] == chosen[f"retriever_recall@{cut}"]
    rising = [chosen[f"recall@{cut}"] for cut in (1, 3, 5, 6)]
    assert rising == sorted(rising)
    assert rising[-1] <= chosen["candidate_recall"] == identity["candidate_recall"]
    everything = list_metrics(rows, [rng.sample(range(8), 8) for _ in rows], size=8)
    assert everything["recall@8"] == everything["candidate_recall"]


def test_order_of_the_questions_does_not_matter() -> None:
    metrics = list_metrics(ROWS, LISTS, ANSWERS, size=3)
    assert list_metrics(ROWS[::-1], LISTS[::-1], ANSWERS[::-1], size=3) == pytest.approx(metrics)
    assert list_metrics(ROWS * 3, LISTS * 3, ANSWERS * 3, size=3) == pytest.approx(metrics)


def test_cuts() -> None:
    assert [cuts_of(size) for size in (1, 2, 3, 5, 7)] == [[1], [1, 2], [1, 3], [1, 3, 5], [1, 3, 5, 7]]


@pytest.mark.parametrize("seed", range(10))
def test_spread_of_samples_against_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    samples = [[rng.choice([None, [], [0, 1], [1, 0], [2, 1]]) for _ in range(8)] for _ in range(20)]
    entropies, shares = [], []
    for lists in samples:
        valid = [tuple(one) for one in lists if one]
        if valid:
            share = [valid.count(one) / len(valid) for one in set(valid)]
            entropies.append(-sum(p * math.log(p) for p in share))
            shares.append(len(share) / len(valid))
    expected = {"permutation_entropy": sum(entropies) / len(entropies), "distinct_lists": sum(shares) / len(shares)}
    assert sampled_list_metrics(samples) == pytest.approx(expected)


def test_spread_at_its_ends() -> None:
    assert sampled_list_metrics([[[0, 1]] * 4]) == {"permutation_entropy": 0, "distinct_lists": 1 / 4}
    apart = sampled_list_metrics([[[0, 1], [1, 0], [0, 2], [2, 0]]])
    assert apart == pytest.approx({"permutation_entropy": math.log(4), "distinct_lists": 1})


@pytest.mark.parametrize("places", [[0, 1], [0, 1, 1], [0, 1, 4], [-1, 0, 1], [0, 1, 2, 3]])
def test_what_is_no_list_is_refused(places: list[int]) -> None:
    with pytest.raises(ValueError, match=r"row 'q7': the list .* is not 3 different places among 4 candidates"):
        list_metrics([{**ROWS[0], "id": "q7"}], [places], size=3)


@pytest.mark.parametrize(("rows", "lists", "answers"), [([], [], None), (ROWS, LISTS[:2], None), (ROWS, LISTS, ["x"])])
def test_unequal_or_empty_batches_are_refused(rows: list[Any], lists: list[Any], answers: list[str] | None) -> None:
    with pytest.raises(ValueError, match="one of each for every row"):
        list_metrics(rows, lists, answers, size=3)


def random_question(rng: random.Random, count: int, size: int) -> tuple[dict[str, Any], list[int] | None, str | None]:
    words = ["Paris", "Rome", "Bonn", "Oslo", "river", "the"]
    texts = [f"{rng.choice(['', *words])}|{' '.join(rng.choices(words[2:], k=2))}" for _ in range(count)]
    row: dict[str, Any] = {"golden_answers": rng.sample(words[:4], rng.randint(1, 2)), "candidates": passages(*texts)}
    if rng.random() < 0.7:
        row["gold"] = rng.sample(range(count), rng.randint(0, count))
    places = rng.sample(range(count), size) if rng.random() < 0.8 else rng.choice([None, []])
    return row, places, rng.choice([None, "Rome", "in Paris", "the Oslo river"])


def counted(rows: Any, lists: Any, answers: Any, size: int) -> dict[str, float]:
    """The same by its definition, one metric at a time."""
    hit = [
        [any(occurs(c[p], row["golden_answers"]) for p in ("title", "text")) for c in row["candidates"]] for row in rows
    ]
    total = len(rows)
    found: dict[str, float] = {
        "candidate_recall": sum(map(any, hit)) / total,
        "invalid_rate": sum(not places for places in lists) / total,
        "em": sum(exact_match(a, r["golden_answers"]) for r, p, a in zip(rows, lists, answers, strict=True) if p and a)
        / total,
        "f1": sum(f1(a, r["golden_answers"]) for r, p, a in zip(rows, lists, answers, strict=True) if p and a) / total,
        "cover": sum(
            any(gold.lower() in a.lower() for gold in r["golden_answers"])
            for r, p, a in zip(rows, lists, answers, strict=True)
            if p and a
        )
        / total,
    }
    for cut in {1, 3, 5, size}:
        if cut <= size:
            pairs = [*zip(hit, lists, strict=True)]
            found[f"recall@{cut}"] = sum(any(h[i] for i in (p or [])[:cut]) for h, p in pairs) / total
            found[f"retriever_recall@{cut}"] = sum(any(h[:cut]) for h in hit) / total
            gold = [(r["gold"], (p or [])[:cut]) for r, p in zip(rows, lists, strict=True) if r.get("gold")]
            if gold:
                found[f"gold_recall@{cut}"] = sum(sum(g in p for g in gs) / len(gs) for gs, p in gold) / len(gold)
    taus = []
    for places in lists:
        if places and size > 1:
            pairs_of_two = [*itertools.combinations(places, 2)]
            taus.append(sum(1 if a < b else -1 for a, b in pairs_of_two) / len(pairs_of_two))
    return found | ({"kendall_tau": sum(taus) / len(taus)} if taus else {})
