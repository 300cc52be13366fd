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
