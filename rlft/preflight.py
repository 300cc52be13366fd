"""Checks made before a model is loaded, and the batch table.

Whatever can be known from the configuration and the data is checked here: a run that starts should not fail for it
an hour later. Messages say what was seen, which rule it broke, and which knob to turn.
"""

import re
from typing import Any

from rlft.record.batch_table import batch_rows
from rlft.record.summary import summary_table


class PreflightError(ValueError):
    """A run that cannot work as configured."""


def check_batch(args: Any, train_rows: int, processes: int) -> str:
    """Verify the group arithmetic and describe it.

    Args:
        args: a `GRPOConfig`.
        train_rows: rows in the training set.
        processes: number of training processes.

    Returns:
        The batch table as text.

    Raises:
        PreflightError: if a generation batch cannot be filled from the dataset.
    """
    completions = args.generation_batch_size
    prompts = completions // args.num_generations
    if train_rows < prompts:
        raise PreflightError(
            f"one generation batch takes {prompts} prompts ({completions} completions / {args.num_generations} per "
            f"prompt) but the training set has {train_rows} rows; lower --per_device_train_batch_size or "
            "--gradient_accumulation_steps, or give more data."
        )
    return summary_table(batch_rows(args, processes))


def check_adapter_targets(model_name: str, config: Any, targets: Any) -> None:
    """Verify that every LoRA target names a module, on a skeleton of the model without weights.

    Args:
        model_name: for the message.
        config: the model's configuration.
        targets: `LoraConfig.target_modules`: several suffixes, a regular expression, `all-linear`, or None.

    Raises:
        PreflightError: naming the targets that match nothing and some modules that exist.
    """
    if targets is None or targets == "all-linear":
        return
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights():
        skeleton = AutoModelForCausalLM.from_config(config)
    names = [name for name, _ in skeleton.named_modules()]
    wanted = [targets] if isinstance(targets, str) else list(targets)
    missing = [target for target in wanted if not any(_matches(name, target, targets) for name in names)]
    if missing:
        leaves = sorted({name.rpartition(".")[2] for name in names if name.rpartition(".")[2].endswith("proj")})
        raise PreflightError(
            f"LoRA target {', '.join(map(repr, missing))} matches no module of {model_name}, which has "
            f"{', '.join(leaves or names[-5:])}; set --lora_target_modules."
        )


def _matches(name: str, target: str, targets: Any) -> bool:
    """PEFT's rule: a string is a regular expression for the whole name, a list holds names and suffixes."""
    if isinstance(targets, str):
        return re.fullmatch(target, name) is not None
    return name == target or name.endswith(f".{target}")
