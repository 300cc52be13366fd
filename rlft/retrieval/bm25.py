"""BM25 over words: in memory for a small corpus, from a memory-mapped index for a large one.

score(q, d) = sum over words w of q of  idf(w) tf(w, d) / (tf(w, d) + k1 (1 - b + b |d| / mean |d|)),
idf(w) = ln(1 + (N - n_w + 0.5) / (n_w + 0.5)),  N passages, n_w of them with w, |d| words in d:
Lucene's variant (Kamphuis et al., "Which BM25 do you mean?", ECIR 2020, table 1), computed by bm25s
(Lu, arXiv 2407.03618) in float32. A word that the query repeats counts as often as it stands there.
"""

import functools
import hashlib
import json
import logging
import os
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
from bm25s.stopwords import STOPWORDS_EN

from rlft.retrieval.corpus import Corpus, corpus_in_memory, fingerprint_of, open_corpus, scan_corpus
from rlft.retrieval.index_folder import ensure_index, read_index
from rlft.retrieval.passage import Passage, RetrievalError, refuse_bad_request

logging.getLogger("bm25s").setLevel(logging.WARNING)  # the library sets DEBUG for everyone

_WORD = r"\w+"
_words = re.compile(_WORD).findall
_BLOCK = 128


class BM25Retriever:
    """BM25 on bm25s.

    Args:
        corpus: a JSON Lines file (`{"id", "contents"}` or `{"id", "title", "text"}`), or a `Corpus` in memory.
        index: folder of the index. If it holds an index of another corpus or other parameters, that is an error.
            By default a folder beside the file, which is rebuilt in that case, with a warning.
        k1: saturation of word frequency.
        b: share of length normalisation, 0 to 1. The defaults are Anserini's, as in most published BM25 figures.
        title_weight: how often the title counts as part of the passage; 0 leaves it out.
        stopwords: words that are not indexed: `"english"` (Lucene's 33) or a list.

    Raises:
        CorpusError: if the corpus is malformed.
        RetrievalError: if the index is another one, or the parameters make no sense.
    """

    def __init__(
        self,
        corpus: str | os.PathLike[str] | Corpus,
        *,
        index: str | os.PathLike[str] | None = None,
        k1: float = 0.9,
        b: float = 0.4,
        title_weight: int = 1,
        stopwords: str | Sequence[str] = (),
    ) -> None:
        self._settings = _settings(k1, b, title_weight, stopwords)
        if isinstance(corpus, Corpus):
            self._corpus, self._engine = corpus, _index(corpus.passages, self._settings)
        else:
            self._corpus, self._engine = _from_disk(Path(corpus), index, self._settings)
        words = self._settings["stopwords"]
        listed = f"{len(words)}:{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:8]}" if words else "none"
        self.name = (
            f"bm25(k1={k1:g}, b={b:g}, title_weight={title_weight}, stopwords={listed})@{self._corpus.fingerprint[:16]}"
        )

    @classmethod
    def over(cls, passages: Iterable[Passage | Mapping[str, Any]], **settings: Any) -> "BM25Retriever":
        """A retriever over passages or rows in memory; `settings` as for the class."""
        return cls(corpus_in_memory(passages), **settings)

    def __len__(self) -> int:
        return len(self._corpus.passages)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """At most `k` passages with a word of the query, best first; equal scores in the corpus's order.

        Raises:
            RetrievalError: if `queries` is no list of texts or `k` is below 1.
        """
        refuse_bad_request(queries, k)
        found = {query: self._search(query, k) for query in dict.fromkeys(queries)}
        return [list(found[query]) for query in queries]

    def _search(self, query: str, k: int) -> list[Passage]:
        vocabulary = self._engine.vocab_dict
        ids = [vocabulary[word] for word in _words(query.lower()) if word in vocabulary]
        if not ids:
            return []
        scores_N = self._engine.get_scores_from_ids(ids)
        hits = []
        for i in top_k(scores_N, k).tolist():
            passage = self._corpus.passages[i]
            hits.append(Passage(passage.id, passage.title, passage.text, float(scores_N[i])))
        return hits


def top_k(scores_N: np.ndarray, k: int) -> np.ndarray:
    """Indices of the `k` largest positive scores, largest first, equal ones in order.

    The k-th largest of the blocks' maxima is exceeded or reached by k scores at least, so that only those which reach
    it are sorted.
    """
    maxima = np.maximum.reduceat(scores_N, np.arange(0, len(scores_N), _BLOCK))
    threshold = np.partition(maxima, -k)[-k] if k < len(maxima) else 0
    reached = np.flatnonzero(scores_N >= threshold if threshold > 0 else scores_N > 0)
    return reached[np.argsort(-scores_N[reached], kind="stable")[:k]]


def _settings(k1: float, b: float, title_weight: int, stopwords: str | Sequence[str]) -> dict[str, Any]:
    if not (k1 >= 0 and 0 <= b <= 1 and isinstance(title_weight, int) and title_weight >= 0):
        raise RetrievalError(
            f"bm25 with k1={k1!r}, b={b!r}, title_weight={title_weight!r}: k1 must be at least 0, b between 0 and 1, "
            "title_weight an integer of at least 0."
        )
    if isinstance(stopwords, str) and stopwords != "english":
        raise RetrievalError(f'stopwords={stopwords!r} is neither "english" nor a list of words')
    words = STOPWORDS_EN if stopwords == "english" else stopwords
    return {"k1": k1, "b": b, "title_weight": title_weight, "stopwords": sorted({word.lower() for word in words})}


def _index(passages: Sequence[Passage], settings: Mapping[str, Any]) -> Any:
    """Arrays of 4-byte ids, not lists: 1 million passages of 80 words take 0.4 GB so, and 0.9 GB as lists."""
    vocabulary: dict[str, int] = {}
    left_out, title_weight = frozenset(settings["stopwords"]), settings["title_weight"]
    ids = []
    for passage in passages:
        words = _words(passage.title.lower()) * title_weight + _words(passage.text.lower())
        if left_out:
            words = [word for word in words if word not in left_out]
        ids.append(array("i", [vocabulary.setdefault(word, len(vocabulary)) for word in words]))
    if not vocabulary:
        raise RetrievalError("no passage has a word to index; are stopwords=... too many?")
    engine = bm25s.BM25(k1=settings["k1"], b=settings["b"], method="lucene")
    engine.index((ids, vocabulary), create_empty_token=False, show_progress=False)
    return engine


def _from_disk(path: Path, index: str | os.PathLike[str] | None, settings: Mapping[str, Any]) -> tuple[Corpus, Any]:
    fingerprint = fingerprint_of(path)
    identity = {"kind": "bm25", "format": 1, "words": _WORD, "corpus": fingerprint, **settings}
    folder = Path(f"{path}.bm25") if index is None else Path(index)
    ensure_index(folder, identity, functools.partial(_build, path, settings), replace=index is None)
    engine = read_index(folder, lambda: bm25s.BM25.load(folder, mmap=True))
    return open_corpus(path, fingerprint, folder), engine


def _build(path: Path, settings: Mapping[str, Any], folder: Path) -> None:
    _index(scan_corpus(path, folder), settings).save(folder, show_progress=False)
