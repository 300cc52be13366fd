"""Values of TRL's and transformers' options that no run can use, and which those take without a word.

Each would end a run after its model is loaded, in the middle of a library, or, as `max_steps: 0`, mean something else.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

_RULES: tuple[tuple[str, Callable[[float], bool], tuple[str, ...]], ...] = (
    (
        "it must be above 0",
        lambda value: 0 < value < math.inf,
        ("learning_rate", "num_train_epochs", "temperature", "top_p", "repetition_penalty", "save_steps"),
    ),
    (
        "it must be at least 0",
        lambda value: 0 <= value < math.inf,
        ("beta", "epsilon", "epsilon_high", "seed", "warmup_steps", "weight_decay", "max_grad_norm"),
    ),
    (
        "it must be at least 1",
        lambda value: value >= 1,
        (
            *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
            *("num_generations", "num_iterations", "max_completion_length", "save_total_limit"),
            *("lora_r", "lora_alpha", "torch_threads"),
        ),
    ),
    ("it must lie in [0, 1)", lambda value: 0 <= value < 1, ("lora_dropout",)),
    (
        "it must be at least 1, or -1 to go by --num_train_epochs",
        lambda value: value >= 1 or value == -1,
        ("max_steps",),
    ),
)


def refuse_limits(parsed: Sequence[Any]) -> None:
    """Refuse values that no run can use, and trackers that are not installed.

    Args:
        parsed: the filled dataclasses of a recipe.

    Raises:
        ValueError: naming an option, its value and what it must be.
    """
    values = {each.name: getattr(options, each.name) for options in parsed for each in fields(options)}
    if values.get("model_name_or_path"):
        _refuse_model(str(values["model_name_or_path"]))
    for rule, holds, names in _RULES:
        for name in names:
            if values.get(name) is not None and not holds(values[name]):  # nor for NaN
                raise ValueError(f"--{name} {values[name]}: {rule}.")
    if isinstance(values.get("report_to"), list):  # which transformers makes of a word as it checks its options
        _refuse_trackers(values["report_to"])


def _refuse_model(name: str) -> None:
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ValueError(f"--model_name_or_path {name}: the folder has no config.json; an adapter's base has one.")
    if name.startswith(("/", "./", "../", "~")) and not folder.is_dir():
        raise ValueError(f"--model_name_or_path {name}: no such folder.")


def _refuse_trackers(names: Iterable[str]) -> None:
    from transformers.integrations import get_available_reporting_integrations

    installed = get_available_reporting_integrations()
    for name in names:
        if name not in installed:
            there = ", ".join(installed) or "none"
            raise ValueError(f"--report_to {name}: no such tracker is installed (there: {there}). Install it, or none.")
