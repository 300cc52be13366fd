"""`rlft check --weights`: the model itself, loaded as the run loads it, through one forward and one backward."""

from typing import Any

import torch

from rlft.check.size import coverage, millions, size_of
from rlft.check.text import section
from rlft.tiny import tasks
from rlft.tiny.skeleton import skeleton

TOKENS = 16


def try_weights(model: Any, training: Any, peft_config: Any) -> str:
    """Load a model, give it its adapter, and see that a loss is finite and every trained weight gets a gradient.

    Args:
        model, training: the parsed arguments.
        peft_config: LoRA configuration; None trains all parameters.

    Returns:
        What was seen, as a section.

    Raises:
        ValueError: for a loss that is not finite, or trained weights without a gradient.
    """
    from peft import get_peft_model

    torch.manual_seed(training.seed)
    loaded = _load(model, training)
    counted = size_of(loaded.config, peft_config)
    trained: Any = loaded if peft_config is None else get_peft_model(loaded, peft_config)
    ids_BT = torch.arange(1, TOKENS + 1).unsqueeze(0) % counted.vocabulary
    loss = trained(input_ids=ids_BT, labels=ids_BT).loss
    if not torch.isfinite(loss):
        raise ValueError(f"the loss of {model.model_name_or_path} is {loss.item()}; load it with --dtype float32.")
    loss.backward()
    without = [name for name, weight in trained.named_parameters() if weight.requires_grad and weight.grad is None]
    if without:
        raise ValueError(f"{len(without)} trained weights get no gradient, the first is {without[0]}; leave them out.")
    rows = [
        ("loaded", f"{millions(sum(one.numel() for one in loaded.parameters()))} parameters, the adapter's included"),
        ("trained", coverage(counted)),
        ("loss", f"{loss.item():.3f} on {TOKENS} tokens, with a gradient for every trained weight"),
    ]
    return section("Weights", rows)


def _load(model: Any, training: Any) -> Any:
    from transformers import AutoModelForCausalLM

    from rlft.prepare import model_init_kwargs_of

    name = str(model.model_name_or_path)
    if name in tasks.TASKS:
        return skeleton(name)[0]
    return AutoModelForCausalLM.from_pretrained(
        name, trust_remote_code=training.trust_remote_code, **model_init_kwargs_of(model)
    )
