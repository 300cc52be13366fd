"""Texts from outside, made harmless and tokenised many at a time: one by one takes several times as long."""

from collections.abc import Iterable
from typing import Any

from rlft.rollouts.neutral import REMEMBERED, Neutraliser


class Harmless(Neutraliser):
    """A `Neutraliser` that takes many texts at once and remembers their token ids.

    Args:
        tokenizer: as for `Neutraliser`.
    """

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self._ids: dict[str, list[int]] = {}
        self._known: dict[str, str] = {}

    def broken(self, texts: Iterable[str]) -> dict[str, str]:
        """By text, what a call with it alone gives.

        Raises:
            ValueError: as for a call.
        """
        wanted = dict.fromkeys(texts)
        found = {text: self._known[text] for text in wanted if text in self._known}
        new = [text for text in wanted if text not in found]
        candidates = [self._broken(text.encode("utf-8", "replace").decode("utf-8")) for text in new]
        ids = self.ids(candidates)
        for text, candidate in zip(new, candidates, strict=True):
            found[text] = candidate if self.control_ids.isdisjoint(ids[candidate]) else self(text)
        _remember(self._known, found)
        return found

    def ids(self, texts: Iterable[str]) -> dict[str, list[int]]:
        """Token ids by text, as it stands, without special tokens around it."""
        wanted = dict.fromkeys(texts)
        found = {text: self._ids[text] for text in wanted if text in self._ids}
        if new := [text for text in wanted if text not in found]:
            ids = self._tokenizer(new, add_special_tokens=False, verbose=False)["input_ids"]
            found |= zip(new, ids, strict=True)
            _remember(self._ids, found)
        return found


def _remember(known: dict[str, Any], found: dict[str, Any]) -> None:
    """Keep what was found; where that is too much, it alone."""
    known.update(found)
    if len(known) > REMEMBERED:
        known.clear()
        known.update(found)
