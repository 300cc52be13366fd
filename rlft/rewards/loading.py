"""From reward specs to functions, and the check, before any model is loaded, that the dataset can feed them."""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rlft.assets import shipped
from rlft.plugins import PluginError, resolve
from rlft.rewards.boundary import is_reward_model, reward_name
from rlft.rewards.outcomes import RewardError

_ALWAYS_PASSED = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
_NOT_PASSED = {"prompt", "completion", "completion_ids"}  # dataset columns that TRL keeps to itself
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def ready_made() -> dict[str, str]:
    """The rewards that travel with rlft: file stem -> spec of that file's function of the same name."""
    return {file.stem: f"{file}:{file.stem}" for file in sorted(shipped("rewards").glob("*.py"))}


def load_rewards(specs: Sequence[str | Callable[..., Any]]) -> list[Callable[..., Any]]:
    """Resolve reward specs.

    Args:
        specs: Ready-made names, `package.module:attr`, `path/to/file.py:attr`, each with settings in brackets
            where wanted (`length(max_length=512, buffer=128)`), or functions. A spec may also name a factory, which
            takes settings alone, neither `completions` nor `**kwargs`, and returns the reward:
            `rlft.rewards.personal:rouge(key="title")`. A function with another argument to fill comes as it is.

    Returns:
        The functions, in order. They are plain TRL rewards, not yet `checked`.

    Raises:
        PluginError: if a spec does not resolve, or names a factory whose settings do not fit or that gives no reward.
        RewardError: if two have one name, since TRL logs them under it.
    """
    functions = [_load(spec) for spec in specs]
    refuse_same_names(functions)
    return functions


def refuse_same_names(functions: Sequence[Any]) -> None:
    """Refuse two reward functions of one name.

    Raises:
        RewardError: since TRL logs rewards by name, and would log the two as one.
    """
    names = [reward_name(fn) for fn in functions if callable(fn)]
    for name in names:
        if names.count(name) > 1:
            raise RewardError(
                f"{names.count(name)} reward functions are named {name!r}, and TRL would log them as one. Rename one."
            )


def check_columns(reward_funcs: Iterable[Any], columns: Iterable[str]) -> None:
    """Refuse rewards that the dataset cannot feed.

    Args:
        reward_funcs: Functions with TRL's signature. Reward models and their ids are passed over.
        columns: The dataset's columns, and the fields that a rollout adds to its rows.

    Raises:
        RewardError: if a reward requires an argument that is neither always passed by TRL nor a column, or does
            not accept what TRL passes.
    """
    columns = list(columns)
    for fn in reward_funcs:
        if not is_reward_model(fn):
            _check_one(fn, columns)


def _load(spec: str | Callable[..., Any]) -> Callable[..., Any]:
    found = resolve(spec, kind="reward", names=ready_made())
    if not isinstance(spec, str):
        return found
    bound = found if isinstance(found, functools.partial) else functools.partial(found)
    takes = inspect.signature(bound.func)
    parameters = takes.parameters.values()
    if "completions" in takes.parameters or any(p.kind is p.VAR_KEYWORD for p in parameters):
        return found
    if any(p.default is p.empty and p.kind is not p.KEYWORD_ONLY and p.name not in bound.keywords for p in parameters):
        return found  # it wants an argument first, as a function that wraps rewards does
    factory = f"reward {spec!r} takes neither 'completions' nor **kwargs, so it is called as a factory of rewards"
    try:
        takes.bind(**bound.keywords)
    except TypeError as error:
        raise PluginError(
            f"{factory}: {error}. A factory's settings stand in brackets, this one takes: "
            f"{', '.join(takes.parameters) or 'none'}. If it is a reward itself, add **kwargs to its signature."
        ) from error
    made = found()
    if not callable(made):
        raise PluginError(
            f"{factory}, and it gave a {type(made).__name__}, which is none. Return a function, or, if it is a reward "
            "itself, add **kwargs to its signature."
        )
    return made


def _check_one(fn: Any, columns: Sequence[str]) -> None:
    name, parameters = reward_name(fn), inspect.signature(fn).parameters.values()
    passed = [*_ALWAYS_PASSED, *(c for c in columns if c not in _NOT_PASSED)]
    accepted = {p.name for p in parameters if p.kind in _NAMED}
    for p in parameters:
        required = p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        if required and (p.name not in [*passed, "environments"] or p.kind is p.POSITIONAL_ONLY):
            raise RewardError(
                f"reward {name!r} requires {p.name!r}, which is neither a dataset column nor passed by TRL as a "
                f"keyword.{_near(p.name, passed)} Columns: {', '.join(columns) or 'none'}. Rename the column "
                f"or the parameter, or bind it in the spec: {name}({p.name}=...)."
            )
    refused = [p for p in passed if p not in accepted]
    if refused and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        raise RewardError(
            f"reward {name!r} does not accept {', '.join(refused)}, which TRL passes to every reward. "
            "Add **kwargs to its signature."
        )


def _near(name: str, candidates: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, candidates, n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
