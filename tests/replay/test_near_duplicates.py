"""MinHash through datasketch against the exact Jaccard index of every pair."""

import random

import pytest
from datasketch import MinHash

from rlft.replay.near_duplicates import _bands, jaccard, near_duplicates
from rlft.replay.ngrams import shingles


def family(size: int, seed: int) -> list[list[int]]:
    """Random texts, and copies of them with some tokens changed."""
    chance = random.Random(seed)
    texts: list[list[int]] = []
    for _ in range(size):
        text = list(chance.choice(texts)) if texts and chance.random() < 0.6 else chance.choices(range(50), k=60)
        for _ in range(chance.randrange(4)):
            text[chance.randrange(60)] = chance.randrange(50)
        texts.append(text)
    return texts


def exact(a: list[int], b: list[int], n: int) -> float:
    left = {tuple(a[start : start + n]) for start in range(len(a) - n + 1)}
    right = {tuple(b[start : start + n]) for start in range(len(b) - n + 1)}
    return len(left & right) / len(left | right)


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95, 1.0])
def test_all_duplicates_are_found_and_nothing_else(threshold: float) -> None:
    texts = family(150, 0)
    expected: list[int | None] = []
    for place, text in enumerate(texts):
        kept = [other for other in range(place) if expected[other] is None]
        expected.append(next((other for other in kept if exact(text, texts[other], 5) >= threshold), None))
    assert near_duplicates(texts, threshold=threshold, shingle=5, permutations=128) == expected
    assert 10 < sum(place is not None for place in expected) < 140


def test_the_exact_index_is_that_of_sets() -> None:
    texts = family(30, 1)
    for a, b in zip(texts, texts[1:], strict=False):
        assert jaccard(shingles(a, 3), shingles(b, 3)) == pytest.approx(exact(a, b, 3))


def test_datasketch_estimates_the_exact_index() -> None:
    """128 permutations: the standard error is at most sqrt(1/4 / 128) = .044."""
    texts = family(60, 2)
    sketches = [MinHash(num_perm=128) for _ in texts]
    for sketch, text in zip(sketches, texts, strict=True):
        sketch.update_batch([number.tobytes() for number in shingles(text, 5)])
    for a in range(0, 60, 3):
        for b in range(1, 60, 3):
            assert sketches[a].jaccard(sketches[b]) == pytest.approx(exact(texts[a], texts[b], 5), abs=0.2)


@pytest.mark.parametrize("permutations", [64, 128, 256])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.9, 0.99, 1.0])
def test_a_pair_at_the_threshold_is_missed_once_in_a_hundred_at_most(threshold: float, permutations: int) -> None:
    bands, values = _bands(threshold, permutations)
    assert bands >= 2
    assert bands * values <= permutations
    assert 1 - (1 - threshold**values) ** bands >= 0.99


def test_texts_shorter_than_a_shingle_repeat_only_when_equal() -> None:
    found = near_duplicates([[1, 2], [1, 3], [1, 2], [1], [2, 1]], threshold=0.8, shingle=5, permutations=128)
    assert found == [None, None, 0, None, None]
