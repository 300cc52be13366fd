"""Which tokens of many sequences have to be read, if what several of them begin with is read once.

Sequences become a tree whose edges are runs of tokens; a level of the tree is read in one batch, after the one above.
No torch is imported.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

LEAST_SAVED = 16  # tokens; a shorter common run is read several times rather than in a level of its own


@dataclass(frozen=True, slots=True)
class Scored:
    """A context, an answer after it, and where its score goes."""

    context: list[int]
    answer: list[int]
    place: tuple[int, int]

    @property
    def read(self) -> list[int]:
        """All tokens but the last, which nothing is predicted from."""
        return self.context + self.answer[:-1]


@dataclass(frozen=True, slots=True)
class Edge:
    """A run of tokens after its parent's."""

    parent: int
    """Number of the edge before it, within the level above; -1 at the root."""
    ids: list[int]
    wanted: list[tuple[int, int, tuple[int, int]]] = field(default_factory=list)
    """Which tokens are to be predicted from which of `ids`: index, token, place of the score it belongs to."""


def levels_of(sequences: Sequence[Scored]) -> list[list[Edge]]:
    """The tree of all `sequences`, level by level; every token that is predicted appears once."""
    levels: list[list[Edge]] = []
    _grow([(sequence.read, sequence) for sequence in sequences], 0, -1, 0, levels)
    return levels


def _grow(rows: list[tuple[list[int], Scored]], start: int, parent: int, depth: int, levels: list[list[Edge]]) -> None:
    """Add what follows the first `start` tokens, which all rows have in common."""
    end = start + _common(rows, start)
    branches: dict[int | None, list[tuple[list[int], Scored]]] = {}
    for row in rows:
        branches.setdefault(row[0][end] if len(row[0]) > end else None, []).append(row)
    if len(branches) > 1 and (end - start) * (len(branches) - 1) < LEAST_SAVED:
        for branch in branches.values():
            _grow(branch, start, parent, depth, levels)
        return
    if depth == len(levels):
        levels.append([])
    wanted = [item for ids, sequence in rows for item in _wanted(sequence, start, end)]
    levels[depth].append(Edge(parent, rows[0][0][start:end], wanted))
    number = len(levels[depth]) - 1
    for token, branch in branches.items():
        if token is not None:
            _grow(branch, end, number, depth + 1, levels)


def _common(rows: list[tuple[list[int], Scored]], start: int) -> int:
    """Tokens after `start` that all rows have in common: as many as the first and the last in order have."""
    first, last = min(ids for ids, _ in rows), max(ids for ids, _ in rows)
    pairs = zip(first[start:], last[start:], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _wanted(sequence: Scored, start: int, end: int) -> list[tuple[int, int, tuple[int, int]]]:
    before = len(sequence.context) - 1
    return [
        (before + n - start, token, sequence.place)
        for n, token in enumerate(sequence.answer)
        if start <= before + n < end
    ]
