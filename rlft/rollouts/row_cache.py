"""A key-value cache with room to grow: written in place, and its rows can be copied.

Legend: C columns, D size of a head, H key-value heads, R rows, U rows afterwards.
"""

import inspect
from functools import cache
from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


class RowLayer(DynamicLayer):
    """Keys and values of one layer, where `DynamicLayer` would copy all of them at every step.

    A sliding layer keeps what has left its window too; the mask hides it.

    Args:
        rows: most rows, R.
        columns: most columns, C.
        is_sliding: whether the model masks it with a window.
    """

    def __init__(self, rows: int, columns: int, is_sliding: bool) -> None:
        super().__init__()
        self.rows, self.columns, self.is_sliding = rows, columns, is_sliding
        self.room_RCHD: list[Tensor] = []
        """Keys and values, tokens together, so that a token is copied in one piece."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take the room, of the states' heads, dtype and device."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.room_RCHD = [
            states.new_empty(self.rows, self.columns, states.size(1), states.size(3))
            for states in (key_states, value_states)
        ]
        self._show(0, 0)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append columns (R, H, new, D) and give all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.size(2)
        for room_RCHD, states in zip(self.room_RCHD, (key_states, value_states), strict=True):
            room_RCHD[: len(states), start:end] = states.transpose(1, 2)
        self._show(len(key_states), end)
        return self.keys, self.values  # type: ignore[return-value]

    def select(self, source_U: Tensor, unchanged: int) -> None:
        """Row u becomes a copy of row `source_U[u]`; the first `unchanged` rows stay as they are."""
        length, source = self.get_seq_length(), source_U[unchanged:].to(self.device)
        for room_RCHD in self.room_RCHD:
            room_RCHD[unchanged : len(source_U), :length] = room_RCHD[:, :length][source]
        self._show(len(source_U), length)

    def _show(self, rows: int, columns: int) -> None:
        self.keys, self.values = (room_RCHD[:rows, :columns].transpose(1, 2) for room_RCHD in self.room_RCHD)


class RowCache(DynamicCache):
    """An empty cache with room for rows and columns, for a model with `keeps_rows`."""

    def __init__(self, model: Any, rows: int, columns: int) -> None:
        super().__init__()
        self.rows = [RowLayer(rows, columns, sliding) for sliding in _windows(model)]
        self.layers, self.layer_class_to_replicate = list(self.rows), None


def keeps_rows(model: Any) -> bool:
    """Whether the model keeps keys and values only, so that a row can be copied, and reads tokens only."""
    # Prompts that PEFT has learned stand before the tokens; its own `generate` puts them there.
    learned_prompt = hasattr(model, "get_base_model") and model.active_peft_config.is_prompt_learning
    return bool(_windows(model)) and not learned_prompt


def may_have_holes(model: Any) -> bool:
    """Whether columns between a row's tokens may be empty: not if the model counts distances in columns."""
    return keeps_rows(model) and not any(_windows(model)) and takes(model, "position_ids")


def takes(model: Any, name: str) -> bool:
    """Whether the model's forward has an argument of that name."""
    kind: Any = type(model.get_base_model() if hasattr(model, "get_base_model") else model)
    return name in _arguments(kind)


@cache
def _arguments(kind: Any) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


def _windows(model: Any) -> list[bool]:
    """Whether each layer sees a window only; nothing where a layer keeps more than keys and values."""
    layers = DynamicCache(config=model.config.get_text_config()).layers
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    return [isinstance(layer, DynamicSlidingWindowLayer) for layer in layers] if plain else []
