"""Each filter by itself, the counts, independence from order, and bad input."""

import math
import random
from typing import Any

import pytest

from rlft.replay.filters import ReplayFilter
from rlft.replay.mixing import mix
from rlft.tiny.biographies import biographies, biography_world

EOS = 0
OFF = ReplayFilter(minhash_threshold=None, max_repetition=None)


def item(name: str, ids: list[int], **more: Any) -> dict[str, Any]:
    return {"id": name, "ids": ids, "text": " ".join(map(str, ids)), **more}


def varied(name: str, tokens: int = 60) -> dict[str, Any]:
    return item(name, random.Random(name).choices(range(1, 500), k=tokens))


def test_all_off_keeps_all_but_empty_items() -> None:
    items = [
        item("text", [3, 4, 5], seed_tokens=2),
        item("nothing", []),
        item("seed alone", [3, 4], seed_tokens=2),
        item("all end", [3, 4, EOS, EOS], seed_tokens=2),
        item("all end, no seed", [EOS] * 9),
    ]
    found = OFF.apply(items, special_ids=[EOS])
    assert found.kept == items[:1]
    assert found.dropped == {"empty": 4}
    assert set(found.reasons) == {"nothing", "seed alone", "all end", "all end, no seed"}


def test_all_repetition_is_dropped_and_counted_by_default() -> None:
    items = [varied("a"), item("loop", [5, 6, 7] * 20, seed_tokens=3), item("one", [9] * 8), varied("b")]
    found = ReplayFilter().apply(items)
    assert found.kept == [items[0], items[3]]
    assert found.dropped == {"empty": 0, "repetition": 2, "near_duplicate": 0}
    assert found.reasons == {"loop": "repetition", "one": "repetition"}


def test_repetition_counts_what_was_generated_and_the_limit_is_kept() -> None:
    """Ten 1-grams, five different: a share of .5; the prompt would add repetition."""
    items = [item("a", [1, 1, 1, 1, *range(5), *range(5)], seed_tokens=4)]
    keep = ReplayFilter(minhash_threshold=None, max_repetition=0.5, repetition_ngram=1)
    assert keep.apply(items).kept == items
    drop = ReplayFilter(minhash_threshold=None, max_repetition=0.49, repetition_ngram=1)
    assert drop.apply(items).kept == []


def test_biographies_are_not_taken_for_repetition() -> None:
    """Items of several biographies share their templates and are text all the same."""
    texts = [row["text"].split() for row in biographies(biography_world(0), "old", 0)][:400]
    known = {word: number for number, word in enumerate(sorted({word for text in texts for word in text}), start=1)}
    items = [
        item(str(start), [known[word] for text in texts[start : start + 4] for word in text])
        for start in range(0, 400, 4)
    ]
    assert ReplayFilter().apply(items).kept == items


def test_overlap_with_the_new_text_leaves_the_prompt_out() -> None:
    new = [list(range(100, 140))]
    copied = item("copied", [1, 2, *range(110, 130)], seed_tokens=2)
    seeded = item("seeded", [*range(100, 120), *range(200, 220)], seed_tokens=20)
    half = item("half", [*range(100, 120), *range(300, 317)])  # 30 of its 8-grams, 13 of them in the new text
    keep = ReplayFilter(minhash_threshold=None, max_overlap=13 / 30)
    found = keep.apply([copied, seeded, half], new)
    assert found.reasons == {"copied": "overlap"}
    assert ReplayFilter(minhash_threshold=None, max_overlap=0.43).apply([half], new).reasons == {"half": "overlap"}


def test_perplexity_band() -> None:
    items = [varied(str(perplexity)) | {"logprob": -math.log(perplexity)} for perplexity in (1.5, 3, 8, 40)]
    items.append(varied("beyond floats") | {"logprob": -2000.0})
    found = ReplayFilter(perplexity=(2, 10)).apply(items)
    assert [each["id"] for each in found.kept] == ["3", "8"]
    assert found.dropped["perplexity"] == 3
    open_ended = ReplayFilter(perplexity=(0, math.inf)).apply(items)
    assert open_ended.kept == items


def test_near_duplicates_leave_the_one_whose_id_sorts_first() -> None:
    text = varied("x")["ids"]
    items = [item("c", text), item("a", [*text[:-1], 999]), varied("b"), item("d", text)]
    found = ReplayFilter().apply(items)
    assert [each["id"] for each in found.kept] == ["a", "b"]
    assert found.reasons == {"c": "near_duplicate", "d": "near_duplicate"}


def test_a_dropped_item_makes_no_other_one_a_duplicate() -> None:
    text = varied("x")["ids"]
    items = [item("a", text, logprob=-9.0), item("b", text, logprob=-1.0)]
    found = ReplayFilter(perplexity=(1, 10)).apply(items)
    assert found.reasons == {"a": "perplexity"}


