"""Format as a gate: the tags are right or they are not, and a right answer counts only inside them.

A bonus that is added for format can be earned without solving anything and grows the length of what is not solved.
So `gated` multiplies instead: in the wrong format no reward rises above 0.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

_NO_TAG = r"(?:(?!</?think>).)+"
THINK_ANSWER = rf"<think>(?=\s*(?!</?think>)\S){_NO_TAG}</think>(?=\s*\S){_NO_TAG}"
"""`<think>reasoning</think>answer`: each tag once, in order, nothing before, neither part empty."""


def format(completions: list[Any], pattern: str = THINK_ANSWER, **kwargs: Any) -> list[float]:
    """Score 1.0 where the whole completion has the format, else 0.0. Useful to watch, with reward weight 0.

    Args:
        completions: B strings or message lists.
        pattern: Regular expression that the whole text must match; `.` matches newlines.
        **kwargs: What else TRL passes; unused.

    Returns:
        B scores, 1.0 or 0.0.
    """
    regex = re.compile(pattern, re.DOTALL)
    return [float(regex.fullmatch(_text(completion)) is not None) for completion in completions]


def gated(reward: Callable[..., Any], pattern: str = THINK_ANSWER) -> Callable[..., Any]:
    """Let `reward` count only in the right format.

    Args:
        reward: A plain (not async) TRL reward function.
        pattern: As for `format`.

    Returns:
        A reward of the same name: `reward`'s value where the format is right, at most 0.0 where it is not, None
        where `reward` does not apply.
    """

    @functools.wraps(reward, updated=())
    def scores(*, completions: list[Any], **kwargs: Any) -> list[float | None]:
        right = format(completions, pattern)
        values = reward(completions=completions, **kwargs)
        return [
            value if value is None or is_right else min(value, 0.0)
            for value, is_right in zip(values, right, strict=True)
        ]

    return scores


def _text(completion: Any) -> str:
    """The completion, or the content of its last assistant message; "" where that only calls a tool."""
    if isinstance(completion, str):
        return completion
    contents = [message.get("content") for message in completion if message.get("role") == "assistant"]
    content = (contents or [""])[-1] or ""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)
