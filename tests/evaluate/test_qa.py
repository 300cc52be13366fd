"""Answer metrics against hand-worked cases, against a second implementation, and their order on random answers."""

import random
import re
import string
from collections import Counter

import pytest

from rlft.evaluate.qa import cover, exact_match, f1, normalized_answer, occurs


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Beatles!", "beatles"),
        ("an U.S.A. of a kind", "usa of kind"),
        ("well-known", "wellknown"),
        ("Thea and Ana", "thea and ana"),
        ("the-end", "theend"),  # punctuation goes first, then articles: as KILT
        ("Ëlan é\tÀ", "ëlan é à"),
        ("東京 (Tokyo)", "東京 tokyo"),
        ("“typographic”", "“typographic”"),  # ASCII punctuation only: as KILT
        ("", ""),
        (" \n", ""),
        ("A", "a"),
        ("The The", "the the"),
        ("The!", "the"),
        ("?!", "?!"),
    ],
)
def test_normalisation(text: str, normal: str) -> None:
    assert normalized_answer(text) == normal
    assert normalized_answer(normal) == normal


@pytest.mark.parametrize(
    ("prediction", "golds", "em", "f", "acc"),
    [
        ("The Eiffel Tower.", ["Eiffel tower"], 1, 1, 1),
        # 2 words shared of 4 said and 3 in the gold answer: 2 * 2 / 7
        ("new york city hall", ["New York State"], 0, 4 / 7, 0),
        ("It was in New York City, I think", ["New York City"], 0, 2 * 3 / (8 + 3), 1),
        ("paris paris", ["paris"], 0, 2 / 3, 1),  # multiplicity counts: 1 shared of 2 and 1
        ("paris", ["london", "Paris, France"], 0, 2 / 3, 0),
        ("paris", ["london", "Paris"], 1, 1, 1),
        ("party", ["art"], 0, 0, 1),  # characters, as FlashRAG's acc
        ("no thanks", ["no"], 0, 2 / 3, 1),
        ("yes", ["no"], 0, 0, 0),
        ("", ["paris"], 0, 0, 0),
        ("!", ["paris"], 0, 0, 0),
        # answers of which KILT's normalisation leaves nothing
        ("", ["A"], 0, 0, 0),
        ("A", ["A"], 1, 1, 1),
        ("blood group A", ["A"], 0, 0, 0),
        ("anything at all", ["The The", "!!!"], 0, 0, 0),
        ("the the", ["The The"], 1, 1, 1),
        ("!!!", ["!!!"], 1, 1, 1),
    ],
)
def test_hand_worked_cases(prediction: str, golds: list[str], em: float, f: float, acc: float) -> None:
    assert exact_match(prediction, golds) == em
    assert f1(prediction, golds) == pytest.approx(f)
    assert cover(prediction, golds) == acc


def test_order_bounds_and_invariances_on_random_answers() -> None:
    rng = random.Random(0)
    words = ["the", "a", "Paris", "paris,", "New", "york", "É", "東京", "!", "1969", "an"]

    def text() -> str:
        return " ".join(rng.choices(words, k=rng.randint(1, 4)))

    for _ in range(2000):
        prediction, golds = rng.choice(["", text()]), [text() for _ in range(rng.randint(1, 3))]
        em, f, acc = (metric(prediction, golds) for metric in (exact_match, f1, cover))
        assert em in (0, 1)
        assert em <= f <= 1
        assert em <= acc <= 1
        shuffled = rng.sample(golds, len(golds))
        assert (em, f, acc) == tuple(metric(prediction, shuffled) for metric in (exact_match, f1, cover))
        assert (em, f, acc) == tuple(
            max(metric(prediction, [gold]) for gold in golds) for metric in (exact_match, f1, cover)
        )
        if prediction:
            assert exact_match(prediction, golds[:1]) == exact_match(golds[0], [prediction])
            assert f1(prediction, golds[:1]) == pytest.approx(f1(golds[0], [prediction]))


def test_against_another_implementation() -> None:
    """SQuAD's definition written out step by step; equal wherever it leaves something to compare."""

    def squad(text: str) -> list[str]:
        kept = "".join(character for character in text.lower() if character not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", kept).split()

    rng = random.Random(1)
    words = ["The", "river", "Thames", "(river)", "U.K.", "a", "St.", "Paul's", "34", "34,000"]
    compared = 0
    for _ in range(1000):
        said, gold = (" ".join(rng.choices(words, k=rng.randint(1, 5))) for _ in range(2))
        ours, theirs = squad(said), squad(gold)
        if ours and theirs:
            compared += 1
            common = sum(min(count, theirs.count(word)) for word, count in Counter(ours).items())
            precision, recall = common / len(ours), common / len(theirs)
            expected = 2 * precision * recall / (precision + recall) if common else 0.0
            assert f1(said, [gold]) == pytest.approx(expected)
            assert exact_match(said, [gold]) == (ours == theirs)
            assert cover(said, [gold]) == (" ".join(theirs) in " ".join(ours))
    assert compared > 800


def test_occurrence_in_a_passage() -> None:
    passage = "Paris\nThe Seine flows through Paris, the capital."
    assert occurs(passage, ["berlin", "capital"])
    assert not occurs(passage, ["berlin"])
    assert not occurs(passage, ["The"])
    assert not occurs("wow !!!", ["!!!"])


@pytest.mark.parametrize("golds", [[], [""], ["paris", " "], "paris"])
@pytest.mark.parametrize("metric", [exact_match, f1, cover])
def test_no_gold_answer_is_refused(metric, golds) -> None:
    with pytest.raises(ValueError, match="gold answers .*none of them blank"):
        metric("paris", golds)
