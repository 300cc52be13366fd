"""Where spans lie when the rollouts of a side stand end to end, and how a large group is cut into strips.

Shapes: K spans of a side; P tokens of its longest span.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rlft.credit.spans import Span

BYTES_A_PAIR = 12
"""What a pair of tokens takes while its distance is made: the product, the norms or the transpose, and the result."""


@dataclass(frozen=True)
class Laid:
    """Spans of one side as arrays.

    Attributes:
        start_K: first token.
        end_K: one past the last token.
        tokens: tokens of the side.
    """

    start_K: np.ndarray
    end_K: np.ndarray
    tokens: int

    @classmethod
    def of(cls, spans_G: Sequence[Sequence[Span]]) -> "Laid":
        """Lay rollouts end to end; each brings its spans [start, end), the last of which ends with it."""
        lengths = [spans_K[-1][1] if spans_K else 0 for spans_K in spans_G]
        offsets = np.repeat(np.cumsum([0, *lengths[:-1]]), [len(spans_K) for spans_K in spans_G])
        found_K2 = np.array([span for spans_K in spans_G for span in spans_K]).reshape(-1, 2) + offsets[:, None]
        start_K, end_K = np.ascontiguousarray(found_K2.T)
        return cls(start_K, end_K, sum(lengths))

    @property
    def size_K(self) -> np.ndarray:
        """Tokens of each span."""
        return self.end_K - self.start_K

    def means(self, value_nT: np.ndarray) -> np.ndarray:
        """Mean over every span, (n, K) float64, of values (n, T) of the side's tokens."""
        total_nT = np.zeros((len(value_nT), self.tokens + 1))
        np.cumsum(value_nT, axis=1, out=total_nT[:, 1:])
        return (total_nT[:, self.end_K] - total_nT[:, self.start_K]) / self.size_K

    def cuts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All span borders in order, and for each span the numbers of its first border and of its last."""
        cuts = np.unique(np.concatenate([self.start_K, self.end_K]))
        return cuts, np.searchsorted(cuts, self.start_K), np.searchsorted(cuts, self.end_K)


@dataclass(frozen=True)
class Matched:
    """Couplings of C pairs of spans, token by token, in R entries.

    Attributes:
        k_C, l_C: the spans.
        owner_R: the pair, 0 to C - 1, that an entry belongs to.
        row_R, column_R: tokens of the two sides, counted from the side's first.
        mass_R: what is carried between them; 1 in all for every pair.
    """

    k_C: np.ndarray
    l_C: np.ndarray
    owner_R: np.ndarray
    row_R: np.ndarray
    column_R: np.ndarray
    mass_R: np.ndarray

    @classmethod
    def assigned(cls, k_C: np.ndarray, l_C: np.ndarray, match_CN: np.ndarray, one: Laid, other: Laid) -> "Matched":
        """Pairs of equally long spans; row c of `match_CN` says where in span l_c the tokens of span k_c go."""
        step_N = np.arange(match_CN.shape[1])
        real_CN = step_N < one.size_K[k_C][:, None]
        owner_R, step_R = real_CN.nonzero()
        rows_R, columns_R = one.start_K[k_C[owner_R]] + step_R, other.start_K[l_C[owner_R]] + match_CN[real_CN]
        return cls(k_C, l_C, owner_R, rows_R, columns_R, 1 / one.size_K[k_C[owner_R]])

    @classmethod
    def join(cls, parts: Sequence["Matched"]) -> "Matched":
        """All pairs of several in one."""
        if len(parts) == 1:
            return parts[0]
        offsets = np.cumsum([0, *(len(part.k_C) for part in parts)])
        owners = [part.owner_R + offset for part, offset in zip(parts, offsets[:-1], strict=True)]
        return cls(
            np.concatenate([part.k_C for part in parts]),
            np.concatenate([part.l_C for part in parts]),
            np.concatenate(owners),
            np.concatenate([part.row_R for part in parts]),
            np.concatenate([part.column_R for part in parts]),
            np.concatenate([part.mass_R for part in parts]),
        )

    @property
    def turned(self) -> "Matched":
        """The same with the sides exchanged."""
        return Matched(self.l_C, self.k_C, self.owner_R, self.column_R, self.row_R, self.mass_R)


def strips(lengths_A: Sequence[int], lengths_B: Sequence[int], memory: int) -> Iterator[tuple[slice, slice]]:
    """Cut two sides into blocks of whole rollouts whose distance matrices fit into `memory`.

    Args:
        lengths_A: tokens of each rollout of one side.
        lengths_B: of the other side.
        memory: bytes; a pair of rollouts is the smallest block, so a very long pair can exceed it.

    Yields:
        Rollouts of either side; the whole group at once if it fits, else one rollout against as many as fit.
    """
    room = memory // BYTES_A_PAIR
    if sum(lengths_A) * sum(lengths_B) <= room:
        yield slice(0, len(lengths_A)), slice(0, len(lengths_B))
        return
    for i, length in enumerate(lengths_A):
        first = 0
        while first < len(lengths_B):
            last, tokens = first + 1, lengths_B[first]
            while last < len(lengths_B) and (tokens + lengths_B[last]) * length <= room:
                tokens += lengths_B[last]
                last += 1
            yield slice(i, i + 1), slice(first, last)
            first = last