def test_names_of_new_people_are_found_as_words() -> None:
    items = [
        item("named", [1, 2], text="the home of Desu Niva, is in veda ."),
        item("other person", [1, 2], text="desu nivan lives in veda . niva desu studied law ."),
        item("one word", [1, 2], text="Zo lives here"),
    ]
    found = OFF.apply(items, new_subjects=["desu niva", "zo"])
    assert found.reasons == {"named": "new_subject", "one word": "new_subject"}
    assert found.dropped == {"empty": 0, "new_subject": 2}


def test_what_is_kept_depends_on_the_items_not_on_their_order() -> None:
    chance = random.Random(0)
    items = [varied(str(number)) for number in range(60)]
    for number in range(60, 120):
        ids = list(chance.choice(items)["ids"])
        ids[chance.randrange(60)] = 0
        items.append(item(str(number), ids))
    found = ReplayFilter().apply(items)
    shuffled = chance.sample(items, k=len(items))
    again = ReplayFilter().apply(shuffled)
    assert 0 < found.dropped["near_duplicate"] < 60
    assert (again.reasons, again.dropped) == (found.reasons, found.dropped)
    assert again.kept == [each for each in shuffled if each["id"] not in found.reasons]


def test_counts_add_up() -> None:
    items = [varied(str(number)) for number in range(20)] + [item("e", [EOS]), item("r", [4] * 30)]
    found = ReplayFilter().apply(items, special_ids=[EOS])
    assert len(found.kept) + sum(found.dropped.values()) == len(items)
    assert sum(found.dropped.values()) == len(found.reasons)


def test_an_empty_pool_is_filtered_to_an_empty_pool() -> None:
    found = ReplayFilter().apply([])
    assert (found.kept, found.dropped) == ([], {"empty": 0, "repetition": 0, "near_duplicate": 0})


def test_a_budget_that_filters_leave_unmet_is_stated() -> None:
    new = [varied(f"new {number}") for number in range(10)]
    pool = [varied(f"good {number}") for number in range(4)] + [item(f"loop {number}", [7] * 60) for number in range(6)]
    kept = ReplayFilter().apply(pool).kept
    with pytest.raises(ValueError, match=r"wants 600 tokens .* pool of 4 items has 240"):
        mix(new, kept, 0.5, seed=0)
    less = mix(new, kept, 0.5, seed=0, short="less").report
    assert (less.replay_tokens, less.missing_tokens, less.repeats) == (240, 360, 0)
    assert "360 of the 600 tokens wanted are missing" in str(less)
    repeated = mix(new, kept, 0.5, seed=0, short="repeat").report
    assert (repeated.replay_tokens, repeated.missing_tokens, repeated.repeats) == (600, 0, 6)
    assert "4 distinct, 6 repeats" in str(repeated)


@pytest.mark.parametrize(
    "options",
    [
        {"minhash_threshold": 0},
        {"minhash_threshold": 1.1},
        {"max_repetition": -0.1},
        {"max_overlap": 50},
        {"minhash_shingle": 0},
        {"minhash_permutations": 1},
        {"repetition_ngram": 0},
        {"overlap_ngram": 0},
        {"perplexity": (10, 2)},
        {"perplexity": (-1, 2)},
        {"minhash_threshold": math.nan},
    ],
)
def test_thresholds_out_of_range_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ReplayFilter(**options)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"ids": [1]}], "row 0"),
        ([{"id": "a", "text": "x"}], "row 0"),
        ([{"id": 3, "ids": [1]}], "a string"),
        ([item("a", [1]), item("a", [2])], "'a' comes twice"),
        ([item("a", [1], seed_tokens=2)], "seed_tokens=2 of 1"),
    ],
)
def test_rows_that_cannot_be_told_apart_are_refused(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReplayFilter().apply(rows)


@pytest.mark.parametrize("logprob", [None, 0.5, math.nan])
def test_a_perplexity_band_needs_log_probabilities(logprob: Any) -> None:
    with pytest.raises(ValueError, match="'a' has logprob"):
        ReplayFilter(perplexity=(1, 9)).apply([varied("a") | {"logprob": logprob}])


@pytest.mark.parametrize("new", [[], [[1, 2, 3]]])
def test_overlap_needs_new_text(new: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="pass new_ids"):
        ReplayFilter(max_overlap=0.5).apply([varied("a")], new)


def test_names_need_words_and_items_text() -> None:
    with pytest.raises(ValueError, match="without a letter"):
        OFF.apply([varied("a")], new_subjects=["..."])
    with pytest.raises(ValueError, match="'a' has no `text`"):
        OFF.apply([{"id": "a", "ids": [1, 2]}], new_subjects=["zo"])
