"""Which token may come next in a list `[3] > [1] > ...` of K distinct numbers from 1 to n.

The canonical token ids of a list are those that a training example of it has (`ChatFrame.turn_ids`). For the
tokenizers of Qwen and Llama-3, for words and for characters, they are a piece for each number put together, so the ids
allowed next are found by walking along the pieces of the numbers that are left; several may begin with the same tokens.

Methods: DRO, eq. (1), over the lists alone: p(z_t | z_<t, x, d), renormalised over the ids that can still make a list.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.list_text import spell

REMEMBERED = 1 << 16
"""Beginnings of lists whose next ids are kept: the first numbers come again in every list."""

Piece = tuple[int, ...]


class ListGrammar:
    """The lists of `size` different numbers out of `count`, each followed by the end of the turn.

    Args:
        frame: the chat template and its tokenizer.
        count: n passages, numbered from 1.
        size: K of them.

    Attributes:
        longest: most tokens that such a list takes, its end token included.

    Raises:
        ValueError: if `size` is not among 1 to `count`, or the tokenizer has no token for a number, or the tokens of a
            list are not those of its numbers put together.
    """

    def __init__(self, frame: ChatFrame, count: int, size: int) -> None:
        if not 1 <= size <= count:
            raise ValueError(f"lists of size={size} out of {count} passages: size must be from 1 to {count}.")
        self.count, self.size, self.end_id = count, size, frame.end_id
        self._first, self._later = _pieces(frame, count, size)
        lengths = sorted(map(len, self._later or self._first), reverse=True)
        self.longest = max(map(len, self._first)) + sum(lengths[: size - 1]) + 1
        self._remembered = lru_cache(REMEMBERED)(self._allowed)

    def allowed(self, ids: Sequence[int]) -> Sequence[int]:
        """The ids that may come next; empty once the end token is there.

        Args:
            ids: of the turn so far.

        Raises:
            ValueError: if no list begins like this.
        """
        return self._remembered(tuple(ids))

    def _allowed(self, ids: Piece) -> list[int]:
        left, place = set(range(self.count)), 0
        for taken in range(self.size):
            pieces = self._later if taken else self._first
            number = next((one for one in left if ids[place : place + len(pieces[one])] == pieces[one]), None)
            if number is None:
                return self._begun(ids[place:], [pieces[one] for one in left])
            left.remove(number)
            place += len(pieces[number])
        if place == len(ids):
            return [self.end_id]
        if ids[place] != self.end_id:
            raise ValueError(f"{ids[place]} follows a list of {self.size} numbers, and only {self.end_id} may.")
        return []

    def _begun(self, tail: Piece, pieces: Sequence[Piece]) -> list[int]:
        """What goes on from the beginning of a number."""
        following = {piece[len(tail)] for piece in pieces if piece[: len(tail)] == tail}
        if not following:
            raise ValueError(f"the ids {list(tail)} begin none of the numbers that are left for the list.")
        return sorted(following)


def _pieces(frame: ChatFrame, count: int, size: int) -> tuple[list[Piece], list[Piece]]:
    """Ids of every number as the first of a list, and as a later one with the ` > ` before it.

    Raises:
        ValueError: if a list is not made of them.
    """
    first = [_turn(frame, [place]) for place in range(count)]
    later: list[Piece] = []
    if size > 1:
        before = [int(place == 0) for place in range(count)]
        pairs = [_turn(frame, [other, place]) for place, other in enumerate(before)]
        if any(pair[: len(first[other])] != first[other] for pair, other in zip(pairs, before, strict=True)):
            raise _merges(frame, [0, 1])
        later = [pair[len(first[other]) :] for pair, other in zip(pairs, before, strict=True)]
        for order in _all_neighbours(count):
            if _turn(frame, order) != sum((later[place] for place in order[1:]), first[order[0]]):
                raise _merges(frame, order)
    for pieces in (first, later):
        for one, other in zip(sorted(pieces), sorted(pieces)[1:], strict=False):
            if other[: len(one)] == one:
                raise ValueError(f"the tokens {list(one)} of a number begin those of another, {list(other)}.")
    return first, later


def _turn(frame: ChatFrame, places: Sequence[int]) -> Piece:
    ids: Any = frame.turn_ids(spell(places))[:-1]
    if frame.tokenizer.unk_token_id in ids:
        raise ValueError(
            f"the tokenizer has no token for a part of {spell(places)!r}, so such a list cannot be written; show fewer "
            "passages, or use another tokenizer."
        )
    return tuple(ids)


def _merges(frame: ChatFrame, order: Sequence[int]) -> ValueError:
    return ValueError(
        f"{type(frame.tokenizer).__name__} makes other tokens of {spell(order)!r} than of its numbers one by one, so "
        "there is no grammar of lists for it; set constrained=False."
    )


def _all_neighbours(count: int) -> list[list[int]]:
    """Orders of all places in which each follows each other one somewhere, and each is the first of one.

    The zigzag 0, 1, m-1, 2, m-2, ... has every difference but 0 modulo an even m between neighbours, so its m shifts
    hold every ordered pair (Williams, Experimental designs balanced for the estimation of residual effects, 1949).
    """
    even = count + count % 2
    zigzag = [(step + 1) // 2 * (1 if step % 2 else -1) for step in range(even)]
    return [[place for turn in zigzag if (place := (turn + shift) % even) < count] for shift in range(even)]
