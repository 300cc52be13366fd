"""Answer metrics of open-domain question answering, with KILT's normalisation (the one of SQuAD).

Lower case, without ASCII punctuation, without the articles a, an and the, single spaces; each metric is the largest
over the gold answers. Petroni et al. 2021 (KILT, section 5) and Rajpurkar et al. 2016 (SQuAD).

An answer of which that leaves nothing (the blood group "A", the band "The The", "!!!") keeps its articles, or else its
punctuation: KILT's own script would take an empty prediction for right, and find such an answer covered by every text.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalized_answer(text: str) -> str:
    """KILT's normalisation, except that a text of nothing but articles and punctuation keeps them.

    Args:
        text: an answer.

    Returns:
        The text to compare; empty only if `text` is blank.
    """
    lower = text.lower()
    bare = lower.translate(_PUNCTUATION)
    candidates = (_ARTICLES.sub(" ", bare), bare, lower)
    return next((found for candidate in candidates if (found := " ".join(candidate.split()))), "")


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """1.0 if the normalised prediction is one of the normalised gold answers.

    Args:
        prediction: the answer given.
        golds: accepted answers.

    Raises:
        ValueError: if there is no gold answer, or a blank one.
    """
    return float(normalized_answer(prediction) in _normalized(golds))


def f1(prediction: str, golds: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over words, counted with multiplicity; the best gold answer counts.

    As in KILT and SQuAD there is no special rule for yes and no (HotpotQA's own script gives them no partial credit).

    Args:
        prediction: the answer given.
        golds: accepted answers.

    Returns:
        A value in [0, 1], at least `exact_match`.

    Raises:
        ValueError: if there is no gold answer, or a blank one.
    """
    said = Counter(normalized_answer(prediction).split())
    return max(_overlap(said, Counter(gold.split())) for gold in _normalized(golds))


def cover(prediction: str, golds: Sequence[str]) -> float:
    """Cover accuracy: 1.0 if a normalised gold answer is a substring of the normalised prediction.

    This is FlashRAG's `acc` and EXSEARCH's Acc: characters, not whole words, so that "art" is covered by "party". A
    gold answer of nothing but articles or punctuation must be the whole prediction.

    Args:
        prediction: the answer given.
        golds: accepted answers.

    Returns:
        0.0 or 1.0, at least `exact_match`.

    Raises:
        ValueError: if there is no gold answer, or a blank one.
    """
    return float(exact_match(prediction, golds) or occurs(prediction, golds))


def occurs(text: str, golds: Sequence[str]) -> bool:
    """Whether a normalised gold answer is a substring of the normalised text; one of mere articles never counts.

    Args:
        text: a prediction, or a passage.
        golds: accepted answers.

    Raises:
        ValueError: if there is no gold answer, or a blank one.
    """
    said = normalized_answer(text)
    return any(gold in said for gold in _normalized(golds) if _ARTICLES.sub("", gold.translate(_PUNCTUATION)).strip())


def _normalized(golds: Sequence[str]) -> list[str]:
    if isinstance(golds, str) or not golds or not all(gold.strip() for gold in golds):
        raise ValueError(f"gold answers {golds!r}: a list of texts is needed, none of them blank.")
    return [normalized_answer(gold) for gold in golds]


def _overlap(said: Counter[str], gold: Counter[str]) -> float:
    same = (said & gold).total()
    return 2 * same / (said.total() + gold.total()) if same else 0.0
