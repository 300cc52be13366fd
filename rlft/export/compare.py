"""Is the model that an export gives the one that the run saved? Log-probs of the run's own texts, token by token.

Shapes: N tokens with one before them, over all rows; T tokens of a row; V tokens of the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest mean difference of log-probs, in nats, by the coarser dtype of the two."""
LARGEST_SHARE = 0.5
"""Of the change that training made: more than that lost, the export is nearer to the base than it should be."""


@dataclass(frozen=True)
class Comparison:
    """Two models on the same tokens, in nats."""

    mean: float
    """Of the absolute differences of log-probs."""
    largest: float
    effect: float | None
    """Mean absolute difference that the adapter makes to its base; None for a whole model."""
    dtype: str
    tokens: int

    def __str__(self) -> str:
        differ = f"log-probs of {self.tokens} tokens differ by {self.mean:.1e} on average, at most {self.largest:.1e}"
        return differ if self.effect is None else f"{differ}; training changed them by {self.effect:.1e}"


def token_logprobs(model: Any, rows: Sequence[Sequence[int]]) -> Tensor:
    """Log-prob of every token that has one before it.

    Args:
        model: a causal language model in evaluation mode.
        rows: token ids, two or more each.

    Returns:
        (N,) fp32 on the CPU.
    """
    found = []
    with torch.no_grad():
        for row in rows:
            ids_1T = torch.tensor([list(row)], device=model.device)
            logits_TV = model(input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T)).logits[0, :-1].float()
            found.append(logits_TV.log_softmax(-1).gather(1, ids_1T[0, 1:, None])[:, 0].cpu())
    return torch.cat(found)


def compare(saved_N: Tensor, exported_N: Tensor, base_N: Tensor | None, dtype: torch.dtype, place: str) -> Comparison:
    """Compare an export with what the run saved.

    Args:
        saved_N: log-probs of the model that the run saved.
        exported_N: of the export, loaded again.
        base_N: of the base without its adapter; None for a whole model.
        dtype: the coarser one of the two models' dtypes.
        place: the export, for messages.

    Raises:
        ValueError: if they differ by more than rounding to `dtype` explains, or rounding undid the training.
    """
    apart_N = (exported_N - saved_N).abs()
    effect = None if base_N is None else (saved_N - base_N).abs().mean().item()
    name = str(dtype).removeprefix("torch.")
    found = Comparison(apart_N.mean().item(), apart_N.max().item(), effect, name, len(apart_N))
    if not found.mean <= TOLERANCE[dtype]:  # NaN fails too
        raise ValueError(
            f"{place} is not the model that the run saved: {found}. In {name}, {TOLERANCE[dtype]:g} on average is "
            "allowed. Export in float32 (--dtype float32); if that differs too, the base is not the one that was "
            "trained, or a file is damaged."
        )
    if effect and found.mean > LARGEST_SHARE * effect:
        raise ValueError(
            f"rounding to {name} undoes the training in {place}: {found}. Export in a finer --dtype (float32), or the "
            "adapter alone (--form adapter)."
        )
    return found
