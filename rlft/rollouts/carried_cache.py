"""Keys and values of tokens that a model has read, kept from one batch to the next.

A turn of a conversation begins with all the turns before it, token for token, so what the model computed for those need
not be computed again. Tokens are kept in a ring of slots: new contexts overwrite the oldest.

Legend: C columns of a batch's cache, D size of a head, H key-value heads, N tokens, R rows, S slots.
"""

from bisect import bisect
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor


class CarriedCache:
    """The contexts read last.

    It holds `2 * layers * key-value heads * head size * bytes per number` for each of its slots, from the first batch
    on: 36 KiB a token for a Qwen2.5-3B in bf16, so 65536 tokens take 2.25 GiB.

    Args:
        tokens: number of slots, S.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.contexts: list[tuple[tuple[int, ...], int]] = []
        """Sorted. Each with the number of tokens written before it, which says where it lies and whether it still does."""
        self.written = 0
        self.slots_SHD: list[tuple[Tensor, Tensor]] = []

    def forget(self) -> None:
        """Let go of everything, memory too."""
        self.contexts, self.written, self.slots_SHD = [], 0, []

    def find(self, prompt: tuple[int, ...]) -> tuple[int, int]:
        """Where the longest beginning of a prompt lies that was read before: its first slot, its length N.

        The last token is never part of it, since its logits are wanted.
        """
        # Of all contexts in order, the two beside the prompt share the most with it.
        place = bisect(self.contexts, (prompt, 0))
        near = [(_shared(ids, prompt), start) for ids, start in self.contexts[max(0, place - 1) : place + 1]]
        length, start = max(near, default=(0, 0))
        return start, min(length, len(prompt) - 1)

    def read(self, found: Sequence[tuple[int, int]], columns: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values (R, H, C, D) of each layer; row r ends with what `find` found, anything is before it."""
        slot_RC = np.zeros((len(found), columns), np.int64)
        for row, (start, length) in enumerate(found):
            slot_RC[row, columns - length :] = np.arange(start, start + length) % self.tokens
        slots = torch.from_numpy(slot_RC)
        return [tuple(kept[slots.to(kept.device)].transpose(1, 2) for kept in layer) for layer in self.slots_SHD]

    def keep(self, layers: Sequence[Any], rows: np.ndarray, ids_RC: np.ndarray, mask_RC: np.ndarray) -> None:
        """Keep the contexts of some rows, as many as there are slots for.

        Args:
            layers: of the batch's cache, each with `keys` and `values` (all rows, H, C, D).
            rows: (R,) which of them.
            ids_RC: their tokens.
            mask_RC: bool, False in columns that are no tokens of the row.
        """
        fits = np.cumsum(mask_RC.sum(1)) <= self.tokens
        row_N, column_N = mask_RC[fits].nonzero()
        if not self.slots_SHD:
            shapes = [(layer.keys, layer.values) for layer in layers]
            self.slots_SHD = [tuple(t.new_zeros(self.tokens, t.size(1), t.size(3)) for t in pair) for pair in shapes]
        slot_N = torch.from_numpy(np.arange(self.written, self.written + len(row_N)) % self.tokens)
        rows_N, columns_N = torch.from_numpy(rows[fits][row_N]), torch.from_numpy(column_N)
        for layer, kept in zip(layers, self.slots_SHD, strict=True):
            for slots_SHD, states in zip(kept, (layer.keys, layer.values), strict=True):
                at = states.device
                slots_SHD[slot_N.to(at)] = states[rows_N.to(at), :, columns_N.to(at)]
        for ids_C, mask_C in zip(ids_RC[fits], mask_RC[fits], strict=True):
            ids = tuple(ids_C[mask_C].tolist())
            self.contexts.append((ids, self.written))
            self.written += len(ids)
        self.contexts = sorted(entry for entry in self.contexts if entry[1] >= self.written - self.tokens)


def _shared(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """Tokens that two contexts have in common from their beginning."""
    shorter = min(len(left), len(right))
    if left[:shorter] == right[:shorter]:
        return shorter
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))
