"""Keys and values of tokens that a model has read, kept from one batch to the next.

A turn of a conversation begins with all the turns before it, token for token, so what the model computed for those need
not be computed again. Kept are the contexts of a batch's rows, packed into one block; the oldest blocks leave first.

Legend: C columns of a batch's cache, D size of a head, H key-value heads, N tokens, R rows.
"""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


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

    def find(self, prompt: tuple[int, ...]) -> Found:
        """The longest beginning of a prompt that is kept, without the prompt's last token: its logits are wanted."""
        # Of all contexts in order, the two beside the prompt share the most with it.
        place = bisect(self._contexts, (prompt,))
        near = self._contexts[max(0, place - 1) : place + 1]
        best = max((Found(_shared(ids, prompt), block, start) for ids, block, start in near), default=NOTHING)
        return best._replace(length=min(best.length, len(prompt) - 1))

    def read(self, found: Sequence[Found], layers: Sequence[Any], columns: int) -> None:
        """Fill the first columns of an empty cache, so that row r ends with what was found for it.

        Args:
            found: for each row.
            layers: of the cache, `rlft.rollouts.row_cache.RowLayer`.
            columns: how many, C; zeros stand before what was found.
        """
        rows = np.arange(len(found))
        length_R, block_R, start_R = np.array(found).T
        some = next(iter(self._blocks.values()))
        for layer, states in zip(layers, some.layers, strict=True):
            layer.update(*(kept.new_zeros(len(found), kept.size(1), columns, kept.size(2)) for kept in states))
        for number in np.unique(block_R[length_R > 0]):
            of_block = rows[(block_R == number) & (length_R > 0)]
            row_N = np.repeat(of_block, length_R[of_block])
            back_N = np.concatenate([np.arange(-length_R[row], 0) for row in of_block])
            place_N = torch.from_numpy(row_N * layers[0].columns + columns + back_N)
            slot_N = torch.from_numpy((start_R + length_R)[row_N] + back_N)
            for layer, states in zip(layers, self._blocks[number].layers, strict=True):
                for room, kept in zip(layer.room, states, strict=True):
                    taken_NHD = kept.index_select(0, slot_N.to(kept.device))
                    room.flatten(0, 1).index_copy_(0, place_N.to(room.device), taken_NHD)

    def keep(self, rows: np.ndarray, layers: Sequence[Any], ids_RC: np.ndarray, mask_RC: np.ndarray) -> None:
        """Keep the contexts of some rows, as many as there is room for.

        Args:
            rows: (R,) which of the cache's rows.
            layers: of the cache, `rlft.rollouts.row_cache.RowLayer`.
            ids_RC: their tokens.
            mask_RC: bool, False in columns that are no tokens of the row.
        """
        fits = mask_RC.sum(1).cumsum() <= self.tokens
        rows, ids_RC, mask_RC = rows[fits], ids_RC[fits], mask_RC[fits]
        row_N, column_N = mask_RC.nonzero()
        while self._blocks and len(row_N) + sum(block.tokens for block in self._blocks.values()) > self.tokens:
            del self._blocks[min(self._blocks)]
        place_N = torch.from_numpy(rows[row_N] * layers[0].columns + column_N)
        packed = [[room.flatten(0, 1).index_select(0, place_N.to(room.device)) for room in layer.room] for layer in layers]
        self._blocks[self._made] = _Block(packed, len(row_N))
        contexts = [entry for entry in self._contexts if entry[1] in self._blocks]
        starts = mask_RC.sum(1).cumsum() - mask_RC.sum(1)
        for ids_C, mask_C, start in zip(ids_RC, mask_RC, starts.tolist(), strict=True):
            contexts.append((tuple(ids_C[mask_C].tolist()), self._made, start))
        self._contexts = sorted(contexts)
        self._made += 1


def _shared(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """Tokens that two contexts have in common from their beginning."""
    shorter = min(len(left), len(right))
    if left[:shorter] == right[:shorter]:
        return shorter
    return bisect(range(1, shorter), False, key=lambda length: left[:length] != right[:length])
