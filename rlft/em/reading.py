"""Reading token rows piece by piece through a causal language model, with log-probabilities where they are wanted.

Shapes: R rows, T tokens of a piece or of all pieces so far, M wanted tokens, V vocabulary.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import DynamicCache, DynamicLayer

Wanted = list[tuple[int, int, int]]
"""Row, column whose state predicts the token, token."""


class Reader:
    """Rows that the model reads piece by piece, each piece right-padded.

    Padding leaves holes in the cache, which attention does not see; positions count the visible tokens only.

    Args:
        model: what is called.
        base: the same without an adapter's wrapper.
        pad_id: fills up the pieces.
    """

    def __init__(self, model: nn.Module, base: Any, pad_id: int):
        self.model, self.base, self.pad_id = model, base, pad_id
        self.device = base.get_input_embeddings().weight.device
        self.cache: DynamicCache | None = None
        self.visible_RT: Tensor | None = None

    def branch(self, rows: list[int]) -> None:
        """Make row n a copy of `rows[n]`."""
        assert self.cache is not None
        assert self.visible_RT is not None
        index = torch.tensor(rows, device=self.device)
        self.cache.batch_select_indices(index)
        self.visible_RT = self.visible_RT[index]

    def read(self, rows: list[list[int]], wanted: Wanted, *, more: bool) -> Tensor:
        """Append a piece to every row.

        Args:
            rows: R lists of token ids.
            wanted: M tokens whose log-probability is wanted.
            more: whether another piece will follow; only then are keys and values kept.

        Returns:
            (M,) fp32.
        """
        ids_RT = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=self.pad_id)
        mask_RT = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True)
        ids_RT, mask_RT = ids_RT.to(self.device), mask_RT.to(self.device)
        inputs: dict[str, Any] = {"input_ids": ids_RT, "attention_mask": mask_RT, "use_cache": False}
        if more or self.cache is not None:
            inputs |= self._go_on(mask_RT)
        where_M3 = torch.tensor(wanted, dtype=torch.long, device=self.device).reshape(-1, 3)
        logits_MV = self._logits(inputs, where_M3[:, 0], where_M3[:, 1])
        return logits_MV.gather(1, where_M3[:, 2:]).squeeze(1) - logits_MV.logsumexp(1)

    def _go_on(self, mask_RT: Tensor) -> dict[str, Any]:
        """Arguments that let the model see what was read before."""
        before_R1: Tensor | int = 0
        if self.cache is None or self.visible_RT is None:
            self.cache, self.visible_RT = DynamicCache(config=self.base.config), mask_RT
        else:
            before_R1 = self.visible_RT.sum(1, keepdim=True)
            self.visible_RT = torch.cat([self.visible_RT, mask_RT], 1)
        return {
            "attention_mask": self.visible_RT,
            "position_ids": (before_R1 + mask_RT.cumsum(1) - 1) * mask_RT,  # padding needs one that exists, too
            "past_key_values": self.cache,
            "use_cache": True,
        }

    def _logits(self, inputs: dict[str, Any], rows_M: Tensor, columns_M: Tensor) -> Tensor:
        """Logits (M, V) in fp32; the other positions are taken away before the output head."""

        def gather(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (args[0][rows_M, columns_M].unsqueeze(0), *args[1:])

        hook = self.base.get_output_embeddings().register_forward_pre_hook(gather)
        try:
            return self.model(**inputs).logits[0].float()
        finally:
            hook.remove()


def cache_can_be_copied(base: Any) -> bool:
    """Whether rows of the model's key-value cache may be repeated, and holes left in them."""
    config = base.config.get_text_config()
    arguments = inspect.signature(base.forward).parameters
    return (
        {"position_ids", "past_key_values"} <= arguments.keys()
        and all(type(layer) is DynamicLayer for layer in DynamicCache(config=base.config).layers)
        and "local" not in getattr(config, "attention_layers", ())  # GPT-Neo's windows do not show in its cache
        and not positions_depend_on_length(config)
    )


def positions_depend_on_length(config: Any) -> bool:
    """Whether a token's rotation depends on how long the longest row is, so that rows must be read whole and alone."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return any(kind.get("rope_type") in ("dynamic", "longrope") for kind in [parameters, *nested])
