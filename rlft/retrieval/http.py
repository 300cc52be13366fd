"""A retriever that is a server: Search-R1's `/retrieve`, or ColBERT's `/api/search`.

Queries go in batches. What may pass (a lost connection, a time-out, 429, 5xx) is tried again, after pauses that double
and vary; what will not (another 4xx, an answer that is not the protocol's) ends the search with an error at once.
"""

import functools
import http.client
import json
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

from rlft.retrieval.passage import Passage, RetrievalError, refuse_bad_request
from rlft.retrieval.protocol import passages_of_colbert, passages_of_result

_ROUTES = {"retrieve": "/retrieve", "colbert": "/api/search"}
_LONGEST_PAUSE = 30.0
_jitter = random.Random()  # of its own, so that a lost connection leaves the training's random numbers as they were
_Read = TypeVar("_Read")


class HTTPRetriever:
    """Client of a retrieval server.

    Args:
        url: the server (`http://127.0.0.1:8000`), or its route in full.
        api: `"retrieve"` (Search-R1, `rlft serve-retriever`) or `"colbert"`.
        timeout: seconds without an answer after which a request is given up.
        retries: how often a failed request is sent again.
        backoff: seconds before the first retry, on average; each further pause is twice as long, at most 30 s.
        batch: queries per request (`retrieve`), or requests under way at once (`colbert`, one query each).
        corpus: label of what the server holds. It is part of the name under which results are cached, so change it
            whenever the server gets another corpus or index.

    Raises:
        RetrievalError: if an argument makes no sense.
    """

    def __init__(
        self,
        url: str,
        *,
        api: Literal["retrieve", "colbert"] = "retrieve",
        timeout: float = 30.0,
        retries: int = 5,
        backoff: float = 0.5,
        batch: int = 64,
        corpus: str = "",
    ) -> None:
        if api not in _ROUTES:
            raise RetrievalError(f"api={api!r} is neither {' nor '.join(map(repr, _ROUTES))}")
        if timeout <= 0 or retries < 0 or backoff < 0 or batch < 1:
            raise RetrievalError(
                f"timeout={timeout}, retries={retries}, backoff={backoff}, batch={batch}: timeout must be above 0, "
                "retries and backoff at least 0, batch at least 1."
            )
        self._url = _route(url, _ROUTES[api])
        self._api, self._timeout, self._retries, self._backoff, self._batch = api, timeout, retries, backoff, batch
        # A cluster's proxy knows nothing of a server on this machine.
        local = urllib.parse.urlsplit(self._url).hostname in ("127.0.0.1", "localhost", "::1")
        self._opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))
        self.name = f"http({api}, {corpus or self._url})"  # a named corpus is the same on whatever machine

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """At most `k` passages for each query, in the server's order; none for a blank query, which is not sent.

        Raises:
            RetrievalError: if the server does not answer, or not as the protocol says.
        """
        refuse_bad_request(queries, k)
        asked = [query for query in dict.fromkeys(queries) if query.strip()]
        answers = self._ask_colbert(asked, k) if self._api == "colbert" else self._ask(asked, k)
        found = dict(zip(asked, answers, strict=True))
        return [list(found.get(query, ())) for query in queries]

    def _ask(self, queries: list[str], k: int) -> list[list[Passage]]:
        found = []
        for start in range(0, len(queries), self._batch):
            batch = queries[start : start + self._batch]
            # Search-R1's server fails where return_scores is false, so it is always true.
            body = json.dumps({"queries": batch, "topk": k, "return_scores": True}).encode()
            request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
            found += self._answer(request, functools.partial(passages_of_result, queries=len(batch), k=k))
        return found

    def _ask_colbert(self, queries: list[str], k: int) -> list[list[Passage]]:
        def ask(query: str) -> list[Passage]:
            request = urllib.request.Request(f"{self._url}?{urllib.parse.urlencode({'query': query, 'k': k})}")
            return self._answer(request, functools.partial(passages_of_colbert, k=k))

        with ThreadPoolExecutor(self._batch) as pool:
            return list(pool.map(ask, queries))

    def _answer(self, request: urllib.request.Request, read: Callable[[Any], _Read]) -> _Read:
        content = self._content(request)
        try:
            return read(json.loads(content))
        except ValueError as error:
            raise RetrievalError(
                f"{self._url} answered what the {self._api!r} protocol does not know: {error}. The answer starts "
                f"{content[:200]!r}. Is that the right server, and is api={self._api!r} right?"
            ) from error

    def _content(self, request: urllib.request.Request) -> bytes:
        for attempt in range(self._retries + 1):
            if attempt:
                time.sleep(min(self._backoff * 2 ** (attempt - 1), _LONGEST_PAUSE) * _jitter.uniform(0.5, 1.5))
            try:
                with self._opener.open(request, timeout=self._timeout) as response:
                    return bytes(response.read())
            except urllib.error.HTTPError as error:
                seen = f"HTTP {error.code} {error.reason}, {error.read(200)!r}"
                if error.code != 429 and error.code < 500:
                    raise RetrievalError(f"{self._url} refused the request: {seen}. Is url=... right?") from error
            except (OSError, http.client.HTTPException) as error:
                seen = f"{type(error).__name__}: {error}"
        raise RetrievalError(
            f"{self._url} gave no answer in {self._retries + 1} tries; the last: {seen}. Is the server up? "
            f"Raise timeout={self._timeout:g}, retries={self._retries} or backoff={self._backoff:g}, or lower "
            f"batch={self._batch}."
        )


def _route(url: str, route: str) -> str:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RetrievalError(f"url={url!r} is no http address; it looks like http://127.0.0.1:8000")
    path = parts.path.rstrip("/")
    return parts._replace(path=path if path.endswith(route) else path + route, query="", fragment="").geturl()
