"""Dense retrieval: the passages whose embeddings have the largest inner product with the query's.

Any sentence encoder that sentence-transformers loads; embeddings are L2-normalised, so that the score is the cosine.
They are computed once, kept as one float32 array, and searched exhaustively by faiss from the memory-mapped file.
Packages: `pip install "rlft[dense]"`. Shapes: N passages, Q queries, H the encoder's width.
"""

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlft.retrieval.corpus import Corpus, corpus_in_memory, fingerprint_of, open_corpus, scan_corpus
from rlft.retrieval.extras import optional
from rlft.retrieval.index_folder import ensure_index, read_index
from rlft.retrieval.passage import Passage, RetrievalError, refuse_bad_request

_EMBEDDINGS = "embeddings.npy"
_CHUNK = 4096
_SAME_ENCODER = 0.02


class DenseRetriever:
    """Exhaustive inner-product search over sentence embeddings.

    Args:
        corpus: a JSON Lines file (`{"id", "contents"}` or `{"id", "title", "text"}`), or a `Corpus` in memory.
        encoder: name or folder of a sentence-transformers model, e.g. `intfloat/e5-base-v2`.
        index: folder of the index. If it holds an index of another corpus or other parameters, that is an error.
            By default a folder beside the file, which is rebuilt in that case, with a warning.
        query_prefix: put before every query (E5: `"query: "`).
        passage_prefix: put before every passage (E5: `"passage: "`).
        batch_size: texts that the encoder takes at once.
        device: where the encoder runs; by default as sentence-transformers chooses.

    Raises:
        CorpusError: if the corpus is malformed.
        RetrievalError: if the packages are missing, or the index is another one or was made by another encoder.
    """

    def __init__(
        self,
        corpus: str | os.PathLike[str] | Corpus,
        encoder: str,
        *,
        index: str | os.PathLike[str] | None = None,
        query_prefix: str = "",
        passage_prefix: str = "",
        batch_size: int = 64,
        device: str | None = None,
    ) -> None:
        self._faiss = optional("faiss", "dense")
        self._encoder = optional("sentence_transformers", "dense").SentenceTransformer(encoder, device=device)
        self._encoding = threading.Lock()
        self._query_prefix, self._passage_prefix, self._batch_size = query_prefix, passage_prefix, batch_size
        if isinstance(corpus, Corpus):
            self._corpus = corpus
            self._embeddings_NH = self._encode([p.contents for p in corpus.passages], passage_prefix)
        else:
            self._corpus, self._embeddings_NH = self._from_disk(Path(corpus), encoder, index)
        prefixes = f"query_prefix={query_prefix!r}, passage_prefix={passage_prefix!r}"
        self.name = f"dense({encoder}, {prefixes})@{self._corpus.fingerprint[:16]}"

    @classmethod
    def over(cls, passages: Iterable[Passage | Mapping[str, Any]], encoder: str, **settings: Any) -> "DenseRetriever":
        """A retriever over passages or rows in memory; `settings` as for the class."""
        return cls(corpus_in_memory(passages), encoder, **settings)

    def __len__(self) -> int:
        return len(self._corpus.passages)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """The `k` passages nearest to each query, or all if there are fewer; none for a blank query.

        Raises:
            RetrievalError: if `queries` is no list of texts or `k` is below 1.
        """
        refuse_bad_request(queries, k)
        asked = [query for query in dict.fromkeys(queries) if query.strip()]
        if not asked:
            return [[] for _ in queries]
        queries_QH = self._encode(asked, self._query_prefix)
        inner = self._faiss.METRIC_INNER_PRODUCT
        scores_QK, rows_QK = self._faiss.knn(queries_QH, self._embeddings_NH, min(k, len(self)), inner)
        found = {}
        for query, scores_K, rows_K in zip(asked, scores_QK, rows_QK, strict=True):
            order = np.lexsort((rows_K, -scores_K))  # equal scores in the corpus's order
            found[query] = [self._hit(int(rows_K[i]), float(scores_K[i])) for i in order]
        return [list(found.get(query, ())) for query in queries]

    def _hit(self, row: int, score: float) -> Passage:
        passage = self._corpus.passages[row]
        return Passage(passage.id, passage.title, passage.text, score)

    def _encode(self, texts: list[str], prefix: str) -> np.ndarray:
        with self._encoding:  # tokenizers are not safe in several threads
            embeddings = self._encoder.encode(
                texts, prompt=prefix, batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
            )
        return np.ascontiguousarray(embeddings, dtype=np.float32)

    def _from_disk(self, path: Path, encoder: str, index: str | os.PathLike[str] | None) -> tuple[Corpus, np.ndarray]:
        fingerprint = fingerprint_of(path)
        settings = {"encoder": encoder, "passage_prefix": self._passage_prefix}
        folder = Path(f"{path}.dense") if index is None else Path(index)
        ensure_index(
            folder,
            {"kind": "dense", "format": 1, "corpus": fingerprint, **settings},
            lambda fresh: self._build(path, fresh),
            replace=index is None,
        )
        corpus = open_corpus(path, fingerprint, folder)
        embeddings_NH = np.asarray(read_index(folder, lambda: np.load(folder / _EMBEDDINGS, mmap_mode="r")))
        self._refuse_other_encoder(corpus.passages[0], embeddings_NH[0], folder, encoder)
        return corpus, embeddings_NH

    def _build(self, path: Path, folder: Path) -> None:
        passages = scan_corpus(path, folder)
        file: np.ndarray | None = None
        for start in range(0, len(passages), _CHUNK):
            chunk_CH = self._encode([p.contents for p in passages[start : start + _CHUNK]], self._passage_prefix)
            if file is None:
                shape = (len(passages), chunk_CH.shape[1])
                file = np.lib.format.open_memmap(folder / _EMBEDDINGS, mode="w+", dtype=np.float32, shape=shape)
            file[start : start + len(chunk_CH)] = chunk_CH

    def _refuse_other_encoder(self, first: Passage, kept_H: np.ndarray, folder: Path, encoder: str) -> None:
        """A folder's name stays when the weights in it change, so that the manifest alone cannot tell."""
        fresh_H = self._encode([first.contents], self._passage_prefix)[0]
        if fresh_H.shape != kept_H.shape or float(np.abs(fresh_H - kept_H).max()) > _SAME_ENCODER:
            raise RetrievalError(
                f"the embeddings in {folder} were made by another encoder than {encoder} is now: passage "
                f"{first.id!r} comes out differently. Delete the folder, or name another one: index=..."
            )
