"""Continues a batch of draws with one row of the cache for each distinct context.

Draws of one prompt read it together, and go on together until they choose different tokens: there the row branches. A
row whose draws have all ended is masked, and when half of the rows are such, they leave.

Legend: A draws that go on, B all draws, C columns of the cache, Q columns fed at once, R rows, U rows after a step.
"""

import inspect
from collections.abc import Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from rlft.rollouts.carried_cache import NOTHING, CarriedCache
from rlft.rollouts.chooser import Chooser


def continue_together(
    model: Any,
    prompts: Sequence[Sequence[int]],
    cap_B: np.ndarray,
    chooser: Chooser,
    stop_ids: Set[int],
    carried: CarriedCache | None,
) -> None:
    """Have the chooser choose tokens for every draw until a stop id or the draw's cap.

    Args:
        model: one that `cache_of` gives a cache for, in evaluation mode.
        prompts: of the draws.
        cap_B: most tokens of each draw.
        chooser: of these draws; keeps what it chose.
        stop_ids: ids that end a draw.
        carried: contexts read before, and where to keep the new ones; None to keep nothing.
    """
    stops = np.array(sorted(stop_ids), np.int64)
    distinct = {prompt: row for row, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    rows = _Rows(model, list(distinct), len(prompts), int(cap_B.max()), carried)
    row_A = np.array([distinct[tuple(prompt)] for prompt in prompts])
    draw_A = np.arange(len(prompts))
    logits_RV = rows.read()
    for step in range(1, int(cap_B.max()) + 1):
        choice_A = chooser.choose(logits_RV, row_A, draw_A)
        goes_on = (cap_B[draw_A] > step) & ~np.isin(choice_A, stops)
        draw_A, row_A, choice_A = draw_A[goes_on], row_A[goes_on], choice_A[goes_on]
        if not len(draw_A):
            break
        row_A = rows.branch(row_A, choice_A)
        logits_RV = rows.feed()
    rows.keep(np.arange(rows.count))


def cache_of(model: Any, rows: int, columns: int) -> DynamicCache | None:
    """An empty cache with room for rows and columns; None where the model keeps more than keys and values."""
    cache = DynamicCache(config=model.config.get_text_config())
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)
    learned_prompt = hasattr(model, "get_base_model") and model.active_peft_config.is_prompt_learning
    if not plain or not cache.layers or learned_prompt:
        return None
    cache.layers = [_RoomyLayer(rows, columns, layer.is_sliding) for layer in cache.layers]
    return cache


class _RoomyLayer(DynamicLayer):
    """Keys and values written in place, where `DynamicLayer` copies all of them at every step.

    A sliding layer keeps what has left its window too: the mask hides it.
    """

    def __init__(self, rows: int, columns: int, is_sliding: bool) -> None:
        super().__init__()
        self.rows, self.columns, self.is_sliding = rows, columns, is_sliding

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.room = [
            states.new_empty(self.rows, self.columns, states.size(1), states.size(3))
            for states in (key_states, value_states)
        ]
        self._show(0, 0)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.keys.size(2), self.keys.size(2) + key_states.size(2)
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[: len(states), start:end] = states.transpose(1, 2)
        self._show(len(key_states), end)
        return self.keys, self.values

    def select(self, source_U: Tensor, unchanged: int) -> None:
        """Row u becomes a copy of row `source_U[u]`; the first rows stay as they are."""
        length, source = self.keys.size(2), source_U[unchanged:].to(self.device)
        for room in self.room:
            room[unchanged : len(source_U), :length] = room[:, :length][source]
        self._show(len(source_U), length)

    def _show(self, rows: int, columns: int) -> None:
        self.keys, self.values = (room[:rows, :columns].transpose(1, 2) for room in self.room)


