"""Forwards of a scorer: padded batches, and for decoders each prompt read once for all its answers.

A group of completions shares profile and question, which are most of the tokens. A decoder reads them once; every
answer goes on from a copy of the keys and values. Holes that padding leaves between the two are masked, and positions
count the visible tokens only.

Legend: B answers, P different prompts, T tokens.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from rlft.em.reading import cache_can_be_copied
from rlft.reward_models.encode import Encoded


class Forward:
    """Runs a model over encoded texts.

    Args:
        model: a sequence-classification model with one output, bare or with an adapter.
        pad_id: fills up rows, on the right.
        types: whether the model takes `token_type_ids`.
        encoder: whether it reads both ways, so that nothing can be shared.
    """

    def __init__(self, model: Any, pad_id: int, types: bool, encoder: bool) -> None:
        base = getattr(model, "get_base_model", lambda: model)()
        self.model, self.pad_id, self.types = model, pad_id, types
        self._config, self._shares = base.config, not encoder and cache_can_be_copied(base)

    @torch.inference_mode()
    def __call__(self, batch: Sequence[Encoded]) -> Tensor:
        """Outputs (B,), fp32 on the CPU."""
        heads = list(dict.fromkeys(_head(one) for one in batch))
        if self._shares and len(heads) < len(batch) and all(heads):
            logits_B1 = self._shared(batch, heads)
        else:
            types = [one.types for one in batch] if self.types else None
            logits_B1 = self.model(**self._placed(padded([one.ids for one in batch], self.pad_id, types))).logits
        return logits_B1.squeeze(-1).float().cpu()

    def _shared(self, batch: Sequence[Encoded], heads: Sequence[tuple[int, ...]]) -> Tensor:
        row_of = {head: row for row, head in enumerate(heads)}
        first = self._placed(padded([list(head) for head in heads], self.pad_id, None))
        rest = self._placed(padded([one.ids[one.head :] for one in batch], self.pad_id, None))
        rows_B = torch.tensor([row_of[_head(one)] for one in batch], device=first["input_ids"].device)
        cache = DynamicCache(config=self._config)
        self.model(**first, past_key_values=cache, use_cache=True)
        cache.batch_select_indices(rows_B)
        seen_BT, new_BT = first["attention_mask"][rows_B], rest["attention_mask"]
        positions_BT = (seen_BT.sum(1, keepdim=True) + new_BT.cumsum(1) - 1) * new_BT
        return self.model(
            input_ids=rest["input_ids"],
            attention_mask=torch.cat([seen_BT, new_BT], 1),
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
        ).logits

    def _placed(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        device = next(self.model.parameters()).device
        return {name: tensor.to(device) for name, tensor in inputs.items()}


def padded(ids: Sequence[list[int]], pad_id: int, types: Sequence[list[int]] | None) -> dict[str, Tensor]:
    """A batch (B, T), padded on the right: `input_ids`, `attention_mask` and, where given, `token_type_ids`."""
    length = max(map(len, ids))

    def tensor(rows: Sequence[list[int]], fill: int) -> Tensor:
        return torch.tensor([row + [fill] * (length - len(row)) for row in rows])

    inputs = {"input_ids": tensor(ids, pad_id), "attention_mask": tensor([[1] * len(row) for row in ids], 0)}
    return inputs if types is None else inputs | {"token_type_ids": tensor(types, 0)}


def batches(encoded: dict[bytes, Encoded], batch_tokens: int) -> Iterator[list[bytes]]:
    """Keys in order of length, answers to one prompt side by side; as many at a time as fit, one at least.

    Args:
        encoded: texts by key.
        batch_tokens: tokens of a batch, padding and copies of shared ones included.
    """
    batch: list[bytes] = []
    head = tail = 0
    for key in sorted(encoded, key=lambda key: (encoded[key].head, _head(encoded[key]), len(encoded[key].ids))):
        one = encoded[key]
        head, tail = max(head, one.head), max(tail, len(one.ids) - one.head)
        if batch and (len(batch) + 1) * (head + tail) > batch_tokens:
            yield batch
            batch, head, tail = [], one.head, len(one.ids) - one.head
        batch.append(key)
    if batch:
        yield batch


def _head(one: Encoded) -> tuple[int, ...]:
    return tuple(one.ids[: one.head])
