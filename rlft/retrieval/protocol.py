"""What retrieval servers say, as passages. Two protocols of search-RL projects:

`POST /retrieve {"queries", "topk", "return_scores"}` (Search-R1 and its descendants) answers
`{"result": [[{"document": row, "score": s}, ...], ...]}`, a list for each query; some servers send the bare rows.
`GET /api/search?query=&k=` (ColBERT's server) answers `{"topk": [{"text": "title | body", "pid", "rank", "score"}]}`.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

from rlft.retrieval.passage import Passage
from rlft.retrieval.rows import row_of_passage, title_and_text


def result_of(hits: list[list[Passage]], return_scores: bool) -> dict[str, Any]:
    """The answer of a `/retrieve` server: documents with scores, or bare documents."""
    if return_scores:
        return {"result": [[{"document": row_of_passage(p), "score": p.score} for p in found] for found in hits]}
    return {"result": [[row_of_passage(p) for p in found] for found in hits]}


def passages_of_result(answer: Any, queries: int, k: int) -> list[list[Passage]]:
    """Read the answer of a `/retrieve` server.

    Args:
        answer: the parsed JSON.
        queries: how many queries were sent.
        k: passages per query that were asked for; more are cut off.

    Returns:
        A list for each query. A document without an id gets one that is the hash of its contents; a bare document
        without a score has score 0.

    Raises:
        ValueError: saying what is missing or malformed.
    """
    results = _field(answer, "result", "the answer")
    if not isinstance(results, list) or len(results) != queries:
        count = len(results) if isinstance(results, list) else f"a {type(results).__name__}, not"
        raise ValueError(f"{count} result lists for {queries} queries")
    for i, found in enumerate(results):
        if not isinstance(found, list):
            raise ValueError(f"result {i} is a {type(found).__name__}, not a list of documents")
    return [
        [_passage(hit, f"result {i}, document {j}") for j, hit in enumerate(found[:k])]
        for i, found in enumerate(results)
    ]


def passages_of_colbert(answer: Any, k: int) -> list[Passage]:
    """Read the answer of a ColBERT server to one query: title and body part at the first `|`.

    Raises:
        ValueError: saying what is missing or malformed.
    """
    hits = _field(answer, "topk", "the answer")
    if not isinstance(hits, list):
        raise ValueError(f'"topk" is a {type(hits).__name__}, not a list')
    passages = []
    for j, hit in enumerate(hits[:k]):
        text, identity = _field(hit, "text", f"hit {j}"), _field(hit, "pid", f"hit {j}")
        if not isinstance(text, str):
            raise ValueError(f'hit {j}: "text" is a {type(text).__name__}, not a text')
        title, bar, body = text.partition("|")
        title, body = (title.strip(), body.strip()) if bar else ("", text.strip())
        passages.append(Passage(str(identity), title, body, _score(hit, f"hit {j}")))
    return passages


def _passage(hit: Any, place: str) -> Passage:
    wrapped = isinstance(hit, Mapping) and "document" in hit
    document = hit["document"] if wrapped else hit
    if not isinstance(document, Mapping):
        raise ValueError(f"{place} is a {type(document).__name__}, not an object")
    try:
        title, text = title_and_text(document)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    identity = document.get("id")
    if identity is None:
        identity = hashlib.sha256(f"{title}\n{text}".encode(errors="surrogatepass")).hexdigest()[:16]
    score = _score(hit, place) if wrapped or "score" in hit else 0.0
    return Passage(str(identity), title, text, score)


def _score(hit: Mapping[str, Any], place: str) -> float:
    score = _field(hit, "score", place)
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise ValueError(f'{place}: "score" is {str(score)[:40]!r}, not a finite number')
    return float(score)


def _field(holder: Any, key: str, place: str) -> Any:
    if not isinstance(holder, Mapping):
        raise ValueError(f"{place} is a {type(holder).__name__}, not an object")
    if key not in holder:
        raise ValueError(f'{place} has no "{key}", only {", ".join(map(repr, holder)) or "nothing"}')
    return holder[key]
