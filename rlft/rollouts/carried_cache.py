"""Keys and values of tokens that a model has read, kept from one batch to the next.

A turn of a conversation begins with all the turns before it, token for token, so what the model computed for those need
not be computed again. Kept are the contexts of a batch's rows, packed into one block; the oldest blocks leave first.

Legend: C columns of a batch's cache, D size of a head, H key-value heads, N tokens, R rows.
"""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlft.rollouts.row_cache import RowLayer


class Found(NamedTuple):
    """A beginning of a prompt that was read before."""

    length: int
    """Tokens of the prompt that it covers; 0 if nothing was found."""
    block: int
    start: int
    """Where it lies in the block."""


NOTHING = Found(0, -1, 0)


@dataclass(slots=True)
class _Block:
    layers: list[list[Tensor]]
    """Keys and values (N, H, D) of each layer."""
    tokens: int


class CarriedCache:
    """The contexts read last, up to a number of tokens.

    A token takes `2 * layers * key-value heads * head size * bytes per number`: 36 KiB for Qwen2.5-3B in bf16, so 65536
    tokens take 2.25 GiB, beside the cache of the batch that is being continued.

    Args:
        tokens: most tokens that are kept.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._blocks: dict[int, _Block] = {}
        self._contexts: list[tuple[tuple[int, ...], int, int]] = []
        """Sorted: ids, block, start."""
        self._made = 0

    def forget(self) -> None:
        """Let go of everything."""
        self._blocks, self._contexts = {}, []

    def find(self, prompt: tuple[int, ...]) -> Found:
        """The longest beginning of a prompt that is kept, without the prompt's last token: its logits are wanted."""
        # Of all contexts in order, the two beside the prompt share the most with it.
        place = bisect(self._contexts, (prompt,))
        near = self._contexts[max(0, place - 1) : place + 1]
        best = max((Found(_shared(ids, prompt), block, start) for ids, block, start in near), default=NOTHING)
        return best._replace(length=min(best.length, len(prompt) - 1))

    def read(self, found: Sequence[Found], layers: Sequence[RowLayer], columns: int) -> None:
        """Fill the first columns of an empty cache, so that row r ends with what was found for it.

        Args:
            found: for each row; not nothing for all of them.
            layers: of the cache.
            columns: how many, C; zeros stand before what was found.
        """
        length_R, block_R, start_R = np.array(found).T
        of_some = self._blocks[block_R[length_R.argmax()]]
        for layer, states in zip(layers, of_some.layers, strict=True):
            layer.update(*(kept.new_zeros(len(found), kept.size(1), columns, kept.size(2)) for kept in states))
        for number in np.unique(block_R[length_R > 0]):
            (rows,) = ((block_R == number) & (length_R > 0)).nonzero()
            row_N = rows.repeat(length_R[rows])
            back_N = np.concatenate([np.arange(-length, 0) for length in length_R[rows]])
            slot_N = torch.from_numpy((start_R + length_R)[row_N] + back_N)
            place_N = torch.from_numpy(row_N * layers[0].columns + columns + back_N)
            for layer, states in zip(layers, self._blocks[number].layers, strict=True):
                for room_RCHD, kept_NHD in zip(layer.room_RCHD, states, strict=True):
                    taken_NHD = kept_NHD.index_select(0, slot_N.to(layer.device))
                    room_RCHD.flatten(0, 1).index_copy_(0, place_N.to(layer.device), taken_NHD)

    def keep(self, rows: np.ndarray, layers: Sequence[RowLayer], ids_RC: np.ndarray, mask_RC: np.ndarray) -> None:
        """Keep the contexts of some rows, as many as there is room for, in place of the oldest.

        Args:
            rows: (R,) which of the cache's rows.
            layers: of the cache.
            ids_RC: their tokens.
            mask_RC: bool, False in columns that hold no token of the row.
        """
        fits = mask_RC.sum(1).cumsum() <= self.tokens
        rows, ids_RC, mask_RC = rows[fits], ids_RC[fits], mask_RC[fits]
        row_N, column_N = mask_RC.nonzero()
        while len(row_N) + self.held > self.tokens:
            del self._blocks[min(self._blocks)]
        place_N = torch.from_numpy(rows[row_N] * layers[0].columns + column_N)
        packed = [
            [room_RCHD.flatten(0, 1).index_select(0, place_N.to(layer.device)) for room_RCHD in layer.room_RCHD]
            for layer in layers
        ]
        self._blocks[self._made] = _Block(packed, len(row_N))
        length_R = mask_RC.sum(1)
        starts = (length_R.cumsum() - length_R).tolist()
        ids = [tuple(ids_C[mask_C].tolist()) for ids_C, mask_C in zip(ids_RC, mask_RC, strict=True)]
        old = [context for context in self._contexts if context[1] in self._blocks]
        self._contexts = sorted(old + [(one, self._made, start) for one, start in zip(ids, starts, strict=True)])
        self._made += 1

    @property
    def held(self) -> int:
        """Tokens that are kept now."""
        return sum(block.tokens for block in self._blocks.values())


def _shared(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """Tokens that two contexts have in common from their beginning."""
    shorter = min(len(left), len(right))
    if left[:shorter] == right[:shorter]:
        return shorter
    return bisect(range(1, shorter), False, key=lambda length: left[:length] != right[:length])
