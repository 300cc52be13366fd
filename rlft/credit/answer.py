"""Where the final answer begins, in tokens, so that credit can leave it out of its spans."""

from collections.abc import Sequence
from typing import Protocol


class Decoder(Protocol):
    """The part of a tokenizer that is used here."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = ...) -> str:
        """Text of these tokens."""
        ...


def answer_start(ids: Sequence[int], tokenizer: Decoder, marker: str) -> int:
    """Index of the first token whose text lies behind the last `marker`.

    Args:
        ids: T token ids of one completion.
        tokenizer: decodes them.
        marker: e.g. `</think>` or `\\boxed{`.

    Returns:
        The index; T if the marker does not occur.
    """
    text = tokenizer.decode(ids, skip_special_tokens=False)
    found = text.rfind(marker)
    if not marker or found < 0:
        return len(ids)
    end = found + len(marker)
    low, high = (
        0,
        len(ids),
    )  # the text of a prefix grows with the prefix: bisect for the first that covers the marker
    while low < high:
        middle = (low + high) // 2
        if len(tokenizer.decode(ids[:middle], skip_special_tokens=False)) >= end:
            high = middle
        else:
            low = middle + 1
    return low
