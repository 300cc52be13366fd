"""Passages for queries: in process (BM25, dense) or over HTTP, behind one protocol.

Names load when first used, so that a retriever's packages are needed only where it is.
"""

from importlib import import_module
from typing import Any

from rlft.retrieval.loading import RETRIEVERS, load_retriever
from rlft.retrieval.passage import Passage, RetrievalError, Retriever

_LAZY = {
    "BM25Retriever": "rlft.retrieval.bm25",
    "CachedRetriever": "rlft.retrieval.cache",
    "CorpusError": "rlft.retrieval.corpus",
    "DenseRetriever": "rlft.retrieval.dense",
    "HTTPRetriever": "rlft.retrieval.http",
}
__all__ = ["RETRIEVERS", "Passage", "RetrievalError", "Retriever", "load_retriever", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'rlft.retrieval' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
