"""From a spec to a retriever."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from rlft.plugins import PluginError, resolve
from rlft.retrieval.passage import Retriever

RETRIEVERS = {
    "bm25": "rlft.retrieval.bm25:BM25Retriever",
    "dense": "rlft.retrieval.dense:DenseRetriever",
    "http": "rlft.retrieval.http:HTTPRetriever",
    "selected": "rlft.pair:SelectedRetriever",
}


def load_retriever(spec: Any) -> Retriever:
    """Make the retriever that a spec names.

    Args:
        spec: `bm25(corpus="corpus.jsonl")`, `dense(corpus="corpus.jsonl", encoder="intfloat/e5-base-v2")`,
            `http(url="http://127.0.0.1:8000")`, or a class or function of your own, `package.module:attr` or
            `path/to/file.py:attr`, with settings in brackets where wanted. A retriever comes back as it is.

    Returns:
        The retriever.

    Raises:
        rlft.plugins.PluginError: if the spec does not resolve, lacks a setting, or gives no retriever.
        RetrievalError: if the retriever refuses its settings, its corpus or its index.
    """
    return _verified(find_retriever(spec)() if isinstance(spec, str) else spec, spec)


def find_retriever(spec: str) -> Callable[[], Any]:
    """What makes the retriever that a spec names: found, its settings known to fit, and nothing built yet.

    Args:
        spec: as of `load_retriever`.

    Raises:
        rlft.plugins.PluginError: if the spec does not resolve, or lacks a setting.
    """
    make = resolve(spec, kind="retriever", names=RETRIEVERS)
    bound = make if isinstance(make, functools.partial) else functools.partial(make)
    takes = inspect.signature(bound.func)
    try:
        takes.bind(**bound.keywords)
    except TypeError as error:
        raise PluginError(
            f"retriever {spec!r}: {error}. Settings stand in brackets, as in bm25(corpus='corpus.jsonl'); this one "
            f"takes: {', '.join(takes.parameters) or 'none'}."
        ) from error
    return make


def _verified(retriever: Any, spec: Any) -> Retriever:
    name = getattr(retriever, "name", None)
    if isinstance(retriever, type) or not callable(getattr(retriever, "search", None)):
        raise PluginError(
            f"retriever {spec!r} gives {str(retriever)[:80]}, which is no object with a method search(queries, k)"
        )
    if not isinstance(name, str) or not name:
        raise PluginError(
            f"retriever {spec!r} gives a {type(retriever).__name__} whose name is {name!r}; set name to a text that "
            "changes with the corpus and the parameters, since results are cached under it"
        )
    return retriever
