"""A policy that says what a function of the decoded prompt tells it, and a retriever in memory; both keep count."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlft.retrieval.passage import Passage
from rlft.rollouts.policy import Draw, Generation, Sampling


class ScriptedPolicy:
    """Says `say(prompt text)` and stops; a text longer than the cap is cut, and then it did not stop.

    Args:
        tokenizer: to read prompts and write replies.
        say: from the prompt's text to the reply's.
        stop_id: ends a reply.
    """

    def __init__(self, tokenizer: Any, say: Callable[[str], str], stop_id: int | None = None) -> None:
        self.tokenizer, self.say = tokenizer, say
        self.stop_id = tokenizer.eos_token_id if stop_id is None else stop_id
        self.calls: list[list[Draw]] = []

    def generate(self, draws: Sequence[Draw], sampling: Sampling) -> list[Generation]:
        self.calls.append(list(draws))
        return [self._generation(draw) for draw in draws]

    def _generation(self, draw: Draw) -> Generation:
        text = self.say(self.tokenizer.decode(draw.prompt_ids))
        ids = [*self.tokenizer.encode(text, add_special_tokens=False), self.stop_id]
        cut = ids[: draw.max_new_tokens]
        return Generation(cut, [-0.5 - 0.01 * place for place in range(len(cut))], stopped=len(cut) == len(ids))


class Shelf:
    """Passages by query; a query that is not on the shelf finds nothing.

    Args:
        found: query to texts; a text `title | text` has a title.
    """

    name = "shelf"

    def __init__(self, found: Mapping[str, Sequence[str]]) -> None:
        self.found = found
        self.queries: list[list[str]] = []
        self._lock = threading.Lock()

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        with self._lock:
            self.queries.append(list(queries))
        return [
            [passage_of(query, place, text) for place, text in enumerate(self.found.get(query, ())[:k])]
            for query in queries
        ]


def passage_of(query: str, place: int, text: str) -> Passage:
    title, _, body = text.rpartition(" | ")
    return Passage(f"{query}/{place}", title, body, 1.0 / (1 + place))
