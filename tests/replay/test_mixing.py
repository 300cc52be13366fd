"""Token shares over many pools, draws without replacement, the report against the rows, and bad input."""

import json
import random
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from rlft.replay.mixing import mix


def rows(prefix: str, lengths: list[int]) -> list[dict[str, Any]]:
    """Items that differ in their tokens."""
    return [
        {"id": f"{prefix}{number}", "ids": [number + 1] * length, "text": f"{prefix} {number}"}
        for number, length in enumerate(lengths)
    ]


def lengths(count: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(1, 200), k=count)


def tokens(items: list[dict[str, Any]], source: str) -> int:
    return sum(len(item["ids"]) for item in items if item["source"] == source)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 1 / 3, 0.5, 0.67, 0.8, 0.9, 0.95, 0.999])
def test_the_share_of_new_tokens_is_alpha_to_a_thousandth(alpha: float) -> None:
    for trial in range(8):
        new, pool = rows("n", lengths(60, trial)), rows("r", lengths(1500, 100 + trial))
        mixed = mix(new, pool, alpha, seed=trial, short="repeat")
        n, r = tokens(mixed.rows, "new"), tokens(mixed.rows, "replay")
        assert abs(n / (n + r) - alpha) < 1e-3 * alpha
        assert r == round(n * (1 - alpha) / alpha)
        assert n == sum(len(item["ids"]) for item in new)


def test_all_new_rows_are_there_once_as_they_were() -> None:
    new = rows("n", lengths(50, 0))
    mixed = mix(new, rows("r", lengths(100, 1)), 0.7, seed=0)
    found = {row["id"]: row for row in mixed.rows if row["source"] == "new"}
    assert found == {item["id"]: {**item, "source": "new"} for item in new}


def test_replay_is_drawn_without_replacement_and_one_item_is_cut() -> None:
    pool = rows("r", lengths(400, 1))
    whole = {item["id"]: item for item in pool}
    mixed = mix(rows("n", lengths(50, 0)), pool, 0.5, seed=3)
    replay = [row for row in mixed.rows if row["source"] == "replay"]
    assert len({row["id"] for row in replay}) == len(replay)
    cut = [row for row in replay if row["ids"] != whole[row["id"]]["ids"]]
    assert len(cut) <= 1
    for row in cut:
        assert row["ids"] == whole[row["id"]]["ids"][: len(row["ids"])]
        assert row["text"] is None
        assert mixed.report.cut_tokens == len(whole[row["id"]]["ids"]) - len(row["ids"])


def test_a_cut_leaves_the_pool_as_it_is() -> None:
    pool = rows("r", [100])
    mixed = mix(rows("n", [10]), pool, 0.5, seed=0)
    assert pool == rows("r", [100])
    assert mixed.report.cut_tokens == 90


def test_every_item_of_the_pool_is_drawn_alike() -> None:
    new, pool = rows("n", [40]), rows("r", [10] * 20)
    counts = Counter(
        row["id"] for seed in range(1000) for row in mix(new, pool, 0.5, seed=seed).rows if row["source"] == "replay"
    )
    assert sum(counts.values()) == 4000
    assert max(abs(counts[item["id"]] - 200) for item in pool) < 5 * (200 * 0.8) ** 0.5


def test_a_mix_depends_on_seed_and_items_not_on_their_order() -> None:
    new, pool = rows("n", lengths(30, 0)), rows("r", lengths(200, 1))
    mixed = mix(new, pool, 0.6, seed=5)
    assert mix(new[::-1], random.Random(0).sample(pool, k=200), 0.6, seed=5) == mixed
    assert mix(new, pool, 0.6, seed=6).rows != mixed.rows


def test_rows_of_both_kinds_are_shuffled_together() -> None:
    mixed = mix(rows("n", [10] * 100), rows("r", [10] * 100), 0.5, seed=0)
    first = [row["source"] for row in mixed.rows[:100]]
    assert 30 < first.count("new") < 70


def test_alpha_one_takes_no_replay() -> None:
    new = rows("n", [5, 6])
    for pool in ([], rows("r", [50])):
        mixed = mix(new, pool, 1, seed=0)
        assert sorted(row["id"] for row in mixed.rows) == ["n0", "n1"]
        assert mixed.report.shares["new_of_tokens"] == 1


@pytest.mark.parametrize("alpha", [0, 0.0, -0.5, 1.0001, 50, float("nan"), float("inf")])
def test_alpha_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha=.* must be in \(0, 1\]"):
        mix(rows("n", [5]), rows("r", [50]), alpha, seed=0)


