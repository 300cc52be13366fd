"""What a search gives: passages, best first, a list for each query."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class RetrievalError(RuntimeError):
    """A search that could not be carried out; the message says what was tried and which knob to turn."""


@dataclass(frozen=True, slots=True)
class Passage:
    """One hit."""

    id: str
    title: str
    text: str
    score: float

    @property
    def contents(self) -> str:
        """Title, line break, text: what is indexed, and what `/retrieve` servers send."""
        return f"{self.title}\n{self.text}" if self.title else self.text


class Retriever(Protocol):
    """Anything that finds passages. It may be called from several threads at once."""

    name: str
    """Which retriever over which corpus, with its content's fingerprint: the key of caches and manifests."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """At most `k` passages for each query, best first; an empty list where nothing matches.

        Raises:
            RetrievalError: if a search could not be carried out, never instead of an empty result.
        """
        ...


def refuse_bad_request(queries: Sequence[str], k: int) -> None:
    """Refuse what no retriever can answer.

    Raises:
        RetrievalError: if `queries` is one text or holds anything but texts, or `k` is below 1.
    """
    if isinstance(queries, str):
        raise RetrievalError(f"search takes a list of queries, not one text: search([{queries[:80]!r}], k)")
    for i, query in enumerate(queries):
        if not isinstance(query, str):
            raise RetrievalError(f"query {i} is a {type(query).__name__} ({str(query)[:80]}); a query is a text")
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise RetrievalError(f"k is {k!r}; the number of passages per query must be an integer of at least 1")