class _Rows:
    """The rows of a batch: tokens, which columns hold one, and the cache."""

    def __init__(
        self, model: Any, prompts: list[tuple[int, ...]], most: int, steps: int, carried: CarriedCache | None
    ) -> None:
        self.model, self.carried, self.count = model, carried, len(prompts)
        found = [carried.find(prompt) if carried else NOTHING for prompt in prompts]
        self.seen = max(length for length, *_ in found)
        fresh = max(len(prompt) - length for prompt, (length, *_) in zip(prompts, found, strict=True))
        self.filled = self.seen + fresh
        columns = self.filled + steps - 1
        self.ids_RC = np.zeros((most, columns), np.int64)
        self.mask_RC = np.zeros((most, columns), bool)
        for row, (prompt, (length, *_)) in enumerate(zip(prompts, found, strict=True)):
            for ids, end in ((prompt[:length], self.seen), (prompt[length:], self.filled)):
                self.ids_RC[row, end - len(ids) : end] = ids
                self.mask_RC[row, end - len(ids) : end] = True
        self.cache = cache_of(model, most, columns)
        if carried and self.seen:
            carried.read(found, self.cache.layers, self.seen)
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        taken = inspect.signature(inner.forward).parameters
        self.last_only = {"logits_to_keep": 1} if "logits_to_keep" in taken else {}
        self.positioned = "position_ids" in taken

    def read(self) -> Tensor:
        """Feed what of the prompts was not read before; logits (R, V) of what comes next."""
        return self._forward(self.filled - self.seen)

    def feed(self) -> Tensor:
        """Feed the last column."""
        return self._forward(1)

    def _forward(self, columns: int) -> Tensor:
        device = self.model.device
        mask_RC = self.mask_RC[: self.count, : self.filled]
        position_RQ = mask_RC.cumsum(1)[:, -columns:] - 1
        extra: dict[str, Any] = dict(self.last_only)
        if self.positioned:
            extra["position_ids"] = torch.from_numpy(position_RQ.clip(0)).to(device)
        logits = self.model(
            input_ids=torch.from_numpy(self.ids_RC[: self.count, self.filled - columns : self.filled]).to(device),
            attention_mask=torch.from_numpy(mask_RC).to(device, torch.int64),
            past_key_values=self.cache,
            use_cache=True,
            **extra,
        ).logits
        return logits[:, -1].float()

    def branch(self, row_A: np.ndarray, choice_A: np.ndarray) -> np.ndarray:
        """Append the chosen tokens, one row for each distinct context; the row of each draw."""
        width = choice_A.max() + 1
        pair_U, of_A = np.unique(row_A * width + choice_A, return_inverse=True)
        parent_U, token_U = np.divmod(pair_U, width)
        eldest_U = np.r_[True, parent_U[1:] != parent_U[:-1]]
        if 2 * eldest_U.sum() <= self.count:
            gone = np.setdiff1d(np.arange(self.count), parent_U)
            self.keep(gone)
            row_U = np.arange(len(parent_U))
            self._select(parent_U, 0)
        else:
            younger = parent_U[~eldest_U]
            row_U = parent_U.copy()
            row_U[~eldest_U] = self.count + np.arange(len(younger))
            if len(younger):
                self._select(np.r_[np.arange(self.count), younger], self.count)
        self.ids_RC[row_U, self.filled] = token_U
        self.mask_RC[row_U, self.filled] = True
        self.filled += 1
        return row_U[of_A]

    def _select(self, source_U: np.ndarray, unchanged: int) -> None:
        new = slice(unchanged, len(source_U))
        self.ids_RC[new] = self.ids_RC[source_U[new]]
        self.mask_RC[new] = self.mask_RC[source_U[new]]
        source = torch.from_numpy(source_U)
        for layer in self.cache.layers:
            layer.select(source, unchanged)
        self.count = len(source_U)

    def keep(self, rows: np.ndarray) -> None:
        """Carry some rows over to later batches."""
        if self.carried and len(rows):
            shown = slice(0, self.filled)
            self.carried.keep(rows, self.cache.layers, self.ids_RC[rows, shown], self.mask_RC[rows, shown])