def test_a_short_pool_is_refused_with_the_numbers_and_the_knobs() -> None:
    with pytest.raises(ValueError, match=r"wants 300 tokens .* pool of 2 items has 110.*short=less.*short=repeat"):
        mix(rows("n", [100]), rows("r", [60, 50]), 0.25, seed=0)


def test_a_pool_that_just_suffices_is_enough() -> None:
    report = mix(rows("n", [110]), rows("r", [60, 50]), 0.5, seed=0).report
    assert (report.replay_items, report.cut_tokens, report.missing_tokens, report.repeats) == (2, 0, 0, 0)


def test_less_mixes_the_whole_pool_and_says_what_is_missing() -> None:
    mixed = mix(rows("n", [100]), rows("r", [60, 50]), 0.25, seed=0, short="less")
    assert tokens(mixed.rows, "replay") == 110
    assert mixed.report.missing_tokens == 190
    assert "190 of the 300 tokens wanted are missing" in str(mixed.report)
    assert mixed.report.shares["new_of_tokens"] == pytest.approx(100 / 210)


def test_repeat_takes_all_items_before_any_again_and_says_so() -> None:
    mixed = mix(rows("n", [1000]), rows("r", [10] * 30), 0.5, seed=0, short="repeat")
    counts = Counter(row["id"] for row in mixed.rows if row["source"] == "replay")
    assert tokens(mixed.rows, "replay") == 1000
    assert len(counts) == 30
    assert set(counts.values()) == {3, 4}
    assert mixed.report.repeats == 70
    assert "30 distinct, 70 repeats" in str(mixed.report)


def test_equal_text_under_two_ids_counts_as_a_repeat() -> None:
    pool = [{"id": "a", "ids": [1, 2, 3]}, {"id": "b", "ids": [1, 2, 3]}, {"id": "c", "ids": [4, 5, 6]}]
    report = mix(rows("n", [9]), pool, 0.5, seed=0).report
    assert (report.replay_items, report.replay_distinct, report.repeats) == (3, 2, 1)


def test_the_report_is_what_the_rows_are() -> None:
    mixed = mix(rows("n", lengths(30, 0)), rows("r", lengths(200, 1)), 0.8, seed=5)
    numbers = mixed.report.as_dict()
    sources = Counter(row["source"] for row in mixed.rows)
    n, r = tokens(mixed.rows, "new"), tokens(mixed.rows, "replay")
    assert (numbers["new_items"], numbers["replay_items"]) == (sources["new"], sources["replay"])
    assert numbers["new_of_tokens"] == pytest.approx(n / (n + r))
    assert numbers["replay_of_tokens"] == pytest.approx(r / (n + r))
    assert numbers["new_of_items"] == pytest.approx(sources["new"] / len(mixed.rows))
    assert numbers["replay_of_items"] == pytest.approx(sources["replay"] / len(mixed.rows))
    assert json.loads(json.dumps(numbers)) == numbers


def test_the_report_prints_alpha_both_ways() -> None:
    text = str(mix(rows("n", [800]), rows("r", [50] * 10), 0.8, seed=0).report)
    assert "new text: 800 tokens (80.00%; asked for: alpha = 0.8) in 1 items (20.0%)" in text
    assert "replay: 200 tokens (20.00%) in 4 items (80.0%), 4 distinct, 0 repeats" in text


@pytest.mark.parametrize(
    ("new", "pool", "options", "message"),
    [
        ([], rows("r", [9]), {}, "no new text"),
        (rows("n", [9]), [], {}, "there is none"),
        (rows("n", [9]), [], {"short": "repeat"}, "there is none"),
        (rows("n", [9]), [], {"short": "less"}, "there is none"),
        (rows("n", [9, 0]), rows("r", [9]), {}, "new text: 1 items hold no token, such as 'n1'"),
        (rows("n", [9]), rows("r", [0, 9]), {}, "replay: 1 items hold no token, such as 'r0'"),
        (rows("n", [9]), rows("r", [9]) * 2, {}, "'r0' comes twice"),
        (rows("n", [9]), [{"id": "a"}], {}, "replay, row 0"),
        (rows("n", [9]), rows("r", [9]), {"short": "more"}, "none of error, less, repeat"),
    ],
)
def test_bad_input_is_refused(new: list, pool: list, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mix(new, pool, 0.5, seed=0, **options)


def test_seeds_filters_and_mixing_need_no_torch() -> None:
    rooms = ", ".join(f"rlft.replay.{name}" for name in ("seeds", "audit", "filters", "mixing"))
    subprocess.run([sys.executable, "-c", f"import sys, {rooms}; assert 'torch' not in sys.modules"], check=True)
