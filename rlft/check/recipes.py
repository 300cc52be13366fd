"""A recipe as a user would start it: its script found, its flags parsed as the recipe parses them, its inputs found."""

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

from rlft.arguments import (
    ContinualArguments,
    ListArguments,
    PersonalArguments,
    RecipeArguments,
    SearchArguments,
)
from rlft.assets import shipped
from rlft.checks import Checks
from rlft.configure import ConfigurationError, parse_recipe

NAMES: dict[type, str] = {
    RecipeArguments: "shear",
    SearchArguments: "exsearch",
    ListArguments: "dro",
    PersonalArguments: "prlm",
    ContinualArguments: "stoc",
}
"""The recipe that is configured by these arguments, whatever its script is called."""


@dataclass
class Parsed:
    """A recipe's arguments, shortened for `--smoke`."""

    name: str
    recipe: Any
    data: Any
    model: Any
    training: Any


def parsed(recipe: str, flags: Sequence[str], checks: Checks) -> Parsed | None:
    """Parse a recipe's flags.

    A configuration that its own dataclass refuses is a fault; it is then parsed once more without that check, so that
    everything which does not depend on it can be looked at as well.

    Args:
        recipe: name of a recipe, or path of its script or of a copy.
        flags: what follows the script on its command line.
        checks: gets the faults; `lacking` is set to a configuration that was refused.

    Returns:
        The arguments; None if they cannot be read at all.

    Raises:
        ValueError: if there is no such recipe.
        SystemExit: code 0, after help.
    """
    script = _load(_script(recipe))
    types = script.dataclasses()
    name = NAMES.get(types[0])
    if name is None:
        raise ValueError(f"{recipe}: {types[0].__name__} belongs to none of the recipes {', '.join(NAMES.values())}.")

    def parse(training: type) -> Parsed:
        each = [*types[:-1], training]
        return Parsed(name, *parse_recipe(name, lambda: each, description=script.__doc__ or "", argv=flags))

    try:
        return parse(types[-1])
    except ConfigurationError as error:
        checks.refuse("configuration", str(error).removeprefix("error: "))
    try:
        found = parse(type(types[-1].__name__, (types[-1],), {"__post_init__": lambda self: None}))
    except ConfigurationError:
        return None
    checks.lacking = found.training
    return found


def _script(recipe: str) -> Path:
    known = {script.stem: script for script in sorted(shipped("recipes").glob("*.py"))}
    script = known.get(recipe, Path(recipe))
    if script.suffix != ".py" or not script.is_file():
        raise ValueError(
            f"there is no recipe {recipe!r}; give {', '.join(known)}, or the path of a copy (my/shear.py)."
        )
    return script


def _load(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"rlft_recipe_{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if not isinstance(getattr(module, "dataclasses", None), Callable):  # type: ignore[arg-type]
        raise ValueError(f"{script} is no recipe: it has no dataclasses(); `rlft recipes copy` gives one to edit.")
    return module


@contextmanager
def as_launched(processes: int) -> Iterator[None]:
    """Take a configuration as it is on the machine that it is for: with so many processes, and a GPU that has bf16."""
    from transformers import TrainingArguments

    there = patch("transformers.training_args.is_torch_bf16_gpu_available", return_value=True)
    with there, patch.object(TrainingArguments, "world_size", processes):
        yield
