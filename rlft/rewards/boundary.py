"""The boundary that every reward crosses: what it returned is verified, what it raised is named, a hang is ended.

`checked(fn)` keeps TRL's contract (`fn(completions=..., **columns) -> list[float | None]`) and never changes a
value: training with it is bit-identical to training without, where the reward leaves its arguments and the state of
the process alone. Where it does not, training is kept from that (rlft/rewards/surroundings.py).
"""

import asyncio
import functools
import inspect
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

from rlft.rewards.outcomes import RewardError
from rlft.rewards.surroundings import own_copy, surroundings_kept
from rlft.rewards.watchdog import DeadlineExpired, call_within

_FLOAT32_MAX = 3.4028234663852886e38


def checked(fn: Any, timeout: float = 600.0) -> Any:
    """Wrap a TRL reward function so that it cannot fail silently.

    Args:
        fn: A plain or async function, a partial or a callable object with TRL's signature. A reward model
            (`torch.nn.Module`, or its id as a `str`) is TRL's to run and comes back unchanged, and so does a
            function that is checked already, with the deadline it has.
        timeout: Seconds for one call, i.e. the whole batch. Holds on the main thread, where TRL calls plain
            functions, and at every `await` of an async one.

    Returns:
        A function (async if `fn` is) that TRL names as it would name `fn`, to be called with keywords as TRL does;
        its attribute `seconds` is how long the last call took.
        It raises `RewardError` if `fn` raises, exceeds `timeout`, or returns anything but one finite number or
        None per completion.
    """
    if is_reward_model(fn) or hasattr(fn, "__rlft_checked__"):
        return fn
    name = reward_name(fn)
    too_slow = (
        f"reward {name!r} did not return within {timeout:g} s for one batch. Raise reward_timeout, or score in "
        "child processes that are killed one by one with rlft.rewards.per_sample."
    )

    def plain(*, completions: Sequence[Any], **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            with surroundings_kept(name, completions):
                scores = call_within(timeout, lambda: fn(**own_copy({"completions": completions, **kwargs})))
            wrapper.seconds = time.perf_counter() - started
            verify_scores(name, scores, completions)
        except DeadlineExpired as error:
            raise RewardError(too_slow) from error
        except RewardError:
            raise
        except (Exception, SystemExit) as error:
            raise RewardError(_raised(name, error, completions)) from error
        return scores

    async def awaited(*, completions: Sequence[Any], **kwargs: Any) -> Any:
        started, limit = time.perf_counter(), asyncio.timeout(timeout)
        try:
            with surroundings_kept(name, completions):
                async with limit:
                    scores = await fn(**own_copy({"completions": completions, **kwargs}))
            wrapper.seconds = time.perf_counter() - started
            verify_scores(name, scores, completions)
        except RewardError:
            raise
        except (Exception, SystemExit) as error:
            raise RewardError(too_slow if limit.expired() else _raised(name, error, completions)) from error
        return scores

    wrapper: Any = functools.update_wrapper(awaited if _is_async(fn) else plain, fn, updated=())
    wrapper.__name__ = name
    wrapper.__rlft_checked__ = True
    return wrapper


def verify_scores(name: str, scores: Any, completions: Sequence[Any]) -> None:
    """Refuse what is not one finite number or None per completion.

    Args:
        name: The reward's name, for the message.
        scores: What it returned: a list, tuple, or 1-D array or tensor.
        completions: The batch that it scored.

    Raises:
        RewardError: naming the reward and, where one value is at fault, its index, value, type and completion.
    """
    if isinstance(scores, (str, bytes)) or not (isinstance(scores, Sequence) or getattr(scores, "ndim", None) == 1):
        raise RewardError(
            f"reward {name!r} returned a {type(scores).__name__} ({short_repr(scores)}) where a list with one number "
            f"or None per completion is expected. Return such a list from {name!r}."
        )
    if len(scores) != len(completions):
        raise RewardError(
            f"reward {name!r} returned {len(scores)} values for {len(completions)} completions. Return exactly one "
            "per completion, None where the reward does not apply."
        )
    for i, score in enumerate(scores):
        if score is not None and not is_finite_number(score):
            raise RewardError(
                f"reward {name!r} returned {short_repr(score)} ({type(score).__name__}) for completion {i} of "
                f"{len(completions)}, which starts {short_repr(completions[i])}. Each value must be a finite number; "
                "return None where the reward does not apply."
            )


def is_finite_number(value: Any) -> bool:
    """Whether `value` is a bool, int, float or a scalar of numpy or torch that is finite as float32."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    return isinstance(value, (int, float)) and abs(value) <= _FLOAT32_MAX  # false for NaN


def refuse_unscored_groups(rewards_NF: Any, group_size: int, names: Sequence[str], prompts: Sequence[Any]) -> None:
    """Refuse a group to which no reward applied: it would train on nothing, unnoticed.

    Args:
        rewards_NF: N samples by F rewards, nested lists or a tensor; NaN or None = does not apply. Rows of one
            group stand together.
        group_size: Samples per group.
        names: The F reward names.
        prompts: The N prompts.

    Raises:
        RewardError: naming the rewards and the first such prompt.
        ValueError: if N is not the number of prompts or not a multiple of `group_size`.
    """
    rows = rewards_NF.tolist() if hasattr(rewards_NF, "tolist") else rewards_NF
    if len(rows) != len(prompts) or len(rows) % group_size:
        raise ValueError(f"{len(rows)} reward rows, {len(prompts)} prompts: not whole groups of {group_size}.")
    for start in range(0, len(rows), group_size):
        group = rows[start : start + group_size]
        if all(score is None or math.isnan(score) for row in group for score in row):
            raise RewardError(
                f"no reward applied to any of the {group_size} completions of group {start // group_size}: "
                f"{', '.join(names)} all returned None. Prompt: {short_repr(prompts[start])}. Drop such prompts from "
                "the dataset, or add a reward that scores them."
            )


def is_reward_model(fn: Any) -> bool:
    """Whether `fn` is a reward model or its id, which TRL runs itself, rather than a function."""
    torch = sys.modules.get("torch")  # a module exists only where torch was imported already
    return isinstance(fn, str) or (torch is not None and isinstance(fn, torch.nn.Module))


def reward_name(fn: Any) -> str:
    """The name under which TRL logs `fn`: its own, that of what a partial binds, or its class's."""
    fn = _unwrap_partial(fn)
    return str(getattr(fn, "__name__", type(fn).__name__))


def _unwrap_partial(fn: Any) -> Any:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def _is_async(fn: Any) -> bool:
    fn = _unwrap_partial(fn)
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(fn.__call__)


def _raised(name: str, error: BaseException, completions: Sequence[Any]) -> str:
    return (
        f"reward {name!r} raised {type(error).__name__}: {error} (on a batch of {len(completions)} completions; "
        "the traceback above shows where)."
    )


def short_repr(value: Any) -> str:
    """At most 120 characters of `repr(value)`, for messages."""
    try:
        text = repr(value)
    except Exception as error:  # such as that of an int with more than 4300 digits
        text = f"something that cannot be shown: {error}"
    return text if len(text) <= 120 else f"{text[:120]}..."
