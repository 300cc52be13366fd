"""What a model and its adapter are made of, counted on the meta device: no weight is read and no memory taken."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Size:
    """Parameters of a model with or without an adapter, and the numbers that memory grows with."""

    parameters: int
    """Of the base."""
    quantised: int
    """Of them those in linear layers, which 4-bit and 8-bit loading shrinks; the output head is not among them."""
    trainable: int
    adapter: int
    """Of an adapter; 0 without one."""
    targets: tuple[str, ...]
    """Names of the modules that the adapter adds to."""
    layers: int
    hidden: int
    queries: int
    """Query heads times their width."""
    keys: int
    """Key heads times their width; a layer caches as many values again."""
    feed_forward: int
    vocabulary: int
    positions: int | None


def size_of(config: Any, peft_config: Any = None) -> Size:
    """Count what a configuration describes.

    Args:
        config: of a causal language model.
        peft_config: of an adapter; None trains all parameters.

    Raises:
        ValueError: if there is no such model, or the adapter matches no module.
    """
    from accelerate import init_empty_weights
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    with init_empty_weights():
        model: Any = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    parameters = sum(one.numel() for one in model.parameters())
    head = model.get_output_embeddings()
    linear = [part for part in model.modules() if isinstance(part, torch.nn.Linear) and part is not head]
    quantised, trainable, targets = sum(part.weight.numel() for part in linear), parameters, ()
    if peft_config is not None:
        model = get_peft_model(model, peft_config, low_cpu_mem_usage=True)
        trainable = sum(one.numel() for one in model.parameters() if one.requires_grad)
        targets = tuple(model.targeted_module_names)
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", 0)  # a model need not have attention
    width = getattr(text, "head_dim", None) or text.hidden_size // max(heads, 1)
    return Size(
        parameters=parameters,
        quantised=quantised,
        trainable=trainable,
        adapter=trainable if peft_config is not None else 0,
        targets=targets,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        queries=heads * width,
        keys=(getattr(text, "num_key_value_heads", None) or heads) * width,
        feed_forward=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        vocabulary=text.vocab_size,
        positions=getattr(text, "max_position_embeddings", None),
    )


def coverage(size: Size) -> str:
    """How much of the model an adapter trains: `21 modules (q_proj, v_proj): 0.09 M of 0.44 M parameters (19.9 %)`."""
    if not size.adapter:
        return f"all {millions(size.parameters)} parameters; no adapter (--use_peft trains one)"
    kinds = ", ".join(sorted({name.rpartition(".")[2] for name in size.targets}))
    trained = f"{millions(size.adapter)} beside {millions(size.parameters)} parameters"
    share = size.adapter / (size.parameters + size.adapter)
    return f"{trained}, {share:.1%} of all, in {len(size.targets)} modules: {kinds}"


def millions(count: int) -> str:
    """A number of parameters for people: `0.35 M`, `1.54 B`."""
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"
