"""How much of the residual stream a value can move: ||W_O^h v_j||, for norm-based attribution.

Kobayashi et al., "Attention is Not Only a Weight: Analyzing Transformers with Vector Norms", EMNLP 2020
(arXiv 2004.10102), section 3. Legend as in `rlft.replay.columns`; C channels of the residual stream.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

Weighting = Literal["mean", "value"]

# What the output projection of an attention module is called: Llama, Qwen, Mistral, Gemma | GPT-NeoX, Phi, Falcon |
# GPT-2 | OPT, GPT-Neo, GPT-J.
PROJECTIONS = ("o_proj", "dense", "c_proj", "out_proj")

# Far above a weight: in half precision a bias would otherwise swallow the weight's bits.
_UNIT = 256.0


def projection_of(module: nn.Module, inputs: int) -> nn.Module:
    """The output projection of an attention module.

    Args:
        module: the attention module.
        inputs: channels it must read: query heads times value size.

    Raises:
        ValueError: if no child has a known name, or several have, or it reads another number of channels.
    """
    found = {name: child for name in PROJECTIONS if isinstance(child := getattr(module, name, None), nn.Module)}
    kind = type(module).__name__
    if len(found) != 1:
        raise ValueError(
            f'{kind} has {sorted(found) or "none"} of the output projections {", ".join(PROJECTIONS)}, and "value" '
            'needs exactly one: use weighting="mean".'
        )
    ((name, projection),) = found.items()
    reads = _inputs(projection)
    if reads != inputs:
        raise ValueError(f'{kind}.{name} reads {reads} channels, its heads give {inputs}: use weighting="mean".')
    return projection


def value_sizes(value_BKTD: Tensor, projection: nn.Module, heads: int) -> Tensor:
    """||W_O^h v_j|| of each query head and token, with adapters on the projection and without its bias.

    Args:
        value_BKTD: values, of K heads.
        projection: linear layer from the heads' values, side by side, to the residual stream.
        heads: query heads H.

    Returns:
        (B, H, T), fp32.
    """
    value_BK1TD = value_BKTD.float().unsqueeze(2)
    channels = heads * value_BKTD.shape[-1]
    # Asking the layer itself holds for Linear and Conv1D, for adapters and quantised weights alike.
    eye = torch.eye(channels, dtype=value_BKTD.dtype, device=value_BKTD.device)
    weight_IC = (projection(_UNIT * eye).float() - projection(torch.zeros_like(eye[:1])).float()) / _UNIT
    weight_HDC = weight_IC.unflatten(0, (heads, -1))
    gram_KGDD = (weight_HDC @ weight_HDC.mT).unflatten(0, (value_BKTD.shape[1], -1))
    squared_BKGT = ((value_BK1TD @ gram_KGDD) * value_BK1TD).sum(-1)
    return squared_BKGT.clamp_min(0).sqrt().flatten(1, 2)


def _inputs(projection: Any) -> int:
    # transformers' Conv1D keeps its weight as (inputs, outputs) and names no sizes that adapters pass on.
    return projection.in_features if hasattr(projection, "in_features") else projection.weight.shape[0]
