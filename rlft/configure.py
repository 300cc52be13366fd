"""From a recipe's YAML file and flags to dataclasses: flags win, unknown keys are refused with the nearest known one.

`--help` is answered from dataclasses that import no torch; only `--help_all`, and a run, load TRL.
"""

import difflib
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import yaml

from rlft.assets import shipped
from rlft.limits import refuse_limits

_BATCH = "num_generations, per_device_train_batch_size, gradient_accumulation_steps and steps_per_generation"
COMMON = {
    "model_name_or_path": "Model folder or Hub id; names that begin with tiny/ are embedded.",
    "dataset_name": "Dataset file or Hub id; names that begin with tiny/ are embedded.",
    "output_dir": "Run folder: configuration, record, adapter, curve.",
    "max_steps": "Optimiser steps.",
    "learning_rate": "Peak learning rate.",
    "num_train_epochs": "Passes over the training rows.",
    "num_generations": "Completions sampled per prompt (the group).",
    "per_device_train_batch_size": "Completions per process in one forward and backward.",
    "gradient_accumulation_steps": "Micro-batches per optimiser step.",
    "max_completion_length": "Longest completion, in tokens.",
    "use_peft": "Train a LoRA adapter (lora_r, lora_alpha, lora_target_modules, ...).",
    "use_vllm": "Sample with vLLM (extra `vllm`).",
    "resume_from_checkpoint": "`true` to go on from the last checkpoint in output_dir, or the path of one.",
    "report_to": "Trackers: none, trackio, wandb, tensorboard.",
    "seed": "Seed of everything.",
}


class ConfigurationError(SystemExit):
    """Arguments or a YAML file that cannot be used: ends the program with its message and exit code 1."""

    def __init__(self, message: str):
        super().__init__(f"error: {message}")


def parse_recipe(
    recipe: str,
    dataclasses: Callable[[], Sequence[Any]],
    *,
    description: str,
    shown: Mapping[str, type] = MappingProxyType({}),
    common: Iterable[str] = tuple(COMMON),
    argv: Sequence[str] | None = None,
    default: str = "tiny",
) -> tuple[Any, ...]:
    """Parse a recipe's arguments.

    Args:
        recipe: name of the recipe; its settings are `recipes/configs/<recipe>/*.yaml`.
        dataclasses: gives the dataclass types to fill, called only when torch may be imported.
        description: text at the top of `--help`.
        shown: headings and torch-free dataclasses whose options `--help` lists in full.
        common: names of the TRL options (of `COMMON`) that `--help` lists too.
        argv: arguments; the command line if None.
        default: setting used without `--config`.

    Returns:
        One filled instance for each dataclass.

    Raises:
        ConfigurationError: on an unknown setting, key or flag, or a value that a dataclass refuses.
        SystemExit: code 0, after help.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "-h" in arguments or "--help" in arguments:
        print(_help(recipe, description, default, shown, common))  # noqa: T201
        raise SystemExit(0)
    path = _setting(recipe, _take(arguments, "--config") or default)
    content = _read(path)
    for key, value in _environment(content, path).items():
        os.environ.setdefault(key, str(value))

    ignore_old_names()

    from trl import TrlParser  # after the environment is set: Hub libraries read it when imported

    types = list(dataclasses())
    parser = TrlParser(types, allow_abbrev=False)
    if "--help_all" in arguments:
        parser.print_help()
        raise SystemExit(0)
    known = [f.name for each in types for f in fields(each)]
    _refuse_unknown(map(str, content), known, f"{path}: unknown key")
    parser.set_defaults_with_config(**content)
    parser.error = _refuse  # type: ignore[method-assign]  # argparse would print six hundred flags first
    try:
        *parsed, rest = parser.parse_args_into_dataclasses(args=arguments, return_remaining_strings=True)
        _refuse_unknown([word.lstrip("-").partition("=")[0] for word in rest], known, "unknown argument")
        refuse_limits(parsed)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigurationError(str(error)) from error
    except ZeroDivisionError as error:  # of TRL's batch arithmetic
        raise ConfigurationError(f"{_BATCH} must be at least 1 each; one of them is 0.") from error
    return tuple(parsed)


def ignore_old_names() -> None:
    """Show no warning about `gradient_checkpointing`, which transformers renamed, where TRL and PEFT still say so.

    TRL sets the field, PEFT asks every model that it loads; neither is about anything that a user wrote.
    """
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)


def settings(recipe: str) -> dict[str, Path]:
    """Shipped settings of a recipe by name."""
    return {path.stem: path for path in sorted((shipped("recipes") / "configs" / recipe).glob("*.yaml"))}


def _setting(recipe: str, name: str) -> Path:
    found = settings(recipe)
    path = found.get(name, Path(name))
    if not path.is_file():
        raise ConfigurationError(f"--config {name}: neither a file nor one of the settings {', '.join(found)}.")
    return path


def _refuse(message: str) -> NoReturn:
    raise ConfigurationError(message)


def _take(arguments: list[str], flag: str) -> str | None:
    """Remove `flag VALUE` or `flag=VALUE` from the arguments and give the value."""
    for i, word in enumerate(arguments):
        if word == flag:
            if i + 1 == len(arguments):
                raise ConfigurationError(f"{flag} needs a value.")
            arguments.pop(i)
            return arguments.pop(i)
        if word.startswith(f"{flag}="):
            return arguments.pop(i).partition("=")[2]
    return None


class _Loader(yaml.SafeLoader):
    """YAML in which no key may stand twice, of which PyYAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.YAMLError(f"{twice[0]!r} stands there twice")
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} must hold `key: value` lines, found {type(content).__name__}.")
    return content


def _environment(content: dict[str, Any], path: Path) -> dict[str, Any]:
    found = content.pop("env", {})
    if not isinstance(found, dict):
        raise ConfigurationError(f"{path}: env must hold `NAME: value` lines, found {type(found).__name__}.")
    return found


def _refuse_unknown(names: Iterable[str], known: Sequence[str], what: str) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "; --help_all lists all."
            raise ConfigurationError(f"{what} {name!r}{hint}")


def _help(recipe: str, description: str, default: str, shown: Mapping[str, type], common: Iterable[str]) -> str:
    lines = [description.strip(), "", "Settings (--config NAME, or a YAML file; flags win over it):"]
    lines += [f"  {name:<12} {_first_comment(path)}" for name, path in settings(recipe).items()]
    lines += [f"Without --config: {default}."]
    seen: set[str] = set()
    for heading, options in shown.items():
        new = [f for f in fields(options) if f.name not in seen]  # the first that names an option sets its default
        seen.update(f.name for f in new)
        lines += ["", f"{heading}:", *map(_option, new)]
    lines += ["", "Most used TRL options:", *[f"  --{name:<28} {COMMON[name]}" for name in common]]
    return "\n".join([*lines, "", "--help_all lists every option of TRL's configuration too."])


def _first_comment(path: Path) -> str:
    return path.read_text().partition("\n")[0].lstrip("# ").strip()


def _option(option: "Field[Any]") -> str:
    default = option.default_factory() if option.default_factory is not MISSING else option.default
    shown = " ".join(default) if isinstance(default, list) else default
    return f"  --{option.name:<28} {option.metadata['help']} [{shown}]"
