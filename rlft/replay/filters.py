"""Which replay items are worth training on, and why the others were dropped.

STOC (arXiv 2605.10640) drops near-duplicates found by MinHash; its released code has no filter, and the thresholds here
are ours.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rlft.replay.items import Item, generated_ids, refuse_items
from rlft.replay.near_duplicates import near_duplicates
from rlft.replay.ngrams import Hashes, ngrams, repeated_share, shared_share

Fault = Callable[[Item], bool]
"""Whether an item is to be dropped."""


@dataclass(frozen=True)
class Filtered:
    """What a filter left and took."""

    kept: list[Item]
    """In the order given."""
    dropped: dict[str, int]
    """Items dropped for each reason that was looked for, 0 included."""
    reasons: dict[str, str]
    """Reason by id of a dropped item: the first that holds, in the order of `dropped`."""


@dataclass(frozen=True)
class ReplayFilter:
    """The filters of replay and their thresholds; None turns one off.

    Shares are of the n-grams of what was generated, after the prompt; text of fewer than n tokens has a share of 0.

    Raises:
        ValueError: for a threshold out of its range.
    """

    minhash_threshold: float | None = 0.8
    """Jaccard index, in (0, 1], from which on one of two items is dropped, prompts included."""
    minhash_shingle: int = 5
    """Tokens of a shingle."""
    minhash_permutations: int = 128
    max_repetition: float | None = 0.5
    """Largest share, in [0, 1], of n-grams that stood earlier in the same item."""
    repetition_ngram: int = 4
    max_overlap: float | None = None
    """Largest share, in [0, 1], of n-grams that stand in the new text."""
    overlap_ngram: int = 8
    perplexity: tuple[float, float] | None = None
    """Lowest and highest perplexity per generated token under the model that wrote it, exp(-`logprob`)."""

    def __post_init__(self) -> None:
        if self.minhash_threshold is not None and not 0 < self.minhash_threshold <= 1:
            raise ValueError(f"minhash_threshold={self.minhash_threshold} must be in (0, 1], or None for off.")
        for name in ("max_repetition", "max_overlap"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name}={value} must be in [0, 1], or None for off.")
        for name, least in (
            ("minhash_shingle", 1),
            ("minhash_permutations", 16),
            ("repetition_ngram", 1),
            ("overlap_ngram", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")
        if self.perplexity is not None and not 0 <= self.perplexity[0] < self.perplexity[1]:
            raise ValueError(
                f"perplexity={self.perplexity} must be a lowest and a higher highest one, or None for off."
            )

    def apply(
        self,
        items: Sequence[Item],
        new_ids: Iterable[Sequence[int]] = (),
        *,
        special_ids: Collection[int] = (),
        new_subjects: Iterable[str] = (),
    ) -> Filtered:
        """Sort out the items.

        The same items are kept in whatever order they are given: of two near-duplicates it is the one whose id sorts
        first. Items in which nothing was generated but special tokens are dropped by every filter.

        Args:
            items: replay items, or rows of old text.
            new_ids: token ids of the new samples, for `max_overlap`.
            special_ids: tokens that are no text: start, end, padding.
            new_subjects: names that only the new text knows. An item whose text holds one, word for word in any case,
                is dropped: what the model says about a person whom it does not know is invented.

        Raises:
            ValueError: for rows that `refuse_items` refuses, for a perplexity band with items of unknown `logprob`, for
                `max_overlap` without new text, and for `new_subjects` with items without text.
        """
        refuse_items(items, "replay to filter")
        faults = self._faults(new_ids, frozenset(special_ids), list(new_subjects))
        reasons: dict[str, str] = {}
        survivors = []
        for item in items:
            reason = next((name for name, holds in faults.items() if holds(item)), None)
            if reason:
                reasons[item["id"]] = reason
            else:
                survivors.append(item)
        names = list(faults)
        if self.minhash_threshold is not None:
            names.append("near_duplicate")
            reasons.update(dict.fromkeys(self._duplicates(survivors), "near_duplicate"))
        found = list(reasons.values())
        return Filtered(
            kept=[item for item in items if item["id"] not in reasons],
            dropped={name: found.count(name) for name in names},
            reasons=reasons,
        )

    def _faults(
        self, new_ids: Iterable[Sequence[int]], special_ids: frozenset[int], new_subjects: list[str]
    ) -> dict[str, Fault]:
        faults: dict[str, Fault] = {"empty": lambda item: special_ids.issuperset(generated_ids(item))}
        if self.perplexity is not None:
            low, high = (math.log(bound) if bound else -math.inf for bound in self.perplexity)
            faults["perplexity"] = lambda item: not low <= _nats(item) <= high
        if self.max_repetition is not None:
            most, n = self.max_repetition, self.repetition_ngram
            faults["repetition"] = lambda item: repeated_share(generated_ids(item), n) > most
        if self.max_overlap is not None:
            most_shared, run, known = self.max_overlap, self.overlap_ngram, self._known(new_ids)
            faults["overlap"] = lambda item: shared_share(generated_ids(item), run, known) > most_shared
        if new_subjects:
            faults["new_subject"] = _mentioning(new_subjects)
        return faults

    def _known(self, new_ids: Iterable[Sequence[int]]) -> Hashes:
        found = [ngrams(ids, self.overlap_ngram) for ids in new_ids]
        known = np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.uint64)
        if not known.size:
            raise ValueError(
                f"max_overlap={self.max_overlap} compares with the new text, and no new sample has overlap_ngram="
                f"{self.overlap_ngram} tokens: pass new_ids, lower overlap_ngram, or set max_overlap to None."
            )
        return known

    def _duplicates(self, items: Sequence[Item]) -> list[str]:
        assert self.minhash_threshold is not None
        ordered = sorted(items, key=lambda item: item["id"])
        found = near_duplicates(
            [item["ids"] for item in ordered],
            threshold=self.minhash_threshold,
            shingle=self.minhash_shingle,
            permutations=self.minhash_permutations,
        )
        return [item["id"] for item, earlier in zip(ordered, found, strict=True) if earlier is not None]


def _nats(item: Item) -> float:
    """The logarithm of the perplexity, which does not overflow."""
    logprob = item.get("logprob")
    if not isinstance(logprob, float | int) or not logprob <= 0:
        raise ValueError(
            f"{item['id']!r} has logprob={logprob!r}, and the perplexity band needs the mean log-probability per "
            "generated token, at most 0; set perplexity to None for text that has none."
        )
    return -logprob


def _mentioning(subjects: list[str]) -> Fault:
    names = {tuple(_words(subject)) for subject in subjects}
    if () in names:
        raise ValueError("new_subjects holds a name without a letter or digit; every text would hold it.")
    lengths = sorted({len(name) for name in names})

    def mentions(item: Item) -> bool:
        if not isinstance(item.get("text"), str):
            raise ValueError(f"{item['id']!r} has no `text`, in which new_subjects are looked for; add it.")
        words = _words(item["text"])
        return any(
            tuple(words[start : start + length]) in names
            for length in lengths
            for start in range(len(words) - length + 1)
        )

    return mentions


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
