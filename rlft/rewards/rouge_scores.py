"""ROUGE F1 of one answer against one gold text, with the words of two tokenisations.

`rouge_score`: lower case, runs of a-z and 0-9, no stemming: Google's package as LaMP's own evaluation calls it
(Salemi et al. 2024, LaMP, arXiv 2304.11406; `evaluate.load("rouge")` with its defaults).
`released`: jieba's words of the lower-cased text through rouge_chinese, as PrLM's code rewards them (arXiv 2508.07342).
It counts n-grams as a set and takes punctuation for words, so that its figures are not comparable with LaMP's.
"""

import functools
import logging
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

TOKENS = ("rouge_score", "released")


class Rouge(NamedTuple):
    """F1 in [0, 1] over words, over pairs of words, and of the longest common subsequence (Lin 2004)."""

    rouge1: float
    rouge2: float
    rougeL: float


Scorer = Callable[[str, str], Rouge | None]
"""(answer, gold) -> scores; None where the gold text has no word of this tokenisation, so that nothing could match."""


@functools.cache
def rouge_scorer(tokens: str = "rouge_score") -> Scorer:
    """The scorer of a tokenisation. A gold text of one word has no pair of words: an exact match scores (1, 0, 1).

    Args:
        tokens: `rouge_score` or `released`.

    Raises:
        ValueError: if `tokens` is neither.
        ImportError: if the packages are missing, with the command that installs them.
    """
    if tokens not in TOKENS:
        raise ValueError(f"tokens={tokens!r} is no tokenisation of ROUGE; it is one of {', '.join(TOKENS)}.")
    return _official() if tokens == "rouge_score" else _released()


def _official() -> Scorer:
    scorer = _package("rouge_score.rouge_scorer").RougeScorer(list(Rouge._fields), use_stemmer=False)
    words = _package("rouge_score.tokenize").tokenize

    def score(answer: str, gold: str) -> Rouge | None:
        if not words(gold, None):
            return None
        found = scorer.score(gold, answer)
        return Rouge(*(float(found[name].fmeasure) for name in Rouge._fields))

    return score


def _released() -> Scorer:
    jieba = _package("jieba")
    jieba.setLogLevel(logging.WARNING)  # its own level is DEBUG, on a handler of its own
    scorer = _package("rouge_chinese").Rouge()

    def cut(text: str) -> str:
        return " ".join(" ".join(jieba.cut(text.lower())).split())

    def score(answer: str, gold: str) -> Rouge | None:
        said, wanted = cut(answer), cut(gold)
        if not wanted:
            return None
        if not said:
            return Rouge(0.0, 0.0, 0.0)
        with _Deep(len(said) + len(wanted)):
            found = scorer.get_scores(said, wanted)[0]
        return Rouge(*(float(found[name]["f"]) for name in ("rouge-1", "rouge-2", "rouge-l")))

    return score


class _Deep:
    """Room on the stack: rouge_chinese walks the longest common subsequence by one call per word."""

    def __init__(self, calls: int) -> None:
        self._calls = calls

    def __enter__(self) -> None:
        self._limit = sys.getrecursionlimit()
        sys.setrecursionlimit(self._limit + self._calls)

    def __exit__(self, *_: object) -> None:
        sys.setrecursionlimit(self._limit)


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise ImportError(f'ROUGE needs {error.name}, which is not installed: pip install "rlft[lamp]"') from error
