"""How much attention each token of a text receives: column sums of the causal map, mean over layers and heads.

STOC (arXiv 2605.10640) picks its replay seeds by c_j = sum_{i >= j} Abar_ij with Abar the mean of all layers' and
heads' maps. Kernels give no maps, and those of all layers take layers x heads x T^2 numbers. The streaming path lets
the ordinary kernel run, takes queries and keys as it gets them (after rotary embedding), and recomputes the columns by
blocks. It knows plain softmax attention, with grouped heads, sliding windows and padding; the rest is refused.

Legend: B texts, T tokens.
"""

import inspect
import warnings
from typing import Any, get_args

import torch
from torch import Tensor

from rlft.evaluate.mode import evaluation_mode
from rlft.replay.attention_taps import EAGER_OPTION, Method, Tally, eager, streaming
from rlft.replay.value_sizes import Weighting

# A row's sum is exact up to rounding; anything further off is a fault.
_SUM_TOLERANCE = 1e-3


def attention_mass(
    model: Any,
    input_ids_BT: Tensor,
    attention_mask_BT: Tensor | None = None,
    *,
    weighting: Weighting = "mean",
    method: Method = "stream",
) -> Tensor:
    """Attention that each token receives from itself and all later ones.

    Args:
        model: causal LM of transformers, bare or with an adapter; its attention implementation and training mode are
            afterwards as before.
        input_ids_BT: token ids.
        attention_mask_BT: 1 at tokens, 0 at padding on either side; all tokens if not given. A padded text gets the
            mass that it has on its own.
        weighting: "mean" counts A_ij as it is; "value" counts A_ij ||W_O^h v_j|| of each head (norm-based attribution,
            arXiv 2004.10102), each row of it divided by its sum, so that it is a distribution again.
        method: "stream" recomputes the maps of plain softmax attention by blocks; "eager" reads them from the model's
            eager attention, one layer at a time. There, layers without a map (linear attention, state space) are
            left out with a warning, and a row that gives a part to an attention sink is scaled up to sum to 1.

    Returns:
        (B, T), fp32 on the CPU; 0 at padding; a row sums to its number of tokens.

    Raises:
        ValueError: for an unknown option, ids or a mask of the wrong shape or content, a text without tokens, an
            adapter of virtual tokens, an encoder-decoder, or attention that the method does not know.
        FloatingPointError: if the sums are not the numbers of tokens, as when weights are not finite.
    """
    _check_options(weighting, method)
    base = _checked_base(model)
    inputs, valid_BT = _checked_inputs(base, input_ids_BT, attention_mask_BT)
    tally = Tally(valid_BT, by_value=weighting == "value")
    tapped = streaming(base, tally) if method == "stream" else eager(base, tally)
    with torch.no_grad(), evaluation_mode(base), tapped as arguments:
        # The body alone: nobody reads the logits.
        base.base_model(**inputs, **arguments, use_cache=False)
    _check_layers(base, tally, method)
    return _checked_mass(tally.total_BT / sum(tally.seen.values()), valid_BT.cpu())


def _check_options(weighting: str, method: str) -> None:
    for name, option, known in (
        ("weighting", weighting, get_args(Weighting)),
        ("method", method, get_args(Method)),
    ):
        if option not in known:
            raise ValueError(f"{name} is {option!r}; it must be one of {', '.join(known)}.")
    if (weighting, method) == ("value", "eager"):
        raise ValueError('weighting="value" needs the values, which eager maps do not hold: use method="stream".')


def _checked_base(model: Any) -> Any:
    """The model of transformers, adapters in its layers."""
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError("a prompt-learning adapter puts tokens of its own before the text; use LoRA or the like.")
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if base.config.is_encoder_decoder:
        raise ValueError(f"{type(base).__name__} is an encoder-decoder; attention mass needs a causal LM.")
    return base


def _checked_inputs(base: Any, ids_BT: Tensor, mask_BT: Tensor | None) -> tuple[dict[str, Tensor], Tensor]:
    """What the model reads, and where it reads tokens (B, T), bool."""
    if ids_BT.ndim != 2 or not ids_BT.numel() or ids_BT.is_floating_point():
        raise ValueError(f"input_ids_BT is {ids_BT.dtype} of shape {tuple(ids_BT.shape)}; it must be integers (B, T).")
    embedding = base.get_input_embeddings().weight
    if ids_BT.min() < 0 or ids_BT.max() >= len(embedding):
        raise ValueError(f"ids run from {ids_BT.min()} to {ids_BT.max()}; the vocabulary has {len(embedding)} tokens.")
    ids_BT = ids_BT.to(embedding.device)
    if mask_BT is None:
        return {"input_ids": ids_BT}, torch.ones_like(ids_BT, dtype=torch.bool)
    if mask_BT.shape != ids_BT.shape or not ((mask_BT == 0) | (mask_BT == 1)).all():
        raise ValueError(f"attention_mask_BT must hold 0 and 1 in the shape of the ids, {tuple(ids_BT.shape)}.")
    valid_BT = mask_BT.to(ids_BT.device).bool()
    empty = (~valid_BT.any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"texts {empty} are all padding; leave them out.")
    if valid_BT.all():
        return {"input_ids": ids_BT}, valid_BT
    inputs = {"input_ids": ids_BT, "attention_mask": valid_BT.long()}
    if "position_ids" in inspect.signature(base.base_model.forward).parameters:
        # Without them a model counts padding on the left as tokens.
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
    return inputs, valid_BT


def _check_layers(base: Any, tally: Tally, method: Method) -> None:
    """Every layer gave its columns, and once."""
    name, seen = type(base).__name__, len(tally.seen)
    layers = base.config.get_text_config(decoder=True).num_hidden_layers
    if not seen:
        hint = EAGER_OPTION if method == "stream" else "its scores cannot be had this way."
        raise ValueError(f"none of the {layers} layers of {name} gave an attention map: {hint}")
    if method == "eager":
        if seen < layers:
            warnings.warn(f"{name}: mean over the {seen} of {layers} layers that have attention maps.", stacklevel=3)
        return
    if seen != layers or max(tally.seen.values()) > 1:
        raise ValueError(
            f"{name} has {layers} layers, but {seen} modules called the attention function "
            f"{sum(tally.seen.values())} times; the others have attention of another kind, or share it: {EAGER_OPTION}"
        )
    if tally.by_value and tally.projected != tally.seen:
        raise ValueError(f'{name} does not project what its heads give directly: use weighting="mean".')


def _checked_mass(mass_BT: Tensor, valid_BT: Tensor) -> Tensor:
    """Mass in fp32, 0 at padding."""
    mass_BT = mass_BT * valid_BT
    sums, tokens = mass_BT.sum(1).tolist(), valid_BT.sum(1).tolist()
    wrong = [
        f"text {text}: {total:.6g} of {count}"
        for text, (total, count) in enumerate(zip(sums, tokens, strict=True))
        if not abs(total - count) <= _SUM_TOLERANCE * count  # true for nan, too
    ]
    if wrong:
        raise FloatingPointError(
            f"attention mass must sum to the number of tokens; {', '.join(wrong)}. Weights that are not finite, or a "
            "model that does not heed its attention mask, are the likely causes."
        )
    return mass_BT.float()
