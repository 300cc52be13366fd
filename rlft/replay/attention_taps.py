"""Where attention is taken from a running model: transformers' public registry of attention functions, or its maps.

Legend: B texts, T tokens, H query heads, K key heads, D head size.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from rlft.replay.columns import map_columns, softmax_columns
from rlft.replay.value_sizes import projection_of, value_sizes

Method = Literal["stream", "eager"]
EAGER_OPTION = (
    'use method="eager" (eager_attention of STOCConfig), which reads the maps of the model\'s own eager attention.'
)

_NAME = "rlft_attention_mass"
# Arguments of an attention function that leave the map alone, or have done their part when it is called: windows are
# in the mask, rotary embedding is in queries and keys. Any other that is set, such as softcap, s_aux (attention
# sinks), position_bias or block indices, makes a map that is not recomputed here.
_HARMLESS = {"dropout", "is_causal", "position_embeddings", "position_ids", "scaling", "sliding_window", "use_cache"}


class Tally:
    """Columns summed over layers so far, and the modules that they came from.

    Args:
        valid_BT: True at tokens, False at padding.
        by_value: whether A_ij is weighted by ||W_O^h v_j||.
    """

    def __init__(self, valid_BT: Tensor, by_value: bool) -> None:
        self.valid_BT, self.by_value = valid_BT, by_value
        self.total_BT = torch.zeros(valid_BT.shape, dtype=torch.float64)
        self.seen: Counter[nn.Module] = Counter()
        self.projected: Counter[nn.Module] = Counter()
        self.hooks = ExitStack()

    def add(self, module: nn.Module, columns_BT: Tensor) -> None:
        """Count one map of a module."""
        self.total_BT += columns_BT.cpu()
        self.seen[module] += 1

    def attend(
        self, module: nn.Module, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, mask: Any, **known: Any
    ) -> tuple[Tensor, None]:
        """An attention function: what the ordinary kernel gives, with the columns counted on the side."""
        _check_call(module, query_BHTD, key_BKTD, mask, known, self.valid_BT)
        scaling = query_BHTD.shape[-1] ** -0.5 if known.get("scaling") is None else known["scaling"]
        kernel = AttentionInterface()["sdpa"]
        output_BTHD, _ = kernel(module, query_BHTD, key_BKTD, value_BKTD, mask, **known | {"dropout": 0.0})
        sizes_BHT = self._sizes(module, value_BKTD, output_BTHD) if self.by_value else None
        valid_BT = self.valid_BT.to(query_BHTD.device)
        self.add(module, softmax_columns(query_BHTD, key_BKTD, mask, scaling, valid_BT, sizes_BHT))
        return output_BTHD, None

    def _sizes(self, module: nn.Module, value_BKTD: Tensor, output_BTHD: Tensor) -> Tensor:
        heads, size = output_BTHD.shape[2:]
        projection = projection_of(module, heads * size)
        sizes_BHT = value_sizes(value_BKTD, projection, heads)

        def check(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            if not torch.equal(args[0].flatten(), output_BTHD.flatten()):
                raise ValueError(
                    f"{type(module).__name__} changes what its heads give before it projects it (a gate or a norm), "
                    'which weighting="value" does not know: use weighting="mean".'
                )
            self.projected[module] += 1
            handle.remove()

        handle = projection.register_forward_pre_hook(check)
        self.hooks.callback(handle.remove)
        return sizes_BHT


_running: ContextVar[Tally] = ContextVar("attention_mass")


def _attention(module: nn.Module, *args: Any, attention_mask: Any = None, **kwargs: Any) -> tuple[Tensor, None]:
    # The mask is the fourth tensor, by place or by name.
    tensors = args if len(args) == 4 else (*args, attention_mask)
    return _running.get().attend(module, *tensors, **kwargs)


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, AttentionMaskInterface()["sdpa"])


@contextmanager
def streaming(base: Any, tally: Tally) -> Iterator[dict[str, Any]]:
    """Every attention layer calls `tally.attend`; gives the arguments that the forward needs.

    Raises:
        ValueError: if the model's attention cannot be exchanged.
    """
    token = _running.set(tally)
    try:
        with tally.hooks, _implementation_kept(base):
            # The first says whether the ordinary kernel does for this model what eager attention does.
            for name in ("sdpa", _NAME):
                _exchange(base, name)
            yield {}
    finally:
        _running.reset(token)


@contextmanager
def eager(base: Any, tally: Tally) -> Iterator[dict[str, Any]]:
    """Maps leave the forward where they arise, so that only one layer's are held; gives the forward's arguments."""
    texts, length = tally.valid_BT.shape

    def take(module: nn.Module, _: Any, output: Any) -> Any:
        if not isinstance(output, tuple):
            return None
        places = [place for place, part in enumerate(output) if _is_map(part, texts, length)]
        if not places:
            return None
        if len(places) > 1:
            raise ValueError(f"{type(module).__name__} returns {len(places)} tensors that could be its map.")
        map_BHTT = output[places[0]]
        tally.add(module, map_columns(map_BHTT, tally.valid_BT.to(map_BHTT.device)))
        return *output[: places[0]], None, *output[places[0] + 1 :]

    with tally.hooks, _implementation_kept(base):
        base.set_attn_implementation("eager")
        for module in base.modules():
            # Before all other hooks, or transformers' own would keep the maps.
            tally.hooks.callback(module.register_forward_hook(take, prepend=True).remove)
        yield {"output_attentions": True}


@contextmanager
def _implementation_kept(base: nn.Module) -> Iterator[None]:
    """Puts back which attention function each part of the model uses."""
    configs = {id(part.config): part.config for part in base.modules() if isinstance(part, PreTrainedModel)}
    own = [(config, _implementations(config)) for config in configs.values()]
    try:
        yield
    finally:
        for config, names in own:
            # Set on the configuration: the model's setter would check again, and knows no None.
            config._attn_implementation = names


def _implementations(config: Any) -> Any:
    """A configuration's attention implementation; a dict where its parts have configurations of their own."""
    parts = {name: part for name in config.sub_configs if (part := getattr(config, name)) is not None}
    own = config._attn_implementation
    return {"": own} | {name: _implementations(part) for name, part in parts.items()} if parts else own


def _exchange(base: Any, name: str) -> None:
    kind = type(base).__name__
    try:
        base.set_attn_implementation(name)
    except ValueError as error:
        raise ValueError(f"{kind} does not run on the ordinary attention kernel: {EAGER_OPTION}") from error
    if base.config._attn_implementation != name:
        raise ValueError(f"{kind} computes attention by code of its own: {EAGER_OPTION}")


def _check_call(module: nn.Module, query: Tensor, key: Tensor, mask: Any, known: dict[str, Any], valid: Tensor) -> None:
    """Refuse what makes a map other than softmax(query key^T scaling) under the mask."""
    texts, length = valid.shape
    unknown = sorted(name for name, setting in known.items() if setting is not None and name not in _HARMLESS)
    kind = type(module).__name__
    if unknown:
        raise ValueError(f"{kind} sets {', '.join(unknown)}, which streaming does not know: {EAGER_OPTION}")
    shapes = [(shape[0], shape[2]) for shape in (query.shape, key.shape)]
    if shapes != [(texts, length)] * 2:
        raise ValueError(f"{kind} attends to something other than the {length} tokens themselves: {EAGER_OPTION}")
    if mask is None:
        causal = known.get("is_causal")
        if not (getattr(module, "is_causal", True) if causal is None else causal):
            raise ValueError(f"{kind} attends both ways; attention mass is defined for causal attention only.")
    elif mask.dtype != torch.bool or mask.shape[1] != 1 or mask.shape[2:] != (length, length):
        raise ValueError(f"{kind} has a mask of {mask.dtype} {tuple(mask.shape)}, a bias perhaps: {EAGER_OPTION}")


def _is_map(part: Any, texts: int, length: int) -> bool:
    return isinstance(part, Tensor) and part.ndim == 4 and (part.shape[0], *part.shape[2:]) == (texts, length, length)
